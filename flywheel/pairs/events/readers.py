"""Deliveries into batches: each file read as the settings and its own look say, its columns judged as a whole first.

What makes a whole file unreadable (cut short, another coding of its labels) raises `UnreadableFileError` before anything is
stored. Knows no store.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.pairs.events.coding import Column, judge
from flywheel.pairs.events.delimited import Evidence, Quoting
from flywheel.pairs.events.forms import EmptyFileError, Form, form_of
from flywheel.pairs.events.lines import Batch, Line, Unreadable, leaves, without_texts, wrapped
from flywheel.pairs.events.mapping import BULK_ACTIONS, IDS, FieldMap
from flywheel.pairs.events.parquet_rows import class_names, exact_floats, opened
from flywheel.pairs.events.staging import without_gc
from flywheel.pairs.events.text import bare_suffix, content_hash
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.sql import CONTENT_ID

_WHOLE, _FLOAT = re.compile(r"0|-?[1-9]\d*"), re.compile(r"0\.0|-?[1-9]\d*\.0")
_NAMES, _LONG_NAME = 100, 80  # how many fields of JSON a sentence may name, and how long their names may be


@dataclass
class Columns:
    """What was seen of a delivery's columns as a whole: labels, thumbs, and how ids are written in cells."""

    label: Column = field(default_factory=Column)
    thumb: Column = field(default_factory=Column)
    ids: dict[str, set[str]] = field(default_factory=dict)

    @property
    def float_ids(self) -> frozenset[str]:
        """The fields whose ids were whole numbers before something wrote them as 17.0."""
        return frozenset(ours for ours, ways in self.ids.items() if "float" in ways and "text" not in ways)

    def add(self, record: Mapping[str, Any], fields: FieldMap, where: str, cells: bool) -> None:
        """Look at one record; in `cells` a number has no type."""
        for name, column in (("label", self.label), ("thumb", self.thumb)):
            if (value := fields.value(record, name)) is not None and fields.type_of(record) == name:
                column.add(value, where)
        for ours in IDS if cells else ():
            if isinstance(value := fields.value(record, ours), str):
                way = "float" if _FLOAT.fullmatch(value.strip()) else "whole" if _WHOLE.fullmatch(value.strip()) else "text"
                self.ids.setdefault(ours, set()).add(way)


@dataclass(frozen=True)
class Understood:
    """A file as it was understood: a batch, its form, how its records are events, and what its delivery's columns held."""

    batch: Batch
    form: Form
    fields: FieldMap
    columns: Columns

    def judge(self) -> None:
        """Raise UnreadableFileError when a column is in no coding that is known or said."""
        judge(self.form.name, self.fields.column("label"), self.columns.label, self.fields.labels, "label")
        judge(self.form.name, self.fields.column("thumb"), self.columns.thumb, self.fields.thumbs, "thumb")


def read_batch(path: Path, name: str, options: PairOptions | None = None) -> Batch:
    """One file as a batch that the store calls `name`; see `read_delivery`."""
    return read_delivery([path], [name], options or PairOptions())[0]


def read_delivery(paths: Sequence[Path], names: Sequence[str], options: PairOptions) -> list[Batch]:
    """The files of one delivery as batches that the store calls `names`; empty ones among others are passed over.

    Settings that say how a file is read make another batch of it, so that one read under wrong ones can be ingested again.
    Raises UnreadableFileError when one cannot be read.
    """
    found = understand(paths, names, options)
    for each in found:
        each.judge()
    return [each.batch for each in found]


def understand(paths: Sequence[Path], names: Sequence[str], options: PairOptions) -> list[Understood]:
    """How the files of one delivery are read. A column means the same in all of them, so that it is looked at over all."""
    columns = Columns()
    found: list[tuple[Form, FieldMap, str, tuple[int, ...]]] = []
    empty: EmptyFileError | None = None
    for path, name in zip(paths, names, strict=True):
        _check_name(path, name)
        with _explained(path, name), without_gc():
            before = _state(path)
            named = batch_id(path, name, options)
            try:
                form, fields = _look(path, name, FieldMap(options.for_file(name)), columns)
            except EmptyFileError as error:
                empty = error
                continue
            found.append((form, fields, named, before))
    if empty and not found:
        raise empty
    return [_understood(form, fields, named, before, columns) for form, fields, named, before in found]


