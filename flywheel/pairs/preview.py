"""How a file would be understood, shown before anything of it is stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.coding import Coding, Column, toml
from flywheel.pairs.events.events import field_names
from flywheel.pairs.events.load import Load, check
from flywheel.pairs.events.readers import Understood, understand
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.events.staging import stage
from flywheel.pairs.events.text import COMPRESSION
from flywheel.pairs.options import PairOptions

_SHOWN = 10
_PAIR = ("line", "text_a", "text_b", "label", "kind", "weight", "observed_at", "user_id", "event_id")


@dataclass(frozen=True)
class Preview:
    """How a file was understood. `columns` are ours by theirs; `values` says of each value of a coded column how often it came
    and what it means (None: nothing); `refused` counts reasons, with the first line of each; `problem` is why the file would
    be refused as a whole; `settings` say in TOML what was understood.
    """

    file: str
    format: str | None = None
    compression: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    quoting: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    other_columns: tuple[str, ...] = ()
    values: dict[str, list[tuple[str, int, Any]]] = field(default_factory=dict)
    lines: int = 0
    header: int = 0
    continuation: int = 0
    events: int = 0
    refused: list[tuple[int, str, int]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None
    settings: str = ""


def preview(paths: Sequence[Path], names: Sequence[str], options: PairOptions, memory: str) -> list[Preview]:
    """How each file of a delivery is understood, with its first ten pairs as they would be stored.

    A delivery in which nothing can be understood has nothing but its problem.
    """
    try:
        return [_preview(each, options, memory) for each in understand(paths, names, options)]
    except UnreadableFileError as error:
        return [
            Preview(
                Path(names[0]).parts[0],
                problem=Redactor.of(options)(str(error)),
            )
        ]


def _preview(found: Understood, options: PairOptions, memory: str) -> Preview:
    form, fields = found.form, found.fields
    problem, pairs, staged = None, [], None
    with TemporaryDirectory(prefix="flywheel-") as folder:
        replaced = Redactor.of(options)
        try:
            found.judge()
            load = stage([found.batch], Path(folder), memory, replaced)
            (staged,) = load.batches
            pairs = _first_pairs(load)
            check([staged], options.max_refused)
        except UnreadableFileError as error:
            problem = replaced(str(error))
    theirs = {ours: fields.column(ours) for ours in sorted(field_names()) if fields.column(ours) in form.columns}
    theirs = theirs or dict(fields.options.columns)
    return Preview(
        file=form.name, format=form.format,
        compression=COMPRESSION.get(form.path.suffix.lower()),
        encoding=form.text.encoding if form.text else None, delimiter=form.delimiter, quoting=form.quoting,
        columns=theirs, other_columns=tuple(name for name in form.columns if name not in theirs.values()),
        values={
            name: _values(column, coding)
            for name, column, coding in _coded(found)
            if column.lines
        },
        lines=form.total, header=form.header, continuation=staged.continuation if staged else 0,
        events=staged.lines - form.header - staged.continuation - staged.kinds.total() if staged else 0,
        refused=[(each.number, each.reason, staged.kinds[kind]) for kind, each in staged.examples.items()] if staged else [],
        pairs=pairs, problem=problem, settings=_settings(found, theirs),
    )  # fmt: skip


def _first_pairs(load: Load) -> list[dict[str, Any]]:
    for part in load.parts:
        with pq.ParquetFile(part.path) as file:
            for group in file.iter_batches(1000, columns=[*_PAIR, "item", "reason"]):
                rows = sorted(
                    (row for row in group.to_pylist() if row["reason"] is None), key=lambda row: (row["line"], row["item"])
                )
                if rows:
                    return [{name: row[name] for name in _PAIR} for row in rows[:_SHOWN]]
    return []


def _coded(found: Understood) -> list[tuple[str, Column, Coding]]:
    return [("label", found.columns.label, found.fields.labels), ("thumb", found.columns.thumb, found.fields.thumbs)]


def _values(column: Column, coding: Coding) -> list[tuple[str, int, Any]]:
    common = sorted(column.seen, key=lambda value: (-column.seen[value], value))[:20]
    return [(value, column.seen[value], coding.read(value)) for value in common]


def _settings(found: Understood, theirs: dict[str, str]) -> str:
    said: dict[str, Any] = found.fields.options.model_dump(exclude_defaults=True)
    said = {"columns": theirs} | said if theirs else said
    if not {"cut", "cut_below"} & said.keys():
        for name, column, coding in _coded(found):
            meanings = {value: meaning for value, _, meaning in _values(column, coding)}
            if meanings and None not in meanings.values():  # both, so that a file with the other one is read, too
                both = {"1": 1, "0": 0} if name == "label" else {"up": "up", "down": "down"}
                said.setdefault(f"{name}s", both | meanings)
    form = found.form
    more = {"encoding": form.text.encoding if form.text else None, "delimiter": form.delimiter, "quoting": form.quoting}
    said |= {name: value for name, value in more.items() if value is not None}
    lines = [f"{name} = {toml(value)}" for name, value in said.items() if value not in ({}, None)]
    return "\n".join([f"[pairs.files.{toml(Path(form.name).parts[0])}]", *lines])
