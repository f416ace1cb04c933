"""The group `evaluate`: what cells have to beat, how they do, and the board of all."""

from dataclasses import asdict

import dagster as dg
from pydantic import Field

from flywheel.evaluation.records import FORMAT
from flywheel.evidence.sections import board_section
from flywheel.files import digest
from flywheel.orchestration import checks
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.lineage import snapshot_of_run, trained_model
from flywheel.orchestration.metadata import errors_by_size, figures, section_metadata, table
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline.api_heads import evaluate_api_heads
from flywheel.pipeline.promotion import unsound_side
from flywheel.pipeline.publish import save_figure

# As cells land, and once for all that landed together: `eager` alone waits until no cell of the grid is missing.
WHEN_CELLS_LAND = dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())


class BaselineConfig(dg.Config):
    """Run configuration of the baseline."""

    pay: bool = Field(True, description="Whether vectors of the API that are missing are bought, where a key is set.")


def baseline_scores(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The one asset that may pay."""

    @flywheel.asset(
        "baseline_scores", "evaluate", "snapshot", kinds={"openai"}, pool=flywheel.pools.api,
        code_version=str(FORMAT),
        checks=["baseline_is_api", "baseline_is_sane"],
    )  # fmt: skip
    def baseline_scores(context: dg.AssetExecutionContext, config: BaselineConfig) -> dg.MaterializeResult:
        """What cells have to beat on this snapshot: text-embedding-3-small from its cache or the API, else a local untuned
        model; and the champion, if there is one.
        """
        with flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            result = measuring.measure_baseline(workspace, snapshot, config.pay)
            champion = measuring.measure_champion(workspace, snapshot)
            carried = measuring.carry_along(workspace, snapshot)
        price = workspace.settings.baseline.price
        return dg.MaterializeResult(
            metadata={
                **figures(result.evaluation),
                "snapshot_id": snapshot.snapshot_id,
                "advice": result.advice or "measured on the API",
                "champion": f"{champion.name}: error {champion.error:.4f}" if champion else "none yet",
                "carried_along": carried,
                "paid_tokens": result.paid.tokens,
                "paid_dollars": result.paid.money(price),
            },
            check_results=[checks.baseline_is_api(result), checks.baseline_is_sane(result.evaluation, champion)],
            data_version=_version(asdict(result.evaluation), champion and asdict(champion)),
        )

    return baseline_scores


def evaluation(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that has a partition for each cell of the grid."""

    @flywheel.asset(
        "evaluation", "evaluate", "finetuned_model", kinds={"scikitlearn"}, pool=flywheel.pools.gpu,
        partitions_def=flywheel.grid.partitions, code_version=str(FORMAT),
        checks=["enough_components", "cell_is_sane"],
    )  # fmt: skip
    def evaluation(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The cell's error rate on unseen test pairs, with its interval, beside the same model untuned."""
        with flywheel.at_work(context) as workspace:
            model = trained_model(flywheel.key("finetuned_model"), context, workspace)
            snapshot = measuring.snapshot_of(workspace, model)
            record = measuring.evaluate_cell(workspace, model, snapshot)
            beside = measuring.compared_with(workspace, record, model, snapshot)
        results = [checks.enough_components(record), checks.cell_is_sane(record)]
        version = _version(asdict(record))
        return dg.MaterializeResult(metadata=figures(record, beside), check_results=results, data_version=version)

    return evaluation


def api_heads(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that trains on what is cached and pays nothing."""

    @flywheel.asset(
        "api_heads", "evaluate", "evaluation", "retrained_model", "baseline_scores",
        kinds={"openai", "pytorch"}, code_version=str(FORMAT),
    )  # fmt: skip
    def api_heads(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """A head of ours on the API's cached vectors at each size of the board: what training buys without an own encoder."""
        with flywheel.at_work(context) as workspace:
            records = evaluate_api_heads(workspace, snapshot_of_run(flywheel, context, workspace))
        rows = [{"size": str(record.size), "error": record.error, "variant": record.variant} for record in records]
        return dg.MaterializeResult(metadata={"heads": table(rows)}, data_version=_version(*map(asdict, records)))

    return api_heads


def leaderboard(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that follows cells by itself."""

    @flywheel.asset(
        "leaderboard", "evaluate", "evaluation", "retrained_model", "challengers", "baseline_scores", "api_heads",
        kinds={"table", "matplotlib"}, code_version=str(FORMAT), automation_condition=WHEN_CELLS_LAND,
        checks=["sides_are_sane"],
    )  # fmt: skip
    def leaderboard(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Every evaluated cell of the current snapshot against the baseline: the table and the figure."""
        with flywheel.at_work(context) as workspace:
            board = measuring.leaderboard(workspace, snapshot_of_run(flywheel, context, workspace))
            figure = save_figure(workspace, board)
            side = unsound_side(workspace, board.snapshot)
            champion = workspace.registry.champion()
        return dg.MaterializeResult(
            metadata={
                "error_versus_size": dg.MetadataValue.path(str(figure)),
                "errors": errors_by_size(board),
                **section_metadata("board", board_section(board, champion.model if champion else None)),
                "cells": len(board.tuned),
                "stale_cells": len(board.stale),
                "snapshot_id": board.snapshot.snapshot_id,
                "dagster/uri": str(figure),
            },
            check_results=[checks.sides_are_sane(side)],
            data_version=_version(board.to_json(), champion and champion.model),
        )

    return leaderboard


def _version(*content: object) -> dg.DataVersion:
    return dg.DataVersion(digest(str(content)))
