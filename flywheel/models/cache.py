"""Vectors of texts, kept on disk so that one encoder never encodes a text twice.

A cache is a folder of shards. A shard is `NAME.vectors.npy`, float32 (rows, width), and `NAME.keys.npy`, one 16-byte key
a row, and is never changed. Both are written aside and renamed, the keys last: a shard exists when its keys do, so
readers need no lock and see whole shards only, and what a killed writer leaves behind means nothing.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

import numpy as np
from filelock import FileLock

from flywheel.errors import FlywheelError, explain_disk_errors

logger = logging.getLogger(__name__)

# Texts that are encoded and stored together: the most that a kill can lose.
_CHUNK = 2048
_KEY = np.dtype("S16")
_KEYS, _VECTORS, _ASIDE = ".keys.npy", ".vectors.npy", ".tmp"


@dataclass(frozen=True)
class _Index:
    """What the shards `names` hold: `keys` sorted, and for each the place of its shard in `vectors` and its row there.

    Flat arrays: 24 bytes a text, many times less than a dict of Python objects.
    """

    names: tuple[str, ...]
    vectors: tuple[np.ndarray, ...]
    keys: np.ndarray
    shards: np.ndarray
    rows: np.ndarray

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give for each of `keys` its position in the index, and whether it is there at all."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.intp), np.zeros(len(keys), dtype=bool)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return positions, self.keys[positions] == keys


_EMPTY = _Index((), (), np.empty(0, _KEY), np.empty(0, np.int32), np.empty(0, np.int32))


class EmbeddingCache:
    """The vectors of one encoder, `width` numbers each, in `folder`; any number of processes may share the folder.

    A text is known by the 16-byte BLAKE2b hash of its UTF-8 bytes, so texts that differ in one space are two texts.
    """

    def __init__(self, folder: Path, width: int) -> None:
        """Touch nothing: the first write makes the folder."""
        self.folder = folder
        self.width = width
        self._index = _EMPTY

    def missing(self, texts: Iterable[str]) -> int:
        """Count the different texts that have no vector yet. Raises FlywheelError as `get` does for bad shards."""
        _, known = self._refresh().find(np.unique(_hash_texts(texts)))
        return int(np.count_nonzero(~known))

    def get(self, texts: Sequence[str], encode: Callable[[list[str]], np.ndarray]) -> np.ndarray:
        """Give the vectors of `texts`, float32 (n, width), in their order; a text may stand there more than once.

        Texts without a vector go through `encode`, k texts to (k, width), each once, in chunks that are stored as they
        come. A lock on the folder lets one process encode at a time, and the next finds what that one stored. Raises
        FlywheelError when `encode` gives another shape or a number that is not finite (that chunk is not stored), when
        a shard is damaged or has another width, and when the disk refuses the write.
        """
        keys = _hash_texts(texts)
        index = self._refresh()
        positions, known = index.find(keys)
        if not known.all():
            self._fill(texts, keys, encode)
            index = self._refresh()
            positions, known = index.find(keys)
        if not known.all():
            raise FlywheelError(f"Vectors vanished from {self.folder} while it was being filled. Run the command again.")
        shards, rows = index.shards[positions], index.rows[positions]
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            vectors[here] = index.vectors[shard][rows[here]]
        return vectors

    def _fill(self, texts: Sequence[str], keys: np.ndarray, encode: Callable[[list[str]], np.ndarray]) -> None:
        """Encode and store what is still missing once the lock is held."""
        lock = FileLock(self.folder / "lock")
        with explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        try:
            self._remove_leftovers()
            _, known = self._refresh().find(keys)
            unknown = np.flatnonzero(~known)
            _, first = np.unique(keys[unknown], return_index=True)
            todo = unknown[np.sort(first)]
            logger.info("Encoding %d texts for %s.", len(todo), self.folder)
            for start in range(0, len(todo), _CHUNK):
                chunk = todo[start : start + _CHUNK]
                vectors = self._checked(encode([texts[place] for place in chunk]), len(chunk))
                self._write_shard(keys[chunk], vectors)
        finally:
            lock.release()

    def _checked(self, encoded: np.ndarray, count: int) -> np.ndarray:
        vectors = np.asarray(encoded, dtype=np.float32)
        if vectors.shape != (count, self.width):
            raise FlywheelError(
                f"The encoder gave an array of shape {vectors.shape} where {self.folder} takes {(count, self.width)}; "
                "it was not stored. Use this cache with the encoder it was made for."
            )
        broken = np.count_nonzero(~np.isfinite(vectors).all(axis=1))
        if broken:
            raise FlywheelError(
                f"The encoder gave NaN or infinity for {broken} of {count} texts; they were not stored. "
                "Set device to cpu, or replace the model's weights."
            )
        return vectors

    def _write_shard(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        name = uuid4().hex
        with explain_disk_errors(self.folder):
            for suffix, array in ((_VECTORS, vectors), (_KEYS, keys)):
                aside = self.folder / f"{name}{suffix}{_ASIDE}"
                with aside.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())  # else a power cut could keep the rename and lose the bytes
                aside.replace(self.folder / f"{name}{suffix}")

    def _remove_leftovers(self) -> None:
        """Delete what killed writers left: files never renamed, and vectors without keys. Needs the lock."""
        with explain_disk_errors(self.folder):
            for path in self.folder.glob(f"*{_ASIDE}"):
                path.unlink()
            for path in self.folder.glob(f"*{_VECTORS}"):
                if not path.with_name(path.name.removesuffix(_VECTORS) + _KEYS).exists():
                    path.unlink()

    def _refresh(self) -> _Index:
        """Bring the index up to date with the folder and give it."""
        present = sorted(path.name.removesuffix(_KEYS) for path in self.folder.glob(f"*{_KEYS}"))
        # Shards are never changed; when some are gone, the cache was deleted and its index starts anew.
        index = self._index if set(self._index.names) <= set(present) else _EMPTY
        known = set(index.names)
        new = [name for name in present if name not in known]
        if new:
            index = _extended(index, new, [self._read_shard(name) for name in new])
        self._index = index
        return index

    def _read_shard(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Give the keys (rows,) and the memory-mapped vectors (rows, width) of a shard."""
        try:
            keys = np.load(self.folder / f"{name}{_KEYS}", allow_pickle=False)
            vectors = np.load(self.folder / f"{name}{_VECTORS}", mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FlywheelError(
                f"Shard {name} of {self.folder} is damaged ({error}). Delete the folder: its vectors are made again."
            ) from error
        if keys.dtype != _KEY or vectors.dtype != np.float32 or vectors.shape != (len(keys), self.width):
            raise FlywheelError(
                f"Shard {name} of {self.folder} holds {len(keys)} keys and {vectors.dtype} vectors of shape "
                f"{vectors.shape}, not of width {self.width}. Delete the folder: its vectors are made again."
            )
        return keys, vectors


def _hash_texts(texts: Iterable[str]) -> np.ndarray:
    return np.fromiter((blake2b(text.encode(), digest_size=_KEY.itemsize).digest() for text in texts), dtype=_KEY)


def _extended(index: _Index, names: list[str], shards: list[tuple[np.ndarray, np.ndarray]]) -> _Index:
    """Give an index that knows the shards `names`, each (keys, vectors), as well."""
    places = range(len(index.names), len(index.names) + len(names))
    keys = np.concatenate([index.keys, *(keys for keys, _ in shards)])
    places_of_keys = [np.full(len(keys), place, np.int32) for place, (keys, _) in zip(places, shards, strict=True)]
    rows_of_keys = [np.arange(len(keys), dtype=np.int32) for keys, _ in shards]
    order = np.argsort(keys, kind="stable")
    return _Index(
        names=(*index.names, *names),
        vectors=(*index.vectors, *(vectors for _, vectors in shards)),
        keys=keys[order],
        shards=np.concatenate([index.shards, *places_of_keys])[order],
        rows=np.concatenate([index.rows, *rows_of_keys])[order],
    )
