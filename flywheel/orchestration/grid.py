"""Many cells in one process: what there is to do, and doing it cell by cell so that one failure takes no other with it."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import dagster as dg

from flywheel.compute.remote_job import at_once
from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.orchestration.instance import Session
from flywheel.orchestration.lineage import MODEL
from flywheel.orchestration.materialise import materialise
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.evaluation import evaluate_cell, snapshot_of
from flywheel.pipeline.training import train_cell, training_job, why_impossible
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Progress, Trained


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
    workspace.records.pull(snapshot.test_id)

    def planned(cell: Cell) -> PlannedCell:
        if reason := why_impossible(workspace, snapshot, cell):
            return PlannedCell(cell, "impossible", reason)
        is_recorded = cell not in session.grid or session.grid.key(cell) in recorded
        done = is_recorded and _is_done(workspace, snapshot, cell, recipe)
        return PlannedCell(cell, "done" if done else "to do")

    return [planned(cell) for cell in cells]


def run_cells(session: Session, snapshot: Snapshot, cells: Sequence[Cell], recipe: str) -> Iterator[FinishedCell]:
    """Train and evaluate cells, one run each; yields each as it finishes.

    Where a cluster trains, threads wait there for as many trainings at once as `compute.gpu_slots` says; what is done here is
    done for one cell after the other.
    """
    for trained in _on_a_cluster(session.workspace, snapshot, cells, recipe) or (FinishedCell(cell, None) for cell in cells):
        failure = trained.failure
        if failure is None:
            try:
                train_one(session, snapshot, trained.cell, recipe)
            except FlywheelError as error:
                failure = str(error)
        yield FinishedCell(trained.cell, failure)


def _on_a_cluster(
    workspace: Workspace, snapshot: Snapshot, cells: Sequence[Cell], recipe: str
) -> Iterator[FinishedCell] | None:
    """Train cells on the cluster, if there is one; yields each as its model is here.

    The largest cell of a base model goes first, and its others once it has encoded its texts, so that they find them at the
    root instead of encoding the same.
    """
    if workspace.settings.compute.engine is None:
        return None
    largest_first = sorted(cells, key=lambda cell: -float("inf" if cell.size == ALL else cell.size))
    first = {cell.variant.base: cell for cell in reversed(largest_first)}
    encoded = {base: threading.Event() for base in first}

    def train(cell: Cell) -> FinishedCell:
        base = cell.variant.base
        leads, home = cell == first[base], workspace

        def hear(event: Progress) -> None:
            if isinstance(event, Trained):
                encoded[base].set()

        if leads:
            home = workspace.with_listener(hear)
        else:
            encoded[base].wait()
        try:
            train_cell(home, snapshot, cell, recipe)
        except FlywheelError as error:
            return FinishedCell(cell, str(error))
        finally:
            if leads:
                encoded[base].set()
        return FinishedCell(cell, None)

    others = [cell for cell in cells if cell not in first.values()]
    return at_once(train, [*first.values(), *others], workspace.settings.compute.gpu_slots)


def train_one(session: Session, snapshot: Snapshot, cell: Cell, recipe: str) -> tuple[TrainedModel, Evaluation]:
    """Train and evaluate one cell. One outside the grid is not recorded in Dagster, which has no partition for it."""
    workspace = session.workspace
    if cell not in session.grid:
        model = train_cell(workspace, snapshot, cell, recipe)
        return model, evaluate_cell(workspace, model, snapshot)
    if reason := why_impossible(workspace, snapshot, cell):  # which a run would skip
        raise FlywheelError(f"{cell}: {reason.rstrip('.')}.")
    trained = materialise(session, ["finetuned_model", "evaluation"], cell, recipe)["finetuned_model"]
    model = workspace.trained.load(trained[MODEL])
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
