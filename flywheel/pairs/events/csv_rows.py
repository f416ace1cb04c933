"""Rows of a CSV or TSV file, with the lines that each came from; a row that cannot be read loses no other."""

import csv
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import orjson

from flywheel.pairs.events.lines import MAX_LINE_BYTES, Line, Unreadable, not_utf8, raw_lines, refused

_MAX_RECORD_LINES = 100  # a quoted field may hold line breaks; one that holds more was never closed
_UNCLOSED = "unclosed quote, or a quote inside a field"


def csv_record(names: list[str], columns: Mapping[str, str], cells: list[str], raw: bytes) -> Line | Unreadable:
    """A row's cells as a record; `columns` maps our field names to the header's. Empty cells are left out."""
    if len(cells) != len(names):
        return Unreadable(f"the line has {len(cells)} fields, the header names {len(names)}", raw)
    record = {name: cell for name, cell in zip(names, cells, strict=True) if cell.strip()}
    for ours, parse in _CELLS.items():
        if (field := columns.get(ours, ours)) in record:
            record[field] = parse(record[field])
    shown = columns.get("shown", "shown")
    if shown in record and record.get(columns.get("type", "type")) == "search":
        record[shown] = _list_of(record[shown])
    return record, raw


def _number(cell: str) -> Any:
    try:
        value = float(cell)
    except ValueError:
        return cell  # the schema says what is wrong with it
    return int(value) if value.is_integer() else value if value == value and abs(value) != float("inf") else cell


def _list_of(cell: str) -> Any:
    try:
        found = orjson.loads(cell)
    except orjson.JSONDecodeError:
        return cell
    return found if isinstance(found, list) else cell


_CELLS: dict[str, Callable[[str], Any]] = {
    "weight": _number, "position": _number, "clicked": _list_of,
}  # fmt: skip


class CsvRows:
    """Rows of a CSV file with the bytes they came from, or `Unreadable`; resumes after a line it cannot make sense of."""

    def __init__(self, file: BinaryIO, delimiter: str) -> None:
        self._lines = raw_lines(file)
        self._delimiter = delimiter
        self._again: list[bytes] = []
        self._taken: list[bytes] = []
        self._width: int | None = None
        self._first = True
        self._reader = self._new_reader()
        csv.field_size_limit(2 * MAX_LINE_BYTES)

    def __iter__(self) -> "CsvRows":
        return self

    def __next__(self) -> tuple[list[str], bytes] | Unreadable:
        self._taken = []
        try:
            cells = next(self._reader)
        except _NoRow as error:
            cells = []
            reason = str(error)
        except (csv.Error, UnicodeDecodeError) as error:
            cells = []
            reason = _misread(error, self._taken[-1])
        else:
            if len(self._taken) == 1 or self._width in (None, len(cells)):
                self._width = self._width or len(cells)
                return cells, b"\n".join(self._taken)
            reason = _UNCLOSED
        self._again = self._taken[1:] + self._again
        self._reader = self._new_reader()
        return Unreadable(reason, self._taken[0])

    def _new_reader(self) -> Any:
        return csv.reader(self._source(), delimiter=self._delimiter, strict=True)

    def _source(self) -> Iterator[str]:
        while True:
            line = self._again.pop(0) if self._again else next(self._lines, None)
            if line is None:
                return
            if not self._taken and (problem := refused(line)):
                self._taken.append(line)
                raise _NoRow(problem.reason)
            self._taken.append(line)
            if len(self._taken) > _MAX_RECORD_LINES or len(line) > MAX_LINE_BYTES:
                raise _NoRow(_UNCLOSED)
            text = line.decode("utf-8-sig" if self._first else "utf-8")
            self._first = False
            yield text + "\n"


def _misread(error: Exception, line: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"the line is not {not_utf8(line)}"
    return "a carriage return inside the line" if "new-line" in str(error) else _UNCLOSED


class _NoRow(Exception):
    """The lines taken so far make no row."""
