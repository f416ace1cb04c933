"""An embeddings endpoint is paid once for a text, its failures are explained in a sentence, and the key stays secret."""

import io
import socket
import subprocess
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.traceback import Traceback
from tiktoken import Encoding

from flywheel.errors import FlywheelError, TryAgainError
from flywheel.models.api import asking
from flywheel.models.api import request as api
from flywheel.models.api.ledger import Paid
from flywheel.models.api.request import PROBE_TEXTS, Shape
from flywheel.models.api.tokens import Tokens
from flywheel.models.api.vectors import ApiVectors
from flywheel_tests.helpers.endpoint import (
    KEY,
    WIDTH,
    Answer,
    Endpoint,
    change,
    embed,
    embed_as_floats,
    embed_backwards,
    hang_up,
    numbers,
    refuse,
    say,
    stay_silent,
    tokens_of,
    unit,
)

pytestmark = pytest.mark.usefixtures("plain_environment", "secret_key")


def with_encoding(vectors: ApiVectors) -> ApiVectors:
    """These vectors with a real encoding, a tiny one that knows the bytes and "ab", "ba": the vocabulary is not at hand."""
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, b"ba": 257}
    vectors.__dict__["tokens"] = Tokens(Encoding("tiny", pat_str=r"..?", mergeable_ranks=ranks, special_tokens={}))
    return vectors


def failure(vectors: ApiVectors, texts: list[str]) -> str:
    """The message that getting `texts` fails with, after a look that no form of the error shows the key."""
    with pytest.raises(FlywheelError) as caught:
        vectors.get(texts)
    error = caught.value
    trace = "".join(traceback.format_exception(error))
    with_locals = io.StringIO()
    Console(file=with_locals, width=500).print(
        Traceback.from_exception(type(error), error, error.__traceback__, show_locals=True, locals_max_string=None)
    )
    assert "FlywheelError" in with_locals.getvalue()
    for shown in (repr(error), trace, with_locals.getvalue()):
        assert KEY not in shown
        assert "openai." not in shown
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("answer", [embed, embed_as_floats, embed_backwards], ids=lambda answer: answer.__name__)
def test_vectors_come_in_order_at_unit_length_and_each_text_is_asked_for_once(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer
) -> None:
    endpoint.answers = [answer]
    texts = ["b", "a", "c", "a", "é 漢"]
    assert vectors.missing(texts) == 4
    got = vectors.get(texts)
    assert got.dtype == np.float32
    assert np.allclose(got, unit(texts), atol=1e-6)
    assert endpoint.asked == [["b", "a", "c", "é 漢"]]

    again = replace(vectors)
    assert again.missing(texts) == 0
    assert np.array_equal(again.get(texts[::-1]), got[::-1])
    assert np.array_equal(again.get(["c", "d"])[0], got[2])
    assert endpoint.asked[1:] == [["d"]]


def test_requests_are_bounded_by_texts_and_progress_hears_each(endpoint: Endpoint, vectors: ApiVectors) -> None:
    vectors.get(numbers(10))
    assert endpoint.asked == [numbers(10)[:PROBE_TEXTS], numbers(10)[PROBE_TEXTS:]]
    endpoint.asked.clear()
    Shape(grown=2048).remember(vectors.cache.folder)
    heard: list[tuple[int, int]] = []
    twice = [text for text in numbers(5000) for _ in range(2)]
    got = vectors.get(twice, lambda done, total: heard.append((done, total)))
    assert np.allclose(got, unit(twice), atol=1e-6)
    assert [len(texts) for texts in endpoint.asked] == [2048, 2048, 894]
    assert heard == [(2048, 4990), (4096, 4990), (4990, 4990)]


def test_without_a_vocabulary_requests_are_bounded_by_bytes_and_what_may_be_too_long_comes_last(
    endpoint: Endpoint, vectors: ApiVectors
) -> None:
    texts = [letter * size for letter, size in zip("aébcde", (40_000, 30_000, 1, 300_000, 2, 3), strict=True)]
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
    assert [[text[0] for text in asked] for asked in endpoint.asked] == [["b", "d", "e"], ["a", "é"], ["c"]]


def test_with_a_vocabulary_requests_are_bounded_by_tokens(endpoint: Endpoint, vectors: ApiVectors) -> None:
    counting = with_encoding(vectors)
    Shape(grown=2048).remember(vectors.cache.folder)
    texts = [f"{number:04}" + "ab" * 3998 for number in range(30)]  # 4,002 tokens each, where the digits take one each
    assert np.allclose(counting.get(texts), unit(texts), atol=1e-6)
    assert [len(asked) for asked in endpoint.asked] == [24, 6]


