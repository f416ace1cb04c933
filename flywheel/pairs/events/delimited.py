"""Rows of a CSV or TSV file, with the physical lines that each came from; a row that cannot be read loses no other.

A quote at the beginning of a cell opens a text that may go on over several lines. A stray one would swallow its neighbours
until some cell ends in a quote, and what comes out may look like a row. So a row of several lines is believed only where its
quoting is well formed and none of the lines that it swallows could be a row itself.
"""

import csv
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from flywheel.pairs.events.lines import MAX_LINE_BYTES, Unreadable, not_utf8, refused

Quoting = Literal["standard", "backslash", "none"]
_MAX_ROW_LINES = 100
_UNCLOSED = (
    'a quote opens a cell and is not closed at the end of one; if quotes are plain characters, set pairs.quoting = "none"'
)
_SWALLOWS = "a quote opens a cell that would swallow lines which are rows themselves"
_REST = "the line ends a text that an earlier line began, and that line cannot be read"
_RETURN = "the line holds a carriage return"

_PLAIN_QUOTE = "\0"  # stands for a quote that opens and closes nothing; no line that is read has one
_ESCAPED_QUOTE = re.compile(r'\\+"')

csv.field_size_limit(2 * MAX_LINE_BYTES)


class Row(NamedTuple):
    """The cells of a row, the bytes they were read from, its first line's number, and how many lines it is on."""

    cells: list[str]
    raw: bytes
    number: int
    span: int


@dataclass
class Evidence:
    """Rows that begin a cell with a quote. What quotes do for `proper` rows, `needed` ones cannot do without.

    `broken` ones cannot be read; `plain` of them are rows where quotes are plain characters. `loose` rows of any kind have a
    quote within a cell that does not begin with one. `escaped` rows of either kind hold a backslash before a quote.
    `slipped` are the first lines of rows after which the quotes no longer pair: what closes them opens a cell in truth.
    """

    proper: int = 0
    needed: int = 0
    broken: int = 0
    escaped: int = 0
    plain: int = 0
    loose: int = 0
    slipped: set[int] = field(default_factory=set)

    @property
    def disorder(self) -> int:
        """How many rows have quotes that are not in order."""
        return self.broken + self.loose


