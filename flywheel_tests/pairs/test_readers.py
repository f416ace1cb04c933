"""Whatever comes in, every line of it is accepted, known already, or quarantined under its number with a reason.

A file that cannot be read at all is one sentence and leaves nothing behind; nothing else is ever raised.
"""

import json
import math
import os
import uuid
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.lines import MAX_LINE_BYTES, Unreadable
from flywheel.pairs.events.readers import understand
from flywheel.pairs.ingest import ingest_files
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.conftest import examples, verb
from flywheel_tests.helpers.deliveries import (
    EVERY_SUFFIX,
    GOOD,
    HEADER,
    KINDS,
    Record,
    check,
    clean,
    contents,
    file_of,
    packed,
    physical_lines,
    read,
    refused,
    table_file,
    take,
    texts,
    with_members,
)
from flywheel_tests.pairs.test_ingest import balanced

# ---- 1. the same lines in every format ----

# A record, and why it is none.
LINES: list[tuple[Record, str | None]] = [
    ({"text_a": "how to sync", "text_b": "sync my files", "label": "1"}, None),
    ({"text_a": "emoji 👩‍👩‍👧‍👦 🇩🇪", "text_b": "no emoji", "label": "0"}, None),
    ({"text_a": "שלום עולם", "text_b": "\u202eمرحبا\u202c بالعالم", "label": "same"}, None),
    ({"text_a": "zero\u200bwidth\ufeff here", "text_b": "soft\u00adhyphen", "label": "DIFFERENT"}, None),
    ({"text_a": "cafe\u0301 au lait", "text_b": "Z\u0335\u0321a\u0334l\u0338g\u0337o\u0336", "label": "TRUE"}, None),
    ({"text_a": 'he said "hi", twice', "text_b": "tab\there; 'single'", "label": "false"}, None),
    ({"text_a": "two\nlines\r\nor\n\nthree", "text_b": "one line\n", "label": "1"}, None),
    ({"text_a": "[1]", "text_b": '{"text_a": 1}', "label": "1"}, None),
    ({"text_a": "NULL", "text_b": "nan", "label": "1"}, None),
    ({"text_a": "=1+1", "text_b": "-- DROP TABLE pairs; '", "label": "0"}, None),
    ({"text_a": "\\u0000 is an escape", "text_b": "C:\\new\\table", "label": "0"}, None),
    ({"text_a": "x" * 10_000, "text_b": "y", "label": "1", "weight": 0.25, "position": 3}, None),
    ({"text_a": "a list", "text_b": "a list of results", "label": "1", "event_id": "e1", "user": "u", "model": "m"}, None),
    ({"text_a": "x" * 10_001, "text_b": "y", "label": "1"}, "text_a"),
    ({"text_a": "yes", "text_b": "no", "label": "yes"}, "none of 1 or 0"),
    ({"text_b": "no text_a", "label": "1"}, "text_a"),
    ({"text_a": "no text_b", "label": "1"}, "text_b"),
    ({"text_a": "no", "text_b": "label"}, "label is empty"),
    ({"text_a": "same  Text", "text_b": "Same text", "label": "1"}, "the same question"),
    ({"text_a": "caf\u00e9", "text_b": "Cafe\u0301", "label": "1"}, "the same question"),
    ({"text_a": "zero\u200bwidth", "text_b": "zerowidth", "label": "1"}, "the same question"),
    ({"text_a": "\u200b\u2060", "text_b": "invisible", "label": "1"}, "is empty"),
    ({"text_a": "blank", "text_b": " \t ", "label": "1"}, "text_b is empty"),
    ({"text_a": "", "text_b": "empty", "label": "1"}, "text_a is empty"),
    ({"text_a": "a\0b", "text_b": "NUL", "label": "1"}, "NUL"),
    ({"text_a": "negative", "text_b": "weight", "label": "1", "weight": -1.0}, "weight"),
    ({"text_a": "no", "text_b": "weight", "label": "1", "weight": 0.0}, "weight"),
    ({"text_a": "huge", "text_b": "weight", "label": "1", "weight": 1e308}, "weight"),
    ({"text_a": "position", "text_b": "zero", "label": "1", "position": 0}, "position"),
    ({"text_a": "other", "text_b": "kind", "label": "1", "kind": "guessed"}, "kind"),
    ({"text_a": "other", "text_b": "type", "label": "1", "type": "like"}, 'type is "like", none of label'),
    ({"text_a": "bad", "text_b": "time", "label": "1", "time": "epoch"}, 'time "epoch" is not a time'),
    ({"text_a": "the last", "text_b": "line", "label": "1"}, None),
]


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
def test_the_same_lines_are_stored_and_refused_in_every_format(store: Store, suffix: str) -> None:
    data = file_of([record for record, _ in LINES], suffix)
    taken = take(store, data, f"batch{suffix}")
    check(taken, [reason for _, reason in LINES])
    for number, (record, reason) in enumerate(LINES, start=1):
        if reason is None:
            observation = taken.only(number)
            assert texts(observation) == {clean(record["text_a"]), clean(record["text_b"])}
            assert observation["label"] == (record["label"].lower() in ("1", "true", "same"))
            assert (observation["weight"], observation["position"]) == (record.get("weight", 1.0), record.get("position"))
    before = contents(store)
    (again,) = ingest_files(store, [store.path.parent / "delivered" / f"batch{suffix}"])
    assert (again.lines, again.accepted, again.quarantined) == (taken.report.lines, 0, taken.report.quarantined)
    assert balanced(again)
    assert contents(store) == before


