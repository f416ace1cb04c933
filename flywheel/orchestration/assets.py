"""The assets. Each calls one function of the pipeline and says in metadata what a person would look at."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from flywheel.evidence.figures.images import loss_curve
from flywheel.evidence.render.markdown import render_markdown, render_section
from flywheel.evidence.sections import board_section, decision_section
from flywheel.orchestration import checks
from flywheel.orchestration.instance import POOL
from flywheel.orchestration.lineage import MODEL, snapshot_of_run, trained_model
from flywheel.orchestration.metadata import figures, image, table
from flywheel.orchestration.partitions import CELLS, parse_cell
from flywheel.orchestration.pipes import training_pipes
from flywheel.orchestration.resources import explained
from flywheel.pairs.snapshots.leak_probe import probe_leaks
from flywheel.pairs.store.contradictions import find_contradictions
from flywheel.pairs.store.labels import count_pairs
from flywheel.pairs.store.overview import overview
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline.api_heads import evaluate_api_heads
from flywheel.pipeline.ingest import ingest_inbox, ingest_seed, take_snapshot, unaccounted_lines
from flywheel.pipeline.promotion import decide_champion, unsound_side
from flywheel.pipeline.publish import save_figure, save_page
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace

OWNERS = ["team:ml"]


class RecipeConfig(dg.Config):
    """Run configuration of a training."""

    recipe: str = Field("head", description="How weights move: head, top or full.")


class BaselineConfig(dg.Config):
    """Run configuration of the baseline."""

    pay: bool = Field(True, description="Whether vectors of the API that are missing are bought, where a key is set.")


def run_config(assets: Sequence[str], recipe: str = "head", pay: bool = True) -> dict[str, Any]:
    """Run configuration for a run of `assets`."""
    configs = {"finetuned_model": {"recipe": recipe}, "baseline_scores": {"pay": pay}}
    return {"ops": {name: {"config": config} for name, config in configs.items() if name in assets}}


@dg.asset(group_name="ingest", kinds={"duckdb"}, owners=OWNERS)
def seed_pairs(workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """Seed pairs (the starter set or Quora duplicate questions), ingested into DuckDB once."""
    with explained():
        report = ingest_seed(workspace)
    if report is None:
        return dg.MaterializeResult(metadata={"source": "none (setting `pairs.seed_pairs`)"})
    return dg.MaterializeResult(metadata={**asdict(report), "dagster/row_count": report.lines - report.quarantined})


@dg.asset(
    group_name="ingest", kinds={"duckdb"}, owners=OWNERS, check_specs=[checks.ALL_LINES_KEPT, checks.EMBARGO_SHARE],
)  # fmt: skip
def interaction_pairs(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """What users left behind: the finished files of the inbox, ingested into DuckDB."""
    with explained():
        summary = ingest_inbox(workspace)
        wrong = unaccounted_lines(workspace, summary)
        overall = overview(workspace.store)
    for sentence in summary.rejected:
        context.log.warning(sentence)
    counts = {k: v for k, v in asdict(summary).items() if isinstance(v, int)}
    return dg.MaterializeResult(
        metadata={
            **counts,
            "files": table([{k: v for k, v in asdict(f).items() if k != "batch_id"} for f in summary.files]),
            "rejected_files": table([{"file": sentence} for sentence in summary.rejected]),
            "by_source_and_day": table([{**asdict(day), "day": str(day.day)} for day in overall.days]),
            "quarantine_reasons": table([{"reason": reason, "lines": lines} for reason, lines in overall.reasons]),
        },
        check_results=[checks.all_lines_kept(wrong, len(summary.files)), checks.embargo_share(overall.embargo)],
    )


@dg.asset(
    group_name="ingest", kinds={"duckdb"}, owners=OWNERS, deps=[seed_pairs, interaction_pairs],
    check_specs=[checks.LABEL_CONFLICTS, checks.CONTRADICTIONS],
)  # fmt: skip
def pairs(workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """Observations added up to labelled pairs, each with its split."""
    with explained():
        counts = count_pairs(workspace.store)
        contradictions = find_contradictions(workspace.store)
        splits = overview(workspace.store).splits
    return dg.MaterializeResult(
        metadata={
            **asdict(counts),
            "dagster/row_count": counts.pairs,
            "splits": table([asdict(split) for split in splits]),
            "contradictions": table([asdict(worst) for worst in contradictions.worst]),
            "contradictory_share": contradictions.share,
        },
        check_results=[checks.label_conflicts(counts), checks.contradictory_triangles(contradictions)],
    )


@dg.asset(
    group_name="ingest", kinds={"parquet"}, owners=OWNERS, deps=[pairs],
    check_specs=[checks.NO_LEAKAGE, checks.PRIOR_SHIFT, checks.LEAK_PROBE],
)  # fmt: skip
def snapshot(workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """An immutable export of train, calibration and test; what training and evaluation read."""
    with explained():
        taken = take_snapshot(workspace)
        probe = probe_leaks(taken, workspace.settings.storage.memory_limit)
    return dg.MaterializeResult(
        metadata={
            "snapshot_id": taken.snapshot_id,
            "test_id": taken.test_id,
            "train_pairs": taken.train.pairs,
            "calibration_pairs": taken.calibration.pairs,
            "test_pairs": taken.test.pairs,
            "interaction_pairs": taken.train.interaction,
            "judging_pairs": taken.judging.pairs,
            **({"folds": taken.folds} if taken.is_cross_fitted else {}),
            **({"note": taken.note} if taken.note else {}),
            **({"missing": taken.lack} if taken.lack else {}),
            "dagster/uri": str(taken.folder),
            "dagster/row_count": taken.train.pairs + taken.calibration.pairs + taken.test.pairs,
            **({"leak_probe_advantage": probe.advantage, "leak_probe_auc": probe.auc} if probe.advantage is not None else {}),
        },
        check_results=[checks.no_leakage(taken), checks.prior_shift(taken), checks.leak_probe(probe)],
    )


@dg.asset(
    group_name="train", kinds={"pytorch", "huggingface"}, owners=OWNERS, deps=[snapshot], partitions_def=CELLS, pool=POOL,
    check_specs=[checks.SERVED_VECTORS],
)  # fmt: skip
def finetuned_model(
    context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace], config: RecipeConfig
) -> dg.MaterializeResult:
    """One cell of the experiment: a base model at a dimension, fine-tuned on so many pairs."""
    cell = parse_cell(context)
    with training_pipes(context) as pipes, explained():
        snapshot = snapshot_of_run(context, workspace)
        model = train_cell(workspace.with_listener(pipes.listener), snapshot, cell, config.recipe)
        difference = measuring.served_vectors_difference(workspace, model, snapshot)
        result = pipes.report(
            {
                MODEL: model.name,
                "calibration_set_error": model.calibration_set_error,
                "threshold": model.rule.threshold,
                "train_pairs": model.train_pairs,
                "training_seconds": model.seconds,
                "reused": model.reused,
                "snapshot_id": model.job.snapshot_id,
                "recipe": model.job.recipe,
                "ships": model.ships,
                "dagster/uri": str(model.folder),
                **({"loss": image("loss by training step", loss_curve(model.losses))} if model.losses else {}),
            }
        )
    return result._replace(check_results=[checks.served_vectors(difference)])


@dg.asset(
    group_name="evaluate", kinds={"openai"}, owners=OWNERS, deps=[snapshot],
    check_specs=[checks.BASELINE_IS_API, checks.BASELINE_IS_SANE],
)  # fmt: skip
def baseline_scores(
    context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace], config: BaselineConfig
) -> dg.MaterializeResult:
    """What cells have to beat on this snapshot: text-embedding-3-small from its cache or the API, else a local untuned model;
    and the champion, if there is one.
    """
    with explained():
        snapshot = snapshot_of_run(context, workspace)
        result = measuring.measure_baseline(workspace, snapshot, config.pay)
        champion = measuring.measure_champion(workspace, snapshot)
    return dg.MaterializeResult(
        metadata={
            **figures(result.evaluation),
            "snapshot_id": snapshot.snapshot_id,
            "advice": result.advice or "measured on the API",
            "champion": f"{champion.name}: error {champion.error:.4f}" if champion else "none yet",
            "paid_tokens": result.paid.tokens,
            "paid_dollars": result.paid.money(workspace.settings.baseline.price),
        },
        check_results=[checks.baseline_is_api(result), checks.baseline_is_sane(result.evaluation, champion)],
    )


@dg.asset(
    group_name="evaluate", kinds={"scikitlearn"}, owners=OWNERS, deps=[finetuned_model, baseline_scores],
    partitions_def=CELLS, check_specs=[checks.ENOUGH_COMPONENTS, checks.CELL_IS_SANE],
)  # fmt: skip
def evaluation(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """The cell's error rate on unseen test pairs, with its interval, beside the same model untuned."""
    with explained():
        model = trained_model(context, workspace)
        record = measuring.evaluate_cell(workspace, model, measuring.snapshot_of(workspace, model))
    results = [checks.enough_components(record), checks.cell_is_sane(record)]
    return dg.MaterializeResult(metadata=figures(record), check_results=results)


