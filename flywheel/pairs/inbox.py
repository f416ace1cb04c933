"""The inbox: a folder that producers drop files into, and that is emptied without losing or mixing up any."""

import logging
import shutil
import time
from pathlib import Path

from filelock import FileLock

from flywheel.errors import UnreadableFileError, explain_disk_errors
from flywheel.pairs.deliveries import ingest_delivery
from flywheel.pairs.ingest import IngestReport
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store

log = logging.getLogger(__name__)

_SETTLED_SECONDS = 2.0
_OURS = frozenset({"work", "done", "rejected"})


def finished_files(inbox: Path) -> list[Path]:
    """The inbox's finished deliveries: visible, not .tmp or .part, and untouched for two seconds.

    One is a file, or a folder of part files, which is finished when all of them are and its writer has cleared its own away.
    """
    if not inbox.is_dir():
        return []
    seen = [path for path in sorted(inbox.iterdir()) if not path.name.startswith(".") and path.name not in _OURS]
    return [path for path in seen if path.suffix not in (".tmp", ".part") and _is_settled(path)]


def _is_settled(path: Path) -> bool:
    try:
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        if any(part in ("_temporary", "_started") or part.endswith((".tmp", ".part")) for each in files for part in each.parts):
            return False
        newest = max((each.stat().st_mtime for each in (path, *files)), default=0)
    except OSError:  # its writer is at it
        return False
    return bool(files) and newest < time.time() - _SETTLED_SECONDS


def waiting_files(inbox: Path) -> list[Path]:
    """What the next ingest will take: finished deliveries, and those that a killed run had claimed."""
    return [*finished_files(inbox), *sorted((inbox / "work").glob("*"))]


def take_inbox(store: Store, inbox: Path, options: PairOptions) -> tuple[list[IngestReport], tuple[str, ...]]:
    """Ingest the inbox's finished deliveries, each then moved to inbox/done, or to inbox/rejected when it cannot be read.

    A delivery is claimed first, by a rename into inbox/work: what a producer puts in its place meanwhile is another one, and
    two runs never take the same one. A claim that a killed run left is taken up again; storing a file twice is harmless.
    Returns the reports, and for each rejected delivery the sentence that says why.
    """
    reports, rejected = [], []
    with explain_disk_errors(inbox):
        inbox.mkdir(parents=True, exist_ok=True)
        with FileLock(inbox / ".lock"):
            for path in finished_files(inbox):
                _move(path, inbox / "work" / f"{time.time_ns():x}-{path.name}")
            for path in sorted((inbox / "work").glob("*")):
                if path.is_dir() and not any(each.is_file() for each in path.rglob("*")):
                    shutil.rmtree(path)  # a killed run has put all of it away
                    continue
                try:
                    taken = ingest_delivery(store, path, path.name.partition("-")[2], options)
                except UnreadableFileError as error:
                    log.warning("%s", error)
                    rejected.append(str(error))
                    _move(path, inbox / "rejected" / path.name)
                else:
                    reports += taken
                    _put_away(path, taken, inbox / "done")
    return reports, tuple(rejected)


def _put_away(path: Path, reports: list[IngestReport], done: Path) -> None:
    """Move what was ingested to `done`, each file under the beginning of its batch's id, by which forgetting finds it."""
    files = {report.file: path for report in reports}
    if path.is_dir():
        files = {report.file: path / report.file.partition("/")[2] for report in reports}
        for each in path.rglob("*"):  # the writer's own first: without a part left, nothing is left
            if each.is_file() and each not in files.values():
                each.unlink()
    for name, file in files.items():
        if file.exists():  # else a killed run has moved it
            batch = next(report.batch_id for report in reports if report.file == name)
            _move(file, done / f"{batch[:12]}-{name.replace('/', '-')}")
    if path.is_dir():
        shutil.rmtree(path)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.rename(target)