# ---- lines of JSON ----

LABELS = {
    **dict.fromkeys(("1", "true", "1.0", "1e0", '"1"', '"1.0"', '"TRUE"', '"true"', '"Same"', '" same "'), 1),
    **dict.fromkeys((r'"\ttrue\r\n"', r'"\u00a0same"', r'"\u20281"'), 1),
    **dict.fromkeys(("0", "false", "0.0", "-0.0", '"0"', '"0.0"', '"False"', '"different"', '"DIFFERENT "'), 0),
    **dict.fromkeys(("2", "-1", "0.5", "11", "1e400", "NaN", "Infinity", "null", "[]", "[1]", "{}"), None),
    **dict.fromkeys(('""', '"yes"', '"no"', '"2"', '"11"', '"truesame"', '"not same"', '"nan"', r'"1\u0000"'), None),
}


def test_a_label_is_what_it_says_or_the_line_is_refused(store: Store) -> None:
    said = PairOptions(max_refused=1.0, labels={"1": 1, "true": 1, "same": 1, "0": 0, "false": 0, "different": 0})
    lines = (f'{{"text_a": "a", "text_b": "b", "label": {label}}}\n'.encode() for label in LABELS)
    taken = take(store, b"".join(lines), options=said)
    stored = {label: taken.only(n)["label"] if n in taken.observations else None for n, label in enumerate(LABELS, start=1)}
    assert stored == LABELS


