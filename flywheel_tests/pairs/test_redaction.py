"""What is to be kept out is out before anything is stored, and counted."""

import json

import pytest

from flywheel.errors import FlywheelError
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.deliveries import GOOD, HEADER, KINDS, check, contents, file_of, json_file, refused, take, texts
from flywheel_tests.pairs.test_ingest import line, rows

# ---- 4. redaction ----

ALL = ("email", "phone", "card")
REDACTED = {
    "mail bob.x+y@ex-ample.co.uk now": "mail <email> now",
    "a@b.io, c@d.io": "<email>, <email>",
    "jörg@exämple.com": "<email>",
    "call 415-555-2671": "call <phone>",
    "call (415) 555-2671 or +44 20 7946 0958": "call <phone> or <phone>",
    "+4930123456": "<phone>",
    "pay 4111 1111 1111 1111 now": "pay <card> now",
    "pay 4111-1111-1111-1111": "pay <card>",
    "378282246310005": "<card>",
    "4111111111111111 5500005555555559": "<card> <card>",
    "4111 1111 1111 1111 12/27": "<card> 12/27",
    "4111 1111 1111 1111 123": "<card> 123",
    "order 7 4111111111111111": "order 7 <card>",
    "not a card 4111 1111 1111 1112": "not a card 4111 1111 1111 1112",
    "order 1234567890 of 2026-01-01 12:00:00": "order 1234567890 of 2026-01-01 12:00:00",
    "id 550e8400-e29b-41d4-a716-446655440000 at 192.168.100.200": "id 550e8400-e29b-41d4-a716-446655440000 at 192.168.100.200",
    "bob at example.com, @bob, 10% of 1,000,000": "bob at example.com, @bob, 10% of 1,000,000",
}
SECRETS = ("bob@example.com", "415-555-2671", "4111 1111 1111 1111")


REDACTING = PairOptions(redact=ALL, max_refused=1)


def everything_stored(store: Store) -> str:
    return repr(contents(store))


@pytest.mark.parametrize("suffix", KINDS)
def test_what_looks_like_an_address_or_a_number_is_replaced_and_counted(store: Store, suffix: str) -> None:
    records = [{"text_a": text, "text_b": f"other {n}", "label": "1"} for n, text in enumerate(REDACTED)]
    taken = take(store, file_of(records, suffix), f"batch{suffix}", REDACTING)
    check(taken, [None] * len(REDACTED))
    for number, expected in enumerate(REDACTED.values(), start=1):
        assert texts(taken.only(number)) == {expected, f"other {number - 1}"}
    assert taken.report.redacted == sum(text.count("<") for text in REDACTED.values())


def test_long_runs_of_digits_are_read_to_their_end(store: Store) -> None:
    runs = ["1 " * 4_900, "12 " * 3_300, "1" * 9_999, "1-" * 4_900, "4111 1111 1111 1111 " * 400, "@" * 5_000 + "a" * 5_000]
    taken = take(store, json_file([{"text_a": run, "text_b": "b", "label": 1} for run in runs]), options=REDACTING)
    check(taken, [None] * len(runs))
    assert texts(taken.only(5)) == {"b", "<card> " * 399 + "<card>"}
    assert taken.report.redacted == 400


def test_nothing_is_redacted_unless_it_is_asked_for(store: Store, workspace: Workspace) -> None:
    data = json_file([{"text_a": text, "text_b": f"other {n}", "label": 1} for n, text in enumerate(SECRETS)])
    assert take(store, data).report.redacted == 0
    assert all(secret in everything_stored(store) for secret in SECRETS)
    cards = take(Store(workspace.home.root / "cards.duckdb"), data, options=PairOptions(redact=("card",)))
    assert cards.report.redacted == 1
    assert [texts(cards.only(number)) & {*SECRETS, "<card>"} for number in (1, 2, 3)] == [{s} for s in (*SECRETS[:2], "<card>")]


def test_unknown_fields_are_redacted_to_their_depth_and_who_and_when_is_not(store: Store) -> None:
    said = {"user": "u@example.com", "event_id": "e@example.com", "model": "m@example.com", "time": "2026-01-01"}
    more = {"note": SECRETS[0], "deep": {"list": [SECRETS[1], {"card": f"{SECRETS[2]}!"}, 7]}}
    taken = take(store, json_file([{"text_a": "a", "text_b": "b", "label": 1, **said, **more}]), options=REDACTING)
    observation = taken.only(1)
    assert json.loads(observation["extra"]) == {"note": "<email>", "deep": {"list": ["<phone>", {"card": "<card>!"}, 7]}}
    assert taken.report.redacted == 3
    assert [observation[field] for field in ("user_id", "event_id", "model")] == [f"{w}@example.com" for w in "uem"]


def test_every_text_of_an_event_is_redacted(store: Store) -> None:
    taken = take(store, json_file([
        {"type": "search", "query": f"q {SECRETS[0]}", "shown": [SECRETS[1], "clicked", SECRETS[2]], "clicked": [2, 3]},
        {"type": "click", "query": f"q {SECRETS[0]}", "shown": SECRETS[1]},
        {"type": "skip", "query": f"q {SECRETS[0]}", "shown": SECRETS[2]},
        {"type": "thumb", "query": SECRETS[0], "answer": f"call {SECRETS[1]}", "thumb": "up"},
        {"type": "duplicate", "text_a": SECRETS[0], "text_b": f"write to {SECRETS[0]}"},
    ]), options=REDACTING)  # fmt: skip
    check(taken, [None] * 5)
    assert taken.report.redacted == 11
    assert not any(secret in everything_stored(store) for secret in SECRETS)


