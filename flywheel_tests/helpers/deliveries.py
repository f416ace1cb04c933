"""Files as producers might deliver them, and what became of their lines."""

import csv
import gzip
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.errors import FlywheelError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.readers import read_batch
from flywheel.pairs.ingest import IngestReport
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.accounts import unaccounted
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.pairs.test_ingest import balanced, line

FORMATS = (".jsonl", ".csv", ".tsv", ".parquet")
KINDS = (".jsonl", ".csv", ".parquet")  # TSV is CSV with another delimiter
COMPRESSIONS = ("", ".gz", ".zst")
EVERY_SUFFIX = [f"{form}{compression}" for form in FORMATS for compression in COMPRESSIONS]

HEADER = b"text_a,text_b,label\n"
GOOD = line("what is a flywheel", "what does a flywheel do") + b"\n"

Record = Mapping[str, Any]


# ---- what a file says, in every format ----


def json_file(records: Sequence[Record]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def csv_file(records: Sequence[Record], delimiter: str = ",") -> bytes:
    names = sorted({"text_a", *(name for record in records for name in record)})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(
        {k: json.dumps(v) if isinstance(v, list) else v for k, v in record.items()}  # a list is written as JSON
        for record in records
    )
    return text.getvalue().encode()


def parquet_file(records: Sequence[Record]) -> bytes:
    names = sorted({"text_a", *(name for record in records for name in record)})
    return table_file({name: [record.get(name) for record in records] for name in names})


def table_file(columns: Mapping[str, Any] | pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(dict(columns)), sink, **options)
    return sink.getvalue().to_pybytes()


def packed(data: bytes, suffix: str) -> bytes:
    if suffix.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return pa.compress(data, codec="zstd", asbytes=True) if suffix.endswith(".zst") else data


def file_of(records: Sequence[Record], suffix: str) -> bytes:
    form = suffix.split(".")[1]
    data = (
        json_file(records) if form == "jsonl"
        else csv_file(records) if form == "csv"
        else csv_file(records, "\t") if form == "tsv"
        else parquet_file(records)
    )  # fmt: skip
    return packed(data, suffix)


# ---- what became of it ----


def read(folder: Path, data: bytes, name: str) -> list[Any]:
    """What the readers make of a file, without a store."""
    (folder / name).write_bytes(data)
    return list(read_batch(folder / name, name).lines)


def physical_lines(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    return [each.rstrip(b"\r\n") for each in (lines if lines[-1] else lines[:-1])]


@dataclass(frozen=True)
class Taken:
    """What the store made of one file: the report, its observations by line, and the reasons of its quarantined lines."""

    report: IngestReport
    observations: dict[int, list[dict[str, Any]]]
    reasons: dict[int, str]
    raws: dict[int, str]

    def only(self, number: int) -> dict[str, Any]:
        (observation,) = self.observations[number]
        return observation


def take(store: Store, data: bytes, name: str = "batch.jsonl", options: PairOptions | None = None) -> Taken:
    """Ingest `data` as a file called `name`; every line of it must be accounted for.

    Records are numbered from 1 on, on whatever lines of the file they are.
    """
    folder = store.path.parent / "delivered"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    options = options or PairOptions(max_refused=1.0)
    (report,) = ingest_files(store, [folder / name], options)
    place = {line.number: i for i, line in enumerate(read_batch(folder / name, name, options).lines, start=1)}
    assert len(place) == report.lines - report.header - report.continuation
    assert balanced(report)
    assert unaccounted(store, [report.batch_id]) == []
    with store.transaction() as db:
        found = db.execute(
            "SELECT * EXCLUDE (batch_id) FROM observations WHERE batch_id = ? ORDER BY line, item", [report.batch_id]
        )
        names = [column[0] for column in found.description]
        observations: dict[int, list[dict[str, Any]]] = {}
        for row in found.fetchall():
            observation = dict(zip(names, row, strict=True))
            observations.setdefault(place[observation["line"]], []).append(observation)
        quarantine = db.execute(
            "SELECT line, reason, raw FROM quarantine WHERE batch_id = ? ORDER BY line", [report.batch_id]
        ).fetchall()
    reasons = {place[number]: reason for number, reason, _ in quarantine}
    assert len(reasons) == len(quarantine)
    assert not reasons.keys() & observations.keys()
    assert reasons.keys() | observations.keys() <= set(place.values())
    assert all(reason and "\n" not in reason for reason in reasons.values())
    return Taken(report, observations, reasons, {place[number]: raw for number, _, raw in quarantine})


def contents(store: Store) -> list[list[tuple[Any, ...]]]:
    with store.transaction() as db:
        tables = ("batches", "observations", "quarantine", "pairs")
        return [db.execute(f"FROM {table} ORDER BY ALL").fetchall() for table in tables]


def check(taken: Taken, expected: Sequence[str | None]) -> None:
    """Line by line: None was accepted, a text is part of the reason for which it was not."""
    assert taken.report.lines - taken.report.header - taken.report.continuation == len(expected)
    refused = {number: reason for number, reason in enumerate(expected, start=1) if reason is not None}
    found = {number: (refused.get(number), taken.reasons.get(number)) for number in refused.keys() | taken.reasons.keys()}
    assert {n: both for n, both in found.items() if None in both or str(both[0]) not in str(both[1])} == {}
    assert taken.report.accepted + taken.report.duplicates == len(expected) - len(refused)


def refused(store: Store, data: bytes, name: str, options: PairOptions | None = None) -> str:
    """The sentence with which the whole file is refused; nothing of it may be stored."""
    with pytest.raises(FlywheelError) as raised:
        take(store, data, name, options)
    assert contents(store) == [[], [], [], []]
    sentence = str(raised.value)
    assert "othing" in sentence
    assert sentence.isprintable()
    return sentence


def clean(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def texts(observation: Mapping[str, Any]) -> set[str]:
    return {observation["text_a"], observation["text_b"]}


def with_members(members: str, base: str = '"text_a": "this", "text_b": "that", "label": 1') -> bytes:
    """A line of JSON as it is written, for what `json.dumps` would not write."""
    return f"{{{base}, {members}}}\n".encode()
