"""A home's `dagster.yaml`: ours as long as it is as we wrote it, its owner's from the first edit on."""

from pathlib import Path
from typing import Any

import yaml

from flywheel.errors import FlywheelError, explain_disk_errors, one_line
from flywheel.files import digest, write_bytes
from flywheel.home import Home

_MARK = "# Written by flywheel and kept up to date; once you edit it, it is yours and stays as it is. "
_WANTED = {
    "run_monitoring": "run_monitoring: {enabled: true}",
    "concurrency": "concurrency: {pools: {default_limit: 1, granularity: op}}",
}


def instance_config(state: Path, trainings: int = 1) -> dict[str, Any]:
    """What `dagster.yaml` says, with all state under `state` (absolute, or relative to the working directory), and room for so
    many trainings at once.
    """
    return {
        "storage": {"sqlite": {"base_dir": str(state / "storage")}},
        "local_artifact_storage": {
            "module": "dagster._core.storage.root",
            "class": "LocalArtifactStorage",
            "config": {"base_dir": str(state / "artifacts")},
        },
        "compute_logs": {
            "module": "dagster._core.storage.local_compute_log_manager",
            "class": "LocalComputeLogManager",
            "config": {"base_dir": str(state / "logs")},
        },
        "concurrency": {
            "runs": {"max_concurrent_runs": max(4, trainings + 1)},
            # One run more than a pool has slots may start, so that it is ready when a slot is free.
            "pools": {"default_limit": 1, "granularity": "op", "op_granularity_run_buffer": 1},
        },
        # What waits in the queue is taken from it every so many seconds: five of Dagster's own accord.
        "run_queue": {"dequeue_interval_seconds": 2},
        "run_monitoring": {"enabled": True, "free_slots_after_run_end_seconds": 30},
        "retention": {
            "schedule": {"purge_after_days": 90},
            "sensor": {"purge_after_days": {"skipped": 2, "success": 30, "failure": 30}},
        },
        "python_logs": {"python_log_level": "INFO"},
        "telemetry": {"enabled": False},
        "nux": {"enabled": False},
    }


def write_ours(home: Home, trainings: int) -> None:
    """Write the file, with absolute paths to where the home is now, unless one of somebody else's is there."""
    with explain_disk_errors(home.root):
        if is_ours(home.dagster_file):
            body = yaml.safe_dump(instance_config(home.dagster, trainings), sort_keys=False)
            text = f"{_MARK}({digest(body)})\n{body}"
            if _text(home.dagster_file) != text:
                write_bytes(home.dagster_file, text.encode())


def is_ours(file: Path) -> bool:
    """Whether the file is not there, or is what flywheel wrote, here or where the home was before."""
    if not file.exists() and not file.is_symlink():
        return True
    first, _, body = _text(file).partition("\n")
    return first == f"{_MARK}({digest(body)})"


def what_theirs_says(file: Path) -> str:
    """In a line: that a file of somebody else's is used, which storage it names, and what it lacks that ours has.

    Raises FlywheelError when it cannot be read as settings of Dagster.
    """
    try:
        content = yaml.safe_load(_text(file)) or {}
        if not isinstance(content, dict):
            raise ValueError("it is no table of keys and values")
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise unusable(file, error) from error
    line = f"{file} is your own and is used as it is: runs and events go to {_storage(content, file.parent)}"
    lacking = [f"`{text}`" for key, text in _WANTED.items() if key not in content]
    return f"{line}. It lacks what flywheel's own has: {' and '.join(lacking)}." if lacking else f"{line}."


def unusable(file: Path, error: Exception) -> FlywheelError:
    """That Dagster cannot work with a file of somebody else's, why, and what to do."""
    return FlywheelError(
        f"{file} is your own, and Dagster cannot use it: {one_line(error, 300)}. Fix it, or move it away: flywheel then writes "
        "one of its own."
    )


def _storage(content: dict[str, Any], home: Path) -> str:
    """Where the file keeps runs, without what may be secret."""
    storage = content.get("storage")
    if not isinstance(storage, dict):
        legacy = content.get("run_storage")
        return f"{legacy['class']}" if isinstance(legacy, dict) and "class" in legacy else f"Dagster's default in {home}"
    kind = next(iter(storage), "nothing")
    if kind == "sqlite" and isinstance(storage[kind], dict):
        return f"SQLite in {storage[kind].get('base_dir', home)}"
    return f"the storage {storage.get('class', kind)}"


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