@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_quarantined_is_redacted_too(store: Store, suffix: str) -> None:
    records = [{"text_a": "a", "text_b": "b", "label": "1"}] * 300
    records += [{"text_a": secret, "text_b": "b", "label": "?", "time": secret} for secret in SECRETS]
    records += [{"text_a": "a", "text_b": "b", "label": "1", "time": secret} for secret in SECRETS]
    records += [{"text_a": secret, "text_b": " ", "label": "1", "type": secret} for secret in SECRETS]
    taken = take(store, file_of(records, suffix), f"batch{suffix}", REDACTING)
    check(taken, [None] * 300 + [""] * 3 * len(SECRETS))
    assert not any(secret in everything_stored(store) for secret in SECRETS)
    assert taken.report.redacted >= 3 * len(SECRETS)


def test_a_sentence_about_a_file_is_redacted_too(store: Store) -> None:
    for secret in SECRETS:
        for record in ({"label": secret}, {"label": "1", "time": secret}, {"label": "1", "type": secret}):
            data = json_file([{"text_a": "a", "text_b": "b", **record}] * 5)
            assert secret not in refused(store, data, "batch.jsonl", REDACTING)


def test_lines_that_cannot_be_read_are_redacted_too(store: Store) -> None:
    lines = [f'{{"text_a": "{secret}'.encode() for secret in SECRETS] + [b"\xff bob@example.com", b"bob@example.com\0"]
    taken = take(store, b"\n".join([*lines, "é".encode(), GOOD]), options=REDACTING)
    check(taken, ["not JSON"] * 3 + ["not UTF-8", "NUL", "not JSON", None])
    assert not any(secret in everything_stored(store) for secret in SECRETS)
    csv_lines = "".join(f"{secret},b\n" for secret in SECRETS).encode()
    assert take(store, HEADER + b"a,b,1\n" + csv_lines, "batch.csv", REDACTING).report.quarantined == 3
    assert not any(secret in everything_stored(store) for secret in SECRETS)


def test_a_quarantined_line_is_redacted_before_it_is_shortened(store: Store) -> None:
    addresses = [f'{{"label": 1, "more": "{"x" * length} bob@example.com"}}\n' for length in range(440, 490)]
    addresses += [f"{'x' * length} bob@example.com\n" for length in range(470, 500)]
    take(store, GOOD + "".join(addresses).encode(), options=REDACTING)
    assert "bob@" not in everything_stored(store)


def test_a_quarantined_line_is_redacted_as_it_reads_and_not_as_it_is_escaped(store: Store) -> None:
    take(store, GOOD + rb'{"text_a": "bob@ex\u00e4mple.com or bob\u0040example.com", "label": 1}', options=REDACTING)
    assert "bob" not in everything_stored(store)


def test_two_texts_that_are_equal_after_redaction_are_one_question(store: Store) -> None:
    taken = take(store, json_file([
        {"text_a": "ask ann@example.com", "text_b": "whom to ask", "label": 1},
        {"text_a": "Ask bob@example.com", "text_b": "whom to ask", "label": 0},
        {"text_a": "ask ann@example.com", "text_b": "ask bob@example.com", "label": 1},
    ]), options=REDACTING)  # fmt: skip
    check(taken, [None, None, "same question"])
    assert rows(store, "SELECT same, different FROM pairs") == [(1, 1)]
    assert taken.report.conflicts == 2


def test_national_phone_numbers_are_those_of_the_region_named(store: Store) -> None:
    for region in ("DE", "de"):
        german = PairOptions(redact=("phone",), redact_region=region)
        taken = take(store, line("ruf 030 901820 an", f"other {region}"), f"{region}.jsonl", german)
        assert "ruf <phone> an" in texts(taken.only(1))


def without_names(text: str) -> str:
    return text.replace("Bob", "<name>").replace("bob@", "bob at ")


def failing(text: str) -> str:
    raise ZeroDivisionError(text)


def returning_nothing(text: str) -> None:
    return None


NO_FUNCTION = 3


def test_a_hook_of_the_users_runs_last_and_is_counted(store: Store) -> None:
    hooked = PairOptions(redact=("email",), redact_hook=f"{__name__}:without_names")
    data = json_file([{"text_a": "Bob is bob@example.com", "text_b": "b", "label": 1}, {"text_a": "Bob", "label": "Bob"}])
    taken = take(store, data, options=hooked)
    check(taken, [None, ""])
    assert texts(taken.only(1)) == {"<name> is <email>", "b"}
    assert "Bob" not in everything_stored(store)
    assert taken.report.redacted == 3


@pytest.mark.parametrize("hook", ["failing", "returning_nothing", "NO_FUNCTION", "nowhere"])
def test_a_hook_that_cannot_do_its_work_is_one_sentence_and_stores_nothing(store: Store, hook: str) -> None:
    hooked = PairOptions(redact_hook=f"{__name__}:{hook}")
    with pytest.raises(FlywheelError, match=rf"hook|{hook}"):
        take(store, GOOD, options=hooked)
    assert rows(store, "FROM batches") == []


@pytest.mark.parametrize("hook", ["no_such_module:function", "no colon", ":", "json:", ":dumps"])
def test_a_hook_that_names_no_function_is_one_sentence(store: Store, hook: str) -> None:
    with pytest.raises(FlywheelError, match="module:function"):
        take(store, GOOD, options=PairOptions(redact_hook=hook))


def test_a_region_that_is_none_is_one_sentence(store: Store) -> None:
    with pytest.raises(FlywheelError, match=r"pairs\.redact_region is not a country's two-letter code"):
        take(store, GOOD, options=PairOptions(redact=("phone",), redact_region="XX"))
