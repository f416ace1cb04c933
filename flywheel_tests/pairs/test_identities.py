"""Ids are text as written, the same through every carrier: so that one event is one, and a user is forgotten wherever he is."""

import json
import os
import uuid
from collections.abc import Mapping
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.forget import Selection, find, forget
from flywheel.pairs.inbox import take_inbox
from flywheel.pairs.options import PairOptions
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pipeline.forgetting import forget as forget_everywhere
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.clumps import clump_lines
from flywheel_tests.helpers.deliveries import check, file_of, json_file, refused, table_file, take, with_members
from flywheel_tests.pairs.test_ingest import rows

BIG = 2**53

# ---- JSON ----

IN_JSON: dict[str, str | None] = {
    **dict.fromkeys(("17", "17.0", '"17"', '" 17 "', "1.7e1", r'"\t17\n"'), "17"),
    **dict.fromkeys(('{"$numberLong": "17"}', '{"$numberInt": "17"}'), "17"),
    **dict.fromkeys(("4711.0", "4.711e3", "4711", "47110e-1"), "4711"),
    **dict.fromkeys(("-0", "0", "-0.0", '"0"'), "0"),
    "-17": "-17", '"17.0"': "17.0", '"017"': "017", '"1.10"': "1.10", '"1.1"': "1.1", '"17,0"': "17,0", '"u\\u0301"': "u\u0301",
    "9223372036854775808": "9223372036854775808", "18446744073709551617": "18446744073709551617",
    "1" * 200: "1" * 200, f"-{'9' * 30}": f"-{'9' * 30}", '{"$oid": "65f0c0ffee"}': "65f0c0ffee",
    **dict.fromkeys(("null", '""', '" "'), ""),
    **dict.fromkeys(("1.5", "true", "[17]", '{"id": 17}', "1" * 201), None),
    **dict.fromkeys(("9007199254740992.0", "1e22", "12345678901234567890.0", '"1.23E+19"', '"1,23E+19"', '"1.2e+19"'), None),
}  # fmt: skip


def test_an_id_in_json_is_the_text_that_is_written(store: Store) -> None:
    taken = take(store, b"".join(with_members(f'"user": {each}, "model": {each}') for each in IN_JSON))
    stored = {each: (taken.observations[n][0] if n in taken.observations else None) for n, each in enumerate(IN_JSON, start=1)}
    assert {each: found and (found["user_id"] or "", found["model"] or "") for each, found in stored.items()} == {
        each: None if text is None else (text, text) for each, text in IN_JSON.items()
    }
    assert [reason for reason in taken.reasons.values() if not reason.startswith(("user is ", "model is "))] == []
    digits = [reason for reason in taken.reasons.values() if "digits" in reason or "shortened" in reason]
    assert len(digits) == 6
    assert all("as text" in reason for reason in digits)


def test_ids_beyond_64_bits_that_differ_in_their_last_digit_are_two(store: Store) -> None:
    ids = [18446744073709551616 + n for n in range(4)]
    taken = take(store, b"".join(with_members(f'"event_id": {n}, "more": {{"deep": [{n}]}}') for n in ids))
    assert (taken.report.accepted, taken.report.duplicates) == (4, 0)
    assert [json.loads(taken.only(n)["extra"]) for n in range(1, 5)] == [{"more": {"deep": [n]}} for n in ids]


# ---- cells ----

