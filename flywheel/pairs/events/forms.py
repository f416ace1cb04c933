"""How a file is to be read: its format, encoding, delimiter and quoting, recognised where the settings leave them open.

`Form.records` gives its records; every line of a file comes out once, as a record or as `Unreadable` with the reason.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.delimited import DelimitedRows, Evidence, Quoting, Row, delimiter_of
from flywheel.pairs.events.events import KNOWN_FIELDS, field_names
from flywheel.pairs.events.json_rows import array_items, is_array, is_one_object, json_lines
from flywheel.pairs.events.lines import BLANK, Line, Unreadable, check_names
from flywheel.pairs.events.mapping import FieldMap, Refusal
from flywheel.pairs.events.parquet_rows import opened, parquet_rows
from flywheel.pairs.events.text import TextForm, bare_suffix, check_content, recognise, text_lines

Format = Literal["JSON lines", "JSON array", "CSV", "Parquet"]
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
_HEADER = 10  # lines that a header may be on
_NULL = r"\N"  # how MySQL, PostgreSQL and ClickHouse write that there is nothing


def suffixes() -> str:
    """The file names that can be read, for people."""
    return ".jsonl, .ndjson, .json, .csv, .tsv or .parquet, each also with .gz or .zst"


def is_readable_name(path: Path) -> bool:
    """Whether the name says that the file is in a format that can be read."""
    return bare_suffix(path) in _SUFFIXES


class EmptyFileError(UnreadableFileError):
    """A file without a record."""


@dataclass(frozen=True)
class Form:
    """How a file called `name` was understood. `total` lines (rows, items) were counted, the first `header` name `columns`.

    `quotes` is what has been seen of them.
    """

    path: Path
    name: str
    format: Format
    total: int
    text: TextForm | None = None
    delimiter: str | None = None
    quoting: Quoting | None = None
    columns: tuple[str, ...] = ()
    header: int = 0
    quotes: Evidence | None = None

    @property
    def counted(self) -> str:
        """What a record's number counts."""
        return {"Parquet": "row", "JSON array": "item"}.get(self.format, "line")

    def records(self, fields: FieldMap) -> Iterator[Line | Unreadable]:
        """Every line of the file, as a record or as unreadable."""
        if self.format == "Parquet":
            return parquet_rows(self.path, self.name, fields.options.columns)
        assert self.text is not None
        if self.format == "JSON array":
            return array_items(self.path, self.name, self.text)
        if self.format == "JSON lines":
            return json_lines(text_lines(self.path, self.text))
        rows = self.rows(fields)
        return (each if isinstance(each, Unreadable) else self._record(each) for each in rows)

    def rows(self, fields: FieldMap) -> DelimitedRows:
        """The rows of a delimited file below its header."""
        assert self.text is not None and self.delimiter is not None  # noqa: PT018
        assert self.quoting is not None
        lines = islice(text_lines(self.path, self.text), self.header, None)
        is_row, telling = row_test(self.columns, fields)
        first = self.header + 1
        return DelimitedRows(lines, self.delimiter, self.quoting, len(self.columns), is_row, telling, first, self.quotes)

    def _record(self, row: Row) -> Line | Unreadable:
        if len(row.cells) != len(self.columns):
            reason = f"the line has {len(row.cells)} cells, and the header names {len(self.columns)}"
            return Unreadable(reason, row.raw, row.number, "cells")
        cells = zip(self.columns, row.cells, strict=True)
        return Line({name: cell for name, cell in cells if cell.strip() and cell != _NULL}, row.raw, row.number, row.span)


def form_of(path: Path, name: str, fields: FieldMap) -> Form:
    """Look at a file and say how it is to be read; quotes as the standard has them until `records` were seen.

    Raises UnreadableFileError for a file that is empty, whose name or header says nothing, or that is in another format.
    """
    suffix = bare_suffix(path)
    if suffix not in _SUFFIXES:
        raise UnreadableFileError(f"{name} is none of {suffixes()}. Nothing of it was stored.")
    if suffix == ".parquet":
        with opened(path) as file:
            form = Form(path, name, "Parquet", file.metadata.num_rows, columns=tuple(file.schema_arrow.names))
    else:
        check_content(path, name)
        text = recognise(path, name, fields.options.encoding, suffix in (".csv", ".tsv"))
        form = Form(path, name, "JSON lines", text.lines, text)
        if not any(line.strip() for line in text_lines(path, text)):
            raise EmptyFileError(f"{name} is empty. Nothing of it was stored.")
        form = _delimited(form, suffix, fields) if suffix in (".csv", ".tsv") else _json(form, suffix)
    if form.total == form.header:
        what = f": it names columns and has no {form.counted}s" if form.columns else ""
        raise EmptyFileError(f"{name} is empty{what}. Nothing of it was stored.")
    return form