class DelimitedRows:
    """The rows of `lines` (from line 1 on): `Row`, or `Unreadable` for a line that makes none.

    `width` is how many cells a row has (None: as the first row says). `is_row` says whether cells, from a single line, could
    be a row of this file; `telling` whether it looks at more than texts. `known` is what an earlier reading has seen.
    """

    def __init__(
        self, lines: Iterator[bytes], delimiter: str, quoting: Quoting, width: int | None = None,
        is_row: Callable[[Sequence[str]], bool] = lambda _: False, telling: bool = True, first: int = 1,
        known: Evidence | None = None,
    ) -> None:  # fmt: skip
        self._lines = enumerate(lines, start=first)
        self._again: deque[tuple[int, bytes]] = deque()
        self._delimiter = delimiter
        self._quoting = quoting
        self._width = width
        self._is_row = is_row
        self._telling = telling
        self._known = known or Evidence()
        self._rest_until = 0  # up to this line, the rest of a row that could not be read may stand
        self._broken = False  # that row had quotes
        self._may_slip: int | None = None  # the first line of a row whose last quote may open a cell
        quoted, bare = r'"(?:[^"]|"")*+"', f'[^"{re.escape(delimiter)}\n]*+'
        cells = f"(?:{re.escape(delimiter)}(?:{quoted}|{bare}))*+\n"
        self._well_formed = re.compile(f"(?:{quoted}|{bare}){cells}")
        self._end_of_text = re.compile(rf'(?:[^"]|"")*+"{cells}')
        self.evidence = Evidence()

    def __iter__(self) -> Iterator[Row | Unreadable]:
        return self

    def __next__(self) -> Row | Unreadable:
        number, raw = self._next()
        if problem := refused(raw, number) or not_utf8(raw, number):
            return problem
        text = raw.decode()
        if self._quoting == "none" or '"' not in text:
            if "\r" in text:
                return Unreadable(_RETURN, raw, number, _RETURN)
            cells = text.split(self._delimiter)
            if self._width is not None and len(cells) < self._width:
                self._rest_until = number + _MAX_ROW_LINES
                self._broken = False
            return Row(cells, raw, number, 1)
        row = self._quoted(number, raw)
        if isinstance(row, Row):
            ends = self._width is None or len(row.cells) == self._width
        else:
            ends = row.reason == _REST and not self._again and self._is_end(raw)
        self._rest_until = 0 if ends else number + _MAX_ROW_LINES
        self._broken = not ends
        return row

    def _next(self) -> tuple[int, bytes]:
        return self._again.popleft() if self._again else next(self._lines)

    def _quoted(self, number: int, raw: bytes) -> Row | Unreadable:
        taken = [(number, raw)]
        try:
            cells = next(csv.reader(self._source(taken), delimiter=self._delimiter, strict=True))
            self._believe(cells, taken)
        except (csv.Error, UnicodeDecodeError, _NotOneRow) as error:
            self._again.extendleft(reversed(taken[1:]))
            self._count_broken(raw)
            return Unreadable(str(error) if isinstance(error, _NotOneRow) else _UNCLOSED, raw, number, "quote")
        loose = len(taken) == 1 and not self._well_formed.fullmatch(self._prepared(raw))
        if number <= self._rest_until and (self._is_end(raw) or (loose and self._broken)):
            self._again.extendleft(reversed(taken[1:]))
            self._count_broken(raw)
            return Unreadable(_REST, raw, number, "quote")
        self._count(cells, taken, loose)
        cells = [cell.replace(_PLAIN_QUOTE, '"') for cell in cells]
        return Row(cells, b"\n".join(line for _, line in taken), number, len(taken))

    def _is_end(self, line: bytes) -> bool:
        """Whether a line may be the last of a row on several."""
        return self._end_of_text.fullmatch(self._prepared(line)) is not None

    def _count(self, cells: Sequence[str], taken: Sequence[tuple[int, bytes]], loose: bool) -> None:
        number, raw = taken[0]
        if self._width is not None and len(cells) != self._width:
            self._count_broken(raw)
        elif loose:
            self.evidence.loose += 1
            self.evidence.escaped += rb"\"" in raw
            self._slips()
        else:
            self.evidence.proper += 1
            self.evidence.needed += len(taken) > 1 or [cell.strip('"') for cell in self._split(raw)] != cells
            before = taken[-1][1].partition(b'"')[0]
            self._may_slip = number if len(taken) > 1 and (not before or before.endswith(self._delimiter.encode())) else None

    def _count_broken(self, raw: bytes) -> None:
        cells = self._split(raw)
        self.evidence.broken += 1
        self.evidence.escaped += rb"\"" in raw
        self.evidence.plain += self._is_row(cells) and not any(len(c) > 1 and c[0] == c[-1] == '"' for c in cells)
        self._slips()

    def _slips(self) -> None:
        """A quote is out of order here: if what stands before is a row that may slip, it did."""
        if self._may_slip is not None:
            self.evidence.slipped.add(self._may_slip)
        self._may_slip = None

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
        text = line.decode() + "\n"
        return _ESCAPED_QUOTE.sub(_freed, text) if self._quoting == "backslash" else text

    def _believe(self, cells: Sequence[str], taken: Sequence[tuple[int, bytes]]) -> None:
        """Raise unless lines that were taken together make one row."""
        if len(taken) == 1:
            return
        lines = [line for _, line in taken]
        if taken[0][0] in self._known.slipped:
            raise _NotOneRow(_SWALLOWS)
        if self._width is not None and len(cells) != self._width:
            raise _NotOneRow(_UNCLOSED)
        if not self._well_formed.fullmatch("".join(map(self._prepared, lines))):
            raise _NotOneRow(_UNCLOSED)
        if self._telling and self._could_be_row(lines[0]) and self._could_be_row(lines[-1]):
            raise _NotOneRow(_SWALLOWS)
        # Where nothing tells, lines that are as wide as rows are taken for some if there are enough of them, or other signs.
        *others, last = (len(self._split(line)) == self._width for line in lines)
        wide, written = sum(others), sum(bool(line.strip()) for line in lines[:-1])
        disorder = bool(self._known.disorder)
        if (wide + disorder > 2 and 2 * wide > written) or (wide == len(others) and wide + disorder + last > 2):
            raise _NotOneRow(_SWALLOWS)

    def _could_be_row(self, line: bytes) -> bool:
        """Whether a line could be a row of its own, its quotes as they are or as plain characters."""
        if self._is_row(self._split(line)):
            return True
        try:
            return b'"' in line and self._is_row(
                next(csv.reader([self._prepared(line)], delimiter=self._delimiter, strict=True), [])
            )
        except (csv.Error, UnicodeDecodeError):
            return False

    def _split(self, line: bytes) -> list[str]:
        return line.decode("utf-8", "replace").split(self._delimiter)


def _freed(found: re.Match[str]) -> str:
    """Backslashes before a quote: each two of them are one, and one more makes the quote a character like any other."""
    count = len(found[0]) - 1
    return "\\" * (count // 2) + (_PLAIN_QUOTE if count % 2 else '"')


class _NotOneRow(Exception):
    """The lines taken so far make no row."""


def delimiter_of(header: Sequence[str], wanted: set[str]) -> str:
    """What parts the cells of a header, which `header` begins with: what gives most of the names, else most cells."""

    def fit(delimiter: str) -> tuple[int, int]:
        try:
            cells = [cell.strip() for cell in next(csv.reader((line + "\n" for line in header), delimiter=delimiter), [])]
        except csv.Error:
            return 0, 0
        return len(wanted.intersection(cells)), len(cells)

    return max((",", "\t", ";", "|"), key=fit)
