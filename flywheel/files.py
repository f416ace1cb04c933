"""Files that appear whole or not at all: written aside, then renamed."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from flywheel.errors import explain_disk_errors

_ASIDE = ".aside-"
_F_SETSIG = 10  # fcntl.h of Linux, on every processor
_OURS = re.compile(re.escape(_ASIDE) + r"(\d{1,9})-[0-9a-f]{32}")


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """An empty folder inside `parent`, deleted on exit unless `publish` has renamed it.

    What killed processes left behind in `parent` is removed first.
    """
    with explain_disk_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        aside = parent / f"{_ASIDE}{os.getpid()}-{uuid.uuid4().hex}"
        aside.mkdir()
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def publish(scratch: Path, target: Path) -> None:
    """Rename a finished scratch folder to `target`; if another process has put it there already, theirs stays."""
    try:
        scratch.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def open_to_all(folder: Path) -> None:
    """Let every user read the files below `folder`; some libraries write theirs for their own user alone."""
    for file in folder.rglob("*"):
        mode = file.stat().st_mode
        if file.is_file() and mode & 0o444 != 0o444:
            file.chmod(mode & 0o777 | 0o444)


def replace_folder(scratch: Path, target: Path) -> None:
    """Rename a finished scratch folder to `target` in place of what is there. A kill in between leaves nothing there."""
    with scratch_folder(target.parent) as aside:
        with suppress(FileNotFoundError):
            target.rename(aside / target.name)
        publish(scratch, target)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as JSON to `target` by one rename."""
    write_bytes(target, json.dumps(value, indent=1, sort_keys=True).encode())


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target` by one rename; a reader sees the old file or the new one, never a part."""
    with explain_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f"{_ASIDE}{os.getpid()}-{uuid.uuid4().hex}"
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed have left of unfinished files and folders in `folder`."""
    for leftover in folder.glob(f"{_ASIDE}*"):
        ours = _OURS.fullmatch(leftover.name)
        if ours and not _alive(int(ours[1])):
            shutil.rmtree(leftover, ignore_errors=True)
            if leftover.is_file():
                leftover.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_being_written(path: Path) -> bool:
    """Whether a process of this machine has a file open for writing, where the system can tell: Linux, on local disks.

    A read lease is granted only where nobody writes. It is given back at once; who opens the file meanwhile waits that long.
    """
    try:
        import fcntl

        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            fcntl.fcntl(file, _F_SETSIG, signal.SIGURG)  # told of a writer by a signal that is ignored
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        finally:
            os.close(file)
    except (ImportError, AttributeError):  # another system
        return False
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def digest(text: str) -> str:
    """128-bit BLAKE2b of `text` in hex: identities and hash orders outside the database."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@contextmanager
def locked(models: Path, name: str, timeout: float = -1) -> Iterator[None]:
    """One process at a time for a job, or for all jobs that share trained layers: the next finds them finished.

    Its file is gone afterwards. Raises filelock's Timeout when another one holds it for longer than `timeout` seconds; without
    it, waits.
    """
    lock = models / ".locks" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=timeout):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open
                lock.unlink()  # who waits sees that its file has no name any more, and takes a new one
