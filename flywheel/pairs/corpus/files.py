"""Corpora in files: Parquet, and JSON lines, plain or gzipped."""

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError, one_line
from flywheel.pairs.corpus.rows import BATCH_ROWS, after, checked

PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")
_LOOKED_AT = 100
_BUFFER = 2**20  # bytes of a column that are read at once, however large its row groups are


def is_corpus_file(path: Path) -> bool:
    """Whether a file's name says that it holds a corpus."""
    return path.name.lower().endswith((*PARQUET, *JSON_LINES))


def columns_of(path: Path) -> list[str]:
    """The columns of a Parquet file, or the keys of the first records of a JSON-lines file."""
    if path.name.lower().endswith(PARQUET):
        with _parquet(path) as file:
            return list(file.schema_arrow.names)
    with _lines(path) as lines:
        records = [_record(path, number, line) for number, line in islice(lines, _LOOKED_AT)]
    return list(dict.fromkeys(key for record in records for key in record))


def file_batches(path: Path, id_column: str, text_column: str, skip: int = 0) -> Iterator[pa.RecordBatch]:
    """The rows of a file after the first `skip`, as `checked` gives them."""
    read = _parquet_batches if path.name.lower().endswith(PARQUET) else _json_batches
    return read(path, id_column, text_column, skip)


def _parquet_batches(path: Path, id_column: str, text_column: str, skip: int) -> Iterator[pa.RecordBatch]:
    with _parquet(path) as file:
        missing = [name for name in (id_column, text_column) if name not in file.schema_arrow.names]
        if missing:
            raise FlywheelError(
                f"{path} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}. Name others with --id and "
                "--text."
            )
        groups, before = 0, 0
        while groups < file.num_row_groups and before + file.metadata.row_group(groups).num_rows <= skip:
            before += file.metadata.row_group(groups).num_rows
            groups += 1
        place, wanted = 1 + skip, list(dict.fromkeys([id_column, text_column]))
        some = file.iter_batches(BATCH_ROWS, row_groups=range(groups, file.num_row_groups), columns=wanted)
        for batch in after(some, skip - before):
            places = pa.array(range(place, place + len(batch)), pa.int64())
            place += len(batch)
            yield checked(str(path), "row", places, batch.column(id_column), batch.column(text_column))


@contextmanager
def _parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        # What is read ahead would be kept until the end: all of the file.
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise FlywheelError(f"{path} cannot be read as Parquet: {one_line(error)}. Write it again.") from error


def _json_batches(path: Path, id_column: str, text_column: str, skip: int) -> Iterator[pa.RecordBatch]:
    with _lines(path) as lines:
        rest = islice(lines, skip, None)
        while some := list(islice(rest, BATCH_ROWS)):
            records = [_record(path, number, line) for number, line in some]
            for (number, _), record in zip(some, records, strict=True):
                _check_record(path, number, record, id_column, text_column)
            places = pa.array([number for number, _ in some], pa.int64())
            ids = _json_ids(path, some, [record[id_column] for record in records])
            yield checked(str(path), "line", places, ids, pa.array([each[text_column] for each in records], pa.string()))


def _check_record(path: Path, number: int, record: dict[str, object], id_column: str, text_column: str) -> None:
    for name, option in ((id_column, "--id"), (text_column, "--text")):
        if name not in record:
            raise FlywheelError(
                f"Line {number:,} of {path} has no field {name!r}; it has {', '.join(record)}. Name another with {option}."
            )
    if not isinstance(record[text_column], str | None):
        kind = type(record[text_column]).__name__
        raise FlywheelError(f"Line {number:,} of {path} has a {kind} where its text belongs. Name another field with --text.")
    if record[id_column] is None:
        raise FlywheelError(f"Line {number:,} of {path} has no id. Give every text one, or name another with --id.")


def _json_ids(path: Path, lines: Sequence[tuple[int, bytes]], ids: list[object]) -> pa.Array:
    kind = type(ids[0])
    for (number, _), each in zip(lines, ids, strict=True):
        if type(each) not in (int, str) or type(each) is not kind:
            raise FlywheelError(
                f"Line {number:,} of {path} has {each!r} as its id, and ids are whole numbers or texts, of one kind in a "
                "corpus. Write them so, or name another field with --id."
            )
    try:
        return pa.array(ids)
    except (pa.ArrowInvalid, OverflowError) as error:
        raise FlywheelError(f"An id of {path} is larger than 64 bits hold. Write the ids as texts.") from error


def _record(path: Path, number: int, line: bytes) -> dict[str, object]:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise FlywheelError(f"Line {number:,} of {path} is not JSON ({one_line(error)}). Correct the line.") from error
    if not isinstance(record, dict):
        raise FlywheelError(f"Line {number:,} of {path} is no JSON object with an id and a text. Correct the line.")
    return record


@contextmanager
def _lines(path: Path) -> Iterator[Iterator[tuple[int, bytes]]]:
    """Line numbers, counted from 1, and lines that are not blank."""
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as raw:
            yield ((number, line) for number, line in enumerate(raw, start=1) if line.strip())
    except (OSError, EOFError) as error:
        raise FlywheelError(f"{path} cannot be read: {one_line(error)}. Write it again, or change its permissions.") from error