CELLS: dict[str, tuple[list[str], list[str | None]]] = {
    "whole": (["17", " 17 ", "18"], ["17", "17", "18"]),
    "pandas, with gaps": (["17.0", "", "18.0"], ["17", None, "18"]),
    "both": (["17.0", "17", "18"], ["17", "17", "18"]),
    "leading zeros": (["017", "17", "0017"], ["017", "17", "0017"]),
    "leading zeros as floats": (["017.0", "17.0", "18"], ["017.0", "17.0", "18"]),
    "versions": (["1.10", "1.1", "1.0"], ["1.10", "1.1", "1.0"]),
    "names among them": (["17.0", "u-17", "18"], ["17.0", "u-17", "18"]),
    "two places": (["17.00", "18.00", "17.0"], ["17.00", "18.00", "17.0"]),
    "negative": (["-17.0", "-17", "-0.0"], ["-17.0", "-17", "-0.0"]),
    "NULL of a database": (["17", r"\N", "18"], ["17", None, "18"]),
    "long": (["12345678901234567890123", "12345678901234567890124", "5"],
             ["12345678901234567890123", "12345678901234567890124", "5"]),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("name", CELLS)
def test_an_id_in_a_cell_is_the_text_that_is_written_but_for_what_made_it_a_float(store: Store, name: str, suffix: str) -> None:
    cells, ids = CELLS[name]
    between = "," if suffix == ".csv" else "\t"
    data = "".join(
        f"{between.join(row)}\n" for row in [("text_a", "text_b", "label", "user"), *(("a", "b", "1", c) for c in cells)]
    )
    taken = take(store, data.encode(), f"batch{suffix}")
    assert [taken.only(n)["user_id"] for n in range(1, 4)] == ids


@pytest.mark.parametrize(
    "cell", ["1.23E+19", "1,23E+19", "1.2345678901234567e+19", "1.23e+05", f"{BIG}.0", "12345678901234567890.0"]
)
def test_an_id_that_has_lost_digits_is_refused_and_named(store: Store, cell: str) -> None:
    taken = take(store, f"text_a;text_b;label;user\na;b;1;17.0\na;b;1;{cell}\na;b;1;18\n".encode(), "batch.csv")
    assert list(taken.reasons) == [2]
    assert f"user is {cell}" in taken.reasons[2]
    assert taken.reasons[2].endswith("ids as text")


# ---- Parquet ----

GUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
IN_PARQUET: dict[str, tuple[pa.Array, list[str | None]]] = {
    "int64": (pa.array([17, None]), ["17", ""]),
    "uint64": (pa.array([2**64 - 1, 17], pa.uint64()), [str(2**64 - 1), "17"]),
    "float64": (pa.array([17.0, float("nan")]), ["17", ""]),
    "float64, exact": (pa.array([float(BIG - 1), float(BIG)]), [str(BIG - 1), None]),
    "float32": (pa.array([17.0, 2.0**24], pa.float32()), ["17", None]),
    "float16": (pa.array([17.0, 2.0**11], pa.float16()), ["17", None]),
    "fractions": (pa.array([17.5, 17.0]), [None, "17"]),
    "decimals": (pa.array([Decimal("17"), Decimal("12345678901234567890123")]), ["17", "12345678901234567890123"]),
    "decimals with places": (pa.array([Decimal("17.00"), Decimal("17.50")]), ["17", None]),
    "texts": (pa.array([" 17 ", "17.0"]), ["17", "17.0"]),
    "a dictionary": (pa.array(["17", "017"]).dictionary_encode(), ["17", "017"]),
    "UUIDs": (pa.array([GUID.bytes, None], pa.uuid()), [str(GUID), ""]),
    "bytes of text": (pa.array([b"17", b"\xff"]), ["17", None]),
    "booleans": (pa.array([None, True]), ["", None]),
}  # fmt: skip


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", IN_PARQUET)
def test_an_id_in_parquet_is_the_text_of_what_is_there(store: Store, name: str, nested: bool) -> None:
    column, ids = IN_PARQUET[name]
    if nested:
        column = pa.StructArray.from_arrays([column], ["id"])
    data = table_file({"text_a": ["a", "b"], "text_b": ["c", "d"], "label": [1, 0], "user": column})
    options = PairOptions(max_refused=1.0, columns={"user": "user.id"} if nested else {})
    taken = take(store, data, "batch.parquet", options)
    stored = [(taken.only(n)["user_id"] or "") if n in taken.observations else None for n in (1, 2)]
    assert stored == ids
    assert all(f"{'user.id' if nested else 'user'} is" in reason for reason in taken.reasons.values())


# ---- one event through any two carriers ----


def carriers(numbers: list[int]) -> Mapping[str, bytes]:
    cells = [f"one {n},other {n},1,{{}}" for n in numbers]
    columns = {"text_a": [f"one {n}" for n in numbers], "text_b": [f"other {n}" for n in numbers], "label": [1] * len(numbers)}

    def json_lines(spelled: str) -> bytes:
        return "".join(f'{{"text_a": "one {n}", "text_b": "other {n}", "label": 1, "event_id": {spelled.format(n)}}}\n'
                       for n in numbers).encode()  # fmt: skip

    def csv(spelled: str) -> bytes:
        lines = [cell.format(spelled.format(n)) for cell, n in zip(cells, numbers, strict=True)]
        return "\n".join(["text_a,text_b,label,event_id", *lines, ""]).encode()

    def parquet(kind: pa.DataType) -> bytes:
        return table_file({**columns, "event_id": pa.array(numbers).cast(kind)})

    return {
        "whole.jsonl": json_lines("{}"), "floats.jsonl": json_lines("{}.0"), "texts.jsonl": json_lines('"{}"'),
        "blanks.jsonl": json_lines('" {} "'),
        "long.json": b"[" + json_lines('{{"$numberLong": "{}"}}').replace(b"}\n{", b"},{") + b"]",
        "whole.csv": csv("{}"), "floats.csv": csv("{}.0"), "quoted.csv": csv('"{}"'),
        "int64.parquet": parquet(pa.int64()), "float64.parquet": parquet(pa.float64()),
        "float32.parquet": parquet(pa.float32()),
        "decimals.parquet": parquet(pa.decimal128(30, 2)), "texts.parquet": parquet(pa.string()),
        "uint32.parquet": parquet(pa.uint32()),
    }  # fmt: skip


def test_the_same_event_is_one_through_whatever_it_comes(store: Store) -> None:
    files = carriers([7, 4711, 1_000_003])
    first = True
    for name, data in files.items():
        report = take(store, data, name).report
        assert (report.accepted, report.duplicates) == ((3, 0) if first else (0, 3)), name
        first = False
    assert rows(store, "SELECT DISTINCT event_id FROM observations ORDER BY ALL") == [("1000003",), ("4711",), ("7",)]


def test_ids_that_are_not_the_same_are_never_taken_for_one(store: Store) -> None:
    spelled = ["17", '"017"', '"17.0"', '"17 0"', '"١٧"', "-17", '"1.7e1"', '"0x11"', "170", '"a"', '"A"', '"é"', '"e\\u0301"']
    taken = take(store, b"".join(with_members(f'"event_id": {each}') for each in spelled))
    assert (taken.report.accepted, taken.report.duplicates) == (len(spelled), 0)


# ---- a user is forgotten wherever he is ----

OURS = "secret of 4711"


def line_of(**more: Any) -> dict[str, Any]:
    return {"text_a": OURS, "text_b": "other", "label": 1, **more}


HIS: list[dict[str, Any]] = [
    line_of(user=4711), line_of(user=4711.0), line_of(user=" 4711 "), line_of(user={"$numberLong": "4711"}),
    line_of(userId=4711),
    line_of(customer_id="4711"), line_of(context={"user": {"name": "x", "id": 4711}}), line_of(distinct_id="4711"),
    line_of(user=4711, label="maybe"), line_of(userId=4711, text_b=""), {"pad": "x" * 600, **line_of(text_b="", user=4711.0)},
]  # fmt: skip
OTHERS: list[dict[str, Any]] = [
    {"text_a": f"of another {n}", "text_b": "other", "label": 1, **more}
    for n, more in enumerate((
        {"user": 47110}, {"user": "14711"}, {"user": "4711.5"}, {"user": "u-4711"}, {"userId": 47110}, {"customer_id": "14711"},
        {"price": 4711}, {"position": 4711}, {"user": 5, "note": "4711"}, {"user_age": 4711}, {"user": 47110, "label": "maybe"},
    ))
]  # fmt: skip


def held_files(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.home.root.rglob("*") if path.is_file() and "given" not in path.parts]


def test_of_a_forgotten_user_nothing_is_left_and_of_others_everything(workspace: Workspace) -> None:
    inbox = workspace.home.inbox
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / "feedback.jsonl").write_bytes(b"".join(json.dumps(each).encode() + b"\n" for each in [*HIS, *OTHERS]))
    broken = '{"text_a": "secret of 4711", "user": "4711", '
    (inbox / "broken.jsonl").write_text(
        f'{broken}\n{broken.replace("of 4711", "x").replace("4711", "47110")}\n{{"text_a": "a", "text_b": "b", "label": 1}}\n'
    )
    cells = f"text_a,text_b,label,user\n{OURS},,1,4711.0\n{OURS},b,1,4711\n{OURS},b,1,4711,more\nof another,b,1,47110.0\n"
    (inbox / "cells.csv").write_text(cells)
    (inbox / "table.parquet").write_bytes(table_file({
        "text_a": [OURS, OURS, "of another"], "text_b": ["b", "", ""], "label": [1, 1, 1],
        "user": pa.array([4711.0, 4711.0, 47110.0]),
    }))  # fmt: skip
    for path in inbox.glob("*.*"):
        os.utime(path, (0, 0))
    store = Store(workspace.home.database)
    _, rejected = take_inbox(store, inbox, PairOptions(max_refused=1.0))
    assert rejected == ()
    ingest_files(store, [_written(workspace, clump_lines(range(400)))], workspace.settings.pairs)
    take_snapshot(store, workspace.snapshots, workspace.split_rules)
    kept = len([each for each in OTHERS if each["label"] == 1])
    report = forget_everywhere(workspace, Selection(user="4711"))
    assert (report.observations, report.quarantined) == (10, 7)
    assert (len(report.snapshots), len(report.deliveries)) == (1, 4)
    assert [path for path in held_files(workspace) if OURS.encode() in path.read_bytes()] == []
    assert rows(store, "SELECT count(*) FROM observations WHERE text_a LIKE 'of another%' OR text_b LIKE 'of another%'") == [
        (kept + 1,)
    ]
    assert rows(store, "SELECT count(*) FROM quarantine") == [(3,)]
    assert find(store, Selection(user="4711")).observations == 0


