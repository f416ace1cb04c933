"""What events say of which pairs."""

import json

import jsonschema_rs
import pytest

from flywheel.pairs.events.events import event_schema
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.helpers.deliveries import KINDS, Record, check, file_of, json_file, take, texts, with_members

# ---- search events ----

# What was clicked of three results: what each of them says, label by position, or why the line is refused.
CLICKED: dict[str, dict[int, int] | str] = {
    "[1]": {1: 1},
    "[3]": {1: 0, 2: 0, 3: 1},
    "[3, 1]": {1: 1, 2: 0, 3: 1},
    "[2, 2, 2]": {1: 0, 2: 1},
    "[2.0]": {1: 0, 2: 1},
    "[]": "no result was clicked",
    "[0]": "clicked",
    "[-1, 1]": "clicked",
    "[4]": "position 4 of a list of 3",
    "[18446744073709551616]": "clicked",
    "[1e300]": "clicked",
    "[1.5]": "clicked",
    '["1"]': {1: 1},
    "[true]": "clicked",
    "[null]": "clicked",
    "[[1]]": "clicked",
    "1": {1: 1},
    '"[2]"': {1: 0, 2: 1},
    "null": "clicked",
    "{}": "clicked",
}


def test_a_search_says_what_was_clicked_and_passed_over_or_is_refused(store: Store) -> None:
    base = '"type": "search", "query": "query", "shown": ["one", "two", "three"]'
    taken = take(store, b"".join(with_members(f'"clicked": {clicked}', base) for clicked in CLICKED))
    check(taken, [said if isinstance(said, str) else None for said in CLICKED.values()])
    for number, said in enumerate(CLICKED.values(), start=1):
        if not isinstance(said, str):
            assert {each["position"]: each["label"] for each in taken.observations[number]} == said


def test_a_search_is_kept_when_one_of_its_results_says_something(store: Store) -> None:
    def search(shown: str, clicked: str = "[2]") -> bytes:
        return with_members(f'"shown": {shown}, "clicked": {clicked}', '"type": "search", "query": "query"')

    long = json.dumps([f"result {n}" for n in range(1_000)])
    taken = take(store, b"".join([
        search('["Query", "two"]'), search('["", "two"]'), search('["two", "two"]'), search(long, "[1000]"),
        search('["query"]', "[1]"), search('["Query", " "]'), search('["", "query "]', "[1, 2]"),
        search("[]", "[1]"), search('"two"', "[1]"), search('["one", null]'), search("[1, 2]"), search("null"),
        search(json.dumps([f"result {n}" for n in range(1_001)])),
    ]))  # fmt: skip
    check(taken, [None] * 4 + ["same question", "", ""] + ["shown"] * 6)
    assert [len(taken.observations[number]) for number in range(1, 5)] == [1, 1, 2, 1_000]
    assert taken.report.observations == 1_004


# ---- what events say ----

Q, S, A = ("text", "other"), ("query", "shown"), ("query", "answer")
SAYS: list[tuple[Record, list[tuple[tuple[str, str], int, str, float, int | None]]]] = [
    ({"text_a": "text", "text_b": "other", "label": 1}, [(Q, 1, "explicit", 1.0, None)]),
    ({"type": "label", "text_a": "text", "text_b": "other", "label": 0, "kind": "implied", "position": 9},
     [(Q, 0, "implied", 1.0, 9)]),
    ({"type": "label", "text_a": "text", "text_b": "other", "label": 0, "weight": 3}, [(Q, 0, "explicit", 3.0, None)]),
    ({"type": "duplicate", "text_a": "text", "text_b": "other"}, [(Q, 1, "explicit", 1.0, None)]),
    ({"type": "duplicate", "text_a": "text", "text_b": "other", "weight": 0.7}, [(Q, 1, "explicit", 0.7, None)]),
    ({"type": "click", "query": "query", "shown": "shown"}, [(S, 1, "implied", 0.5, None)]),
    ({"type": "click", "query": "query", "shown": "shown", "position": 4, "weight": 2}, [(S, 1, "implied", 2.0, 4)]),
    ({"type": "skip", "query": "query", "shown": "shown"}, [(S, 0, "implied", 0.1, None)]),
    ({"type": "skip", "query": "query", "shown": "shown", "position": 1, "weight": 2}, [(S, 0, "implied", 2.0, 1)]),
    ({"type": "thumb", "query": "query", "answer": "answer", "thumb": "up"}, [(A, 1, "implied", 0.8, None)]),
    ({"type": "thumb", "query": "query", "answer": "answer", "thumb": "down", "position": 2, "weight": 5},
     [(A, 0, "implied", 5.0, 2)]),
    ({"type": "search", "query": "query", "shown": ["one", "two", "three", "four"], "clicked": [3, 1]},
     [(("query", "one"), 1, "implied", 0.5, 1), (("query", "two"), 0, "implied", 0.1, 2),
      (("query", "three"), 1, "implied", 0.5, 3)]),
    ({"type": "search", "query": "query", "shown": ["one", "two", "three"], "clicked": [2], "weight": 4},
     [(("query", "one"), 0, "implied", 4.0, 1), (("query", "two"), 1, "implied", 4.0, 2)]),
]  # fmt: skip