def test_a_text_known_to_be_too_long_is_set_aside_unasked(
    endpoint: Endpoint, vectors: ApiVectors, caplog: pytest.LogCaptureFixture
) -> None:
    counting = with_encoding(vectors)
    texts = ["a", "ab" * 8192, "ab" * 8193, "ba" * 8194]
    got = counting.get(texts)
    assert np.allclose(got[:2], unit(texts[:2]), atol=1e-6)
    assert np.isnan(got[2:]).all()
    assert endpoint.asked == [texts[:2]]
    assert "begins with 'baba" in caplog.text
    assert list(counting.failed(texts).values()) == [f"{n:,} tokens, where {vectors.model} reads 8,192" for n in (8193, 8194)]


def test_a_text_that_may_be_too_long_is_asked_for_last_and_the_others_are_kept(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.answers = [embed, embed, embed, refuse(400, "maximum input length is 8192 tokens")]
    texts = ["long " * 2000, *numbers(200)]
    assert np.isnan(vectors.get(texts)[0]).all()
    assert [len(asked) for asked in endpoint.asked] == [8, 64, 128, 1, 1]
    assert vectors.failed(texts) == {texts[0]: "400 - maximum input length is 8192 tokens"}
    assert vectors.missing(texts) == 0


def test_no_texts_ask_for_nothing(endpoint: Endpoint, vectors: ApiVectors) -> None:
    assert vectors.get([]).shape == (0, WIDTH)
    assert endpoint.asked == []


def test_a_rate_limit_is_waited_out_for_as_long_as_the_endpoint_says(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.answers = [refuse(429, "Slow down.", retry_after="1")]
    assert np.allclose(vectors.get(["a"]), unit(["a"]), atol=1e-6)
    first, second = endpoint.times
    assert second - first >= 1  # without the header the library would be back after half a second


@pytest.mark.parametrize(
    "answer", [hang_up, refuse(500, "Oops.", retry_after_ms="1"), refuse(503, "Full.", retry_after_ms="1")]
)
def test_a_passing_failure_is_tried_again(endpoint: Endpoint, vectors: ApiVectors, answer: Answer) -> None:
    endpoint.answers = [answer]
    assert np.allclose(vectors.get(["a", "b"]), unit(["a", "b"]), atol=1e-6)
    assert endpoint.asked == [["a", "b"], ["a", "b"]]


def test_what_came_before_a_failure_is_not_asked_for_again(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.answers = [embed, embed, refuse(401, "Expired.")]
    Shape(grown=2048).remember(vectors.cache.folder)
    texts = numbers(5000)
    assert "refused the API key" in failure(vectors, texts)
    kept = 4096
    assert vectors.missing(texts) == 5000 - kept
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
    assert endpoint.asked[3:] == [texts[kept:]]
    assert vectors.paid == Paid(5000, tokens_of(texts))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuse(401, f"Bad key {KEY}"), ["refused the API key", "401", "Set OPENAI_API_KEY"]),
        (refuse(403, f"Not for {KEY}"), ["refused the API key", "403", "Set OPENAI_API_KEY"]),
        (refuse(400, f"Text 3 is too long for {KEY}"), ["400 - Text 3 is too long for ***", "Check baseline.model"]),
        (refuse(404, "No such model"), ["404 - No such model", "Check baseline.model"]),
        (
            refuse(429, f"Quota of {KEY}", x_should_retry="false"),
            ["quota", "429 - Quota of ***", "is kept; or use the local baseline"],
        ),
        (refuse(429, "Tomorrow", retry_after="86400"), ["limits the rate", "is kept; or use the local baseline"]),
        (
            refuse(502, "Bad gateway", x_should_retry="false"),
            ["failed", "502 - Bad gateway", "asked once and", "is kept; or use the local baseline"],
        ),
    ],
)
def test_a_refusal_says_who_refused_and_what_to_do(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, words: list[str]
) -> None:
    endpoint.usually = answer
    message = failure(vectors, ["a"])
    for word in [vectors.model, vectors.base_url, *words]:
        assert word in message
    assert len(endpoint.asked) <= 2  # its own, and one that asks whether anything is answered
    assert vectors.missing(["a"]) == 1


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        (refuse(503, "Full.", x_should_retry="false"), True),
        (refuse(429, "Tomorrow", retry_after="86400"), True),
        (refuse(429, "Check your plan", "insufficient_quota", x_should_retry="false"), False),
        (refuse(401, "Bad key"), False),
        (refuse(400, "No such field"), False),
    ],
)
def test_what_time_may_lift_is_told_from_what_stays_wrong(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, passes: bool
) -> None:
    endpoint.usually = answer
    with pytest.raises(FlywheelError) as caught:
        vectors.get(["a"])
    assert isinstance(caught.value, TryAgainError) == passes


