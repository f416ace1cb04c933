"""Cached vectors as one Parquet file: those of an API, paid for on one machine, go to another. No text is in it."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError, explain_disk_errors, one_line
from flywheel.models.api.vectors import VectorSource
from flywheel.models.cache import EmbeddingCache
from flywheel.models.shards import KEY

_GROUP = 8192
_OFF_UNIT = 1e-3
_SET_ASIDE = b"flywheel.set_aside"


def export_vectors(
    cache: EmbeddingCache, origin: VectorSource, target: Path, set_aside: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Write all vectors to `target`, in the order of their keys, by one rename; returns how many. The hashes of texts that
    were `set_aside` go along, each with its reason.

    Equal vectors give equal files with one version of pyarrow. Raises FlywheelError when there are none, when one is not
    finite or not of unit length, which no import takes, or when the file cannot be written.
    """
    with _explained(target):
        if not target.parent.is_dir() or target.is_dir():
            raise FlywheelError(f"{target} cannot be written: name a file in a folder that exists.")
        if not cache.texts():
            raise FlywheelError(
                f"No vector of {origin} is cached, so there is nothing to export. Run `flywheel baseline embed`."
            )
        return _write(cache, origin, target, set_aside)


def _write(cache: EmbeddingCache, origin: VectorSource, target: Path, set_aside: Mapping[str, str]) -> int:
    vector = pa.list_(pa.float32(), origin.dimensions)
    metadata = origin.metadata() | ({_SET_ASIDE: json.dumps(dict(set_aside), sort_keys=True).encode()} if set_aside else {})
    schema = pa.schema([("text_hash", pa.binary(KEY.itemsize)), ("vector", vector)], metadata)
    aside = target.with_name(f".{target.name}-{uuid4().hex}")
    count = 0
    try:
        with pq.ParquetWriter(
            aside, schema, compression="zstd", use_dictionary=False, write_page_checksum=True, write_statistics=False
        ) as file:
            for keys, vectors in cache.rows(_GROUP):
                lengths, broken = _off_unit(vectors)
                if len(broken):
                    raise FlywheelError(
                        f"A cached vector of {origin} has length {lengths[broken[0]]:.3g}, where all have length 1, so nothing "
                        f"was exported. {cache.way_out(keys[broken[:1]])} Then run `flywheel baseline embed`."
                    )
                hashes = pa.FixedSizeBinaryArray.from_buffers(schema.types[0], len(keys), [None, pa.py_buffer(keys.tobytes())])
                rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=vector)
                file.write_table(pa.table([hashes, rows], schema=schema))
                count += len(keys)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return count


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Say what to do about a file that cannot be written: another home, which others advise, would not help."""
    with explain_disk_errors(target):
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            reason = os.strerror(error.errno) if error.errno else error
            raise FlywheelError(
                f"{target} cannot be written ({reason}). Choose another file, or fix the permissions."
            ) from error


@dataclass(frozen=True)
class Imported:
    """How many vectors a file held, and how many of them were new; the hashes of texts that were set aside, with reasons."""

    vectors: int
    new: int
    set_aside: dict[str, str] = field(default_factory=dict)


def import_vectors(cache: EmbeddingCache, origin: VectorSource, source: Path) -> Imported:
    """Add the vectors of `source` that are missing. The whole file is looked at first: a bad one changes nothing.

    Raises FlywheelError for a file of another origin or shape, a damaged one, and vectors that are not finite or not of
    unit length.
    """
    with _opened(source) as file:
        _check_origin(file, origin, source)
        set_aside = _set_aside(file, source)
        for _ in _batches(file, source):
            pass
        found = new = 0
        for keys, vectors in _batches(file, source):
            found += len(keys)
            new += cache.add(keys, vectors)
    return Imported(found, new, set_aside)


@contextmanager
def _opened(source: Path) -> Iterator[pq.ParquetFile]:
    try:
        if source.is_dir():
            raise FlywheelError(f"{source} is a folder. Name the file in it that `flywheel baseline export` wrote.")
        if not source.is_file():
            raise FlywheelError(f"There is no file {source}.")
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file
    except FlywheelError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FlywheelError(
            f"{source} cannot be read ({one_line(error)}). Export or copy it again; nothing was imported."
        ) from error


def _set_aside(file: pq.ParquetFile, source: Path) -> dict[str, str]:
    try:
        entries = json.loads((file.metadata.metadata or {}).get(_SET_ASIDE, b"{}"))
        return {key: str(reason) for key, reason in entries.items() if len(bytes.fromhex(key)) == KEY.itemsize}
    except (ValueError, AttributeError) as error:
        raise FlywheelError(
            f"{source} does not say which texts were set aside ({one_line(error)}), so it was not imported. Export it again."
        ) from error


def _check_origin(file: pq.ParquetFile, origin: VectorSource, source: Path) -> None:
    found = file.metadata.metadata or {}
    names = [name.decode() for name in origin.metadata()]
    if missing := [name for name in names if name.encode() not in found]:
        raise FlywheelError(f"{source} does not say {missing[0]}: it is no export of `flywheel baseline export`.")
    if any(found[name] != value for name, value in origin.metadata().items()):
        named = {name.removeprefix("flywheel."): found[name.encode()].decode(errors="replace") for name in names}
        raise FlywheelError(
            f"{source} holds vectors of {named['model']} at {named['dimensions']} dimensions from {named['family']}, and the "
            f"settings ask for {origin}. Set baseline.model, baseline.dimensions and baseline.url to the file's."
        )
    schema = file.schema_arrow
    expected = {"text_hash": pa.binary(KEY.itemsize), "vector": pa.list_(pa.float32(), origin.dimensions)}
    for name, wanted in expected.items():
        held = schema.field(name).type if schema.get_field_index(name) >= 0 else "nothing"
        if held != wanted:
            raise FlywheelError(f"{source} holds {held} in the column {name}, not {wanted}. Export it again.")


def _batches(file: pq.ParquetFile, source: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Keys (k,) and float32 vectors (k, width) of batch after batch, each looked at."""
    done = 0
    columns = ["text_hash", "vector"]
    groups = range(file.num_row_groups)  # over several at once, pyarrow keeps all that it has read
    for batch in chain.from_iterable(file.iter_batches(_GROUP, row_groups=[group], columns=columns) for group in groups):
        keys, vectors = batch.columns
        values = vectors.flatten()
        if keys.null_count or vectors.null_count or values.null_count:
            raise FlywheelError(f"{source} holds rows without a hash or a vector, so it was not imported. Export it again.")
        rows = values.to_numpy().reshape(len(keys), -1)
        lengths, broken = _off_unit(rows)
        if len(broken):
            raise FlywheelError(
                f"{source} holds a vector of length {lengths[broken[0]]:.3g} in row {done + broken[0] + 1:,}, where all have "
                "length 1, so it was not imported. Export it again."
            )
        done += len(keys)
        width = KEY.itemsize
        hashes = np.frombuffer(keys.buffers()[1], dtype=KEY, count=len(keys), offset=keys.offset * width)
        yield hashes, rows


def _off_unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lengths (k,) of vectors (k, width), and the rows whose length is not 1."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    return lengths, np.flatnonzero(~(np.abs(lengths - 1) < _OFF_UNIT))  # which NaN is not, either
