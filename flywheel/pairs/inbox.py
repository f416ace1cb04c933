"""The inbox: a folder that producers drop files into, and that is emptied without losing or mixing up any."""

import logging
import time
from pathlib import Path

from filelock import FileLock

from flywheel.errors import UnreadableFileError, explain_disk_errors
from flywheel.pairs.ingest import IngestReport, ingest_files
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store

log = logging.getLogger(__name__)

_SETTLED_SECONDS = 2.0


def finished_files(inbox: Path) -> list[Path]:
    """The inbox's finished files: visible, not .tmp or .part, and untouched for two seconds."""
    if not inbox.is_dir():
        return []
    seen = [path for path in sorted(inbox.iterdir()) if path.is_file() and not path.name.startswith(".")]
    settled = time.time() - _SETTLED_SECONDS
    return [path for path in seen if path.suffix not in (".tmp", ".part") and path.stat().st_mtime < settled]


def waiting_files(inbox: Path) -> list[Path]:
    """What the next ingest will take: finished files, and those that a killed run had claimed."""
    return [*finished_files(inbox), *sorted((inbox / "work").glob("*"))]


def take_inbox(store: Store, inbox: Path, options: PairOptions) -> tuple[list[IngestReport], tuple[str, ...]]:
    """Ingest the inbox's finished files, each then moved to inbox/done, or to inbox/rejected when it cannot be read.

    A file is claimed first, by a rename into inbox/work: what a producer puts in its place meanwhile is another file, and
    two runs never take the same one. A claim that a killed run left is taken up again; storing a file twice is harmless.
    Returns the reports, and for each rejected file the sentence that says why.
    """
    reports, rejected = [], []
    with explain_disk_errors(inbox):
        inbox.mkdir(parents=True, exist_ok=True)
        with FileLock(inbox / ".lock"):
            for path in finished_files(inbox):
                _move(path, inbox / "work" / f"{time.time_ns():x}-{path.name}")
            for path in sorted((inbox / "work").glob("*")):
                name = path.name.partition("-")[2]
                try:
                    report = ingest_files(store, [path], options, [name])[0]
                except UnreadableFileError as error:
                    log.warning("%s", error)
                    rejected.append(str(error))
                    _move(path, inbox / "rejected" / path.name)
                else:
                    reports.append(report)
                    _move(path, inbox / "done" / f"{report.batch_id[:12]}-{name}")
    return reports, tuple(rejected)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
