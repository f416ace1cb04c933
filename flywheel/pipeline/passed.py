"""Checks that a model folder has passed: the same files, read by the same libraries, are not loaded and checked again."""

import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock

from flywheel.files import digest, write_json

_LIBRARIES = ("flywheel", "numpy", "safetensors", "sentence-transformers", "tokenizers", "torch", "transformers")
_MOST = 1_000  # of which the newest are kept


def key_of(check: str, folder: Path, *against: object) -> str:
    """What a check of a folder depends on, as one key: every file with its mode, the libraries, and what it is held against."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    said = [f"{path.relative_to(folder)} {path.stat().st_mode:o} {_content(path)}" for path in files]
    return digest("\n".join([check, sys.version, *map(_version, _LIBRARIES), *said, *map(str, against)]))


def this_machine() -> str:
    """What decides in which numbers encoders compute, told without loading torch: the processor's abilities, and GPUs."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = [line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")] if cpuinfo.exists() else []
    gpus = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    return digest(
        "\n".join([platform.machine(), platform.system(), *flags[:1], *gpus, os.environ.get("CUDA_VISIBLE_DEVICES", "")])
    )


def has_passed(file: Path, key: str) -> Any:
    """What the check that passed has found; None where none has, or `file` cannot be read."""
    return _read(file).get(key)


def remember(file: Path, key: str, found: Any) -> None:
    """Write down what a check that has passed found."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):
        kept = list(_read(file).items())[-_MOST + 1 :]
        write_json(file, {"passed": [*kept, (key, found)]})


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text())["passed"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _version(library: str) -> str:
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library