# The rest of a line that is an event so far, and why it is none.
MEMBERS: list[tuple[str, str | None]] = [
    *((f'"weight": {weight}', None) for weight in ("null", "1", "0.001", "1000", "5e-324", "1e2", '"1"', '" 0.5 "', '""')),
    *((f'"weight": {w}', "weight") for w in ("0", "-0.0", "-1", "1000.001", "1e308", "1e-400", "true", "[1]", "{}")),
    *((f'"weight": {w}', "weight") for w in ('"0"', '"1e400"', '"nan"', '"inf"', '"much"', '"1,5"')),
    *((f'"weight": {weight}', "not JSON") for weight in ("NaN", "1e400", "-Infinity", "01", "0x1")),
    *((f'"position": {position}', None) for position in ("null", "1", "2.0", "1e6", '"1"', '"2.0"')),
    *((f'"position": {p}', "position") for p in ("0", "-1", "1.5", "1000001", "99999999999999999999999", '"0"', "true")),
    *((f'"kind": {kind}', None) for kind in ("null", '"explicit"', '"implied"', '""')),
    *((f'"kind": {kind}', "kind") for kind in ('"Explicit"', "1", "[]")),
    *((f'"type": {kind}', None) for kind in ("null", '"label"', '""')),
    *((f'"type": {kind}', "none of label") for kind in ('"Label"', '"x"', "0", "1.5", "true", "[]", '{"a": 1}')),
    *((f'"type": "{kind}"', "is empty") for kind in ("search", "click", "skip", "thumb")),
    *((f'"user": {user}', None) for user in ("null", '"u"', '""', "7", "18446744073709551616", f'"{"u" * 200}"')),
    *((f'"{field}": {v}', field) for field in ("user", "event_id", "model") for v in ("1.5", "true", "[]", f'"{"u" * 201}"')),
    *((f'"more": {more}', None) for more in ("null", "1" * 40, "[[], {}]", r'"\\u0000"', r'"\ud83d\ude00"', '{"": ""}')),
    *((f'"more": {more}', "not JSON") for more in ("1e400", r'"\ud83d"', "undefined", '"\t"', "[1,]", "1, ", "'x'")),
    *((f'"more": {more}', "NUL") for more in (r'"\u0000"', r'{"\u0000": 1}', r'["\\\u0000"]')),
    ('"more": ' + "[" * 100 + "]" * 100, None),
    *(('"more": ' + '{"a": ' * depth + "1" + "}" * depth, "") for depth in (300, 1_000, 100_000)),
    *(('"more": ' + "[" * depth + "]" * depth, "") for depth in (300, 1_000, 100_000)),
    *((f'"{field}": ' + "[" * 300 + "]" * 300, "") for field in ("user", "time", "type", "kind", "weight")),
]


def test_every_field_holds_what_the_schema_says_or_the_line_is_refused(store: Store) -> None:
    taken = take(store, b"".join(with_members(members) for members, _ in MEMBERS))
    check(taken, [reason for _, reason in MEMBERS])


def test_of_a_field_that_stands_twice_the_last_counts_as_it_was_validated(store: Store) -> None:
    search = '"query": "q", "shown": ["first", "second"]'
    taken = take(store, b"".join([
        with_members('"label": 0'),
        with_members('"label": "1"', base='"text_a": "this", "text_b": "that", "label": "perhaps"'),
        with_members('"text_a": "these"'),
        with_members('"weight": 7', base='"text_a": "this", "text_b": "that", "label": 1, "weight": -5'),
        with_members('"type": "label"', base='"type": "search", "text_a": "this", "text_b": "that", "label": 1'),
        with_members('"type": "search", "clicked": [1]', base=f'"type": "label", {search}'),
        with_members('"clicked": [2]', base=f'"type": "search", {search}, "clicked": []'),
        with_members('"clicked": [1]', base=f'"type": "search", {search}, "clicked": [2000000000]'),
        with_members('"more": 1, "more": 2'),
        with_members('"label": "perhaps"'),
    ]))  # fmt: skip
    check(taken, [None] * 9 + ["none of 1 or 0"])
    assert [taken.only(number)["label"] for number in (1, 2)] == [0, 1]
    assert texts(taken.only(3)) == {"these", "that"}
    assert taken.only(4)["weight"] == 7
    assert [taken.only(number)["type"] for number in (5, 6)] == ["label", "search"]
    assert [len(taken.observations[number]) for number in (6, 7, 8)] == [1, 2, 1]
    assert taken.only(9)["extra"] == '{"more":2}'


