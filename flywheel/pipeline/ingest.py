"""Pairs into the store: the seed pairs, files by their path, the inbox; and the snapshot of what is there."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from flywheel.pairs.events.seeds import STARTER, seed_batch
from flywheel.pairs.inbox import take_inbox
from flywheel.pairs.ingest import IngestReport, ingest, ingest_files, unaccounted
from flywheel.pairs.snapshots.export import take_snapshot as export_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.workspace import Workspace


@dataclass(frozen=True)
class IngestSummary:
    """What became of some files' lines: accepted + duplicates + quarantined = lines; conflicts and embargoed are accepted."""

    lines: int
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
    """Ingest files of events from where they are; `progress` hears how many lines have been read."""
    return _summary(ingest_files(workspace.store, paths, workspace.settings.pairs, progress=progress), ())


def ingest_inbox(workspace: Workspace) -> IngestSummary:
    """Ingest the inbox's finished files (see `take_inbox`)."""
    return _summary(*take_inbox(workspace.store, workspace.home.inbox, workspace.settings.pairs))


def _summary(reports: list[IngestReport], rejected: tuple[str, ...]) -> IngestSummary:
    counted = ("lines", "accepted", "duplicates", "quarantined", "conflicts", "embargoed", "redacted")
    totals = {name: sum(getattr(report, name) for report in reports) for name in counted}
    return IngestSummary(**totals, files=tuple(reports), rejected=rejected)


def unaccounted_lines(workspace: Workspace, summary: IngestSummary) -> list[str]:
    """What of an ingest does not add up, as sentences; none if all is well."""
    return unaccounted(workspace.store, [report.batch_id for report in summary.files])


def take_snapshot(workspace: Workspace, new_test: bool = False) -> Snapshot:
    """Export the pairs as they are; equal data gives the same snapshot. `new_test` draws new frozen splits first."""
    return export_snapshot(workspace.store, workspace.snapshots, workspace.split_rules, new_test)


def deliver_starter_interactions(workspace: Workspace) -> list[Path]:
    """Put the starter set's interaction files that this home has not seen into its inbox; returns them."""
    inbox = workspace.home.inbox
    files = sorted(STARTER.glob("interactions-*.jsonl"))
    new = [file for file in files if not list((inbox / "done").glob(f"*-{file.name}"))]
    inbox.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.copy2(file, inbox / file.name)) for file in new]