def _json(form: Form, suffix: str) -> Form:
    assert form.text is not None
    if is_array(text_lines(form.path, form.text)):
        if suffix != ".json":
            raise UnreadableFileError(
                f"{form.name} holds one JSON array, and {suffix} means one object a line. Nothing of it was stored; "
                "rename it so that it ends in .json."
            )
        return replace(form, format="JSON array", total=sum(1 for _ in array_items(form.path, form.name, form.text)))
    if form.text and is_one_object(text_lines(form.path, form.text)):
        raise UnreadableFileError(
            f"{form.name} holds one JSON object over several lines. Nothing of it was stored; "
            "write one event a line, or an array of events in a .json file."
        )
    return form


def _delimited(form: Form, suffix: str, fields: FieldMap) -> Form:
    assert form.text is not None
    first = next(text_lines(form.path, form.text))
    names_it = first[:4].lower() == b"sep=" and len(first) == 5  # Excel's way
    skipped = int(names_it)
    wanted = {fields.column(ours) for ours in field_names()}
    begin = [line.decode("utf-8", "replace") for line in islice(text_lines(form.path, form.text), skipped, skipped + _HEADER)]
    delimiter = fields.options.delimiter or (chr(first[4]) if names_it else delimiter_of(begin, wanted))

    def first_row(quoting: Quoting) -> Row | Unreadable | None:
        assert form.text is not None
        lines = islice(text_lines(form.path, form.text), skipped, None)
        return next(DelimitedRows(lines, delimiter, quoting, first=skipped + 1), None)

    header = first_row("standard")
    if isinstance(header, Unreadable) and fields.options.quoting:
        header = first_row(fields.options.quoting)
        if isinstance(header, Row):  # quotes about a name are no part of it, whatever they are in texts
            header = header._replace(cells=[re.sub(r'^"(.*)"$', r"\1", cell.strip()) for cell in header.cells])
    if header is None or isinstance(header, Unreadable):
        why = header.reason if header else BLANK
        raise UnreadableFileError(f"{form.name}:{skipped + 1}: its header cannot be read ({why}). Nothing of it was stored.")
    names = [cell.strip() for cell in header.cells]
    check_names(form.name, names, fields.options.columns, skipped + 1)
    quoting = fields.options.quoting or "standard"
    return replace(
        form, format="CSV", delimiter=delimiter, quoting=quoting, columns=tuple(names), header=skipped + header.span
    )  # fmt: skip


def row_test(columns: Sequence[str], fields: FieldMap) -> tuple[Callable[[Sequence[str]], bool], bool]:
    """What says of cells whether they could be a row, and whether it looks at more than texts."""
    place = {ours: columns.index(name) for ours in field_names() if (name := fields.column(ours)) in columns}
    texts = [place[ours] for ours in ("text_a", "text_b", "query", "shown", "answer") if ours in place]
    tests: Mapping[str, Callable[[str], bool]] = {
        "label": fields.labels.could_be,
        "thumb": fields.thumbs.could_be,
        "type": lambda cell: cell in fields.options.types or cell in KNOWN_FIELDS,
        "time": lambda cell: not isinstance(fields.time(cell), Refusal),
    }
    told = [(place[ours], test) for ours, test in tests.items() if ours in place]

    def is_row(cells: Sequence[str]) -> bool:
        return (
            len(cells) == len(columns)
            and any(cells[i].strip() for i in texts)
            and all(test(cells[i]) for i, test in told if cells[i].strip())
            and any(cells[i].strip() for i, _ in told)
        ) or (not told and len(cells) == len(columns) and all(cells[i].strip() for i in texts))

    return is_row, bool(told)
