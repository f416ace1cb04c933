"""An embeddings endpoint is paid once for a text, its failures are explained in a sentence, and the key stays secret."""

import base64
import io
import json
import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.traceback import Traceback

from flywheel.errors import FlywheelError
from flywheel.models import api
from flywheel.models.api import ApiVectors

KEY = "sk-proj-0123456789-secret"
WIDTH = 4

Answer = Callable[["Handler", dict[str, Any]], None]


def meaning(text: str) -> np.ndarray:
    """What the endpoint knows of a text: float32 (WIDTH,), not of unit length."""
    return np.frombuffer(sha256(text.encode()).digest(), dtype=np.uint8)[:WIDTH].astype(np.float32) + 1


def unit(texts: list[str]) -> np.ndarray:
    vectors = np.stack([meaning(text) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Handler(BaseHTTPRequestHandler):
    """Answers each POST with the next of the server's answers, and properly when none is left."""

    protocol_version = "HTTP/1.1"
    server: "Endpoint"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["input"])
        self.server.times.append(time.monotonic())
        if (self.path, self.headers["Authorization"]) != ("/v1/embeddings", f"Bearer {self.server.key}"):
            refuse(401, f"Incorrect API key provided: {self.headers['Authorization']}")(self, body)
        elif self.server.answers:
            self.server.answers.pop(0)(self, body)
        else:
            embed(self, body)

    def reply(self, status: int, body: str, content_type: str = "application/json", **headers: str) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {"content_type": content_type, "content_length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Leave stderr alone."""


class Endpoint(ThreadingHTTPServer):
    """An embeddings endpoint on the loopback that remembers what it was asked for, request by request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.key = KEY
        self.answers: list[Answer] = []
        self.asked: list[list[str]] = []
        self.times: list[float] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


def items(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The embeddings a good answer to `body` holds, as the format asked for wants them."""
    assert (body["model"], body["dimensions"]) == ("text-embedding-3-small", WIDTH)
    vectors = [meaning(text) for text in body["input"]]
    if body.get("encoding_format") == "base64":
        encoded: list[Any] = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        encoded = [vector.tolist() for vector in vectors]
    return [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(encoded)]


def give(data: list[dict[str, Any]]) -> str:
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return json.dumps({"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage})


def embed(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, give(items(body)))


def embed_as_floats(handler: Handler, body: dict[str, Any]) -> None:
    """As the many endpoints do that know no base64."""
    embed(handler, {**body, "encoding_format": "float"})


def embed_backwards(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, give(items(body)[::-1]))


def hang_up(handler: Handler, body: dict[str, Any]) -> None:
    data = give(items(body)).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data[: len(data) // 2])
    handler.close_connection = True


def stay_silent(handler: Handler, _: dict[str, Any]) -> None:
    handler.server.closing.wait()
    handler.close_connection = True


def refuse(status: int, message: str, **headers: str) -> Answer:
    return lambda handler, _: handler.reply(status, json.dumps({"error": {"message": message}}), **headers)


def say(body: str, content_type: str = "application/json") -> Answer:
    return lambda handler, _: handler.reply(200, body, content_type)


def change(edit: Callable[[list[dict[str, Any]]], object]) -> Answer:
    """Answer with float lists after `edit` has had its way with them."""

    def answer(handler: Handler, body: dict[str, Any]) -> None:
        data = items({**body, "encoding_format": "float"})
        edit(data)
        handler.reply(200, give(data))

    return answer


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def vectors(endpoint: Endpoint, tmp_path: Path) -> ApiVectors:
    return ApiVectors("text-embedding-3-small", WIDTH, endpoint.url, KEY, tmp_path / "cache")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def _nothing_writes_the_key_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Hold for every test: neither a log, however chatty, nor a file has the key."""
    caplog.set_level(logging.DEBUG)
    yield
    assert not [record for record in caplog.get_records("call") if KEY in f"{record.getMessage()}{record.exc_text}"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


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


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


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
    heard: list[tuple[int, int]] = []
    twice = [text for text in numbers(600) for _ in range(2)]
    got = vectors.get(twice, lambda done, total: heard.append((done, total)))
    assert np.allclose(got, unit(twice), atol=1e-6)
    assert [len(texts) for texts in endpoint.asked] == [10, 246, 256, 88]
    assert heard == [(246, 590), (502, 590), (590, 590)]


def test_requests_are_bounded_by_characters(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = [letter * size for letter, size in zip("abcdef", (40_000, 60_000, 1, 300_000, 2, 3), strict=True)]
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)
    assert [[text[0] for text in asked] for asked in endpoint.asked] == [["a", "b"], ["c"], ["d"], ["e", "f"]]


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
    endpoint.answers = [embed, embed, refuse(400, "Too long.")]
    assert "Too long" in failure(vectors, numbers(600))
    assert vectors.missing(numbers(600)) == 600 - 512
    assert np.allclose(vectors.get(numbers(600)), unit(numbers(600)), atol=1e-6)
    assert endpoint.asked[3:] == [numbers(600)[512:]]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refuse(401, f"Bad key {KEY}"), ["refused the API key", "401", "Set OPENAI_API_KEY"]),
        (refuse(403, f"Not for {KEY}"), ["refused the API key", "403", "Set OPENAI_API_KEY"]),
        (refuse(400, f"Text 3 is too long for {KEY}"), ["400 - Text 3 is too long for ***", "Check baseline_model"]),
        (refuse(404, "No such model"), ["404 - No such model", "Check baseline_model"]),
        (refuse(429, f"Quota of {KEY}", x_should_retry="false"), ["quota", "429 - Quota of ***", "is kept"]),
        (refuse(429, "Tomorrow", retry_after="86400"), ["limits the rate", "is kept"]),
        (refuse(502, "Bad gateway", x_should_retry="false"), ["failed", "502 - Bad gateway", "is kept"]),
    ],
)
def test_a_refusal_says_who_refused_and_what_to_do(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, words: list[str]
) -> None:
    endpoint.answers = [answer]
    message = failure(vectors, ["a"])
    for word in [vectors.model, vectors.base_url, *words]:
        assert word in message
    assert len(endpoint.asked) == 1
    assert vectors.missing(["a"]) == 1


def test_a_wrong_key_is_named_and_not_shown(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.key = "another"
    assert "refused the API key" in failure(vectors, ["a"])
    assert KEY not in f"{vectors!r} {vectors!s} {vectors.weights_id}"


def test_a_rate_limit_without_end_is_explained(endpoint: Endpoint, vectors: ApiVectors) -> None:
    endpoint.answers = [refuse(429, "Slow down.", retry_after_ms="1")] * 20
    assert "limits the rate" in failure(vectors, ["a"])
    assert len(endpoint.asked) == 6


def test_an_endpoint_that_is_down_is_explained(vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_RETRIES", 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = replace(vectors, base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
        message = failure(down, ["a"])
    assert message.startswith(f"{down.base_url} cannot be reached for {down.model} (")
    assert "Connection refused" in message
    assert "run the command again" in message


def test_an_endpoint_that_says_nothing_is_explained(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "_RETRIES", 0)
    monkeypatch.setattr(api, "_TIMEOUT_SECONDS", 0.2)
    endpoint.answers = [stay_silent]
    assert "did not answer for text-embedding-3-small within 0.2 seconds" in failure(vectors, ["a"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (change(lambda data: data[1]["embedding"].append(1.0)), r"shape .*\(5,\).* where \(4,\)"),
        (change(lambda data: [item.update(embedding=[item["embedding"]]) for item in data]), r"\(1, 4\)"),
        (change(lambda data: data[1].update(embedding=None)), "shape"),
        (change(lambda data: data.pop()), "1 of 2 texts"),
        (change(lambda data: data[1].update(index=0)), "1 of 2 texts"),
        (change(lambda data: data[1].update(index=7)), "1 of 2 texts"),
        (change(lambda data: data[1].pop("index")), "1 of 2 texts"),
        (change(lambda data: data[1].update(index=[1])), "1 of 2 texts"),
        (change(lambda data: data.append({**data[0], "index": 2})), "3 vectors, which are those of 2 of 2 texts"),
        (change(lambda data: data.insert(0, {**data[0], "index": None})), "3 vectors, which are those of 2 of 2 texts"),
        (change(lambda data: data.append(data[0])), "3 vectors, which are those of 2 of 2 texts"),
        (change(lambda data: data[1].update(embedding=[1.0, float("nan"), 1.0, 1.0])), "for 1 of 2 texts"),
        (change(lambda data: data[1].update(embedding=[1.0, float("inf"), 1.0, 1.0])), "for 1 of 2 texts"),
        (change(lambda data: data[1].update(embedding=[0.0] * WIDTH)), "for 1 of 2 texts"),
        (change(lambda data: data[1].update(embedding=["x"] * WIDTH)), "did not answer with embeddings"),
        (change(lambda data: data[1].update(embedding="not base64!")), "did not answer with embeddings"),
        (change(lambda data: data.clear()), "did not answer with embeddings"),
        (say('{"object": "list", "data": [{"index"'), "did not answer with embeddings"),
        (say('{"hello": "world"}'), "did not answer with embeddings"),
        (say("[1, 2]"), "did not answer with embeddings"),
        (say("null"), "did not answer with embeddings"),
        (say(""), "did not answer with embeddings"),
        (say("<html>A portal</html>", "text/html"), "did not answer with embeddings"),
    ],
)
def test_an_answer_that_is_not_one_good_vector_a_text_is_refused_and_not_stored(
    endpoint: Endpoint, vectors: ApiVectors, answer: Answer, words: str
) -> None:
    endpoint.answers = [answer]
    with pytest.raises(FlywheelError, match=words) as caught:
        vectors.get(["a", "b"])
    assert vectors.model in str(caught.value)
    assert vectors.base_url in str(caught.value)
    assert vectors.missing(["a", "b"]) == 2
    assert np.allclose(vectors.get(["a", "b"]), unit(["a", "b"]), atol=1e-6)


def test_a_full_cache_needs_no_key_no_endpoint_and_no_client_library(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(300)
    expected = vectors.get(texts)
    asked = len(endpoint.asked)
    reader = f"""
import sys
from pathlib import Path
from flywheel.models.api import ApiVectors
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
    assert "FLYWHEEL_BASELINE=local" in message
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
    with pytest.raises(FlywheelError, match="Mend baseline_url") as caught:
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


def test_another_endpoint_or_dimension_never_gets_these_vectors(endpoint: Endpoint, vectors: ApiVectors) -> None:
    vectors.get(["a"])
    for other in (replace(vectors, dimensions=8), replace(vectors, base_url=endpoint.url.replace("/v1", "/v2"))):
        assert other.missing(["a"]) == 1