def test_what_stands_around_json_makes_a_line_unreadable(store: Store) -> None:
    good = GOOD.rstrip()
    lines = [
        (good, None),
        (b"  " + good + b" \t\r", None),
        (good.replace(b", ", b",\r"), None),
        (good + b"\r" + good, "not JSON"),
        (good + good, "not JSON"),
        (good + b"\x1a", "not JSON"),
        (good + b"\0", "NUL"),
        (b"// " + good, "not JSON"),
        (good[:-1], "not JSON"),
        (b"", "blank"),
        (b" \t\r", "blank"),
        (b"\0", "NUL"),
        (b"null", "not an object"),
        (b"[" + good + b"]", "not an object"),
        (b'"text"', "not an object"),
        (b"1", "not an object"),
        (b"true", "not an object"),
        (b"{}", "text_a is empty"),
        (b"\xc3\x28", "not UTF-8"),
        (good.replace(b"flywheel", b"\xed\xa0\x80"), "not UTF-8"),
        (good + b"\r" * MAX_LINE_BYTES + b"garbage", "longer than"),
        (b"x" * (MAX_LINE_BYTES + 2), "longer than"),
        (good, None),
    ]
    check(take(store, b"\n".join(text for text, _ in lines)), [reason for _, reason in lines])


# ---- encodings and lines, in every format that has lines ----


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_byte_order_mark_costs_nothing(store: Store, suffix: str) -> None:
    check(take(store, b"\xef\xbb\xbf" + file_of([LINES[0][0]] * 2, suffix), f"batch{suffix}"), [None, None])


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_a_line_that_is_no_utf_8_among_others_that_are_costs_itself(store: Store, suffix: str) -> None:
    records = [{**LINES[0][0], "text_a": "na\u00efve"}, {**LINES[0][0], "text_a": "caf\u00e9"}, LINES[0][0]]
    first, *others = file_of(records, suffix).decode().replace("\\u00ef", "\u00ef").replace("\\u00e9", "\u00e9").split("caf")
    data = first.encode() + b"".join(b"caf" + other.encode("latin-1") for other in others)
    check(take(store, data, f"batch{suffix}"), [None, "not UTF-8", None])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".csv", ".tsv.zst"])
def test_a_line_of_ten_megabytes_costs_itself_only(store: Store, suffix: str) -> None:
    records = [LINES[0][0], {**LINES[0][0], "more": "x" * 10_000_000}, LINES[0][0]]
    taken = take(store, file_of(records, suffix), f"batch{suffix}")
    check(taken, [None, "longer than", None])
    assert len(taken.raws[2]) <= 1_000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv"])
def test_lines_end_as_on_any_machine(store: Store, tmp_path: Path, suffix: str) -> None:
    data = file_of([LINES[0][0], LINES[1][0], LINES[14][0]], suffix).replace(b"\r\n", b"\n")
    expected = [None, None, "none of 1 or 0"]
    check(take(store, data.replace(b"\n", b"\r\n"), f"windows{suffix}"), expected)
    check(take(store, data.removesuffix(b"\n"), f"unfinished{suffix}"), expected)
    check(take(store, data.replace(b"\n", b"\r\r\n"), f"twice{suffix}"), expected)
    old = data.replace(b"\n", b"\r")
    if suffix == ".jsonl":
        assert "not JSON" in refused(Store(tmp_path / "other.duckdb"), old, f"old{suffix}")
    else:
        check(take(store, old, f"old{suffix}"), expected)


@pytest.mark.parametrize("suffix", EVERY_SUFFIX)
def test_a_file_without_lines_is_called_empty(store: Store, suffix: str) -> None:
    if ".parquet" in suffix:
        nothing = [table_file(pa.table({"text_a": pa.array([], pa.string())}))]
    else:
        nothing = [b"", b"\n\n", b"\xef\xbb\xbf"] + ([HEADER, HEADER.rstrip()] if ".csv" in suffix else [])
    for content in nothing:
        assert f"batch{suffix} is empty" in refused(store, packed(content, suffix), f"batch{suffix}")


# ---- compressed files ----


