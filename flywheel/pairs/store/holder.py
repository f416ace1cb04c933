"""Which process keeps a database locked, where the system tells, and how to get it back."""

import os
import re
from pathlib import Path

import psutil

from flywheel.errors import one_line

_PID = re.compile(r"\(PID (\d+)\)")
_OURS = re.compile(r"(?:\S*/)?flywheel|(?:flywheel|dagster)[\w.]*")
_SHOWN = 120
UNKNOWN = (
    "another process, which this machine does not show (it may run in a container, as another user, or on another machine)"
)


def holder_of(file: Path, refusal: str) -> tuple[str, str]:
    """Who holds `file`, and what to do about it, from the words with which DuckDB refused to open it.

    Where the number that DuckDB found is not that of a process with this file, as on network file systems and between
    containers, the holder is unknown.
    """
    found = _PID.search(refusal)
    pid = int(found[1]) if found else 0
    if pid == os.getpid() or "different configuration" in refusal:
        return "a connection of this process in another mode", "Close it"
    process = _process_with(file, pid)
    if process is None:
        return UNKNOWN, "Wait for it to finish or stop it"
    command = _command(process)
    shown = f"`{one_line(ValueError(' '.join(command)), _SHOWN)}`{_where(process)}" if command else process.name()
    who = f"process {pid}{_whose(process)} ({shown})"
    if any("ipykernel" in word for word in command):
        return f"a notebook, {who},", f"Close its connection (`con.close()`) or shut its kernel down (`kill {pid}`)"
    if any(_OURS.fullmatch(word) for word in command[:3]):
        return f"flywheel itself, {who},", "Wait for it to finish or stop it"
    return who, f"Close its connection (in Python, `con.close()`) or stop it (`kill {pid}`)"


def _process_with(file: Path, pid: int) -> psutil.Process | None:
    """The process of this number, unless it is known not to have the file open."""
    try:
        process = psutil.Process(pid) if pid > 0 else None
        if process is not None and not any(Path(each.path) == file.resolve() for each in process.open_files()):
            return None
    except psutil.AccessDenied:
        return process
    except psutil.Error:
        return None
    return process


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _whose(process: psutil.Process) -> str:
    try:
        own = process.uids().real == os.getuid()
        return "" if own else f" of user {process.username()}"
    except (psutil.Error, KeyError):
        return ""


def _where(process: psutil.Process) -> str:
    try:
        return f" in {process.cwd()}"
    except psutil.Error:
        return ""