def batch_id(path: Path, name: str, options: PairOptions) -> str:
    """Names a file's content and the settings that say how it is read. Raises UnreadableFileError when it cannot be read."""
    said = orjson.dumps(options.for_file(name).model_dump(exclude_defaults=True), option=orjson.OPT_SORT_KEYS)
    with _explained(path, name):
        return content_hash(path).hexdigest()[:CONTENT_ID] + hashlib.sha256(said).hexdigest()[:CONTENT_ID]


def _understood(form: Form, fields: FieldMap, named: str, before: tuple[int, ...], columns: Columns) -> Understood:
    fields = replace(fields, float_ids=columns.float_ids)
    lines = _unchanged(form, fields, before)
    return Understood(Batch(named, "interaction", form.name, form.total, lines, form.header, fields), form, fields, columns)


def _look(path: Path, name: str, fields: FieldMap, columns: Columns) -> tuple[Form, FieldMap]:
    """What a file is, with its columns added to those of its delivery."""
    form = form_of(path, name, fields)
    if form.format == "Parquet":
        with opened(path) as file:
            fields = replace(fields, exact=exact_floats(file))
            columns.label.classes = columns.label.classes or class_names(file, fields.column("label"))
            columns.thumb.classes = columns.thumb.classes or class_names(file, fields.column("thumb"))
    elif form.format == "CSV":
        fields = replace(fields, decimal_comma=form.delimiter == ";")
        form = _quoted(form, fields)
    names: dict[str, None] = {}
    texts = form.format in ("CSV", "Parquet")  # their header was looked at
    for line in form.records(fields):
        if isinstance(line, Line) and isinstance(line.record, dict):
            columns.add(line.record, fields, f"{form.counted} {line.number}", form.format == "CSV")
            texts = texts or fields.holds_text(line.record)
            if not texts and len(names) < _NAMES and not (len(line.record) == 1 and line.record.keys() <= BULK_ACTIONS):
                whole = form.total == 1 and form.format == "JSON lines" and bare_suffix(path) == ".json"
                if whole and (why := wrapped(name, line.record)):
                    raise why
                names |= dict.fromkeys(name for name in leaves(line.record) if len(name) <= _LONG_NAME)
    if names and not texts:
        raise without_texts(name, name, "fields", list(names), fields.options.columns)
    return form, fields


def _quoted(form: Form, fields: FieldMap) -> Form:
    """The form with how cells are quoted: as the standard has it unless that breaks cells which another way explains.

    Quotes are plain characters where they break more rows than they serve, nearly all of these are rows without them, and (next
    to) no row needs its quotes.
    """

    def tried(quoting: Quoting) -> Evidence:
        rows = replace(form, quoting=quoting).rows(fields)
        for _ in rows:
            pass
        return rows.evidence

    quoting = fields.options.quoting
    found = tried(quoting or "standard")
    if quoting is None and found.escaped and (escaped := tried("backslash")).disorder * 2 < found.disorder:
        quoting, found = "backslash", escaped
    if quoting is None and found.plain > max(found.proper, 100 * found.needed, 0.9 * found.broken):
        quoting = "none"
    return replace(form, quoting=quoting or "standard", quotes=found)


def _check_name(path: Path, name: str) -> None:
    try:
        f"{path} {name}".encode()
    except UnicodeEncodeError as error:
        raise UnreadableFileError(f"{name!a} is a name that is not UTF-8. Nothing of it was stored; rename it.") from error


def _unchanged(form: Form, fields: FieldMap, before: tuple[int, ...]) -> Iterator[Line | Unreadable]:
    with _explained(form.path, form.name):
        yield from form.records(fields)
    if _state(form.path) != before:
        raise FlywheelError(
            f"{form.name} changed while it was read. Nothing of it was stored; ingest it again when it is finished."
        )


@contextmanager
def _explained(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (EOFError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: a column's name
        raise _damaged(name, error) from error
    except OSError as error:
        if error.strerror is None:  # of the decompression, not of the file system
            raise _damaged(name, error) from error
        raise UnreadableFileError(f"{path} cannot be read ({error.strerror}). Nothing of it was stored.") from error


def _damaged(name: str, error: Exception) -> UnreadableFileError:
    return UnreadableFileError(f"{name} is damaged or cut short ({error}). Nothing of it was stored.")


def _state(path: Path) -> tuple[int, ...]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
