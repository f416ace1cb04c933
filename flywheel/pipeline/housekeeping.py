"""What of a home's past nothing needs any more: snapshots, models and records that only an older turn has used."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import Timeout

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation, load_evaluation
from flywheel.files import locked, scratch_folder
from flywheel.pairs.snapshots.snapshot import MANIFEST
from flywheel.pipeline.cleanup import folder_bytes, prune, readable_models
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import RECORD, TrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftover:
    """A folder that nothing needs, and the bytes that it takes: of files that it shares, its part."""

    kind: Literal["evaluation", "model", "snapshot"]
    folder: Path
    bytes: int


def find_leftovers(workspace: Workspace) -> list[Leftover]:
    """What housekeeping would delete, in the order in which it does: first what refers to others.

    Kept are every champion of the history; the newest model of each variant, size, recipe and redraw, which the board and the
    learning curve show; the newest snapshots (setting `housekeeping.snapshots`) with all their models; the snapshots that kept
    models were trained on; and of the records those of kept models on the test sets of the newest snapshots, and those that say
    what a test set has decided. At the root, which other machines share, everything stays, and so do all records, which would
    come back from there.
    """
    newest = _newest_snapshots(workspace)
    models = readable_models(workspace)
    kept = _kept_models(workspace, models, newest)
    test_ids = {workspace.snapshots.load(snapshot_id).test_id for snapshot_id in newest}
    snapshots = newest | {model.job.snapshot_id for model in models if model.name in kept}
    shared = workspace.settings.storage.root is not None
    records = [] if shared else _old_records(workspace, kept, newest, test_ids)
    gone = [
        *(("evaluation", folder) for folder in records),
        *(("model", model.folder) for model in models if model.name not in kept),
        *(("snapshot", folder) for folder in _snapshot_folders(workspace) if folder.name not in snapshots),
    ]
    return [Leftover(kind, folder, folder_bytes(folder)) for kind, folder in gone]  # type: ignore[arg-type]


def tidy(workspace: Workspace) -> int:
    """Delete what `find_leftovers` finds, and what of the caches nothing needs then; returns the bytes that were freed.

    What a training holds at this moment stays. A kill at any moment leaves whole folders only.
    """
    freed = 0
    for leftover in find_leftovers(workspace):
        if leftover.kind == "model":
            try:
                with locked(workspace.home.models, leftover.folder.name, 0):
                    _delete(leftover.folder)
            except Timeout:
                continue
        else:
            _delete(leftover.folder)
        freed += leftover.bytes
    for test_set in workspace.home.evaluations.glob("[!.]*"):
        with suppress(OSError):  # it is not empty
            test_set.rmdir()
    return freed + prune(workspace, states=False)


def _newest_snapshots(workspace: Workspace) -> set[str]:
    """The snapshots that the settings keep, and the present one."""
    folders = sorted(_snapshot_folders(workspace), key=lambda folder: (folder / MANIFEST).stat().st_mtime_ns)
    present = workspace.snapshots.latest()
    kept = {folder.name for folder in folders[-workspace.settings.housekeeping.snapshots :]}
    return kept | ({present.snapshot_id} if present else set())


def _snapshot_folders(workspace: Workspace) -> list[Path]:
    return [manifest.parent for manifest in workspace.home.snapshots.glob(f"[!.]*/{MANIFEST}")]


def _kept_models(workspace: Workspace, models: list[TrainedModel], newest: set[str]) -> set[str]:
    latest: dict[tuple[str, str, str, int], str] = {}
    for model in sorted(models, key=lambda model: (model.folder / RECORD).stat().st_mtime_ns):
        job = model.job
        latest[job.variant, job.size, job.recipe, job.random_seed] = model.name
    champions = {entry.champion.model for entry in workspace.registry.history() if entry.champion}
    return {*latest.values(), *champions, *(model.name for model in models if model.job.snapshot_id in newest)}


def _old_records(workspace: Workspace, kept: set[str], newest: set[str], test_ids: set[str]) -> Iterable[Path]:
    """Records that show nothing any more and are no sign of what a test set has decided."""
    decided = {}
    for entry in workspace.registry.history():
        if entry.verdict:  # of a test set the last verdict shows which pairs it has
            decided[entry.verdict.test_id] = {entry.verdict.challenger, entry.verdict.reference}
    for test_set in sorted(workspace.home.evaluations.glob("[!.]*")):
        records = {folder: record for folder in sorted(test_set.glob("[!.]*")) if (record := _record(folder))}
        references = [(folder, record) for folder, record in records.items() if record.kind != "tuned"]
        references.sort(key=lambda each: each[0].stat().st_mtime_ns)
        last = {(record.kind, record.variant, record.size): folder for folder, record in references}
        in_use = {*last.values(), *(folder for folder, record in references if record.snapshot_id in newest)}
        in_use |= {folder for folder in records if folder.name in kept}
        for folder in records:
            if folder.name not in decided.get(test_set.name, ()) and not (test_set.name in test_ids and folder in in_use):
                yield folder


def _record(folder: Path) -> Evaluation | None:
    try:
        return load_evaluation(folder)
    except FlywheelError as error:
        log.warning("%s", error)
        return None


def _delete(folder: Path) -> None:
    """Delete a folder that is there or not at any moment."""
    with scratch_folder(folder.parent) as aside:
        folder.rename(aside / folder.name)
