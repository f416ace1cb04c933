"""A text that an endpoint fails on is found in few requests and set aside; the others are kept, none is blamed by chance."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.api import asking, request
from flywheel.models.api.vectors import ApiVectors
from flywheel_tests.helpers.endpoint import (
    Answer,
    Endpoint,
    Handler,
    change,
    embed,
    give,
    hang_up,
    items,
    numbers,
    refuse,
    stay_silent,
    unit,
)

pytestmark = pytest.mark.usefixtures("plain_environment", "secret_key")

BAD = "a text that nobody can read, 4711"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are not waited out."""
    monkeypatch.setattr(request, "_RETRIES", 0)
    monkeypatch.setattr(asking, "_RETRIES_WHILE_SEARCHING", 0)
    monkeypatch.setattr(request, "_PAUSE_SECONDS", 0.01)


def on(texts: set[str], answer: Answer) -> Answer:
    """An endpoint that answers so where one of some texts is in a request, else properly."""
    return lambda handler, body: (answer if texts & set(body["input"]) else embed)(handler, body)


def give_for(texts: set[str], embedding: Any) -> Answer:
    """An endpoint that gives this embedding for some texts."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        data = items({**body, "encoding_format": "float"})
        for text, item in zip(body["input"], data, strict=True):
            item.update({"embedding": embedding} if text in texts else {})
        handler.reply(200, give(data, len(data)))

    return answer


def with_bad(count: int, place: int) -> list[str]:
    texts = numbers(count)
    texts[place] = BAD
    return texts


FAILURES: dict[str, tuple[Callable[[set[str]], Answer], str]] = {
    "NaN as a 500": (
        lambda bad: on(bad, refuse(500, "failed to encode response: json: unsupported value: NaN")),
        "500 - failed to encode response: json: unsupported value: NaN",
    ),
    "NaN as a 500 in plain text": (
        lambda bad: on(bad, lambda handler, _: handler.reply(500, "Internal Server Error", "text/plain")),
        "500 - Internal Server Error",
    ),
    "too large for its batch": (
        lambda bad: on(bad, refuse(500, "input (596 tokens) is too large to process. increase the physical batch size")),
        "500 - input (596 tokens) is too large to process. increase the physical batch size",
    ),
    "too long": (
        lambda bad: on(bad, refuse(400, "This model's maximum context length is 512 tokens, you requested 600 tokens")),
        "400 - This model's maximum context length is 512 tokens, you requested 600 tokens",
    ),
    "too long at TEI": (
        lambda bad: on(bad, refuse(413, "`inputs` must have less than 512 tokens. Given: 600")),
        "413 - `inputs` must have less than 512 tokens. Given: 600",
    ),
    "content filter": (
        lambda bad: on(bad, refuse(400, "The response was filtered", "content_filter")),
        "400 - The response was filtered",
    ),
    "empty": (lambda bad: on(bad, refuse(400, "'$.input' is invalid.")), "400 - '$.input' is invalid"),
    "a quoted text": (lambda bad: on(bad, refuse(400, f"Cannot read {BAD!r}")), "400 - Cannot read '..."),
    "a crash": (lambda bad: on(bad, hang_up), "peer closed connection without sending complete message body"),
    "silence": (lambda bad: on(bad, stay_silent), "no answer within 0.3 seconds"),
    "NaN": (lambda bad: give_for(bad, [1.0, float("nan"), 0.0, 0.0]), "a vector of NaN, infinity or nothing but zeros"),
    "infinity": (lambda bad: give_for(bad, [1.0, float("inf"), 0.0, 0.0]), "a vector of NaN, infinity or nothing but zeros"),
    "zeros": (lambda bad: give_for(bad, [0.0] * 4), "a vector of NaN, infinity or nothing but zeros"),
    "null": (lambda bad: give_for(bad, None), "a vector of NaN, infinity or nothing but zeros"),
    "null in a list": (lambda bad: give_for(bad, [None, 1.0, 0.0, 0.0]), "a vector of NaN, infinity or nothing but zeros"),
    "nothing": (lambda bad: give_for(bad, []), "a vector of NaN, infinity or nothing but zeros"),
}


@pytest.mark.parametrize(
    ("name", "place"), [*((name, 70) for name in FAILURES), ("too long", 0), ("too long", 99), ("NaN", 0), ("NaN", 99)]
)
def test_a_text_that_the_endpoint_fails_on_is_named_and_set_aside_and_the_others_are_kept(
    endpoint: Endpoint,
    vectors: ApiVectors,
    name: str,
    place: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(request, "_TIMEOUT_SECONDS", 0.3)
    failing, reason = FAILURES[name]
    endpoint.usually = failing({BAD})
    texts = with_bad(100, place)
    got = vectors.get(texts)
    assert np.isnan(got[place]).all()
    others = [text for text in texts if text != BAD]
    assert np.allclose(np.delete(got, place, axis=0), unit(others), atol=1e-6)
    (told,) = vectors.failed(texts).values()
    assert told.startswith(reason)
    assert f"failed on the text that begins with {BAD!r}" in caplog.text
    assert len(endpoint.asked) <= 2 + 2 * math.ceil(math.log2(100)) + 6
    answered = [text for asked in endpoint.answered for text in asked]
    assert [text for text in others if answered.count(text) > 1] == []
    assert vectors.paid.texts == len(answered)

    endpoint.asked.clear()  # and it is not asked for, or paid for, again
    again = replace(vectors)
    assert again.missing(texts) == 0
    assert np.isnan(again.get([BAD])).all()
    assert endpoint.asked == []
    assert BAD not in (vectors.cache.folder / "set_aside.jsonl").read_text()

    endpoint.usually = embed  # until that is asked for
    again.retry()
    assert np.allclose(replace(vectors).get(texts), unit(texts), atol=1e-6)
    assert [asked for asked in endpoint.asked if asked != [BAD]] == []


def test_several_such_texts_are_found(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(600)
    bad = {"7", "8", "213", "599"}
    endpoint.usually = on(bad, refuse(400, "No"))
    assert np.isnan(vectors.get(texts)[:, 0]).sum() == len(bad)
    assert set(vectors.failed(texts)) == bad
    assert len(endpoint.asked) <= len(bad) * 24


def test_an_endpoint_that_fails_on_many_is_the_one_that_fails(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(140)
    endpoint.usually = on({text for text in texts if text.endswith("7")}, refuse(400, "No"))
    with pytest.raises(
        FlywheelError, match="failed on 11 texts, each alone, for text-embedding-3-small, the last time with: 400"
    ):
        vectors.get(texts)
    assert len(vectors.failed(texts)) == 11
    assert len(texts) - vectors.missing(texts) - 11 > 90
    while True:  # the remedy: each turn goes on
        try:
            vectors.fill(texts)
            break
        except FlywheelError:
            continue
    assert len(vectors.failed(texts)) == 14
    assert vectors.missing(texts) == 0


@pytest.mark.parametrize(
    "answer",
    [
        refuse(500, "unsupported value: NaN"), refuse(400, "No"), refuse(413, "Too large"), hang_up,
        give_for(set(numbers(300)) | {asking._CANARY}, [0.0] * 4),
    ],
    ids=["500", "400", "413", "hang up", "zeros"],
)  # fmt: skip
@pytest.mark.parametrize("known", [False, True])
def test_an_endpoint_that_fails_on_everything_is_known_at_once(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, known: bool
) -> None:
    if known:
        vectors.fill(["known"])
        endpoint.asked.clear()
    endpoint.usually = answer
    texts = numbers(300)
    with pytest.raises(FlywheelError):
        vectors.get(texts)
    assert len(endpoint.asked) <= 3
    assert vectors.failed(texts) == {}
    endpoint.usually = embed
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)


@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("answer", [refuse(500, "Oops"), refuse(503, "Full"), hang_up], ids=["500", "503", "hang up"])
def test_a_failure_that_passes_sets_nothing_aside(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, failures: int
) -> None:
    """Some requests in a row fail, whatever they hold; the canary's among them ends the command, and the next one goes on."""
    vectors.fill(["known"])
    endpoint.answers = [answer] * failures
    texts = numbers(64)
    try:
        vectors.fill(texts)
    except FlywheelError:
        vectors.fill(texts)
    assert vectors.failed(texts) == {}
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)