def test_a_wrong_key_is_named_and_not_shown(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.key = "another"
    assert "refused the API key" in failure(vectors, ["a"])
    assert KEY not in f"{vectors!r} {vectors!s} {vectors.weights_id}"


def test_a_rate_limit_without_end_is_explained(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_PATIENCE_SECONDS", 0.0)
    endpoint.answers = [refuse(429, "Slow down.", retry_after_ms="1")] * 20
    assert "limits the rate" in failure(vectors, ["a"])
    assert len(endpoint.asked) == 6


def test_a_rate_limit_that_outlasts_the_clients_tries_is_waited_out(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert api._PATIENCE_SECONDS > 60 + api._PAUSE_SECONDS  # limits count minutes
    monkeypatch.setattr(api, "_PAUSE_SECONDS", 0.01)
    endpoint.answers = [refuse(429, f"Limit reached for {KEY}", retry_after_ms="1")] * 20
    assert np.allclose(vectors.get(["a"]), unit(["a"]), atol=1e-6)
    assert len(endpoint.asked) == 21
    assert "limits the rate for text-embedding-3-small; waiting" in caplog.text
    assert vectors.paid == Paid(1, 1)


def test_an_empty_account_is_not_waited_for(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.answers = [refuse(429, "Check your plan", "insufficient_quota", retry_after_ms="1")] * 20
    assert "the quota" in failure(vectors, ["a"])
    assert len(endpoint.asked) == 6


def test_an_endpoint_that_is_down_is_explained(vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_RETRIES", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = replace(vectors, base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        message = failure(down, ["a"])
    assert message.startswith(f"{down.base_url} cannot be reached for {down.model} (")
    assert "Connection refused" in message
    assert "it was asked 2 times and may have counted each" in message
    assert "run the command again" in message
    assert "FLYWHEEL_BASELINE__SOURCE=local" in message


def test_a_request_that_is_cut_off_each_time_says_how_often_it_may_have_been_counted(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_RETRIES", 2)
    endpoint.usually = hang_up
    message = failure(vectors, ["a"])
    assert endpoint.asked[:3] == [["a"]] * 3
    assert len(endpoint.asked) == 5
    assert "it was asked 3 times and may have counted each" in message
    assert "FLYWHEEL_BASELINE__SOURCE=local" in message


def test_an_endpoint_that_says_nothing_is_explained(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_RETRIES", 0)
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(asking, "_RETRIES_WHILE_SEARCHING", 0)
    endpoint.usually = stay_silent
    message = failure(vectors, ["a"])
    assert (
        "did not answer for text-embedding-3-small: no answer within 0.2 seconds; it was asked once and may have counted it"
        in message
    )
    assert "FLYWHEEL_BASELINE__SOURCE=local" in message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (change(lambda data: data[1]["embedding"].append(1.0)), "vectors of 4 and 5 numbers; none was stored"),
        (change(lambda data: [item.update(embedding=[item["embedding"]]) for item in data]), r"an embedding of shape \(1, 4\)"),
        (change(lambda data: data.pop()), r"2 vectors for 3 texts; none was stored\. Set baseline\.batch_texts to 1"),
        (change(lambda data: data[1].update(index=0)), r"names 2 of 3 texts; none was stored\. Set baseline\.batch_texts to 1"),
        (change(lambda data: data[1].update(index=7)), "names 2 of 3 texts"),
        (change(lambda data: data[1].update(index=-1)), "names 2 of 3 texts"),
        (change(lambda data: data[1].pop("index")), "names 2 of 3 texts"),
        (change(lambda data: data[1].update(index=[1])), "names 2 of 3 texts"),
        (change(lambda data: data[1].update(index=0.5)), "names 2 of 3 texts"),
        (change(lambda data: [item.pop("index") for item in data[1:]]), "names 1 of 3 texts"),
        (change(lambda data: data.append({**data[0], "index": 3})), "4 vectors for 3 texts"),
        (change(lambda data: data.insert(0, {**data[0], "index": None})), "4 vectors for 3 texts"),
        (change(lambda data: data[1].update(embedding=["x"] * WIDTH)), "something else than numbers"),
        (change(lambda data: data[1].update(embedding="not base64!")), "something else than numbers"),
        (change(lambda data: data.__setitem__(1, [1.0] * WIDTH)), "a list of something else than embeddings"),
        (change(lambda data: data.clear()), "did not answer with embeddings"),
        (say('{"object": "list", "data": [{"index"'), "did not answer with embeddings"),
        (say('{"hello": "world"}'), "did not answer with embeddings"),
        (say("[1, 2]"), "did not answer with embeddings"),
        (say("null"), "did not answer with embeddings"),
        (say(""), "did not answer with embeddings"),
        (say("<html><title>A  portal</title></html>", "text/html"), "but with a web page titled 'A portal'"),
    ],
)
def test_an_answer_that_is_not_one_vector_a_text_is_refused_and_not_stored(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, words: str
) -> None:
    endpoint.answers = [answer]
    texts = ["a", "b", "c"]
    with pytest.raises(FlywheelError, match=words) as caught:
        vectors.get(texts)
    assert vectors.model in str(caught.value)
    assert vectors.base_url in str(caught.value)
    assert vectors.missing(texts) == 3
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)


def test_a_full_cache_needs_no_key_no_endpoint_and_no_client_library(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(300)
    expected = vectors.get(texts)
    asked = len(endpoint.asked)
    reader = f"""
import sys
from pathlib import Path
from flywheel.models.api.vectors import ApiVectors
vectors = ApiVectors({vectors.model!r}, {WIDTH}, {vectors.base_url!r}, None, Path({str(vectors.cache_folder)!r}))
sys.stdout.buffer.write(vectors.get([str(number) for number in range(300)]).tobytes())
assert not {{"openai", "torch", "transformers", "sentence_transformers", "datasets"}} & set(sys.modules)
"""
    finished = subprocess.run([sys.executable, "-c", reader], check=True, capture_output=True)
    assert finished.stdout == expected.tobytes()
    assert len(endpoint.asked) == asked


def test_a_missing_text_without_a_key_is_explained_and_touches_nothing(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)  # the key that was handed over counts, and no other
    message = failure(replace(vectors, api_key=None), ["a", "b", "b"])
    assert message.startswith(f"2 texts have no vector of {vectors.model} from {vectors.base_url}")
    assert "OPENAI_API_KEY" in message
    assert "FLYWHEEL_BASELINE__SOURCE=local" in message
    assert endpoint.asked == []
    assert not vectors.cache_folder.exists()


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} {KEY}", f"{KEY}é", " "])
def test_a_key_that_no_header_can_carry_is_explained(endpoint: Endpoint, vectors: ApiVectors, key: str) -> None:
    assert "Set OPENAI_API_KEY to the key alone" in failure(replace(vectors, api_key=key), ["a"])
    assert endpoint.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "api.openai.com/v1",
        "",
        "ftp://host/v1",
        "https://",
        "https://host:x/v1",
        f"https://user:{KEY}@host/v1",
        f"https://{KEY}@host/v1",
        f"https://host/v1?api-key={KEY}",
        f"https://host/v1#{KEY}",
    ],
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused_unseen(vectors: ApiVectors, url: str) -> None:
    with pytest.raises(FlywheelError, match=r"Fix the setting baseline\.url") as caught:
        replace(vectors, base_url=url).get(["a"])
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_the_id_tells_endpoints_models_and_dimensions_apart_and_fits_a_file_system(vectors: ApiVectors) -> None:
    base = replace(vectors, base_url="https://api.openai.com/v1")
    assert base.weights_id.startswith(f"text-embedding-3-small-{WIDTH}-")
    same = [
        replace(base, api_key=None),
        replace(base, api_key="other", cache_folder=Path("elsewhere")),
        replace(base, base_url="https://API.openai.com:443/v1/"),
    ]
    assert {other.weights_id for other in same} == {base.weights_id}
    different = [
        base,
        replace(base, base_url="https://api.openai.org/v1"),
        replace(base, base_url="https://api.openai.com/v2"),
        replace(base, base_url="https://api.openai.com:8080/v1"),
        replace(base, dimensions=8),
        *(replace(base, model=model) for model in ("../a/b:c", "..-a-b-c", "..-A-b-c", "é" * 300, "ê" * 300, "m" * 300)),
    ]
    ids = [other.weights_id for other in different]
    assert len({name.lower() for name in ids}) == len(different)
    assert all(len(name) < 120 and not set(name) & set('/\\:*?"<>|') for name in ids)


def test_openais_own_hosts_share_their_vectors_under_the_name_they_always_had(vectors: ApiVectors) -> None:
    base = replace(vectors, base_url="https://api.openai.com/v1", dimensions=1536)
    assert base.weights_id == "text-embedding-3-small-1536-34b0eb3d6ae9"  # what was paid for is found again
    for url in ("https://eu.api.openai.com/v1", "https://US.api.openai.com/v1/"):
        other = replace(base, base_url=url)
        assert (other.family, other.weights_id) == ("openai", base.weights_id)
    for url in ("https://notapi.openai.com/v1", "https://api.openai.com.example/v1", "https://eu.api.openai.com/v2"):
        assert replace(base, base_url=url).family != "openai"
    assert replace(base, base_url="http://localhost:8080/v1/").family == "localhost:8080/v1"


def test_another_endpoint_or_dimension_never_gets_these_vectors(endpoint: Endpoint, vectors: ApiVectors) -> None:
    vectors.get(["a"])
    for other in (replace(vectors, dimensions=8), replace(vectors, base_url=endpoint.url.replace("/v1", "/v2"))):
        assert other.missing(["a"]) == 1
