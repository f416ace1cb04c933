"""Challengers: what is trained beside the champion's variant in one turn, so that a better one is met."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from flywheel.compute.remote_job import at_once
from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.cleanup import readable_models
from flywheel.pipeline.training import next_retraining, train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel.training.options import Challengers
from flywheel.training.progress import Progress, paced, to_text

_SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class TrainedChallengers:
    """What became of each, by its name: its model, or why there is none."""

    trained: dict[str, TrainedModel]
    failed: dict[str, str]


def next_challengers(workspace: Workspace) -> list[tuple[Cell, str]]:
    """The cells and recipes that a turn trains beside the champion's, each once."""
    wanted = Challengers.parse(workspace.settings.retraining.challengers)
    found = [(Cell(variant, ALL), str(recipe)) for variant, recipe in wanted.named]
    best = _best_before(workspace)
    own = next_retraining(workspace)
    ranked = [each for each in best if each != own and each not in found]
    return [each for each in dict.fromkeys([*found, *ranked[: wanted.best]]) if each != own]


def _best_before(workspace: Workspace) -> list[tuple[Cell, str]]:
    """Every variant and recipe that was trained before, the one that errs least on calibration pairs first.

    Each counts by the best of its models of the snapshot that was trained on last.
    """
    models = readable_models(workspace)
    if not models:
        return []
    last = max(models, key=lambda model: model.folder.stat().st_mtime_ns).job.snapshot_id
    errors: dict[tuple[Cell, str], float] = {}
    for model in models:
        if model.job.snapshot_id == last:
            line = Cell(Variant.parse(model.job.variant), ALL), str(model.job.recipe)
            errors[line] = min(errors.get(line, 1.0), model.calibration_set_error)
    return sorted(errors, key=lambda line: (errors[line], str(line)))


def train_challengers(workspace: Workspace, snapshot: Snapshot, tell: Callable[[str], None]) -> TrainedChallengers:
    """Train them on all of a snapshot, or find them finished; `tell` hears how far they are.

    They train one after another, and where a cluster trains at once, as many as `compute.gpu_slots` says. One that cannot be
    trained keeps no other back.
    """

    def train(name: str) -> tuple[str, TrainedModel | str]:
        listener = paced(partial(_tell, tell, name), _SECONDS_BETWEEN_LINES)
        try:
            return name, train_cell(workspace.with_listener(listener), snapshot, *wanted[name])
        except FlywheelError as error:
            tell(f"{name}: {error}")
            return name, str(error)

    wanted = {f"{cell.variant} {recipe}": (cell, recipe) for cell, recipe in next_challengers(workspace)}
    compute, names = workspace.settings.compute, list(wanted)
    became = dict(map(train, names) if compute.engine is None else at_once(train, names, compute.gpu_slots))
    trained = {name: model for name in names if isinstance(model := became[name], TrainedModel)}
    return TrainedChallengers(trained, {name: reason for name in names if isinstance(reason := became[name], str)})


def _tell(tell: Callable[[str], None], name: str, event: Progress) -> None:
    tell(f"{name}: {to_text(event)}")