def test_every_other_request_fails_and_nothing_is_set_aside(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that fails alone by chance is asked for again before it is given up."""
    monkeypatch.setattr(asking, "_RETRIES_WHILE_SEARCHING", 1)
    vectors.fill(["known"])
    turn = iter(range(1000))
    endpoint.usually = lambda handler, body: (refuse(500, "Oops") if next(turn) % 2 == 0 else embed)(handler, body)
    assert np.allclose(vectors.get(["a"]), unit(["a"]), atol=1e-6)
    assert vectors.failed(["a"]) == {}


def test_a_vector_that_is_of_no_use_only_once_is_asked_for_again(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = with_bad(8, 5)
    endpoint.answers = [give_for({BAD}, None)]
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
    assert endpoint.asked == [texts, [BAD]]


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_what_no_text_is_to_blame_for_ends_the_search(endpoint: Endpoint, vectors: ApiVectors, status: int) -> None:
    texts = with_bad(64, 40)
    request.Shape(grown=64).remember(vectors.cache.folder)
    endpoint.answers = [refuse(400, "No"), embed, embed, refuse(status, "Later", "insufficient_quota")]
    endpoint.usually = refuse(status, "Later", "insufficient_quota")
    with pytest.raises(FlywheelError, match=r"refused the API key|has no embeddings|limits the rate"):
        vectors.get(texts)
    assert vectors.failed(texts) == {}
    assert vectors.missing(texts) == 32  # the half that came is kept


def test_a_slow_endpoint_gets_smaller_requests(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "_TIMEOUT_SECONDS", 0.3)
    endpoint.usually = lambda handler, body: (stay_silent if len(body["input"]) > 30 else embed)(handler, body)
    texts = numbers(100)
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
    assert vectors.failed(texts) == {}
    assert json.loads((vectors.cache.folder / "shape.json").read_text())["texts"] == 16


def test_a_torn_line_of_what_was_set_aside_means_nothing(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = on({BAD}, refuse(400, "No"))
    file = vectors.cache.folder / "set_aside.jsonl"
    file.parent.mkdir(parents=True)
    file.write_bytes(b'{"time": "2026-10-01T09:00:00+00:00", "te')
    assert np.isnan(vectors.get(["a", BAD])[1]).all()
    assert vectors.failed(["a", BAD]) == {BAD: "400 - No"}
    file.write_bytes(file.read_bytes() + b'{"text_hash"')
    assert vectors.failed([BAD]) == {BAD: "400 - No"}


def test_a_text_whose_vector_comes_another_way_is_no_failure(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = on({BAD}, refuse(400, "No"))
    vectors.fill([BAD])
    with vectors.cache.filling([BAD]) as (missing, store):
        store(missing, unit([BAD]))
    assert vectors.failed([BAD]) == {}
    assert np.allclose(vectors.get([BAD]), unit([BAD]), atol=1e-6)


def test_a_warning_says_once_what_was_set_aside(
    endpoint: Endpoint, vectors: ApiVectors, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.usually = on({BAD}, refuse(400, "No"))
    vectors.fill(with_bad(20, 4))
    vectors.fill(with_bad(20, 4))
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "set aside" in r.getMessage()]
    assert told == [f"{vectors.base_url} failed on the text that begins with {BAD!r} (400 - No); set aside."]


def test_odd_answers_leave_the_order_alone(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = change(lambda data: data.reverse())
    texts = numbers(50)
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
