"""Rows of Parquet files: a column of any type is read, or its rows are refused."""

import json
import math
import uuid
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from flywheel.errors import UnreadableFileError
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.helpers.deliveries import GOOD, check, packed, read, refused, table_file, take

PAIR = {"text_a": ["a", "c"], "text_b": ["b", "d"], "label": [1, 0]}
NEW_YEAR = datetime(2026, 1, 1)

# Further columns of a table of two rows: what makes a row none, or None twice.
COLUMNS: dict[str, tuple[str, pa.Array, list[str | None]]] = {
    "boolean labels": ("label", pa.array([True, False]), [None, None]),
    "float labels": ("label", pa.array([1.0, 0.0]), [None, None]),
    "decimal labels": ("label", pa.array([Decimal("1.0"), Decimal("0.0")]), [None, None]),
    "label is NULL": ("label", pa.array([1, None]), [None, "label is"]),
    "label is NaN": ("label", pa.array([1.0, math.nan]), [None, "label is"]),
    "labels as a dictionary": ("label", pa.array(["same", "twice"]).dictionary_encode(), [None, "label is"]),
    "text is NULL": ("text_a", pa.array(["a", None]), [None, "text_a"]),
    "texts are numbers": ("text_a", pa.array([1, 2]), ["text_a", "text_a"]),
    "texts are lists": ("text_a", pa.array([["a"], ["b"]]), ["text_a", "text_a"]),
    "texts are bytes": ("text_a", pa.array(["é".encode(), b"\xe9"]), [None, ""]),
    "a text holds a NUL": ("text_a", pa.array(["a\0", "b"]), ["NUL", None]),
    "a text is not UTF-8": ("text_a", pa.array([b"\xff", b"z"]).view(pa.string()), ["", None]),
    "weights are decimals": ("weight", pa.array([Decimal("0.50"), Decimal("-1.00")]), [None, "weight"]),
    "weights are infinite": ("weight", pa.array([math.inf, None]), ["weight", None]),
    "positions are floats": ("position", pa.array([2.0, math.nan]), [None, None]),
    "ids are UUIDs": ("event_id", pa.array([uuid.uuid4().bytes, None], pa.uuid()), [None, None]),
    "users are a struct": ("user", pa.array([{"id": 1}, None]), ["user", None]),
    "users are times": ("user", pa.array([[NEW_YEAR], None]), ["user", None]),
    "times": ("time", pa.array([NEW_YEAR, None]), [None, None]),
    "times to the nanosecond": ("time", pa.array([1767225600000000001, None], pa.timestamp("ns")), [None, None]),
    "times of an unknown zone": ("time", pa.array([1767225600, None], pa.timestamp("s", "Mars/Phobos")), ["", None]),
    "times that no calendar holds": ("time", pa.array([10**18, 0], pa.timestamp("us")), ["", None]),
    "dates": ("time", pa.array([date(2026, 1, 1), date(9999, 1, 1)]), [None, "is in the future"]),
    "days that no calendar holds": ("time", pa.array([4_000_000, None], pa.int32()).cast(pa.date32()), ["", None]),
    "times of day": ("time", pa.array([clock(1, 2), None]), ["is not a time", None]),
    "durations": ("time", pa.array([timedelta(1), None]), ["time", None]),
    "unknown NULs": ("more", pa.array([{"deep": ["a\0"]}, None]), ["NUL", None]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_is_read_or_its_rows_are_refused(store: Store, name: str) -> None:
    field, column, expected = COLUMNS[name]
    data = table_file({**PAIR, field: column})
    if None in expected:
        check(take(store, data, "batch.parquet"), expected)
    else:
        assert f"{field} is" in refused(store, data, "batch.parquet")


def test_unknown_columns_of_any_type_are_kept(store: Store) -> None:
    unknown = {
        "binary": pa.array([b"\xff\x01", b"text"]),
        "things": pa.array([{"x": [b"\xff", None], "y": NEW_YEAR, "z": Decimal(1)}, None]),
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
        "duration": pa.array([timedelta(1), None]),
        "large": pa.array([2**64 - 1, 0], pa.uint64()),
        "infinite": pa.array([math.inf, math.nan]),
        "nothing": pa.nulls(2),
    }
    taken = take(store, table_file({**PAIR, **unknown}), "batch.parquet")
    check(taken, [None, None])
    assert json.loads(taken.only(1)["extra"]).keys() == unknown.keys() - {"nothing"}
    assert json.loads(taken.only(2)["extra"]) == {"binary": "text", "large": 0}


def test_ids_of_bytes_that_are_no_text_are_never_taken_for_one_another(store: Store) -> None:
    data = table_file({**PAIR, "event_id": pa.array([b"\xfe\x80", b"\xff\x81"])})
    assert "event_id is" in refused(store, data, "batch.parquet")


def test_a_time_in_parquet_is_the_instant_it_says(store: Store) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    columns = [
        pa.array([NEW_YEAR, None]),
        pa.array([NEW_YEAR.replace(tzinfo=UTC), None]),
        pa.array([NEW_YEAR.replace(tzinfo=UTC).astimezone(zone), None]),
        pa.array([1767225600, None], pa.timestamp("s", "Asia/Tokyo")),
        pa.array([1767225600, None]),
        pa.array(["2026-01-01", None]),
    ]
    for number, column in enumerate(columns):
        taken = take(store, table_file({**PAIR, "time": column}), f"{number}.parquet")
        assert [taken.only(row)["observed_at"] for row in (1, 2)] == [NEW_YEAR, None]


def test_a_parquet_file_of_another_schema_or_of_none_is_refused(store: Store) -> None:
    other = table_file({"question": ["a"], "answer": ["b"]})
    assert "question, answer and none called text_a or query" in refused(store, other, "batch.parquet")
    assert "is empty" in refused(store, table_file(pa.table({})), "batch.parquet")
    twice = pa.table([pa.array(["a"])] * 3 + [pa.array([1])], names=["text_a", "text_a", "text_b", "label"])
    assert "text_a" in refused(store, table_file(twice), "batch.parquet")
    assert "damaged or cut short" in refused(store, GOOD * 50, "batch.parquet")


@pytest.mark.parametrize("suffix", [".parquet", ".parquet.gz", ".parquet.zst"])
def test_what_is_no_parquet_is_refused(tmp_path: Path, suffix: str) -> None:
    for data in (b"", b"PAR1", b"not a Parquet file", b"PAR1" + b"x" * 100 + b"PAR1", GOOD * 50, table_file(PAIR)[:-9]):
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            read(tmp_path, packed(data, suffix), f"batch{suffix}")


def test_a_parquet_file_with_a_byte_changed_is_refused_or_has_all_its_rows(tmp_path: Path) -> None:
    data = table_file({**PAIR, "more": [[{"k": 1}], None]}, compression="none", store_schema=False)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 0x81]) + data[place + 1 :]
        with suppress(UnreadableFileError):
            assert len(read(tmp_path, changed, "batch.parquet")) == 2, place
