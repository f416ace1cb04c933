"""The assets. Each calls one step and says in metadata what a person would look at."""

import base64
from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from flywheel.evaluation.records import Evaluation, Slice
from flywheel.evidence.figures.images import loss_curve
from flywheel.evidence.render.markdown import render_markdown, render_section
from flywheel.evidence.sections import board_section, decision_section
from flywheel.evidence.words import interval_text
from flywheel.orchestration import checks, findings, steps
from flywheel.orchestration.instance import POOL
from flywheel.orchestration.partitions import CELLS, parse_cell
from flywheel.orchestration.pipes import training_pipes
from flywheel.orchestration.resources import Workbench, explained
from flywheel.pairs.snapshots.leak_probe import probe_leaks

OWNERS = ["team:ml"]


class RecipeConfig(dg.Config):
    """Run configuration of a cell."""

    recipe: str = Field("head", description="How weights move: head, top or full.")


@dg.asset(group_name="ingest", kinds={"duckdb"}, owners=OWNERS)
def seed_pairs(workbench: Workbench) -> dg.MaterializeResult:
    """Seed pairs (the starter set or Quora duplicate questions), ingested into DuckDB once."""
    with explained():
        report = steps.ingest_seed(workbench.settings())
    if report is None:
        return dg.MaterializeResult(metadata={"source": "none (setting `seed`)"})
    return dg.MaterializeResult(metadata={**asdict(report), "dagster/row_count": report.lines - report.quarantined})


@dg.asset(
    group_name="ingest", kinds={"duckdb"}, owners=OWNERS, check_specs=[checks.ALL_LINES_KEPT, checks.EMBARGO_SHARE],
)  # fmt: skip
def interaction_pairs(context: dg.AssetExecutionContext, workbench: Workbench) -> dg.MaterializeResult:
    """What users left behind: the finished files of the inbox, ingested into DuckDB."""
    settings = workbench.settings()
    with explained():
        summary = steps.ingest_inbox(settings)
        wrong = steps.unaccounted_lines(settings, summary)
        found = steps.store_overview(settings)
    for sentence in summary.rejected:
        context.log.warning(sentence)
    counts = {k: v for k, v in asdict(summary).items() if isinstance(v, int)}
    return dg.MaterializeResult(
        metadata={
            **counts,
            "files": _table([{k: v for k, v in asdict(f).items() if k != "batch_id"} for f in summary.files]),
            "rejected_files": _table([{"file": sentence} for sentence in summary.rejected]),
            "by_source_and_day": _table([{**asdict(day), "day": str(day.day)} for day in found.days]),
            "quarantine_reasons": _table([{"reason": reason, "lines": lines} for reason, lines in found.reasons]),
        },
        check_results=[checks.all_lines_kept(wrong, len(summary.files)), checks.embargo_share(found.embargo)],
    )


@dg.asset(
    group_name="ingest", kinds={"duckdb"}, owners=OWNERS, deps=[seed_pairs, interaction_pairs],
    check_specs=[checks.LABEL_CONFLICTS, checks.CONTRADICTIONS],
)  # fmt: skip
def pairs(workbench: Workbench) -> dg.MaterializeResult:
    """Observations added up to labelled pairs, each with its split."""
    settings = workbench.settings()
    with explained():
        counts = steps.count(settings)
        found = steps.contradictions(settings)
        splits = steps.store_overview(settings).splits
    return dg.MaterializeResult(
        metadata={
            **asdict(counts),
            "dagster/row_count": counts.pairs,
            "splits": _table([asdict(split) for split in splits]),
            "contradictions": _table([asdict(worst) for worst in found.worst]),
            "contradictory_share": found.share,
        },
        check_results=[checks.label_conflicts(counts), checks.contradictory_triangles(found)],
    )


