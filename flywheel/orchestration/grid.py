"""Many cells in one process: what there is to do, and doing it cell by cell so that one failure takes no other with it."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import evaluation_folder, load_evaluation
from flywheel.models.catalogue import Variant
from flywheel.models.vectors import vectors_of
from flywheel.orchestration import steps
from flywheel.orchestration.instance import Session
from flywheel.orchestration.materialise import materialise
from flywheel.orchestration.partitions import cell_key, in_grid
from flywheel.pairs.snapshots.folder import latest_snapshot
from flywheel.pairs.snapshots.snapshot import ALL
from flywheel.settings import PROJECT, Settings
from flywheel.training.progress import ignore_progress


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and what is to be done about it; `reason` says why it is impossible."""

    variant: Variant
    size: str
    state: Literal["to do", "done", "impossible"]
    reason: str = ""


@dataclass(frozen=True)
class FinishedCell:
    """What became of a cell: `failure` is the one sentence of a failed one."""

    variant: Variant
    size: str
    failure: str | None


def plan_cells(session: Session, variants: Sequence[Variant], sizes: Sequence[str], recipe: str) -> list[PlannedCell]:
    """Look at every cell asked for: finished on this snapshot, to do, or impossible (too little data, no weights)."""
    settings = session.settings
    snapshot = steps.current_snapshot(settings)
    recorded = set(session.instance.get_materialized_partitions(dg.AssetKey("evaluation")))
    cells = []
    no_weights = {v.base: _why_no_weights(settings, v) for v in {v.base: v for v in variants}.values()}
    for variant in variants:
        for size in sizes:
            largest = snapshot.largest_size(settings.interaction_share)
            if no_weights[variant.base]:
                cells.append(PlannedCell(variant, size, "impossible", no_weights[variant.base]))
            elif size != ALL and int(size) > largest:
                reason = f"sizes above {largest:,}, the seed pairs in `train`, cannot be filled"
                cells.append(PlannedCell(variant, size, "impossible", reason))
            else:
                done = cell_key(variant, size) in recorded and _is_done(settings, variant, size, recipe)
                cells.append(PlannedCell(variant, size, "done" if done else "to do"))
    return cells


def run_cells(session: Session, cells: Sequence[PlannedCell], recipe: str) -> Iterator[FinishedCell]:
    """Train and evaluate the cells that are to do, one run each; yields each as it finishes."""
    for cell in cells:
        if cell.state != "to do":
            continue
        failure = None
        try:
            materialise(session, ["finetuned_model", "evaluation"], (cell.variant, cell.size), recipe)
        except FlywheelError as error:
            failure = str(error)
        yield FinishedCell(cell.variant, cell.size, failure)


def train_one(session: Session, variant: Variant, size: str, recipe: str, progress: Callable[[int, int], None]) -> None:
    """Train and evaluate one cell; one outside the grid is not recorded in Dagster, which has no place for it."""
    settings = session.settings
    _, failures = steps.encode_ahead(settings, [variant], [size], progress)
    for reason in failures.values():
        raise FlywheelError(reason)
    if in_grid(variant, size):
        materialise(session, ["finetuned_model", "evaluation"], (variant, size), recipe)
    else:
        steps.train_cell(settings, variant, size, recipe, ignore_progress)
        steps.evaluate_cell(settings, variant, size, recipe)


def ensure_snapshot(session: Session) -> None:
    """Build what a snapshot needs and the snapshot itself, unless there is one."""
    if latest_snapshot(session.settings) is None:
        materialise(session, ["seed_pairs", "interaction_pairs", "pairs", "snapshot"])


def ensure_baseline(session: Session) -> None:
    """Build the snapshot and measure the baseline on it, unless both are there."""
    ensure_snapshot(session)
    materialise(session, ["baseline_scores"])


def starter_interactions(settings: Settings) -> list[Path]:
    """Put the starter set's interaction files that this home has not seen into its inbox; returns them."""
    done = settings.inbox / "done"
    new = [
        file
        for file in sorted((PROJECT / "data" / "starter").glob("interactions-*.jsonl"))
        if not list(done.glob(f"*-{file.name}"))
    ]
    settings.inbox.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(file, settings.inbox / file.name)) for file in new]


def _is_done(settings: Settings, variant: Variant, size: str, recipe: str) -> bool:
    snapshot = steps.current_snapshot(settings)
    job_id = steps.training_job(settings, snapshot, variant, size, recipe).job_id
    folder = evaluation_folder(settings.evaluations, snapshot.test_id, job_id)
    return load_evaluation(folder, steps.terms_of(settings)) is not None


def _why_no_weights(settings: Settings, variant: Variant) -> str:
    try:
        _ = vectors_of(variant.model, settings).weights
    except FlywheelError as error:
        return str(error)
    return ""
