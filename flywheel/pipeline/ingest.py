"""Pairs into the store: the seed pairs, files by their path, the inbox; and the snapshot of what is there."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from flywheel.errors import UnreadableFileError
from flywheel.pairs.deliveries import files_of, ingest_each
from flywheel.pairs.events.seeds import STARTER, seed_batch
from flywheel.pairs.inbox import OnDeliveries, take_inbox
from flywheel.pairs.ingest import IngestReport, ingest
from flywheel.pairs.preview import Preview, preview
from flywheel.pairs.snapshots.export import take_snapshot as export_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pairs.store.accounts import unaccounted
from flywheel.pipeline.promotion import decided_pairs
from flywheel.pipeline.sharing import bring
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.decisions import was_decided


@dataclass(frozen=True)
class IngestSummary:
    """What became of some files' lines: header + continuation + accepted + duplicates + quarantined = lines.

    Conflicts and embargoed are accepted. `rejected` has a sentence for each delivery that could not be read.
    """

    lines: int
    header: int
    continuation: int
    accepted: int
    duplicates: int
    quarantined: int
    conflicts: int
    embargoed: int
    redacted: int
    files: tuple[IngestReport, ...]
    rejected: tuple[str, ...] = ()


def ingest_seed(workspace: Workspace) -> IngestReport | None:
    """Ingest the seed pairs the settings ask for; a second time changes nothing."""
    batch = seed_batch(workspace.settings.pairs)
    return ingest(workspace.store, batch) if batch else None


def ingest_paths(workspace: Workspace, paths: Sequence[Path], progress: Callable[[int], None] | None = None) -> IngestSummary:
    """Ingest files, and folders of part files, from where they are; `progress` hears how many lines have been read.

    One that cannot be read keeps no other from being stored. Raises UnreadableFileError when one is not there at all.
    """
    options = workspace.settings.pairs
    for path in paths:
        files_of(path, path.name, options)
    reports: list[IngestReport] = []
    rejected = []
    deliveries, read = [(path, path.name) for path in paths], 0

    def on_lines(lines: int) -> None:
        nonlocal read
        read += lines
        if progress:
            progress(read)

    for _, outcome in ingest_each(workspace.store, deliveries, options, on_lines):
        if isinstance(outcome, UnreadableFileError):
            rejected.append(str(outcome))
        else:
            reports += outcome
    return _summary(reports, tuple(rejected))


def preview_paths(workspace: Workspace, paths: Sequence[Path]) -> list[Preview]:
    """How files would be understood, with the first pairs of each; stores nothing.

    Raises UnreadableFileError when one is not there at all.
    """
    options = workspace.settings.pairs
    found = (preview(*files_of(path, path.name, options), options, workspace.store.memory_limit) for path in paths)
    return list(chain.from_iterable(found))


def ingest_inbox(workspace: Workspace, progress: OnDeliveries | None = None) -> IngestSummary:
    """Ingest the inbox's finished files; `progress` hears how many of how many are done (see `take_inbox`)."""
    return _summary(*take_inbox(workspace.store, workspace.home.inbox, workspace.settings.pairs, progress))


def _summary(reports: list[IngestReport], rejected: tuple[str, ...]) -> IngestSummary:
    counted = ("lines", "header", "continuation", "accepted", "duplicates", "quarantined", "conflicts", "embargoed", "redacted")
    totals = {name: sum(getattr(report, name) for report in reports) for name in counted}
    return IngestSummary(**totals, files=tuple(reports), rejected=rejected)


def unaccounted_lines(workspace: Workspace, summary: IngestSummary) -> list[str]:
    """What of an ingest does not add up, as sentences; none if all is well."""
    return unaccounted(workspace.store, [report.batch_id for report in summary.files])


def take_snapshot(workspace: Workspace, new_test: bool = False) -> Snapshot:
    """Export the pairs as they are; equal data gives the same snapshot. `new_test` draws new frozen splits first.

    Frozen splits that carry no verdict are drawn again by themselves, unless a decision was made on their pairs. What this home
    has and the root has not goes there too.
    """
    bring(workspace)
    registry = workspace.registry
    return export_snapshot(
        workspace.store,
        workspace.snapshots,
        workspace.split_rules,
        new_test,
        lambda pairs: was_decided(registry, decided_pairs(workspace), pairs),
    )


def deliver_starter_interactions(workspace: Workspace) -> list[Path]:
    """Put the starter set's interaction files that this home has not seen into its inbox; returns them."""
    inbox = workspace.home.inbox
    files = sorted(STARTER.glob("interactions-*.jsonl"))
    new = [file for file in files if not list((inbox / "done").glob(f"*-{file.name}"))]
    inbox.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(file, inbox / file.name)) for file in new]
