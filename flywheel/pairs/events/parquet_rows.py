"""Rows of a Parquet file as records."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.lines import Line, Unreadable, check_names


def parquet_rows(path: Any, name: str, columns: Mapping[str, str]) -> Iterator[Line | Unreadable]:
    """The rows of a Parquet file (a path or an open file) called `name`; a row that cannot be read loses no other."""
    with pq.ParquetFile(path) as file:
        check_names(Path(name), file.schema_arrow.names, columns)
        read = 0
        for group in file.iter_batches(batch_size=10_000):
            try:
                rows = group.to_pylist()
            except (ValueError, OverflowError, LookupError) as error:  # a text that is not UTF-8, a time that no calendar holds
                for i in range(group.num_rows):
                    yield _one_row(group.slice(i, 1), error)
                read += group.num_rows
                continue
            yield from map(_parquet_record, rows)
            read += group.num_rows
        if read != file.metadata.num_rows:
            raise UnreadableFileError(f"{name} is damaged: {read} of {file.metadata.num_rows} rows. Nothing of it was stored.")


def _one_row(group: pa.RecordBatch, error: Exception) -> Line | Unreadable:
    try:
        return _parquet_record(group.to_pylist()[0])
    except (ValueError, OverflowError, LookupError) as own:
        return Unreadable(f"the row cannot be read ({own})", b"")


def _parquet_record(row: dict[str, Any]) -> Line | Unreadable:
    record = {field: _plain(value) for field, value in row.items() if value is not None and value == value}
    return record, None


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
