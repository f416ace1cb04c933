"""Endpoints as they are known to behave: the least is sent, what is refused is learned once, and what works is remembered."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.api import request
from flywheel.models.api.ledger import Paid
from flywheel.models.api.refusals import Refusal, reason_of, refusal_inside
from flywheel.models.api.request import PROBE_TEXTS, Shape
from flywheel.models.api.vectors import ApiVectors
from flywheel_tests.helpers.endpoint import (
    KEY,
    WIDTH,
    Endpoint,
    Handler,
    change,
    embed,
    numbers,
    say,
    tokens_of,
    unit,
)
from flywheel_tests.helpers.servers import SERVERS, Server, has, more_texts

pytestmark = pytest.mark.usefixtures("plain_environment", "secret_key")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are not waited out."""
    monkeypatch.setattr(request, "_RETRIES", 0)
    monkeypatch.setattr(request, "_PAUSE_SECONDS", 0.01)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of what was learned."""
    return [r.getMessage() for r in caplog.records if r.name.startswith("flywheel.models.api") and r.levelno >= logging.WARNING]


# How many texts a request may hold, where a server says so.
LIMITS = {
    "Azure, a small limit": 16, "TEI": 32, "TEI, its OpenAI route": 32, "DashScope": 10, "SiliconFlow": 64,
    "SiliconFlow, under 200": 64, "Zhipu": 64, "Gemini": 100, "Vertex": 250, "OpenRouter": 96, "Cohere": 96, "Voyage": 128,
    "Jina": 256, "infinity": 32, "NVIDIA": 259, "Gemini, all texts as one": 1, "vLLM, out of memory": 41, "Mistral": 82,
}  # fmt: skip


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_gives_its_vectors_and_is_refused_by_once(
    endpoint: Endpoint, vectors: ApiVectors, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.usually = SERVERS[name]
    texts = numbers(24 if "as one" in name else 400)
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
    assert vectors.failed(texts) == {}
    assert len(said(caplog)) <= 1
    assert len(endpoint.asked[0]) == PROBE_TEXTS  # what learning may cost
    learned = json.loads((vectors.cache.folder / "shape.json").read_text())
    assert (learned["grown"] > PROBE_TEXTS) == (len(texts) > 24)
    assert learned["texts"] == LIMITS.get(name, 2048)

    endpoint.asked.clear()
    caplog.clear()
    more = [f"{text} more" for text in texts]
    short = more[: len(texts) // 3]  # of what was learned in tokens, longer texts may take less
    assert np.allclose(replace(vectors).get(short), unit(short), atol=1e-6)
    assert [text for asked in endpoint.asked for text in asked] == short  # nothing was refused, and nothing asked twice
    assert said(caplog) == []
    assert vectors.paid.uncounted == 0


def test_requests_grow_as_long_as_answers_come_in_good_time(endpoint: Endpoint, vectors: ApiVectors) -> None:
    vectors.fill(numbers(5000))
    assert [len(asked) for asked in endpoint.asked] == [8, 64, 512, 2048, 2048, 320]
    shape = Shape()
    assert shape.after(8, 0.3).grown == 64
    assert shape.after(8, 10.5).grown == 24  # 24 in 30 seconds, half of what is waited for
    assert shape.after(8, 10.5).after(24, 0.6).grown == 192  # it had only to warm up
    assert replace(shape, grown=2048).after(10, 0.1).grown == 2048
    assert replace(shape, grown=2048).after(2048, 60.5).grown == 1024
    assert shape.after(1, 55).grown == PROBE_TEXTS


def test_the_least_is_sent(endpoint: Endpoint, vectors: ApiVectors) -> None:
    vectors.fill(numbers(10))
    assert [set(body) for body in endpoint.bodies] == [{"model", "input"}] * 2


@pytest.mark.parametrize(("name", "width_field"), [("OpenAI", "dimensions"), ("Voyage", "output_dimension")])
def test_a_length_is_asked_for_where_the_endpoint_gives_another(
    endpoint: Endpoint, vectors: ApiVectors, name: str, width_field: str
) -> None:
    endpoint.usually = SERVERS[name]
    vectors.fill(["a", "b"])
    assert [set(body) - {"model", "input"} for body in endpoint.bodies][-1] == {width_field}
    replace(vectors).fill(["c"])
    assert endpoint.bodies[-1][width_field] == WIDTH
    assert endpoint.asked[-1] == ["c"]


def refused(vectors: ApiVectors) -> str:
    with pytest.raises(FlywheelError) as caught:
        vectors.get(numbers(20))
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_another_length_is_told_with_both_numbers_and_the_remedy_works(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = Server(native=8)  # takes any field and cares for none
    assert refused(vectors) == (
        f"{vectors.base_url} answers for {vectors.model} with vectors of 8 numbers whatever `dimensions` asks for, and "
        "baseline.dimensions is 4; none was stored. Set baseline.dimensions to 8."
    )
    assert vectors.paid.texts <= PROBE_TEXTS + 2
    assert replace(vectors, dimensions=8).get(numbers(20)).shape == (20, 8)


def test_a_length_that_is_refused_is_told_with_the_reason(endpoint: Endpoint, vectors: ApiVectors) -> None:
    reason = "Model only supports [6, 8] matryoshka dimensions"
    endpoint.usually = Server(
        (has("dimensions", 400, {"error": reason}), has("output_dimension", 400, {"error": "?"})), native=8
    )
    message = refused(vectors)
    assert f"vectors of 8 numbers and refuses `dimensions` (400 - {reason}), and baseline.dimensions is 4" in message
    assert replace(vectors, dimensions=8).get(["a"]).shape == (1, 8)


def test_a_length_that_may_not_be_asked_for_is_told_and_both_remedies_work(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = SERVERS["OpenAI"]
    message = refused(replace(vectors, send_dimensions=False))
    assert "vectors of 8 numbers where no length is asked for, and baseline.dimensions is 4" in message
    assert 'Set baseline.dimensions to 8 or baseline.send_dimensions to "auto".' in message
    assert replace(vectors, send_dimensions=False, dimensions=8).get(["a"]).shape == (1, 8)
    assert np.allclose(vectors.get(["a"]), unit(["a"]), atol=1e-6)


@pytest.mark.parametrize("name", ["OpenAI ada-002", "vLLM", "vLLM, old", "Voyage", "Mistral"])
def test_a_length_that_must_be_asked_for_and_is_refused_is_told_and_the_remedy_works(
    endpoint: Endpoint, vectors: ApiVectors, name: str
) -> None:
    endpoint.usually = SERVERS[name]
    message = refused(replace(vectors, send_dimensions=True))
    assert message.endswith('Set baseline.send_dimensions to "auto".')
    assert "dimension" in message.partition("(")[2]
    assert len(vectors.get(["a"])) == 1


def test_a_length_is_always_asked_for_where_that_is_set(endpoint: Endpoint, vectors: ApiVectors) -> None:
    replace(vectors, send_dimensions=True).fill(["a"])
    assert endpoint.bodies[0] == {"model": vectors.model, "input": ["a"], "dimensions": WIDTH}


@pytest.mark.parametrize(("name", "encoding"), [("vLLM, old", "base64"), ("Voyage", "float"), ("Jina", "base64")])
def test_a_format_that_is_set_and_refused_is_told_and_the_remedy_works(
    endpoint: Endpoint, vectors: ApiVectors, name: str, encoding: str
) -> None:
    endpoint.usually = SERVERS[name]
    message = refused(replace(vectors, encoding_format=encoding))
    assert message.endswith('Set baseline.encoding_format to "auto".')
    assert len(vectors.get(["a"])) == 1


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_format_is_asked_for_where_that_is_set(endpoint: Endpoint, vectors: ApiVectors, encoding: str) -> None:
    got = replace(vectors, encoding_format=encoding).get(["a"])
    assert np.allclose(got, unit(["a"]), atol=1e-6)
    assert endpoint.bodies[0]["encoding_format"] == encoding


def test_requests_hold_as_many_texts_as_is_set(endpoint: Endpoint, vectors: ApiVectors) -> None:
    replace(vectors, batch_texts=5).fill(numbers(12))
    assert [len(asked) for asked in endpoint.asked] == [5, 5, 2]


def test_what_is_set_is_not_taken_for_learned(endpoint: Endpoint, vectors: ApiVectors) -> None:
    replace(vectors, batch_texts=5, send_dimensions=True, encoding_format="base64").fill(numbers(12))
    endpoint.bodies.clear()
    texts = numbers(60)
    vectors.fill(texts)
    assert endpoint.bodies == [{"model": vectors.model, "input": texts[12:52]}, {"model": vectors.model, "input": texts[52:]}]


def test_where_it_is_not_clear_whose_vectors_they_are_one_text_a_request_is(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = Server(index=lambda _: {"index": 0})
    message = refused(vectors)
    assert message.endswith("Set baseline.batch_texts to 1, so that each answer has one vector.")
    assert vectors.paid == Paid(PROBE_TEXTS, PROBE_TEXTS)
    texts = numbers(12)
    assert np.allclose(replace(vectors, batch_texts=1).get(texts), unit(texts), atol=1e-6)


def test_one_vector_for_all_texts_is_said(endpoint: Endpoint, vectors: ApiVectors, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.usually = change(lambda data: [item.update(embedding=[1.0, 2.0, 3.0, 4.0]) for item in data])
    vectors.fill(numbers(8))
    assert "gave 8 different texts one and the same vector" in said(caplog)[0]


def test_what_is_remembered_and_damaged_is_learned_again(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = SERVERS["TEI"]
    vectors.fill(numbers(40))
    (vectors.cache.folder / "shape.json").write_text('{"texts": "many"')
    texts = numbers(90)
    assert np.allclose(replace(vectors).get(texts), unit(texts), atol=1e-6)


def test_a_limit_that_shrinks_is_learned_again(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = SERVERS["TEI"]
    vectors.fill(numbers(40))
    endpoint.usually = SERVERS["DashScope"]
    texts = numbers(90)
    assert np.allclose(replace(vectors).get(texts), unit(texts), atol=1e-6)


def test_retry_forgets_what_was_learned(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = SERVERS["TEI"]
    vectors.fill(numbers(40))
    endpoint.usually = embed
    vectors.retry()
    endpoint.asked.clear()
    vectors.fill(numbers(100))
    assert [len(asked) for asked in endpoint.asked] == [8, 52]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"error": {"message": "No such model", "type": "x", "code": null}}', "No such model"),
        ('{"error": "No such model"}', "No such model"),
        ('{"error": "Bad Request", "message": "No such model", "status": 400}', "Bad Request: No such model"),
        ('{"message": "No such model"}', "No such model"),
        ('{"detail": "No such model"}', "No such model"),
        ('{"detail": {"error": {"message": "No such model"}}}', "No such model"),
        ('{"object": "error", "message": "No such model", "type": "NotFoundError", "code": 404}', "No such model"),
        ('{"detail": [{"loc": ["body", "input", 3], "msg": "String too long", "type": "x"}]}', "input.3: String too long"),
        ('[{"error": {"code": 400, "message": "No such model"}}]', "No such model"),
        ('{"errors": [{"message": "No such model"}]}', "No such model"),
        ('{"error": {"message": "{\\"detail\\": \\"No such model\\"}"}}', "No such model"),
        ('{"error": {"message": "Failed", "metadata": {"raw": "No such model"}}}', "Failed: No such model"),
        ('{"errorMessage": "No such model", "errorCode": "X"}', "No such model"),
        ('"No such model"', "No such model"),
        ("No such\n  model", "No such model"),
        ('{"odd": 1}', '{"odd": 1}'),
        ("", ""),
        ("<!DOCTYPE html><html><head><title>502 Bad\n Gateway</title></head></html>", "a web page titled '502 Bad Gateway'"),
        ("<html><body>It works!</body></html>", "a web page"),
    ],
)
def test_a_reason_is_found_wherever_it_stands(body: str, reason: str) -> None:
    assert reason_of(body) == reason


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ({"error": {"message": "Slow down", "code": 429}}, 429, None),
        ({"error": {"message": "Slow down", "code": "429"}}, 429, None),
        ({"error": {"message": "No money", "code": "insufficient_quota"}}, 400, "insufficient_quota"),
        ({"object": "error", "message": "No", "code": 50001}, 400, "error"),
        ({"detail": "No"}, 400, None),
    ],
)
def test_a_refusal_under_status_200_is_one(answer: dict[str, Any], status: int, code: str | None) -> None:
    found = refusal_inside(answer)
    assert found is not None
    assert found.status == status
    assert found.code in (code, None)


def test_vectors_beside_a_warning_are_no_refusal() -> None:
    assert refusal_inside({"data": [{}], "message": "success", "error": None}) is None


@pytest.mark.parametrize(
    ("reason", "sent", "texts"),
    [
        ("inputs must have less than 512 tokens. Given: 600", 900, None),
        ("This model's maximum context length is 8192 tokens, however you requested 9,000 tokens", 9_500, None),
        ("Invalid 'input': array too long. Expected an array with maximum length 2,048, but got 3,000.", 3_000, 2048),
        ("Error code: 400 - batch size must be at most 25", 500, 25),
        ("#/texts: expected maximum item count: 96, found: 128", 128, 96),
        ("inputs: at most 10", 10, None),  # it took fewer than that already
        ("The model does not exist", 10, None),
    ],
)
def test_the_most_texts_are_read_from_a_reason(reason: str, sent: int, texts: int | None) -> None:
    assert Refusal(400, reason).most_texts(sent) == texts


def test_a_rate_limit_under_status_200_is_waited_out(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.answers = [say('{"error": {"message": "Slow down", "code": 429}}')] * 3
    assert np.allclose(vectors.get(["a"]), unit(["a"]), atol=1e-6)
    assert len(endpoint.asked) == 4


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            502,
            "<html><title>502 Bad Gateway</title></html>",
            "failed on text-embedding-3-small (502 - a web page titled '502 Bad",
        ),
        (
            404,
            "404 page not found",
            "(404 - 404 page not found). Check baseline.model and baseline.url: most addresses end in /v1",
        ),
        (404, '{"detail":"Not Found"}', "(404 - Not Found). Check baseline.model and baseline.url: most addresses end in /v1"),
        (405, "", "(405 - Method Not Allowed). Check baseline.model and baseline.url"),
        (402, '{"error": {"message": "Insufficient credits", "code": 402}}', "limits the rate or the quota"),
        (400, "", "refused the request for text-embedding-3-small (400 - Bad Request)"),
    ],
)
def test_an_endpoint_that_refuses_everything_is_told_by_its_own_reason(
    endpoint: Endpoint, vectors: ApiVectors, status: int, body: str, words: str
) -> None:
    endpoint.usually = lambda handler, _: handler.reply(status, body)
    assert words in refused(vectors)
    assert len(endpoint.asked) <= 3


def move(status: int, target: str) -> Callable[[Handler, dict[str, Any]], None]:
    return lambda handler, _: handler.reply(status, "", location=target)


@pytest.mark.parametrize("status", [301, 302])
def test_a_redirect_that_loses_the_request_is_told_and_the_remedy_works(
    endpoint: Endpoint, vectors: ApiVectors, status: int
) -> None:
    moved = f"{endpoint.url}/new".replace("127.0.0.1", "localhost")
    endpoint.answers = [move(status, f"{moved}/embeddings?secret=1")]
    message = refused(vectors)
    assert f"sends requests on to {moved}. Set baseline.url to {moved}." in message
    endpoint.paths |= {"/v1/new/embeddings"}
    assert len(replace(vectors, base_url=f"{endpoint.url}/new").get(["a"])) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_request_is_followed(endpoint: Endpoint, vectors: ApiVectors, status: int) -> None:
    endpoint.answers = [move(status, f"{endpoint.url}/embeddings")]
    assert np.allclose(vectors.get(["a"]), unit(["a"]), atol=1e-6)


@pytest.mark.parametrize("end", ["/", "/embeddings", "/embeddings/"])
def test_an_address_is_taken_as_people_copy_it(endpoint: Endpoint, vectors: ApiVectors, end: str) -> None:
    vectors.fill(["a"])
    copied = replace(vectors, base_url=f"{endpoint.url}{end}")
    assert copied.missing(["a"]) == 0
    assert np.allclose(copied.get(["b"]), unit(["b"]), atol=1e-6)


def test_an_endpoint_that_bills_and_answers_badly_costs_a_probe(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.usually = Server(index=lambda _: {"index": 7})
    texts = numbers(987)
    with pytest.raises(FlywheelError, match="none was stored"):
        vectors.fill(texts)
    assert vectors.paid == Paid(PROBE_TEXTS, tokens_of(texts[:PROBE_TEXTS]))


def test_two_ways_to_a_limit_do_not_ask_for_ever(endpoint: Endpoint, vectors: ApiVectors, tmp_path: Path) -> None:
    endpoint.usually = Server((more_texts(0, 400, lambda _: {"error": "at most 1 texts; encoding_format, dimensions: no"}),))
    assert "at most 1 texts" in refused(vectors)
    assert len(endpoint.asked) < 10


def test_an_organisation_of_openai_is_told_to_nobody_else(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-ours")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-ours")
    seen: list[str | None] = []

    def note(handler: Handler, body: dict[str, Any]) -> None:
        seen.extend(handler.headers[name] for name in ("OpenAI-Organization", "OpenAI-Project"))
        embed(handler, body)

    endpoint.usually = note
    vectors.get(["how do I reset my password?"])
    assert seen
    assert set(seen) == {None}
