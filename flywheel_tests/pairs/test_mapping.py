"""Columns of other names, nested fields, constants: what common exports hold, read by the mapping that the docs give."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.helpers.deliveries import KINDS, check, file_of, json_file, refused, table_file, take
from flywheel_tests.pairs.test_ingest import rows

DOCS = Path(__file__).parents[2] / "docs" / "data.md"


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def array(*records: Any) -> bytes:
    return json.dumps(records, indent=1).encode()


def table(*records: tuple[Any, ...], between: str = "\t") -> bytes:
    return "".join(between.join(map(str, record)) + "\n" for record in records).encode()


AT = "2026-09-01T08:05:03.123456+00:00"
POSTHOG = {"query": "cancel plan", "title": "Stop a subscription", "position": 2}
UBI = {"object_id": "7", "description": "Stop a subscription"}
WEBUI = [{"role": "user", "content": "cancel plan"}, {"role": "assistant", "content": "Go to Billing."}]

# A file as a product exports it, and what is stored of it: type, label, user, event id; None for a line that is left out.
EXPORTS: dict[str, tuple[bytes, list[tuple[str, int, str | None, str | None] | None]]] = {
    "langfuse-*.csv": (
        table(
            ("id", "timestamp", "userId", "name", "value", "input", "output"),
            ("s-1", "2026-09-01 08:05:03.963000", "u-1", "user-feedback", 1, "cancel plan", "Go to Billing."),
            ("s-2", "2026-09-01 08:06:03.963000", "u-2", "user-feedback", "0.0", "cancel plan", "Call us."),
            ("s-3", "2026-09-01 08:06:03.963000", "u-2", "toxicity", 0.02, "cancel plan", "Call us."), between=",",
        ),
        [("thumb", 1, "u-1", "s-1"), ("thumb", 0, "u-2", "s-2"), None],
    ),
    "langsmith-*.jsonl": (
        lines(*({"id": f"f-{n}", "run_id": "r-1", "key": key, "score": score, "created_at": AT,
            "inputs": {"question": "cancel plan"},
                 "outputs": {"answer": f"{n} Go to Billing."}, "feedback_source": {"type": "api", "user_id": "u-1"}}
                for n, (key, score) in enumerate((("user_score", 1.0), ("user_score", 0), ("correctness", 0.4))))),
        [("thumb", 1, "u-1", "f-0"), ("thumb", 0, "u-1", "f-1"), None],
    ),
    "posthog-*.jsonl": (
        lines({"uuid": "p-1", "event": "result clicked", "distinct_id": "u-1", "timestamp": AT, "properties": POSTHOG},
              {"uuid": "p-2", "event": "$pageview", "distinct_id": "u-1", "timestamp": AT, "properties": {}}),
        [("click", 1, "u-1", "p-1"), None],
    ),
    "posthog-*.csv": (
        b"uuid,event,distinct_id,timestamp,properties\n"
        b'p-1,result clicked,u-1,2026-09-01 08:05:03.123456+00:00,"' + json.dumps(POSTHOG).replace('"', '""').encode() + b'"\n'
        b"p-2,$pageview,u-1,2026-09-01 08:05:03.123456+00:00,{}\n",
        [("click", 1, "u-1", "p-1"), None],
    ),
    "segment-*.jsonl": (
        lines({"type": "track", "event": "Result Clicked", "messageId": "m-1", "userId": "u-1", "timestamp": AT,
            "properties": POSTHOG},
              {"type": "page", "event": None, "messageId": "m-2", "userId": "u-1", "timestamp": AT}),
        [("click", 1, "u-1", "m-1"), None],
    ),
    "ubi-*.ndjson": (
        lines({"index": {"_index": "ubi_events", "_id": "1"}},
              {"action_name": "click", "query_id": "q-1", "client_id": "u-1", "timestamp": AT, "user_query": "cancel plan",
               "event_attributes": {"object": UBI, "position": {"ordinal": 2}}}),
        [None, ("click", 1, "u-1", None)],
    ),
    "hits-*.jsonl": (
        lines({"_index": "feedback", "_id": "h-1", "_score": 1.0, "_source": {
            "@timestamp": "2026-09-01T08:05:03.000Z", "kind": "duplicate", "user": {"id": 17}, "a": "cancel plan",
            "b": "stop plan"}}),
        [("duplicate", 1, "17", "h-1")],
    ),
    "mongo-*.json": (
        lines({"_id": {"$oid": "65f0c0ffee"}, "createdAt": {"$date": "2026-09-01T08:05:03Z"}, "userId": {"$numberLong": "17"},
               "a": "cancel plan", "b": "stop plan", "same": True},
              {"_id": {"$oid": "65f0c0fff0"}, "createdAt": {"$date": {"$numberLong": "1788249903000"}}, "userId": 18,
               "a": "cancel plan", "b": "start plan", "same": False}),
        [("label", 1, "17", "65f0c0ffee"), ("label", 0, "18", "65f0c0fff0")],
    ),
    "open-webui-*.json": (
        array(*({"id": f"w-{n}", "user_id": "u-1", "version": 0, "type": "rating", "data": {"rating": rating,
            "model_id": "llama"},
                 "meta": {"message_index": 1}, "created_at": 1788249903 + n,
                 "snapshot": {"chat": {"chat": {"messages": [WEBUI[0], {**WEBUI[1], "content": f"{n} Go to Billing."}]}}}}
                for n, rating in enumerate((1, -1)))),
        [("thumb", 1, "u-1", "w-0"), ("thumb", 0, "u-1", "w-1")],
    ),
    "zendesk-*.jsonl": (
        lines(*({"id": 35436 + n, "subject": f"cancel plan {n}", "requester_id": 20978392, "updated_at": "2026-09-01T08:05:03Z",
                 "comments": [{"body": "cancel plan"}, {"body": "Go to Billing."}], "satisfaction_rating": {"score": score}}
                for n, score in enumerate(("good", "bad", "offered")))),
        [("thumb", 1, "20978392", "35436"), ("thumb", 0, "20978392", "35437"), None],
    ),
    "intercom-*.jsonl": (
        lines(*({"id": f"c-{n}", "created_at": 1788249903, "source": {"body": "cancel plan", "author": {"id": "u-1"}},
                 "answer": f"{n} Go to Billing.", "conversation_rating": {"rating": stars}} for n, stars in enumerate((5, 1,
                 3)))),
        [("thumb", 1, "u-1", "c-0"), ("thumb", 0, "u-1", "c-1"), None],
    ),
    "label-studio-*.json": (
        array(*({"id": n, "created_at": "2026-09-01T08:05:03.513742Z", "data": {"text1": "cancel plan",
            "text2": f"stop plan {n}"},
                 "annotations": [{"completed_by": 10, "result": [{"type": "choices", "value": {"choices": [choice]}}]}]}
                for n, choice in enumerate(("Similar", "Different")))),
        [("label", 1, "10", "0"), ("label", 0, "10", "1")],
    ),
    "argilla-*.json": (
        array(*({"id": f"a-{n}", "fields": {"text1": "cancel plan", "text2": f"stop plan {n}"}, "status": "completed",
                 "responses": {"similar": [{"value": value, "user_id": "u-1"}]}} for n, value in enumerate(("yes", "no",
                 "unsure")))),
        [("label", 1, "u-1", "a-0"), ("label", 0, "u-1", "a-1"), None],
    ),
    "argilla-*.parquet": (
        table_file({"id": ["a-0", "a-1"], "text1": ["cancel plan", "cancel plan"], "text2": ["stop plan", "start plan"],
                    "similar.responses": [["yes"], ["no"]], "similar.responses.users": [["u-1"], ["u-1"]]}),
        [("label", 1, "u-1", "a-0"), ("label", 0, "u-1", "a-1")],
    ),
    "prodigy-*.jsonl": (
        lines(*({"text1": "cancel plan", "text2": f"stop plan {n}", "_task_hash": -967702 - n, "answer": answer,
                 "_timestamp": 1788249903, "_annotator_id": "u-1"} for n, answer in enumerate(("accept", "reject", "ignore")))),
        [("label", 1, "u-1", "-967702"), ("label", 0, "u-1", "-967703"), None],
    ),
    "snli-*.jsonl": (
        lines(*({"annotator_labels": [gold], "gold_label": gold, "pairID": f"{n}.jpg#0r1e",
            "sentence1": "A man inspects a uniform.",
                 "sentence2": f"A man looks {n}."} for n, gold in enumerate(("entailment", "neutral", "contradiction", "-")))),
        [("label", 1, None, "0.jpg#0r1e"), None, ("label", 0, None, "2.jpg#0r1e"), None],
    ),
    "sts-*.tsv": (
        table(("index", "genre", "sentence1", "sentence2", "score"), (0, "news", "A plane is \"taking off.",
            "An air plane takes off.", "5.000"),
              (1, "news", "A man plays a flute.", "A man eats.", "0.500"), (2, "news", "A man spreads cheese.", "A man cuts.",
                  "3.800")),
        [("label", 1, None, None), ("label", 0, None, None), ("label", 0, None, None)],
    ),
    "mrpc-*.tsv": (
        b"\xef\xbb\xbf" + table(("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), (1, 702876, 702977, "He said \"no\".",
            "\"No\" he said."),
                               (0, 2108705, 2108831, "Yucaipa owned it.", "It was sold.")),
        [("label", 1, None, None), ("label", 0, None, None)],
    ),
    "quora-*.tsv": (
        table(("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), (0, 1, 2, "How do I cancel?", "How to cancel?",
            1),
              (1, 3, 4, "What is a plan?", "What is a bill?", 0)),
        [("label", 1, None, "0"), ("label", 0, None, "1")],
    ),
}  # fmt: skip


def documented(pattern: str) -> str:
    """The settings that the docs give for files of this name."""
    section = f'[pairs.files."{pattern}"]'
    text = DOCS.read_text()
    assert section in text, f"docs/data.md has no mapping for {pattern}"
    return section + text.partition(section)[2].partition("\n[")[0].partition("\n```")[0]


@pytest.mark.parametrize("pattern", EXPORTS)
def test_the_mapping_in_the_docs_reads_the_export(store: Store, pattern: str) -> None:
    data, expected = EXPORTS[pattern]
    options = PairOptions.model_validate(tomllib.loads(documented(pattern))["pairs"])
    taken = take(store, data, pattern.replace("*", "2026-09"), options)
    stored = {n: taken.only(n) for n in taken.observations}
    found = [(each["type"], each["label"], each["user_id"], each["event_id"]) if (each := stored.get(n)) else None
             for n in range(1, len(expected) + 1)]  # fmt: skip
    assert found == expected
    timed = "time = " in documented(pattern)
    assert all((each["observed_at"] is not None) == timed for each in stored.values())
    assert all(reason.endswith("does not name") or "bulk export" in reason for reason in taken.reasons.values())


# ---- names ----


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_json_without_our_names_is_read_after_doing_what_its_refusal_says(store: Store, suffix: str) -> None:
    records = [
        {"pair": {"question1": f"this {n}", "question2": "that"}, "is_duplicate": n, "tags": [{"id": 5}]} for n in (0, 1)
    ]
    data = lines({"index": {}}, *records) if suffix == ".jsonl" else array(*records)
    sentence = refused(store, data, f"theirs{suffix}")
    assert "has the fields pair.question1, pair.question2, is_duplicate, tags.0.id and none called text_a or query" in sentence
    settings = sentence.partition("flywheel.toml: ")[2].removesuffix(".").replace(" and below it ", "\n")
    options = PairOptions.model_validate(tomllib.loads(settings)["pairs"])
    taken = take(store, data, f"theirs{suffix}", options)
    assert sorted(each[0]["label"] for each in taken.observations.values()) == [0, 1]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_dotted_name_leads_into_objects_lists_and_names_that_hold_dots(store: Store, suffix: str) -> None:
    record = {
        "pair": {"texts": [{"body": "this"}, {"body": "that"}], "a.b": {"c.d": 1}},
        "label.given": "label",
        "who": [["u-1"]],
    }
    data = table_file({name: [value] for name, value in record.items()}) if suffix == ".parquet" else lines(record)
    mapped = {
        "text_a": "pair.texts.0.body",
        "text_b": "pair.texts.1.body",
        "label": "pair.a.b.c.d",
        "type": "label.given",
        "user": "who.0.0",
    }
    observation = take(store, data, f"batch{suffix}", PairOptions(columns=mapped)).only(1)
    assert ({observation["text_a"], observation["text_b"]}, observation["label"]) == ({"this", "that"}, 1)
    assert (observation["user_id"], observation["type"]) == ("u-1", "label")


def test_a_cell_may_hold_json_and_a_name_with_a_dot_is_itself_first(store: Store) -> None:
    data = b'context,user.id,text_a,text_b,label\n"{""texts"": [""this"", ""that""], ""n"": 1}",own,x,y,0\n{broken,u,x,y,0\n'
    mapped = PairOptions(
        columns={"text_a": "context.texts.0", "text_b": "context.texts.1", "label": "context.n", "user": "user.id"},
        max_refused=1,
    )
    taken = take(store, data, "batch.csv", mapped)
    assert (taken.only(1)["user_id"], taken.only(1)["label"]) == ("own", 1)
    assert taken.reasons == {2: "context.texts.0 is empty"}


@pytest.mark.parametrize("path", ["a.2", "a.x", "a.-1", "b.c", "a.0.z", ".", "a.", ".a", "a..0", "t.0"])
def test_a_dotted_name_that_leads_nowhere_finds_nothing(store: Store, path: str) -> None:
    data = lines({"a": [1, 2], "b": None, "t": "text", "text_a": "this", "text_b": "that", "label": 1})
    assert take(store, data, options=PairOptions(columns={"position": path, "user": path})).only(1)["position"] is None


@pytest.mark.parametrize("suffix", KINDS)
def test_constants_say_what_no_column_says(store: Store, suffix: str) -> None:
    said = PairOptions(
        columns={"query": "q", "answer": "a", "thumb": "v"},
        constants={"type": "thumb", "model": 4.0, "weight": 0.25, "user": 17},
    )
    data = file_of([{"q": "asked", "a": "told", "v": "up", "type": "feedback", "weight": "9"}], suffix)
    observation = take(store, data, f"batch{suffix}", said).only(1)
    assert (observation["type"], observation["model"], observation["weight"], observation["user_id"]) == (
        "thumb",
        "4",
        0.25,
        "17",
    )
    assert json.loads(observation["extra"]) == {"type": "feedback", "weight": "9"}


@pytest.mark.parametrize("suffix", KINDS)
def test_types_in_other_words_or_numbers(store: Store, suffix: str) -> None:
    kinds = ["1", "2", "3"] if suffix == ".csv" else [1, 2, 3]
    data = file_of([{"t": kind, "query": "q", "shown": f"s{n}"} for n, kind in enumerate(kinds)], suffix)
    sentence = refused(store, data, f"batch{suffix}", PairOptions(columns={"type": "t"}))
    assert "none of label, duplicate, search, click, skip, thumb; pairs.types says what yours are" in sentence
    taken = take(store, data, f"batch{suffix}", PairOptions(columns={"type": "t"}, types={"1": "click", "2": "skip"}))
    assert [taken.only(n)["label"] for n in (1, 2)] == [1, 0]
    assert taken.reasons == {3: f"t is {json.dumps(kinds[2])}, which pairs.types does not name"}


def test_numbers_and_lists_as_texts_are_read_as_such(store: Store) -> None:
    search = {"type": "search", "query": "q", "shown": ["one", "two", "three"], "clicked": [2]}
    ways: list[dict[str, Any]] = [{}, {"shown": json.dumps(search["shown"])}, {"clicked": "[2]"}, {"clicked": "2"},
        {"clicked": 2},
                                  {"clicked": ["2"]}, {"clicked": " [ 2 ] ", "weight": "0.5"}]  # fmt: skip
    taken = take(store, lines(*({**search, **way} for way in ways)))
    assert [[each["label"] for each in taken.observations[n]] for n in range(1, len(ways) + 1)] == [[0, 1]] * len(ways)


def test_a_decimal_comma_is_read_where_cells_are_parted_by_semicolons(store: Store) -> None:
    header = "text_a;text_b;label;weight;position\n"
    taken = take(store, f"{header}a;b;1,0;0,25;3,0\na;c;0;1.5;2\na;d;1;1.000,5;1\n".encode(), "german.csv")
    assert [(taken.only(n)["label"], taken.only(n)["weight"], taken.only(n)["position"]) for n in (1, 2)] == [
        (1, 0.25, 3),
        (0, 1.5, 2),
    ]
    assert 'weight is "1.000,5"' in taken.reasons[3]
    assert (
        'weight is "0,25"'
        in take(store, b'text_a,text_b,label,weight\na,b,1,"0,25"\n' + b"a,b,1,1\n" * 3, "english.csv").reasons[1]
    )


def test_every_entry_that_fits_a_name_says_something_and_the_very_name_has_the_last_word(store: Store) -> None:
    said = PairOptions.model_validate({
        "columns": {"label": "never"}, "cut": 3, "day_first": True,
        "files": {"a[1].jsonl": {"labels": {"x": 1}}, "*.jsonl": {"columns": {"label": "score"}}, "a*": {"cut": 2},
        "b*": {"labels": {"y": 1}}},
    })  # fmt: skip
    exact, fitting, other = (said.for_file(name) for name in ("a[1].jsonl", "a2.jsonl", "c.csv"))
    assert (exact.columns, exact.labels, exact.cut, exact.day_first) == ({"label": "score"}, {"x": 1}, None, True)
    assert (fitting.columns, fitting.labels, fitting.cut) == ({"label": "score"}, {}, 2)
    assert (other.columns, other.cut, said.for_file("b/part-0.jsonl").labels) == ({"label": "never"}, 3, {"y": 1})
    taken = take(store, lines({"text_a": "a", "text_b": "b", "score": "x"}), "a[1].jsonl", said)
    assert taken.only(1)["label"] == 1


# ---- reasons ----

MAPPED = {"text_a": "q.one", "text_b": "two", "label": "same?", "weight": "w", "position": "at", "kind": "how", "time": "when",
    "user": "who",
          "type": "what", "query": "asked", "shown": "got", "clicked": "hit", "answer": "told", "thumb": "vote"}  # fmt: skip
FINE = {"q": {"one": "this"}, "two": "that", "same?": 1}
SEARCH = {"what": "search", "asked": "x", "got": ["a", "b"], "hit": [1]}
REASONS: dict[str, dict[str, Any]] = {
    "q.one is empty": {**FINE, "q": {}}, "two is empty": {**FINE, "two": " "}, "same? is empty": {**FINE, "same?": None},
    "q.one is 5, not a text of at most 10,000 characters": {**FINE, "q": {"one": 5}},
    "two is a value of 10,003 characters, not a text": {**FINE, "two": "x" * 10_001},
    'same? is "perhaps", none of 1 or 0': {**FINE, "same?": "perhaps"},
    'w is "much", not a number above 0 and at most 1,000': {**FINE, "w": "much"}, "w is 0, not a number above 0": {**FINE,
    "w": 0},
    "at is 0, not a whole number from 1": {**FINE, "at": 0}, 'how is "guessed", not explicit or implied': {**FINE,
    "how": "guessed"},
    'when "soon" is not a time': {**FINE, "when": "soon"}, 'when "2999-01-01" is in the future': {**FINE, "when": "2999-01-01"},
    'when "1950-01-01" is before 1970': {**FINE, "when": "1950-01-01"},
    'who is {"id": 5}, not an id of at most 200 characters': {**FINE, "who": {"id": 5}},
    "who is 1e+22, a float that has lost digits. Write ids as text": {**FINE, "who": 1e22},
    'what is "wish", none of label, duplicate, search, click, skip, thumb; pairs.types says what yours are': {**FINE,
    "what": "wish"},
    "asked is empty": {**SEARCH, "asked": ""}, "got is empty": {**SEARCH, "got": None}, "hit is empty": {**SEARCH, "hit": None},
    'got is "a", not a text of at most 10,000 characters, or for a search a list': {**SEARCH, "got": "a"},
    "no result was clicked": {**SEARCH, "hit": []}, "names position 3 of a list of 2": {**SEARCH, "hit": [3]},
    "hit is [0], not a list of positions in the list shown": {**SEARCH, "hit": [0]},
    'vote is "sideways", none of up or down': {"what": "thumb", "asked": "x", "told": "y", "vote": "sideways"},
    "told is empty": {"what": "thumb", "asked": "x", "vote": "up"}, "got is empty ": {"what": "click", "asked": "x"},
    "both of its texts are the same question": {**FINE, "two": "This"},
}  # fmt: skip


def test_every_refusal_speaks_of_the_users_columns_and_values(store: Store) -> None:
    fine = [{**FINE, "q": {"one": f"fine {n}"}} for n in range(2)] + [
        {"what": "thumb", "asked": "x", "told": "y", "vote": "up"}
    ] * 2
    taken = take(store, json_file([*REASONS.values(), *fine]), "theirs.jsonl", PairOptions(columns=MAPPED, max_refused=1.0))
    for number, (says, record) in enumerate(REASONS.items(), start=1):
        assert says.strip() in taken.reasons.get(number, "was taken"), record
    assert rows(store, "SELECT DISTINCT file, line FROM quarantine ORDER BY line") == [
        ("theirs.jsonl", n) for n in range(1, len(REASONS) + 1)
    ]


DUPLICATES = PairOptions(
    columns={"text_a": "a", "text_b": "b", "label": "is_dup"}, constants={"type": "duplicate"}, max_refused=1.0
)


@pytest.mark.parametrize("label", ["0", "-1", "different", "maybe"])
def test_a_duplicate_whose_label_says_otherwise_is_refused(store: Store, label: str) -> None:
    data = f"a,b,is_dup\nhow to sync,sync my files,1\nyes,no,{label}\noui,non,\n".encode()
    why = f'is_dup is "{label}", and an event of the type duplicate says the same'
    check(take(store, data, "batch.csv", DUPLICATES), [None, why, None])


@pytest.mark.parametrize("header", ["TEXT_A,TEXT_B,LABEL", "Text A,Text B,Label", "Text_A,text_b,Label"])
def test_names_that_differ_in_case_or_blanks_are_suggested_and_the_suggestion_leads_on(store: Store, header: str) -> None:
    data = f"{header}\nhow to sync,sync my files,1\n".encode()
    sentence = refused(store, data, "batch.csv")
    section = tomllib.loads(sentence.partition("and below it ")[2].removesuffix("."))
    check(take(store, data, "batch.csv", PairOptions(**section)), [None])
