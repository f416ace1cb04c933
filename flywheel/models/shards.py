"""The files of a shard of cached vectors: how one is written, read, rewritten and removed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from flywheel.errors import FlywheelError, explain_disk_errors

KEY = np.dtype("S16")
KEYS, VECTORS, LENGTHS = ".keys.npy", ".vectors.npy", ".lengths.npy"
_ASIDE = ".tmp"
Keep = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Ragged:
    """Some rows for each of k texts: `rows` (total, width), the first `lengths[0]` of them for the first text, and so on."""

    rows: np.ndarray
    lengths: np.ndarray


def shard_names(folder: Path) -> list[str]:
    """The whole shards of a folder: those that have their keys."""
    return sorted(path.name.removesuffix(KEYS) for path in folder.glob(f"*{KEYS}"))


def write_shard(folder: Path, name: str, keys: np.ndarray, ragged: Ragged) -> None:
    """Write a shard, its keys last. Raises FlywheelError when the disk refuses."""
    arrays = {VECTORS: ragged.rows, KEYS: keys}
    if (ragged.lengths != 1).any():
        arrays = {LENGTHS: ragged.lengths, **arrays}
    with explain_disk_errors(folder):
        for suffix, array in arrays.items():
            aside = folder / f"{name}{suffix}{_ASIDE}"
            with aside.open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())  # else a power cut could keep the rename and lose the bytes
            aside.replace(folder / f"{name}{suffix}")


def read_shard(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Give a shard's keys (k,), their lengths (k,) and the memory-mapped rows (total, width); None if it was deleted.

    Raises FlywheelError when it is damaged.
    """
    try:
        keys = np.load(folder / f"{name}{KEYS}", allow_pickle=False)
        vectors = np.load(folder / f"{name}{VECTORS}", mmap_mode="r", allow_pickle=False)
        lengths = np.ones(len(keys), np.int32)
        if (ragged := folder / f"{name}{LENGTHS}").exists():
            lengths = np.load(ragged, allow_pickle=False)
        return keys, lengths, vectors
    except (OSError, ValueError, EOFError) as error:
        if not (folder / f"{name}{KEYS}").exists():  # pruned meanwhile
            return None
        raise FlywheelError(f"Shard {name} of {folder} is damaged ({error}). {way_out(folder, name)}") from error


def remove_shard(folder: Path, name: str) -> None:
    """Delete a shard, its keys first: what remains of a kill is then a leftover."""
    for suffix in (KEYS, LENGTHS, VECTORS):
        (folder / f"{name}{suffix}").unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left: files never renamed, and vectors without keys. Needs the folder's lock."""
    with explain_disk_errors(folder):
        for path in folder.glob(f"*{_ASIDE}"):
            path.unlink()
        for suffix in (VECTORS, LENGTHS):
            for path in folder.glob(f"*{suffix}"):
                if not path.with_name(path.name.removesuffix(suffix) + KEYS).exists():
                    path.unlink()


def thin_out(folder: Path, name: str, keep: Keep) -> tuple[str | None, int]:
    """Replace a shard by one with those texts that `keep` says, by their keys; gives its name, None where nothing is left,
    and how many texts went.

    What is left of equal shards bears the same name, wherever that is done.
    """
    shard = read_shard(folder, name)
    if shard is None:
        return None, 0
    keys, lengths, rows = shard
    kept = keep(keys)
    if kept.all():
        return name, 0
    left = None
    if kept.any():
        left = blake2b(name.encode() + keys[kept].tobytes(), digest_size=16).hexdigest()
        write_shard(folder, left, keys[kept], Ragged(np.asarray(rows[np.repeat(kept, lengths)]), lengths[kept]))
    remove_shard(folder, name)
    return left, int(np.count_nonzero(~kept))


def way_out(folder: Path, name: str) -> str:
    """What to do about the damaged shard `name`. The rest of the folder stays: it may have been paid for."""
    files = [f"{name}{suffix}" for suffix in (KEYS, VECTORS, LENGTHS) if (folder / f"{name}{suffix}").exists()]
    return f"Delete {' and '.join(files)} in {folder}: only their vectors are made again."