def _written(workspace: Workspace, lines: list[bytes]) -> Path:
    path = workspace.home.root / "given" / "clumps.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_user_that_a_nested_field_names_is_forgotten_and_a_name_beyond_ascii_too(workspace: Workspace) -> None:
    store = Store(workspace.home.database)
    mapped = PairOptions(max_refused=1.0, columns={"user": "meta.who"}, labels={"1": 1})
    records = [line_of(meta={"who": who}, label=label) for who in ("müller", "schmüller", "O'Neil") for label in (1, "maybe")]
    take(store, b"".join(json.dumps(each).encode() + b"\n" for each in records), options=mapped)
    take(
        store,
        b'{"meta": {"who": "m\\u00fcller"}, "text_a": \n{"text_a": "a", "text_b": "b", "label": 1}\n',
        "broken.jsonl",
        mapped,
    )
    report = forget_everywhere(workspace, Selection(user=" müller "))
    assert (report.observations, report.quarantined) == (1, 2)
    assert rows(store, "SELECT user_id FROM observations WHERE user_id != '' ORDER BY ALL") == [("O'Neil",), ("schmüller",)]
    assert rows(store, "SELECT user_id FROM quarantine ORDER BY ALL") == [("O'Neil",), ("schmüller",)]


@pytest.mark.parametrize("first", ["floats.csv", "float64.parquet", "whole.jsonl"])
def test_the_verb_forgets_the_user_whatever_carried_him(tmp_path: Path, first: str) -> None:
    home, file = tmp_path / "home", tmp_path / first
    data = carriers([47110, 4711, 14711])[first]
    file.write_bytes(data if first.endswith(".parquet") else data.replace(b"event_id", b"user"))
    home.mkdir()
    mapping = 'columns = {user = "event_id"}' if first.endswith(".parquet") else ""
    (home / "flywheel.toml").write_text(f'[pairs]\nseed_pairs = "none"\n{mapping}\n')
    assert verb("ingest", file, "--home", home).returncode == 0
    done = verb("forget", "--user", "4711", "--yes", "--home", home, "--json")
    assert json.loads(done.stdout)["observations"] == 1
    assert rows(Store(home / "flywheel.duckdb"), "SELECT user_id FROM observations ORDER BY 1") == [("14711",), ("47110",)]


