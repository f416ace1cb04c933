"""Many cells in one process: what there is to do, and doing it cell by cell so that one failure takes no other with it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.orchestration.instance import Session
from flywheel.orchestration.lineage import MODEL
from flywheel.orchestration.materialise import materialise
from flywheel.orchestration.partitions import cell_key, in_grid
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.evaluation import evaluate_cell, snapshot_of
from flywheel.pipeline.training import train_cell, training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel


@dataclass(frozen=True)
class PlannedCell:
    """A cell, and what is to be done about it; `reason` says why it is impossible."""

    cell: Cell
    state: Literal["to do", "done", "impossible"]
    reason: str = ""


@dataclass(frozen=True)
class FinishedCell:
    """What became of a cell: `failure` is the one sentence of a failed one."""

    cell: Cell
    failure: str | None


def plan_cells(session: Session, snapshot: Snapshot, cells: Sequence[Cell], recipe: str) -> list[PlannedCell]:
    """Look at every cell asked for: finished on this snapshot, to do, or impossible (too little data, no weights)."""
    workspace = session.workspace
    recorded = set(session.instance.get_materialized_partitions(dg.AssetKey("evaluation")))
    no_weights = {base: _reason_no_weights(workspace, cell) for base, cell in {c.variant.base: c for c in cells}.items()}
    largest = snapshot.largest_size(workspace.settings.training.interaction_share)

    def planned(cell: Cell) -> PlannedCell:
        if reason := no_weights[cell.variant.base]:
            return PlannedCell(cell, "impossible", reason)
        if cell.size != ALL and int(cell.size) > largest:
            held = f"`train` holds {snapshot.train.seed:,} seed and {snapshot.train.interaction:,} interaction pairs"
            if snapshot.is_cross_fitted:
                held += ", and each model is also trained without one fold and without two"
            return PlannedCell(cell, "impossible", f"sizes above {largest:,} cannot be filled, since {held}")
        done = cell_key(cell) in recorded and _is_done(workspace, snapshot, cell, recipe)
        return PlannedCell(cell, "done" if done else "to do")

    return [planned(cell) for cell in cells]


def run_cells(session: Session, cells: Sequence[Cell], recipe: str) -> Iterator[FinishedCell]:
    """Train and evaluate cells, one run each; yields each as it finishes."""
    for cell in cells:
        failure = None
        try:
            materialise(session, ["finetuned_model", "evaluation"], cell, recipe)
        except FlywheelError as error:
            failure = str(error)
        yield FinishedCell(cell, failure)


def train_one(session: Session, snapshot: Snapshot, cell: Cell, recipe: str) -> tuple[TrainedModel, Evaluation]:
    """Train and evaluate one cell. One outside the grid is not recorded in Dagster, which has no partition for it."""
    workspace = session.workspace
    if not in_grid(cell):
        model = train_cell(workspace, snapshot, cell, recipe)
        return model, evaluate_cell(workspace, model, snapshot)
    trained = materialise(session, ["finetuned_model", "evaluation"], cell, recipe)["finetuned_model"]
    model = TrainedModel.load(workspace.home.models / trained[MODEL])
    return model, evaluate_cell(workspace, model, snapshot_of(workspace, model))


def ensure_snapshot(session: Session) -> Snapshot:
    """The current snapshot, made with all it needs when there is none that can judge.

    Raises FlywheelError when there are too few pairs for that, before anything is encoded.
    """
    snapshot = session.workspace.snapshots.latest()
    if snapshot is None or not snapshot.can_judge:
        made = materialise(session, ["seed_pairs", "interaction_pairs", "pairs", "snapshot"])["snapshot"]
        snapshot = session.workspace.snapshots.load(made["snapshot_id"])
    snapshot.check_judges()
    return snapshot


def measure_references(session: Session) -> None:
    """Measure what cells are compared with, without paying: the baseline, the champion, and heads on the API's vectors."""
    materialise(session, ["baseline_scores", "api_heads"])


def _is_done(workspace: Workspace, snapshot: Snapshot, cell: Cell, recipe: str) -> bool:
    job_id = training_job(workspace, snapshot, cell, recipe).job_id
    folder = evaluation_folder(workspace.home.evaluations, snapshot.test_id, job_id)
    return load_evaluation(folder, workspace.terms) is not None


def _reason_no_weights(workspace: Workspace, cell: Cell) -> str:
    try:
        _ = workspace.vectors(cell.variant.model).weights
    except FlywheelError as error:
        return str(error)
    return ""
