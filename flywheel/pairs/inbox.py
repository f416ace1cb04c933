"""The inbox: a folder that producers drop files into, and that is emptied without losing or mixing up any."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from flywheel.errors import UnreadableFileError, explain_disk_errors
from flywheel.files import is_being_written
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store

if TYPE_CHECKING:
    from flywheel.pairs.ingest import IngestReport

log = logging.getLogger(__name__)

OnDeliveries = Callable[[int, int], None]
_SETTLED_SECONDS = 2.0
_OURS = frozenset({"work", "done", "rejected"})
_REASON = "why rejected.txt"  # beside a rejected delivery


@dataclass(frozen=True)
class Rejected:
    """A delivery that was rejected and lies in inbox/rejected: where, its name as it was delivered, and why."""

    path: Path
    name: str
    reason: str


def finished_files(inbox: Path) -> list[Path]:
    """The inbox's finished deliveries: visible, not .tmp or .part, untouched for two seconds, and open to no writer.

    One is a file, or a folder of part files, which is finished when all of them are and its writer has cleared its own away.
    There are none while the inbox is away.
    """
    try:
        seen = [path for path in sorted(inbox.iterdir()) if not path.name.startswith(".") and path.name not in _OURS]
    except OSError:
        return []
    return [path for path in seen if path.suffix not in (".tmp", ".part") and _is_settled(path)]


def _is_settled(path: Path) -> bool:
    try:
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        if any(part in ("_temporary", "_started") or part.endswith((".tmp", ".part")) for each in files for part in each.parts):
            return False
        now = time.time()
        # On either side: a clock that was set back would leave files of the hour before unfinished for an hour.
        touched = any(abs(now - each.stat().st_mtime) < _SETTLED_SECONDS for each in (path, *files))
        return bool(files) and not touched and not any(is_being_written(each) for each in files)
    except OSError:  # its writer is at it
        return False


def waiting_files(inbox: Path) -> list[Path]:
    """What the next ingest will take: finished deliveries, and those that a killed run had claimed."""
    return [*finished_files(inbox), *sorted((inbox / "work").glob("*"))]


def take_inbox(
    store: Store, inbox: Path, options: PairOptions, progress: OnDeliveries | None = None
) -> tuple[list[IngestReport], tuple[str, ...]]:
    """Ingest the inbox's finished deliveries, each then moved to inbox/done, or to inbox/rejected when it cannot be read.

    A delivery is claimed first, by a rename into inbox/work: what a producer puts in its place meanwhile is another one, and
    two runs never take the same one. A claim that a killed run left is taken up again; storing a file twice is harmless.
    Beside a rejected one lies a file that says why. `progress` hears how many deliveries of how many are put away. Returns the
    reports, and for each rejected delivery the sentence that says why.
    """
    from flywheel.pairs.deliveries import ingest_each

    reports, rejected = [], []
    with explain_disk_errors(inbox):
        inbox.mkdir(parents=True, exist_ok=True)
        with FileLock(inbox / ".lock"):
            for path in finished_files(inbox):
                _move(path, inbox / "work" / f"{time.time_ns():x}-{path.name}")
            claimed = []
            for path in sorted((inbox / "work").glob("*")):
                if path.is_dir() and not any(each.is_file() for each in path.rglob("*")):
                    shutil.rmtree(path)  # a killed run has put all of it away
                else:
                    claimed.append((path, path.name.partition("-")[2]))
            for number, ((path, _), outcome) in enumerate(ingest_each(store, claimed, options), 1):
                if isinstance(outcome, UnreadableFileError):
                    log.warning("%s", outcome)
                    rejected.append(str(outcome))
                    _reject(path, str(outcome), inbox / "rejected")
                else:
                    reports += outcome
                    _put_away(path, outcome, inbox / "done")
                if progress:
                    progress(number, len(claimed))
    return reports, tuple(rejected)


def rejected_deliveries(inbox: Path) -> list[Rejected]:
    """What lies in inbox/rejected, oldest first, until somebody moves or deletes it."""
    found = []
    for path in sorted((inbox / "rejected").glob("*/*")):
        if path.name != _REASON:
            reason = path.with_name(_REASON)
            said = reason.read_text(encoding="utf-8", errors="replace") if reason.is_file() else "no reason was kept"
            found.append(Rejected(path, path.name, said))
    return found


def _reject(path: Path, reason: str, rejected: Path) -> None:
    """Move a claimed delivery into a folder of its own, under its own name and beside a file that says why.

    The reason is written first: until the delivery is moved, a run that takes up the claim writes it again.
    """
    claim, _, name = path.name.partition("-")
    (rejected / claim).mkdir(parents=True, exist_ok=True)
    (rejected / claim / _REASON).write_text(reason, encoding="utf-8")
    _move(path, rejected / claim / name)


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