def test_a_whole_file_of_ids_that_lost_digits_is_refused(store: Store) -> None:
    data = b"text_a,text_b,label,event_id\n" + b"".join(f"a{n},b,1,1.23E+19\n".encode() for n in range(5))
    with pytest.raises(Exception, match=r"event_id is 1.23E\+19: a spreadsheet has shortened it. Export ids as text"):
        take(store, data, "batch.csv", PairOptions())
    assert refused(store, data, "batch.csv")
    check(take(store, data.replace(b"1.23E+19", b"12300000000000000000"), "batch.csv"), [None] * 5)


def test_the_carriers_above_are_not_the_same_bytes() -> None:
    assert all(one != other for one, other in pairwise(carriers([7]).values()))


def test_what_is_forgotten_stays_so_when_its_file_is_read_under_other_settings(store: Store) -> None:
    data = json_file([line_of(user="u-1"), line_of(text_b="of another", user="u-2")])
    take(store, data)
    forget(store, Selection(user="u-1"))
    again = take(store, data, options=PairOptions(day_first=True, max_refused=1.0))
    assert (again.report.accepted, again.report.duplicates) == (1, 1)
    assert rows(store, "SELECT DISTINCT user_id FROM observations") == [("u-2",)]


def test_a_constant_id_would_make_all_lines_one_event_and_is_refused(store: Store) -> None:
    assert "all lines would be one event" in refused(
        store, json_file([line_of()]), "a.jsonl", PairOptions(constants={"event_id": 1})
    )


