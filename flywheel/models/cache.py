"""Vectors of texts, kept on disk so that one encoder never encodes a text twice.

A cache is a folder of shards. A shard is `NAME.vectors.npy`, float32 (rows, width), and `NAME.keys.npy`, one 16-byte key
a row, and is never changed. Both are written aside and renamed, the keys last: a shard exists when its keys do, so
readers need no lock and see whole shards only, and what a killed writer leaves behind means nothing.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.models.shards import (
    KEY,
    VECTORS,
    Keep,
    Ragged,
    read_shard,
    remove_leftovers,
    remove_shard,
    shard_names,
    thin_out,
    way_out,
    write_shard,
)
from flywheel.models.shared import SharedShards

logger = logging.getLogger(__name__)

# Texts that are encoded and stored together: the most that a kill can lose.
_CHUNK = 2048
# A shard holds a file open in every reader, of which a process may have about a thousand: small ones are joined.
_MANY_SHARDS = 128
_FULL_SHARD_BYTES = 2**26
Encode = Callable[[list[str]], np.ndarray | Ragged]


@dataclass(frozen=True)
class _Index:
    """What the shards `names` hold: `keys` sorted, and for each the place of its shard in `vectors`, its first row there and
    how many rows it has.

    Flat arrays: 32 bytes a text, many times less than a dict of Python objects.
    """

    names: tuple[str, ...] = ()
    vectors: tuple[np.ndarray, ...] = ()
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, KEY))
    shards: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    lengths: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give for each of `keys` its position in the index, and whether it is there at all."""
        if not len(self.keys):
            return np.zeros(len(keys), dtype=np.intp), np.zeros(len(keys), dtype=bool)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return positions, self.keys[positions] == keys


_EMPTY = _Index()


