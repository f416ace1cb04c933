"""Whatever comes in, every line of it is accepted, known already, or quarantined under its number with a reason.

A file that cannot be read at all is one sentence and leaves nothing behind; nothing else is ever raised.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.errors import UnreadableFileError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.lines import MAX_LINE_BYTES
from flywheel.pairs.events.readers import understand
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
    refused,
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
