"""The group `train`: cells of the grid, and the retraining of the champion's variant, which may be outside the grid."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import dagster as dg
from pydantic import Field

from flywheel.files import digest
from flywheel.orchestration import checks
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.lineage import MODEL, models_of, models_of_run, snapshot_of_run
from flywheel.orchestration.metadata import figures, rounded, table
from flywheel.orchestration.partitions import parse_cell
from flywheel.orchestration.pipes import TrainingPipes, training_pipes
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline.challengers import train_challengers
from flywheel.pipeline.training import next_retraining, train_cell, why_impossible
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import VERSION, Cell
from flywheel.training.model import TrainedModel

_LOSSES = 20
TRAINED = ("finetuned_model", "retrained_model", "challengers")


class RecipeConfig(dg.Config):
    """Run configuration of a training."""

    recipe: str = Field("head", description="How weights move: head, top or full.")


def finetuned_model(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that has a partition for each cell of the grid."""

    @flywheel.asset(
        "finetuned_model", "train", "snapshot", kinds={"pytorch", "huggingface"}, pool=flywheel.pools.gpu,
        partitions_def=flywheel.grid.partitions, code_version=str(VERSION), output_required=False,
    )  # fmt: skip
    def finetuned_model(context: dg.AssetExecutionContext, config: RecipeConfig) -> Iterator[dg.MaterializeResult]:
        """One cell of the experiment: a base model at a dimension, fine-tuned on so many pairs. A cell that cannot be filled
        here is skipped, and the run's log says why.
        """
        cell = parse_cell(context.partition_key)
        with flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            snapshot.check_judges()
            if reason := why_impossible(workspace, snapshot, cell):
                context.log.warning(f"{cell} is skipped: {reason}")
                return
        with training_pipes(context) as pipes, flywheel.at_work(context) as workspace:
            model = _train(pipes, workspace, snapshot, cell, config.recipe)
            result = pipes.report(_training_figures(model), model.name)
        yield result

    return finetuned_model


def retrained_model(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that a retraining makes."""

    @flywheel.asset(
        "retrained_model", "train", "snapshot", kinds={"pytorch", "huggingface"}, pool=flywheel.pools.gpu,
        code_version=str(VERSION),
        checks=["enough_components", "cell_is_sane"],
    )  # fmt: skip
    def retrained_model(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """The champion's variant trained on all pairs and evaluated, whether the grid has it or not; the one of the setting
        `retraining.variant` while there is no champion.
        """
        with training_pipes(context) as pipes, flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            cell, recipe = next_retraining(workspace)
            model = _train(pipes, workspace, snapshot, cell, recipe)
            record = measuring.evaluate_cell(workspace, model, snapshot)
            beside = measuring.compared_with(workspace, record, model, snapshot)
            evaluated = {f"evaluated/{name}": value for name, value in figures(record, beside).items()}
            result = pipes.report({"variant": str(cell.variant), **_training_figures(model), **evaluated}, model.name)
        return result._replace(check_results=[checks.enough_components(record), checks.cell_is_sane(record)])

    return retrained_model


def challengers(flywheel: Flywheel) -> dg.AssetsDefinition:
    """The asset that trains what may do better than the champion's variant."""

    @flywheel.asset(
        "challengers", "train", "snapshot", "retrained_model", kinds={"pytorch", "huggingface"}, pool=flywheel.pools.gpu,
        code_version=str(VERSION),
        checks=["challengers_trained"],
    )  # fmt: skip
    def challengers(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """What the setting `retraining.challengers` names, trained on all pairs and evaluated. One that cannot be trained keeps
        no other back.
        """
        with flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            found = train_challengers(workspace, snapshot, context.log.info)
            records = {name: measuring.evaluate_cell(workspace, model, snapshot) for name, model in found.trained.items()}
        rows = [
            {
                "challenger": name, "error": record.error, "calibration_set_error": record.calibration_set_error,
                "model": found.trained[name].name,
            }
            for name, record in records.items()
        ]  # fmt: skip
        models = " ".join(model.name for model in found.trained.values())
        return dg.MaterializeResult(
            metadata={
                MODEL: models,
                "snapshot_id": snapshot.snapshot_id,
                "challengers": table(rows),
                "failed": table([{"challenger": name, "reason": reason} for name, reason in found.failed.items()]),
            },
            check_results=[checks.challengers_trained(len(records), found.failed)],
            data_version=dg.DataVersion(digest(models)),
        )

    return challengers


def served_vectors(flywheel: Flywheel, asset: str) -> dg.AssetChecksDefinition:
    """The check that a saved folder serves what is evaluated."""

    @flywheel.check(asset, "served_vectors", pool=flywheel.pools.gpu)
    def served_vectors(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            return checks.served_vectors(_of_models(flywheel, asset, context, workspace, measuring.served_vectors_difference))

    return served_vectors


def folder_portability(flywheel: Flywheel, asset: str) -> dg.AssetChecksDefinition:
    """The check that other programs can load a saved folder."""

    @flywheel.check(asset, "folder_portability", pool=flywheel.pools.gpu)
    def folder_portability(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            return checks.folder_portability(_of_models(flywheel, asset, context, workspace, measuring.folder_portability))

    return folder_portability


Found = TypeVar("Found")


def _of_models(
    flywheel: Flywheel,
    asset: str,
    context: dg.AssetCheckExecutionContext,
    workspace: Workspace,
    look: Callable[[Workspace, TrainedModel, Snapshot], Found],
) -> dict[str, Found]:
    """What a check finds of the model that this run has trained, or else of those that were made last, by name."""
    own = models_of_run(flywheel.key(asset), context, workspace)
    models = models_of(flywheel.key(asset), context, workspace) if own is None else own
    return {model.name: look(workspace, model, measuring.snapshot_of(workspace, model)) for model in models}


def _train(pipes: TrainingPipes, workspace: Workspace, snapshot: Snapshot, cell: Cell, recipe: str) -> TrainedModel:
    return train_cell(workspace.with_listener(pipes.listener), snapshot, cell, recipe)


def _training_figures(model: TrainedModel) -> dict[str, Any]:
    return {
        MODEL: model.name,
        "calibration_set_error": rounded(model.calibration_set_error),
        "threshold": rounded(model.rule.threshold),
        "train_pairs": model.train_pairs,
        "training_seconds": round(model.seconds, 1),
        "reused": model.reused,
        "snapshot_id": model.job.snapshot_id,
        "recipe": model.job.recipe,
        "ships": model.ships,
        **({"texts_cut_off": {source: round(share, 4) for source, share in model.cut.items()}} if model.cut else {}),
        "folder": str(model.folder),
        "dagster/uri": str(model.folder),
        **({"loss": table(_losses(model))} if model.losses else {}),
    }


def _losses(model: TrainedModel) -> list[dict[str, Any]]:
    """The loss along the training, at so many steps that a person reads them."""
    every = -(-len(model.losses) // _LOSSES)
    return [{"step": step, "loss": loss} for step, loss in model.losses[::every]]