COMPRESSED = [suffix for suffix in EVERY_SUFFIX if suffix.endswith((".gz", ".zst"))]


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_a_compressed_file_that_is_cut_in_half_is_refused_whole(store: Store, suffix: str) -> None:
    records = [{"text_a": f"question {uuid.uuid4()}", "text_b": "other", "label": "1"} for _ in range(10_000)]
    data = file_of(records, suffix)
    assert f"batch{suffix} is damaged or cut short" in refused(store, data[: len(data) // 2], f"batch{suffix}")


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_wherever_a_compressed_file_is_cut_it_is_refused(tmp_path: Path, suffix: str) -> None:
    data = file_of([LINES[0][0], LINES[1][0]], suffix)
    for kept in range(1, len(data)):
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            read(tmp_path, data[:kept], f"batch{suffix}")


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_every_part_of_a_compressed_file_is_read_and_nothing_else_is_taken_for_one(tmp_path: Path, suffix: str) -> None:
    good = packed(GOOD * 3, suffix)
    assert len(read(tmp_path, good + packed(b"", suffix) + packed(GOOD * 4, suffix), f"batch{suffix}")) == 7
    for data in (good + b"garbage", good + b"\0" * 512, GOOD, b"\n", good[::-1], good[1:]):
        with pytest.raises(UnreadableFileError, match="damaged or cut short"):
            read(tmp_path, data, f"batch{suffix}")


def test_a_compressed_file_under_a_plain_name_is_refused(store: Store) -> None:
    refused(store, packed(GOOD * 5, ".gz"), "compressed.jsonl")


# ---- CSV ----

UNCLOSED = b'"never,closed,1\n'


@pytest.mark.parametrize("good", [b"a,b,1\n", b'"a","b",1\n', b'"a","b","1"\n'], ids=["bare", "quoted", "all quoted"])
@pytest.mark.parametrize("place", [0, 3, 6], ids=["first", "middle", "last"])
@pytest.mark.parametrize("unclosed", [UNCLOSED, b'never,"closed,1\n', b'never,closed,"1\n'], ids=["1st", "2nd", "3rd"])
def test_a_quote_that_never_closes_costs_its_own_line(tmp_path: Path, good: bytes, place: int, unclosed: bytes) -> None:
    found = read(tmp_path, HEADER + good * place + unclosed + good * (6 - place), "batch.csv")
    assert [each.number for each in found] == list(range(2, 9))
    stray = found.pop(place)
    if b'"' not in good and unclosed.endswith(b",1\n"):  # where nothing else is quoted, it is a character like any other
        assert stray.record == dict(zip(("text_a", "text_b", "label"), unclosed.decode().rstrip().split(","), strict=True))
    else:
        assert isinstance(stray, Unreadable)
        assert ("quote" in stray.reason, stray.raw) == (True, unclosed.rstrip())
    assert {(tuple(each.record.items()), each.raw) for each in found} == {
        ((("text_a", "a"), ("text_b", "b"), ("label", "1")), good.rstrip())
    }


def test_a_quote_that_never_closes_costs_its_own_line_in_a_long_file_too(store: Store) -> None:
    taken = take(store, HEADER + (b'"a",b,1\n' * 150 + UNCLOSED) * 2 + b"a,b,1\n" * 150, "batch.csv")
    assert sorted(taken.reasons) == [151, 302]
    assert (taken.report.lines, taken.report.header, taken.report.continuation) == (453, 1, 0)


def test_a_line_with_too_many_or_too_few_fields_is_refused(store: Store) -> None:
    lines = [
        (b"a,b,1", None),
        (b"a,b", "2 cells"),
        (b"a,b,1,", "4 cells"),
        (b"a,b,1,0", "4 cells"),
        (b"", "blank"),
        (b"  ", "blank"),
        (b",,", "text_a is empty"),
        (b"a;b;1", "1 cells"),
        (b'"a\n\nb",c,1', None),
        (b'"a ""quoted"" word",b,1', None),
        (b'say "hi",b,1', None),
        (b"a\rb,c,1", ""),
        (b"a\0,b,1", "NUL"),
        (b'"a', "quote"),
        (b'b\0",c,1', "NUL"),
        (b"a,b,1", None),
    ]
    check(take(store, HEADER + b"\n".join(text for text, _ in lines), "batch.csv"), [reason for _, reason in lines])


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"\n", "header"),
        (b"\n" + HEADER, "header"),
        (b'"text_a,text_b,label\n', "header"),
        (b"\xe9" + HEADER, "none called text_a or query"),
        (b"a,b,1\n", "none called text_a or query"),
        (b"TEXT_A,TEXT_B,LABEL\n", "none called text_a or query"),
        (b"text_a,text_a,text_b,label\n", "text_a"),
        (b"text_a,text_b,label, label\n", "label"),
    ],
)
def test_a_header_that_names_no_columns_of_ours_refuses_the_file(store: Store, header: bytes, says: str) -> None:
    assert says in refused(store, header + b"a,b,1\n" * 3, "batch.csv")