@dg.asset(group_name="evaluate", kinds={"openai", "pytorch"}, owners=OWNERS, deps=[evaluation, baseline_scores])
def api_heads(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """A head of ours on the API's cached vectors at each size of the board: what training buys without an own encoder."""
    with explained():
        records = evaluate_api_heads(workspace, snapshot_of_run(context, workspace))
    return dg.MaterializeResult(
        metadata={
            "heads": table([{"size": str(record.size), "error": record.error, "variant": record.variant} for record in records])
        }
    )


@dg.asset(
    group_name="evaluate", kinds={"table", "matplotlib"}, owners=OWNERS, deps=[evaluation, baseline_scores, api_heads],
    check_specs=[checks.SIDES_ARE_SANE],
)  # fmt: skip
def leaderboard(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """Every evaluated cell of the current snapshot against the baseline: the table and the figure."""
    with explained():
        board = measuring.leaderboard(workspace, snapshot_of_run(context, workspace))
        figure = save_figure(workspace, board)
        side = unsound_side(workspace, board.snapshot)
    champion = workspace.registry.champion()
    return dg.MaterializeResult(
        metadata={
            "error_versus_size": image("error rate against training pairs", figure.read_bytes()),
            "board": dg.MetadataValue.md(render_section(board_section(board, champion.model if champion else None))),
            "cells": len(board.tuned),
            "stale_cells": len(board.stale),
            "snapshot_id": board.snapshot.snapshot_id,
            "dagster/uri": str(figure),
        },
        check_results=[checks.sides_are_sane(side)],
    )


@dg.asset(group_name="promote", kinds={"report"}, owners=OWNERS, deps=[leaderboard])
def champion(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """The promoted model. A challenger takes its place only if it is provably better on the same test pairs."""
    with explained():
        snapshot = snapshot_of_run(context, workspace)
        entry, new = decide_champion(workspace, snapshot)
        figure = save_figure(workspace, measuring.leaderboard(workspace, snapshot))
    present = workspace.registry.current()
    return dg.MaterializeResult(
        metadata={
            "decision": dg.MetadataValue.md(render_section(decision_section(entry, present, snapshot.on_quora))),
            "error_versus_size": image("error rate against training pairs", figure.read_bytes()),
            "outcome": entry.action if new else "no new decision",
            "entry": entry.number,
            "judged": new,
            **({"error": present.champion.error, "model": present.champion.model} if present and present.champion else {}),
        }
    )


@dg.asset(group_name="promote", kinds={"report"}, owners=OWNERS, deps=[champion])
def evidence(context: dg.AssetExecutionContext, workspace: dg.ResourceParam[Workspace]) -> dg.MaterializeResult:
    """One page for a sceptic: which model, how much better, how sure, on whose data, at what cost, what breaks, what next."""
    with explained():
        page, file = save_page(workspace, snapshot_of_run(context, workspace))
    return dg.MaterializeResult(
        metadata={
            "answer": page.answer,
            "next_step": page.next_step + (f" ({page.command})" if page.command else ""),
            "page": dg.MetadataValue.md(render_markdown(page)),
            "dagster/uri": str(file),
        }
    )


ALL_ASSETS = [
    seed_pairs, interaction_pairs, pairs, snapshot, finetuned_model, baseline_scores, evaluation, api_heads, leaderboard,
    champion, evidence,
]  # fmt: skip
