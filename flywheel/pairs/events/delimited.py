"""Rows of a CSV or TSV file, with the physical lines that each came from; a row that cannot be read loses no other.

A quote at the beginning of a cell opens a text that may go on over several lines. A stray one would swallow its neighbours
until some cell ends in a quote, and what comes out may look like a row. So a row of several lines is believed only where none
of the lines that it swallows could be a row itself.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from flywheel.pairs.events.lines import MAX_LINE_BYTES, Unreadable, not_utf8, refused

Quoting = Literal["standard", "backslash", "none"]
_MAX_ROW_LINES = 100
_UNCLOSED = "a quote opens a cell and is not closed at the end of one"
_SWALLOWS = "a quote opens a cell that would swallow lines which are rows themselves"
_RETURN = "the line holds a carriage return"

csv.field_size_limit(2 * MAX_LINE_BYTES)


class Row(NamedTuple):
    """The cells of a row, the bytes they were read from, its first line's number, and how many lines it is on."""

    cells: list[str]
    raw: bytes
    number: int
    span: int


@dataclass
class Evidence:
    """Rows that have quotes: in how many all of them part cells, which is for them, and how many they break.

    `escaped` of the latter hold a backslash before a quote.
    """

    proper: int = 0
    broken: int = 0
    escaped: int = 0


class DelimitedRows:
    """The rows of `lines` (from line 1 on): `Row`, or `Unreadable` for a line that makes none.

    `width` is how many cells a row has (None: as the first row says). `is_row` says whether cells, from a single line, could
    be a row of this file; `telling` whether it looks at more than texts.
    """

    def __init__(
        self, lines: Iterator[bytes], delimiter: str, quoting: Quoting, width: int | None = None,
        is_row: Callable[[Sequence[str]], bool] = lambda _: False, telling: bool = True, first: int = 1,
    ) -> None:  # fmt: skip
        self._lines = enumerate(lines, start=first)
        self._again: deque[tuple[int, bytes]] = deque()
        self._delimiter = delimiter
        self._quoting = quoting
        self._width = width
        self._is_row = is_row
        self._telling = telling
        self.evidence = Evidence()

    def __iter__(self) -> Iterator[Row | Unreadable]:
        return self

    def __next__(self) -> Row | Unreadable:
        number, raw = self._next()
        if problem := refused(raw, number) or not_utf8(raw, number):
            return problem
        if b"\r" in raw:
            return Unreadable(_RETURN, raw, number, _RETURN)
        text = raw.decode()
        if self._quoting == "none" or '"' not in text:
            return Row(text.split(self._delimiter), raw, number, 1)
        return self._quoted(number, raw)

    def _next(self) -> tuple[int, bytes]:
        return self._again.popleft() if self._again else next(self._lines)

    def _quoted(self, number: int, raw: bytes) -> Row | Unreadable:
        taken = [(number, raw)]
        try:
            cells = next(csv.reader(self._source(taken), delimiter=self._delimiter, strict=True))
            self._believe(cells, taken)
        except (csv.Error, UnicodeDecodeError, _NotOneRow) as error:
            self._again.extendleft(reversed(taken[1:]))
            self.evidence.broken += 1
            self.evidence.escaped += rb"\"" in raw
            reason = str(error) if isinstance(error, _NotOneRow) else _UNCLOSED
            return Unreadable(reason, raw, number, "quote")
        self.evidence.proper += 1
        return Row(cells, b"\n".join(line for _, line in taken), number, len(taken))

    def _source(self, taken: list[tuple[int, bytes]]) -> Iterator[str]:
        yield self._prepared(taken[0][1])
        while True:
            if len(taken) > 1 and self._telling and self._could_be_row(taken[-1][1]):  # the cell goes on after this line
                raise _NotOneRow(_SWALLOWS)
            try:
                line = self._next()
            except StopIteration:
                return
            taken.append(line)
            if len(taken) > _MAX_ROW_LINES or len(line[1]) > MAX_LINE_BYTES or b"\0" in line[1]:
                raise _NotOneRow(_UNCLOSED)
            yield self._prepared(line[1])

    def _prepared(self, line: bytes) -> str:
        text = line.decode()
        return (text.replace('\\"', '""') if self._quoting == "backslash" else text) + "\n"

    def _believe(self, cells: Sequence[str], taken: Sequence[tuple[int, bytes]]) -> None:
        """Raise unless lines that were taken together make one row."""
        if len(taken) == 1:
            return
        if self._width is not None and len(cells) != self._width:
            raise _NotOneRow(_UNCLOSED)
        first, *swallowed = (line for _, line in taken)
        if self._telling and self._could_be_row(first) and self._could_be_row(swallowed[-1]):
            raise _NotOneRow(_SWALLOWS)
        if not self._telling and len(swallowed) > 2 and all(map(self._could_be_row, swallowed[:-1])):
            raise _NotOneRow(_SWALLOWS)

    def _could_be_row(self, line: bytes) -> bool:
        """Whether a line could be a row of its own, its quotes as they are or as plain characters."""
        if self._is_row(self._split(line)):
            return True
        try:
            return b'"' in line and self._is_row(next(csv.reader([line.decode()], delimiter=self._delimiter, strict=True), []))
        except (csv.Error, UnicodeDecodeError):
            return False

    def _split(self, line: bytes) -> list[str]:
        return line.decode("utf-8", "replace").split(self._delimiter)


class _NotOneRow(Exception):
    """The lines taken so far make no row."""


def delimiter_of(header: str, wanted: set[str]) -> str:
    """What parts the cells of a header: what gives most of the names that are wanted, else most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        cells = {cell.strip().strip('"') for cell in header.split(delimiter)}
        return len(cells & wanted), len(cells)

    return max((",", "\t", ";", "|"), key=fit)