@pytest.mark.parametrize("suffix", KINDS)
def test_every_event_says_what_the_table_of_events_says(store: Store, suffix: str) -> None:
    searches = [each for each in SAYS if each[0].get("type") == "search"]
    others = [each for each in SAYS if each[0].get("type") != "search"]
    for name, told in (("searches", searches), ("others", others)):  # a column of Parquet has one type
        records = [{**record, "model": f"m{n}", "event_id": f"{name} {n}"} for n, (record, _) in enumerate(told, start=1)]
        taken = take(store, file_of(records, suffix), f"{name}{suffix}")
        for n, (record, says) in enumerate(told, start=1):
            assert [
                (texts(o), o["label"], o["kind"], o["weight"], o["position"], o["type"], o["model"], o["event_id"])
                for o in taken.observations[n]
            ] == [(set(pair), *said, record.get("type", "label"), f"m{n}", f"{name} {n}") for pair, *said in says]


def test_a_thumb_is_up_or_down(store: Store) -> None:
    thumbs = {"up": None, "down": None, "UP": None, "": "thumb is empty", "sideways": "thumb is", "true": None}
    lines = [{"type": "thumb", "query": "q", "answer": "a", "thumb": thumb} for thumb in thumbs]
    taken = take(store, json_file([*lines, {"type": "thumb", "query": "q", "answer": "a", "thumb": False}]))
    check(taken, [*thumbs.values(), None])
    assert [taken.only(n)["label"] for n in (1, 2, 3, 6, 7)] == [1, 0, 1, 1, 0]


def test_the_schema_is_valid_and_describes_every_event_there_is() -> None:
    schema = event_schema()
    jsonschema_rs.meta.validate(schema)
    published = jsonschema_rs.validator_for(schema)
    for record, _ in SAYS:
        published.validate(record)
    for wrong in ({}, [], {"type": "like"}, {"text_a": "a", "text_b": "b"}, {"text_a": 1, "text_b": "b", "label": 1}):
        assert not published.is_valid(wrong)
    assert {each["$ref"].rpartition("/")[2] for each in schema["oneOf"]} == {r.get("type", "label") for r, _ in SAYS}


def test_unknown_fields_are_kept_with_the_observation(store: Store) -> None:
    more = {"session": {"id": 7, "path": ["a", None]}, "Text_A": "not ours", "": "no name", "shown": ["of another type"]}
    taken = take(store, json_file([
        {"text_a": "a", "text_b": "b", "label": 1, **more},
        {"type": "search", "query": "q", "shown": ["one", "two"], "clicked": [2], "position": 7, "kind": "explicit"},
        {"text_a": "a", "text_b": "b", "label": 1, "user": None, "time": None, "position": None},
    ]))  # fmt: skip
    check(taken, [None, None, None])
    assert json.loads(taken.only(1)["extra"]) == more
    assert [json.loads(each["extra"]) for each in taken.observations[2]] == [{"position": 7, "kind": "explicit"}] * 2
    assert taken.only(3)["extra"] is None