def test_numbers_and_lists_in_cells_are_read_as_such(store: Store) -> None:
    cells: list[tuple[str, str, str | None]] = [
        ("0.5", "3", None), ("1", "3.0", None), ("", "", None), (" 2 ", " 4 ", None), ("1e-3", "1e1", None),
        ("nan", "1", "weight"), ("inf", "1", "weight"), ("1e400", "1", "weight"), ("0", "1", "weight"),
        ("-1", "1", "weight"), ("much", "1", "weight"), ("1", "1.5", "position"), ("1", "0", "position"),
        ("1", "inf", "position"), ("1", "first", "position"), ("1,5", "1", "weight"),
    ]  # fmt: skip
    data = "text_a,text_b,label,weight,position\n" + "".join(f'a,b,1,"{w}",{p}\n' for w, p, _ in cells)
    taken = take(store, data.encode(), "batch.csv")
    check(taken, [reason for *_, reason in cells])
    assert [taken.only(number)["weight"] for number in range(1, 6)] == [0.5, 1, 1, 2, 0.001]
    assert [taken.only(number)["position"] for number in range(1, 6)] == [3, 3, None, 4, 10]


# ---- Parquet ----

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


# ---- names of files ----


@pytest.mark.parametrize(
    "name", ["it's.jsonl", "ünï 😀.jsonl", "two\nlines.jsonl", "-x.JSONL", "$part {0} %s.jsonl", "a;b--.jsonl"]
)
def test_a_file_may_have_any_name(store: Store, name: str) -> None:
    assert take(store, GOOD, name).report.file == name


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    check(take(Store(tmp_path / "it's $part {0}" / "flywheel.duckdb"), GOOD), [None])


@pytest.mark.parametrize(
    "name", [os.fsdecode(b"\xff.jsonl"), os.fsdecode(b"\xff.csv.gz"), ".jsonl", "a.txt", "a.gz", "a.jsonl.gz.gz"]
)
def test_a_name_that_cannot_be_stored_or_says_no_format_is_one_sentence(store: Store, name: str) -> None:
    refused(store, packed(GOOD, name), name)


@pytest.mark.parametrize("path", [Path("x" * 5_000 + ".jsonl"), Path("a\0.jsonl"), Path("/"), Path("/dev/null/x.csv")])
def test_a_path_that_leads_to_no_file_is_one_sentence(store: Store, path: Path) -> None:
    with pytest.raises(UnreadableFileError, match=r"is not a file|is a folder"):
        ingest_files(store, [path])


# ---- columns of other names ----

THEIRS = [
    {"q1": "this", "q2": "that", "dup": "same", "w": 2.5, "p": 3, "note": "kept"},
    {"q1": "these", "q2": "those", "dup": "perhaps", "w": 1.5, "p": 1, "note": "kept"},
]
COLUMNS_OF_THEIRS = {"text_a": "q1", "text_b": "q2", "label": "dup", "weight": "w", "position": "p"}