@dg.asset(
    group_name="ingest", kinds={"parquet"}, owners=OWNERS, deps=[pairs],
    check_specs=[checks.NO_LEAKAGE, checks.PRIOR_SHIFT, checks.LEAK_PROBE],
)  # fmt: skip
def snapshot(workbench: Workbench) -> dg.MaterializeResult:
    """An immutable export of train, calibration and test; what training and evaluation read."""
    settings = workbench.settings()
    with explained():
        taken = steps.snapshot(settings)
        probe = probe_leaks(taken, settings.memory_limit)
    return dg.MaterializeResult(
        metadata={
            "snapshot_id": taken.snapshot_id,
            "test_id": taken.test_id,
            "train_pairs": taken.train.pairs,
            "calibration_pairs": taken.calibration.pairs,
            "test_pairs": taken.test.pairs,
            "interaction_pairs": taken.train.interaction,
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
def finetuned_model(context: dg.AssetExecutionContext, workbench: Workbench, config: RecipeConfig) -> dg.MaterializeResult:
    """One cell of the experiment: a base model at a dimension, fine-tuned on so many pairs."""
    settings = workbench.settings()
    variant, size = parse_cell(context)
    with training_pipes(context) as pipes, explained():
        model = steps.train_cell(settings, variant, size, config.recipe, pipes.listener)
        difference = steps.served_vectors_difference(settings, model)
        result = pipes.report(
            {
                "calibration_error": model.calibration_error,
                "threshold": model.fit.threshold,
                "train_pairs": model.train_pairs,
                "training_seconds": model.seconds,
                "reused": model.reused,
                "snapshot_id": model.job.snapshot_id,
                "recipe": model.job.recipe,
                "shipped": f"the untrained start: {model.kept_start}" if model.kept_start else "the trained model",
                "dagster/uri": str(model.folder),
                **({"loss": _image("loss by training step", loss_curve(model.losses))} if model.losses else {}),
            }
        )
    return result._replace(check_results=[checks.served_vectors(difference)])


@dg.asset(
    group_name="evaluate", kinds={"openai"}, owners=OWNERS, deps=[snapshot], check_specs=[checks.BASELINE_IS_API],
)  # fmt: skip
def baseline_scores(workbench: Workbench) -> dg.MaterializeResult:
    """What the fine-tunes have to beat: text-embedding-3-small from its cache or the API, else a local untuned model."""
    settings = workbench.settings()
    with explained():
        result = steps.measure_baseline(settings)
    return dg.MaterializeResult(
        metadata={
            **_figures(result.evaluation),
            "advice": result.advice or "measured on the API",
            "paid_tokens": result.paid.tokens,
            "paid_dollars": result.paid.money(settings.baseline_price),
        },
        check_results=[checks.baseline_is_api(result)],
    )


@dg.asset(
    group_name="evaluate", kinds={"scikitlearn"}, owners=OWNERS, deps=[finetuned_model, baseline_scores],
    partitions_def=CELLS, check_specs=[checks.ENOUGH_COMPONENTS],
)  # fmt: skip
def evaluation(context: dg.AssetExecutionContext, workbench: Workbench, config: RecipeConfig) -> dg.MaterializeResult:
    """The cell's error rate on unseen test pairs, with its interval, beside the same model untuned."""
    variant, size = parse_cell(context)
    with explained():
        record = steps.evaluate_cell(workbench.settings(), variant, size, config.recipe)
    return dg.MaterializeResult(metadata=_figures(record), check_results=[checks.enough_components(record)])


@dg.asset(group_name="evaluate", kinds={"table", "matplotlib"}, owners=OWNERS, deps=[evaluation, baseline_scores])
def leaderboard(workbench: Workbench) -> dg.MaterializeResult:
    """Every evaluated cell of the current snapshot against the baseline: the table and the figure."""
    settings = workbench.settings()
    with explained():
        steps.evaluate_opponents(settings)
        board = steps.leaderboard(settings)
        figure = findings.save_figure(settings, board)
    return dg.MaterializeResult(
        metadata={
            "error_versus_size": _image("error rate against training pairs", figure.read_bytes()),
            "board": dg.MetadataValue.md(render_section(board_section(board, steps.champion_id(settings)))),
            "cells": len(board.tuned),
            "stale_cells": len(board.stale),
            "snapshot_id": board.snapshot.snapshot_id,
            "dagster/uri": str(figure),
        }
    )


@dg.asset(group_name="promote", kinds={"report"}, owners=OWNERS, deps=[leaderboard])
def champion(workbench: Workbench) -> dg.MaterializeResult:
    """The promoted model. A challenger takes its place only if it is provably better on the same test pairs."""
    settings = workbench.settings()
    with explained():
        entry, new = steps.decide_champion(settings)
        board = steps.leaderboard(settings)
        figure = findings.save_figure(settings, board)
    present = steps.registry(settings).current()
    return dg.MaterializeResult(
        metadata={
            "decision": dg.MetadataValue.md(render_section(decision_section(entry, present, board.snapshot.on_quora))),
            "error_versus_size": _image("error rate against training pairs", figure.read_bytes()),
            "outcome": entry.action if new else "no new decision",
            "entry": entry.number,
            "judged": new,
            **({"error": present.champion.error, "model": present.champion.model} if present and present.champion else {}),
        }
    )


@dg.asset(group_name="promote", kinds={"report"}, owners=OWNERS, deps=[champion])
def evidence(workbench: Workbench) -> dg.MaterializeResult:
    """One page for a sceptic: which model, how much better, how sure, on whose data, at what cost, what breaks, what next."""
    settings = workbench.settings()
    with explained():
        page, file = findings.save_page(settings)
    return dg.MaterializeResult(
        metadata={
            "answer": page.answer,
            "next_step": page.next_step + (f" ({page.command})" if page.command else ""),
            "page": dg.MetadataValue.md(render_markdown(page)),
            "dagster/uri": str(file),
        }
    )


def _table(rows: list[dict[str, Any]]) -> dg.TableMetadataValue | str:
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows]) if rows else "none"


def _image(title: str, png: bytes) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _slice(each: Slice) -> dict[str, Any]:
    return {
        "pairs of kind": each.name, "pairs": each.n, "components": each.components, "error": each.error,
        "interval_95": interval_text(each.interval),
    }  # fmt: skip


def _figures(record: Evaluation) -> dict[str, Any]:
    return {
        "error": record.error,
        "interval_95": interval_text(record.interval) if record.interval else f"none: {record.no_verdict or record.own_note}",
        "calibrated_error": record.calibrated_error,
        "slices": _table([_slice(each) for each in record.slices]),
        "errors_by_part": {"ranking": record.parts.ranking, "threshold": record.parts.threshold, "prior": record.parts.prior},
        **{name: value for name, value in asdict(record.metrics).items() if name not in ("error", "n", "positives")},
        "mrr_at_10": record.retrieval.mrr_at_10,
        "recall_at_10": record.retrieval.recall_at_10,
        "test_pairs": record.metrics.n,
        "components": record.components,
        "test_id": record.test_id,
        "snapshot_id": record.snapshot_id,
        "contamination": record.contamination or "unknown",
    }


ALL_ASSETS = [
    seed_pairs, interaction_pairs, pairs, snapshot, finetuned_model, baseline_scores, evaluation, leaderboard, champion,
    evidence,
]  # fmt: skip
