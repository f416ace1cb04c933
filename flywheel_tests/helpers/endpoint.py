"""An embeddings endpoint on the loopback that answers as it is told to, and the watch over the key that it is asked with."""

import base64
import gzip
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.models.api.vectors import ApiVectors

KEY = "sk-proj-0123456789-secret"
WIDTH = 4

Answer = Callable[["Handler", dict[str, Any]], None]


def meaning(text: str, width: int = WIDTH) -> np.ndarray:
    """What the endpoint knows of a text: float32 (width,), up to 32, not of unit length; a shorter one begins a longer."""
    return np.frombuffer(sha256(text.encode()).digest(), dtype=np.uint8)[:width].astype(np.float32) + 1


def unit(texts: list[str]) -> np.ndarray:
    vectors = np.stack([meaning(text) for text in texts])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Handler(BaseHTTPRequestHandler):
    """Answers each POST with the next of the server's answers, and as it usually does when none is left."""

    protocol_version = "HTTP/1.1"
    server: "Endpoint"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body["input"])
        self.server.bodies.append(body)
        self.server.times.append(time.monotonic())
        if self.path not in self.server.paths or self.headers["Authorization"] != f"Bearer {self.server.key}":
            refuse(401, f"Incorrect API key provided: {self.headers['Authorization']}")(self, body)
        elif self.server.answers:
            self.server.answers.pop(0)(self, body)
        else:
            self.server.usually(self, body)

    def reply(self, status: int, body: str, content_type: str = "application/json", **headers: str) -> None:
        data = body.encode()
        if status == 200:
            self.server.answered.append(self.server.asked[-1])
        if headers.get("content_encoding") == "gzip":
            data = gzip.compress(data)
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
        self.paths = {"/v1/embeddings"}
        self.answers: list[Answer] = []
        self.usually: Answer = embed
        self.asked: list[list[str]] = []
        self.answered: list[list[str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


def items(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The embeddings a good answer to `body` holds, as the format asked for wants them."""
    assert body["model"] == "text-embedding-3-small"
    vectors = [meaning(text) for text in body["input"]]
    if body.get("encoding_format") == "base64":
        encoded: list[Any] = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        encoded = [vector.tolist() for vector in vectors]
    return [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(encoded)]


def tokens_of(texts: list[str]) -> int:
    """What the endpoint says that texts cost."""
    return sum(map(len, texts))


def give(data: list[dict[str, Any]], tokens: int = 1) -> str:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json.dumps({"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage})


def embed(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, give(items(body), tokens_of(body["input"])))


def embed_as_floats(handler: Handler, body: dict[str, Any]) -> None:
    """As the many endpoints do that know no base64."""
    embed(handler, {**body, "encoding_format": "float"})


def embed_backwards(handler: Handler, body: dict[str, Any]) -> None:
    handler.reply(200, give(items(body)[::-1], tokens_of(body["input"])))


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


def refuse(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "code": code}})
    return lambda handler, _: handler.reply(status, body, **headers)


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
    """Vectors of the endpoint, with an empty cache."""
    return ApiVectors("text-embedding-3-small", WIDTH, endpoint.url, KEY, tmp_path / "cache")


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no key and no vocabulary of tokens but what a test brings."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")


@pytest.fixture
def secret_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither a log, however chatty, nor a file has the key."""
    caplog.set_level(logging.DEBUG)
    yield
    assert not [record for record in caplog.get_records("call") if KEY in f"{record.getMessage()}{record.exc_text}"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]