@pytest.mark.parametrize("suffix", KINDS)
def test_columns_of_other_names_are_read_as_they_are_mapped(store: Store, suffix: str) -> None:
    data = file_of(THEIRS, suffix)
    taken = take(store, data, f"batch{suffix}", PairOptions(columns=COLUMNS_OF_THEIRS))
    check(taken, [None, 'dup is "perhaps", none of 1 or 0'])
    observation = taken.only(1)
    assert (texts(observation), observation["label"]) == ({"this", "that"}, 1)
    assert (observation["weight"], observation["position"], observation["extra"]) == (2.5, 3, '{"note":"kept"}')


@pytest.mark.parametrize("suffix", KINDS)
def test_lists_in_columns_of_other_names_are_read_too(store: Store, suffix: str) -> None:
    data = file_of([{"t": "search", "q": "query", "results": ["one", "two"], "hits": [2]}], suffix)
    mapped = {"type": "t", "query": "q", "shown": "results", "clicked": "hits"}
    taken = take(store, data, f"batch{suffix}", PairOptions(columns=mapped))
    assert [each["label"] for each in taken.observations[1]] == [0, 1]


@pytest.mark.parametrize("suffix", KINDS)
def test_two_columns_can_swap_their_names(store: Store, suffix: str) -> None:
    data = file_of([{"text_a": "same", "text_b": "right", "label": "left"}], suffix)
    swapped = PairOptions(columns={"text_a": "label", "label": "text_a"})
    taken = take(store, data, f"batch{suffix}", swapped)
    check(taken, [None])
    assert (texts(taken.only(1)), taken.only(1)["label"]) == ({"left", "right"}, 1)


@pytest.mark.parametrize("suffix", KINDS)
def test_a_wrong_mapping_loses_nothing_and_a_right_one_reads_it(store: Store, suffix: str) -> None:
    data = file_of([THEIRS[0], {**THEIRS[0], "q2": "there", "dup": "different"}, THEIRS[1]], suffix)
    wrong = PairOptions(columns={**COLUMNS_OF_THEIRS, "text_b": "nowhere"})
    assert "nowhere is empty" in refused(store, data, f"batch{suffix}", wrong)
    right = PairOptions(columns=COLUMNS_OF_THEIRS)
    check(take(store, data, f"batch{suffix}", right), [None, None, "none of 1 or 0"])


@pytest.mark.parametrize("suffix", KINDS)
def test_a_file_stored_under_one_mapping_is_read_again_under_another(store: Store, suffix: str) -> None:
    data = file_of([{"text_a": "this", "text_b": "that", "other": "there", "label": "1"}], suffix)
    take(store, data, f"batch{suffix}")
    taken = take(store, data, f"batch{suffix}", PairOptions(columns={"text_b": "other"}))
    assert texts(taken.only(1)) == {"this", "there"}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_without_the_mapped_column_is_refused(store: Store, suffix: str) -> None:
    nowhere = PairOptions(columns={**COLUMNS_OF_THEIRS, "text_a": "nowhere"})
    assert "none called nowhere or query" in refused(store, file_of(THEIRS, suffix), f"batch{suffix}", nowhere)