class EmbeddingCache:
    """What one encoder gives for texts, rows of `width` numbers, in `folder`; any number of processes may share the folder.

    A text has one row, its vector, or as many as it has tokens. It is known by the 16-byte BLAKE2b hash of its UTF-8
    bytes, so texts that differ in one space are two texts. Shards are memory-mapped: a reader holds what it reads. Where
    several machines share a cache, it is at `uri` as well: what is missing here comes from there before it is encoded.
    """

    def __init__(self, folder: Path, width: int, dtype: type[np.floating] = np.float32, uri: str | None = None) -> None:
        """Touch nothing: the first write makes the folder. `dtype` is what numbers are stored as."""
        self.folder = folder
        self.uri = uri
        self._shared = None if uri is None else SharedShards(folder, uri)
        self.width = width
        self.dtype = np.dtype(dtype)
        self._index = _EMPTY

    @classmethod
    def open(cls, folder: Path) -> "EmbeddingCache | None":
        """The cache in `folder`, whatever its width; None when there is none. Raises FlywheelError if damaged."""
        for name in shard_names(folder):
            try:
                stored = np.load(folder / f"{name}{VECTORS}", mmap_mode="r", allow_pickle=False)
                return cls(folder, stored.shape[1], stored.dtype.type)
            except (OSError, ValueError, EOFError, IndexError) as error:
                raise FlywheelError(f"Shard {name} of {folder} is damaged ({error}). {way_out(folder, name)}") from error
        return None

    def missing(self, texts: Iterable[str]) -> int:
        """Count the different texts that have no vector yet. Raises FlywheelError as `get` does for bad shards."""
        return int(np.count_nonzero(~self._known(np.unique(_hash_texts(texts)))))

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Those of `texts` that have no vector yet."""
        known = self._known(_hash_texts(texts))
        return [text for text, there in zip(texts, known, strict=True) if not there]

    def share(self) -> None:
        """Send to the root what was made here and is not there, as other programs or an unreachable root may have left it."""
        if self.uri is not None:
            share(self.folder, self.uri)

    def get(self, texts: Sequence[str], encode: Encode) -> np.ndarray:
        """Give the vectors of `texts`, (n, width), in their order; a text may appear more than once.

        Texts without a vector go through `encode`, k texts to (k, width), each once, in chunks that are stored as they
        come. A lock on the folder lets one process encode at a time, and the next finds what that one stored. Raises
        FlywheelError when `encode` gives another shape or a number that is not finite (that chunk is not stored), when
        a shard is damaged or has another width, and when the disk refuses the write.
        """
        return self._gather(*self._find(texts, encode))

    def get_ragged(self, texts: Sequence[str], encode: Encode) -> list[np.ndarray]:
        """Give the rows of each text, (its length, width), as views of memory-mapped files. `encode` gives a `Ragged`."""
        index, positions = self._find(texts, encode)
        first, shards = index.rows[positions], index.shards[positions]
        last = first + index.lengths[positions]
        return [index.vectors[shard][a:b] for shard, a, b in zip(shards, first, last, strict=True)]

    def size(self) -> int:
        """How many bytes the folder takes."""
        return sum(path.stat().st_size for path in self.folder.glob("*.npy"))

    def texts(self) -> int:
        """How many texts are known."""
        return len(self._refresh().keys)

    def rows(self, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every text's key (k,) and vector (k, width) in the order of keys, `count` texts at a time."""
        index = self._refresh()
        for start in range(0, len(index.keys), count):
            positions = np.arange(start, min(start + count, len(index.keys)))
            yield index.keys[positions], self._gather(index, positions)

    def way_out(self, key: np.ndarray) -> str:
        """What to do about a broken vector, that of the text known by `key` (1,)."""
        index = self._refresh()
        [position], _ = index.find(key)
        return way_out(self.folder, index.names[index.shards[position]])

    def add(self, keys: np.ndarray, vectors: np.ndarray) -> int:
        """Store the vectors (k, width) of texts known by their keys (k,) alone; returns how many of them were missing."""
        with self._locked():
            _, known = self._refresh().find(keys)
            unknown = np.flatnonzero(~known)
            new, first = np.unique(keys[unknown], return_index=True)
            if len(new):
                self._store(new, self._checked(vectors[unknown[first]], len(new)))
        return len(new)

    @contextmanager
    def filling(self, texts: Sequence[str]) -> Iterator[tuple[list[str], Callable[[list[str], np.ndarray], None]]]:
        """Hold the folder's lock: gives those of `texts` that are missing, each once, and what stores the vectors (k, width)
        of some of them. For an encoder that may fail on a text: what it brought until then is kept.
        """
        with self._locked():

            def store(some: list[str], vectors: np.ndarray) -> None:
                self._store(_hash_texts(some), self._checked(vectors, len(some)))

            yield self.unknown(list(dict.fromkeys(texts))), store

    def find(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (n, width) of `texts` in their order, NaN for those that have none."""
        index = self._refresh()
        positions, known = index.find(_hash_texts(texts))
        vectors = np.full((len(texts), self.width), np.nan, dtype=self.dtype)
        vectors[known] = self._gather(index, positions[known])
        return vectors

    def prune(self, keep: Iterable[str]) -> int:
        """Forget every text but those to `keep`; returns how many went. Readers go on with what they have open."""
        return keep_only(self.folder, keep, self.uri)

    def drop(self, texts: Iterable[str]) -> int:
        """Forget these texts; returns how many were known. Readers go on with what they have open."""
        return drop(self.folder, texts, self.uri)

    def _known(self, keys: np.ndarray) -> np.ndarray:
        """Whether each of these keys has a vector, here or at the root: what only the root has is fetched."""
        _, known = self._refresh().find(keys)
        if self._shared and not known.all():
            with suppress(Timeout), self._locked(timeout=0):  # who holds the lock has just fetched it
                pass
            _, known = self._refresh().find(keys)
        return known

    def _store(self, keys: np.ndarray, ragged: Ragged) -> None:
        """Write a shard and send it to the root. Needs the lock."""
        write_shard(self.folder, uuid4().hex, keys, ragged)
        if self._shared:
            self._shared.push()
        self._compact()

    def _compact(self) -> None:
        """Join small shards once they are many. Needs the lock. Readers go on with what they have open."""
        sizes = {name: (self.folder / f"{name}{VECTORS}").stat().st_size for name in self._refresh().names}
        small = [name for name, size in sizes.items() if size < _FULL_SHARD_BYTES // 2]
        if len(small) < _MANY_SHARDS:
            return
        group: list[str] = []
        for name in small:
            if sum(sizes[each] for each in (*group, name)) > _FULL_SHARD_BYTES:
                self._join(group)
                group = []
            group.append(name)
        self._join(group)

    def _join(self, names: list[str]) -> None:
        """Make one shard of several. Needs the lock. A kill may leave their texts twice, which the index does not mind."""
        shards = [shard for name in names if (shard := self._read_shard(name)) is not None]
        if len(shards) > 1:
            keys, lengths, rows = (np.concatenate(parts) for parts in zip(*shards, strict=True))
            joined = uuid4().hex
            write_shard(self.folder, joined, keys, Ragged(rows, lengths))
            if self._shared:
                self._shared.note_joined(names, joined)
            for name in names:
                remove_shard(self.folder, name)

    def _gather(self, index: _Index, positions: np.ndarray) -> np.ndarray:
        shards, rows = index.shards[positions], index.rows[positions]
        vectors = np.empty((len(positions), self.width), dtype=self.dtype)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            vectors[here] = index.vectors[shard][rows[here]]
        return vectors

    def _find(self, texts: Sequence[str], encode: Encode) -> tuple[_Index, np.ndarray]:
        keys = _hash_texts(texts)
        index = self._refresh()
        positions, known = index.find(keys)
        if not known.all():
            self._fill(texts, keys, encode)
            index = self._refresh()
            positions, known = index.find(keys)
        if not known.all():
            raise FlywheelError(f"Vectors vanished from {self.folder} while it was being filled. Run the command again.")
        return index, positions

    @contextmanager
    def _locked(self, timeout: float = -1) -> Iterator[None]:
        """Hold the folder's lock, with what is new at the root fetched. Raises as the lock does."""
        with _locked(self.folder, timeout):
            if self._shared:
                self._shared.pull()
            yield

    def _fill(self, texts: Sequence[str], keys: np.ndarray, encode: Encode) -> None:
        """Encode and store what is still missing once the lock is held."""
        with self._locked():
            _, known = self._refresh().find(keys)
            unknown = np.flatnonzero(~known)
            _, first = np.unique(keys[unknown], return_index=True)
            todo = unknown[np.sort(first)]
            logger.info("Encoding %d texts for %s.", len(todo), self.folder)
            for start in range(0, len(todo), _CHUNK):
                chunk = todo[start : start + _CHUNK]
                self._store(keys[chunk], self._checked(encode([texts[place] for place in chunk]), len(chunk)))

    def _checked(self, encoded: np.ndarray | Ragged, count: int) -> Ragged:
        ragged = encoded if isinstance(encoded, Ragged) else Ragged(np.asarray(encoded), np.ones(count, np.int32))
        lengths = np.asarray(ragged.lengths, dtype=np.int32)
        if len(lengths) != count or ragged.rows.shape != (lengths.sum(), self.width):
            raise FlywheelError(
                f"The encoder gave an array of shape {ragged.rows.shape} where {self.folder} takes "
                f"{(int(lengths.sum()), self.width)}; it was not stored. Use this cache with the encoder it was made for."
            )
        with np.errstate(over="ignore"):  # a number too large for the cache becomes infinite and is refused
            rows = ragged.rows.astype(self.dtype)
        broken = np.count_nonzero(~np.isfinite(rows).all(axis=1))
        if broken:
            raise FlywheelError(
                f"The encoder gave NaN or infinity for {broken} of {count} texts; they were not stored. "
                "Set encoding.device to cpu, or replace the model's weights."
            )
        return Ragged(rows, lengths)

    def _refresh(self) -> _Index:
        """Bring the index up to date with the folder and give it."""
        present = shard_names(self.folder)
        # Shards are never changed; when some are missing, the cache was deleted and its index starts again.
        index = self._index if set(self._index.names) <= set(present) else _EMPTY
        known = set(index.names)
        read = {name: shard for name in present if name not in known and (shard := self._read_shard(name)) is not None}
        if read:
            index = _extended(index, list(read), list(read.values()))
        self._index = index
        return index

    def _read_shard(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """A shard as `read_shard` gives it. Raises FlywheelError when it holds vectors of another kind."""
        shard = read_shard(self.folder, name)
        if shard is None:
            return None
        keys, lengths, vectors = shard
        if keys.dtype != KEY or vectors.dtype != self.dtype or vectors.shape != (lengths.sum(), self.width):
            raise FlywheelError(
                f"Shard {name} of {self.folder} holds {len(keys)} keys and {vectors.dtype} vectors of shape "
                f"{vectors.shape}, not of width {self.width}. {way_out(self.folder, name)}"
            )
        return shard


def share(folder: Path, uri: str) -> None:
    """Send the shards in a folder that are not at `uri` there, and fetch those that are not here."""
    if shard_names(folder):
        with _locked(folder):
            shared = SharedShards(folder, uri)
            shared.pull()
            shared.push()


def keep_only(folder: Path, texts: Iterable[str], uri: str | None = None) -> int:
    """Forget every text but these in the cache of a folder, and at `uri` too; returns how many went here."""
    wanted = np.unique(_hash_texts(texts))
    return _thin_out(folder, uri, lambda keys: np.isin(keys, wanted))


def drop(folder: Path, texts: Iterable[str], uri: str | None = None) -> int:
    """Forget these texts in the cache of a folder, and at `uri` too; returns how many were known here."""
    unwanted = np.unique(_hash_texts(texts))
    return _thin_out(folder, uri, lambda keys: ~np.isin(keys, unwanted))


def _thin_out(folder: Path, uri: str | None, keep: Keep) -> int:
    if uri is None and not shard_names(folder):
        return 0
    with _locked(folder):
        if uri is None:
            return sum(thin_out(folder, name, keep)[1] for name in shard_names(folder))
        shared = SharedShards(folder, uri)
        shared.thin_out(keep)
        return shared.thin_out_here(keep)


@contextmanager
def _locked(folder: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a folder's lock, with what killed writers left cleared away.

    Raises filelock's Timeout when another process holds it for longer than `timeout` seconds; without it, waits.
    """
    lock = FileLock(folder / "lock", timeout=timeout)
    with explain_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        remove_leftovers(folder)
        yield
    finally:
        lock.release()


def _hash_texts(texts: Iterable[str]) -> np.ndarray:
    return np.fromiter((blake2b(text.encode(), digest_size=KEY.itemsize).digest() for text in texts), dtype=KEY)


def _extended(index: _Index, names: list[str], shards: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> _Index:
    """Give an index that knows the shards `names`, each (keys, lengths, vectors), as well."""
    places = range(len(index.names), len(index.names) + len(names))
    keys, order = np.unique(np.concatenate([index.keys, *(keys for keys, _, _ in shards)]), return_index=True)
    places_of_keys = [np.full(len(keys), place, np.int32) for place, (keys, _, _) in zip(places, shards, strict=True)]
    rows_of_keys = [np.cumsum(lengths, dtype=np.int64) - lengths for _, lengths, _ in shards]
    return _Index(
        names=(*index.names, *names),
        vectors=(*index.vectors, *(vectors for _, _, vectors in shards)),
        keys=keys,
        shards=np.concatenate([index.shards, *places_of_keys])[order],
        rows=np.concatenate([index.rows, *rows_of_keys])[order],
        lengths=np.concatenate([index.lengths, *(lengths for _, lengths, _ in shards)])[order],
    )