@pytest.mark.parametrize("word", ["NULL", "null", "NA", "nan", "None", "<NA>", "#N/A", "(null)", "undefined", r"\N"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_word_for_nothing_is_no_id_that_all_events_share(store: Store, word: str, suffix: str) -> None:
    records = [{"event_id": word, "text_a": f"question {n}", "text_b": f"answer {n}", "label": "1"} for n in range(3)]
    taken = take(store, file_of(records, suffix), f"batch{suffix}")
    check(taken, [None, None, None])
    assert {each["event_id"] for found in taken.observations.values() for each in found} == {None}


def test_what_stands_for_different_pairs_is_no_id_of_an_event_and_saying_none_leads_on(store: Store) -> None:
    events = [{"event_id": 0, "text_a": f"question {n}", "text_b": f"wording {n}", "label": 1} for n in range(6)]
    data = b"".join(json.dumps(each).encode() + b"\n" for each in events)
    sentence = refused(store, data, "batch.jsonl")
    assert "event_id is 0 on line 1 and on line 2, which hold different pairs" in sentence
    assert "5 of 6 events would be lost" in sentence
    assert 'event_id = "none"' in sentence
    taken = take(store, data, options=PairOptions(columns={"event_id": "none"}))
    assert (taken.report.accepted, taken.report.duplicates) == (6, 0)


def test_an_event_that_comes_again_in_its_file_is_a_duplicate_whatever_its_label(store: Store) -> None:
    events = [{"event_id": n // 2, "text_a": f"q {n // 2}", "text_b": f"w {n // 2}", "label": n % 2} for n in range(40)]
    taken = take(store, b"".join(json.dumps(each).encode() + b"\n" for each in events))
    assert (taken.report.accepted, taken.report.duplicates) == (20, 20)