def test_a_table_of_other_names_is_read_after_doing_what_its_refusal_says(tmp_path: Path) -> None:
    file, home = tmp_path / "theirs.csv", tmp_path / "home"
    file.write_bytes(b"q1,q2,dup\nthis,that,same\n")
    asked = verb("ingest", file, "--home", home)
    assert asked.returncode == 1
    sentence = " ".join(asked.stderr.split())
    section, _, line = sentence.partition("in the home's flywheel.toml: ")[2].removesuffix(".").partition(" and below it ")
    for name in ("q1", "q2", "dup"):
        line = line.replace('"..."', f'"{name}"', 1)
    home.mkdir(exist_ok=True)
    (home / "flywheel.toml").write_text(f"{section}\n{line}\n")
    done = verb("ingest", file, "--home", home, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["accepted"] == 1


def test_a_mapping_of_a_field_that_no_event_has_is_one_sentence(store: Store) -> None:
    sentence = refused(store, GOOD, "batch.jsonl", PairOptions(columns={"text": "q1", "label": "dup"}))
    assert sentence.startswith("Nothing was ingested: pairs.columns names text, which no event has;")


# ---- 2. anything at all ----

nasty = st.text(st.sampled_from('",\n\r\t{}[]:\\ab01\x00é\ufeff "'), max_size=60).map(str.encode)


@hypothesis_settings(max_examples=300, deadline=None)
@given(data=nasty | st.binary(max_size=60), suffix=st.sampled_from([".jsonl", ".csv", ".tsv"]))
@example(data=b'"a\n"b","c",1\n"', suffix=".csv")
@example(data=b'a,"b\nc,d,1\n"\n\n', suffix=".csv")
def test_every_byte_of_a_text_file_comes_out_once(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    header = b"" if suffix == ".jsonl" else HEADER if suffix == ".csv" else HEADER.replace(b",", b"\t")
    path.write_bytes(header + data)
    try:
        (found,) = understand(
            [path], [path.name], PairOptions(encoding="utf-8-sig" if data[:3] == b"\xef\xbb\xbf" else "utf-8")
        )
    except UnreadableFileError:
        return
    come_out = [part for line in found.batch.lines for part in (line.raw or b"").split(b"\n")]
    without_mark = [[each.replace(b"\xef\xbb\xbf", b"") for each in lines] for lines in (come_out, physical_lines(data))]
    assert without_mark[0] == without_mark[1]


@hypothesis_settings(max_examples=examples(20), deadline=None)
@given(data=nasty | st.binary(max_size=80), suffix=st.sampled_from(EVERY_SUFFIX), whole=st.booleans())
def test_arbitrary_bytes_are_refused_or_accounted_for_and_the_second_time_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str, whole: bool
) -> None:
    store = Store(tmp_path_factory.mktemp("home") / "flywheel.duckdb")
    data = packed(data, suffix) if whole else data
    with suppress(UnreadableFileError):
        taken = take(store, data, f"batch{suffix}")
        before = contents(store)
        (again,) = ingest_files(store, [store.path.parent / "delivered" / f"batch{suffix}"])
        assert (again.lines, again.accepted, again.quarantined) == (taken.report.lines, 0, taken.report.quarantined)
        assert contents(store) == before
        return
    assert contents(store) == [[], [], [], []]


some_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["A question", "a  question", "\u200b", '"', ",", "[1]", "a\r\nb", "NULL"]
)
some_record = st.fixed_dictionaries(
    {"text_a": some_text, "text_b": some_text, "label": st.sampled_from(["0", "1", "same", "False", "2", "maybe"])},
    optional={
        "event_id": st.sampled_from(["e1", "e2"]),
        "user": st.sampled_from(["u1", "7"]),
        "kind": st.sampled_from(["explicit", "implied", "?"]),
        "weight": st.floats(allow_nan=False, allow_infinity=False),
        "position": st.integers(-1, 1_000_001),
        "time": st.sampled_from(["2026-01-01", "2026-01-01T12:00:00+02:00", "1767268800", "soon"]),
        "more": st.sampled_from(["x", "é"]),
    },
)


@hypothesis_settings(max_examples=7, deadline=None)
@given(records=st.lists(some_record, min_size=1, max_size=12))
def test_the_same_records_are_the_same_observations_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]
) -> None:
    found = []
    sound = {"text_a": "always", "text_b": "the same", "label": "1"}
    said = PairOptions(max_refused=1.0, labels={"1": 1, "same": 1, "0": 0, "false": 0})
    for suffix in KINDS:
        store = Store(tmp_path_factory.mktemp("home") / "flywheel.duckdb")
        taken = take(store, file_of([sound, *records], suffix), f"batch{suffix}", said)
        observations = [
            # of lines without an id, the event is known by batch and line
            {field: value for field, value in each.items() if field not in ("event", "line")}
            for several in taken.observations.values()
            for each in several
        ]
        found.append((taken.report.duplicates, sorted(taken.reasons), observations))
    assert found[0] == found[1] == found[2]
