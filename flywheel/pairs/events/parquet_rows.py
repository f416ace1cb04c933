"""Rows of a Parquet file as records."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.lines import Line, Unreadable, check_names
from flywheel.pairs.events.text import COMPRESSION, unpacked

_EXACT = {pa.float16(): 2.0**11, pa.float32(): 2.0**24}


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, unpacked if it is compressed as a whole."""
    if path.suffix.lower() not in COMPRESSION:
        with pq.ParquetFile(path) as file:
            yield file
        return
    with tempfile.TemporaryFile() as plain:  # it has no name, so that nothing stays when the process is killed
        with unpacked(path) as packed:
            shutil.copyfileobj(packed, plain)
        with pq.ParquetFile(plain) as file:
            yield file


def exact_floats(file: pq.ParquetFile) -> dict[str, float]:
    """Of columns of narrow floats, by their dotted names, up to where they hold every whole number."""
    found: dict[str, float] = {}
    waiting = [(each.name, each.type) for each in file.schema_arrow]
    while waiting:
        name, kind = waiting.pop()
        if kind in _EXACT:
            found[name] = _EXACT[kind]
        elif pa.types.is_struct(kind):
            waiting += [(f"{name}.{field.name}", field.type) for field in kind]
    return found


def class_names(file: pq.ParquetFile, column: str) -> tuple[str, ...]:
    """The names that the file's metadata gives to the classes 0, 1, ... of a column, as the library `datasets` writes them."""
    try:
        features = orjson.loads((file.schema_arrow.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[column]["names"]))
    except (KeyError, TypeError, ValueError):
        return ()


def parquet_rows(path: Path, name: str, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    """The rows of a Parquet file called `name`, numbered from 1; a row that cannot be read loses no other."""
    with opened(path) as file:
        check_names(name, file.schema_arrow.names, columns)
        read = 0
        for group in file.iter_batches(batch_size=10_000):
            try:
                rows = group.to_pylist()
            except (ValueError, OverflowError, LookupError) as error:  # a text that is not UTF-8, a time that no calendar holds
                for i in range(group.num_rows):
                    yield _one_row(group.slice(i, 1), error, read + i + 1)
                read += group.num_rows
                continue
            for number, row in enumerate(rows, start=read + 1):
                yield _line(row, number)
            read += group.num_rows
        if read != file.metadata.num_rows:
            raise UnreadableFileError(f"{name} is damaged: {read} of {file.metadata.num_rows} rows. Nothing of it was stored.")


def _one_row(group: pa.RecordBatch, error: Exception, number: int) -> Line | Unreadable:
    try:
        return _line(group.to_pylist()[0], number)
    except (ValueError, OverflowError, LookupError) as own:
        return Unreadable(f"the row cannot be read ({own})", b"", number, "row")


def _line(row: dict[str, Any], number: int) -> Line:
    return Line({field: _plain(value) for field, value in row.items() if value is not None and value == value}, None, number)


def _plain(value: Any) -> Any:
    """A value as JSON has it: dates as ISO text, bytes as text where they are some (else as an object that no text is)."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
