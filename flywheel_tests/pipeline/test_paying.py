"""What an embeddings endpoint was paid is written down, and nothing is paid twice, whoever is killed or comes at once."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.api.ledger import Paid
from flywheel.models.api.request import Shape
from flywheel.models.api.vectors import ApiVectors
from flywheel_tests.helpers.endpoint import (
    KEY,
    Endpoint,
    Handler,
    change,
    embed,
    numbers,
    refuse,
    say,
    stay_silent,
    tokens_of,
    unit,
)
from flywheel_tests.helpers.servers import SERVERS

pytestmark = pytest.mark.usefixtures("plain_environment", "secret_key")


@pytest.mark.parametrize("torn", [b'{"time": "2026-10-01T09:00:00+00:00", "te', b'{"texts": 3}\n', b"\xff\n", b"7\n"])
def test_the_ledger_adds_up_what_the_endpoint_counted_around_a_torn_line(
    endpoint: Endpoint, vectors: ApiVectors, torn: bytes
) -> None:
    assert vectors.paid == Paid()
    assert vectors.fill(["a", "bb", "bb"]) == Paid(2, 3)
    ledger = vectors.cache.folder / "paid.jsonl"
    with ledger.open("ab") as file:
        file.write(torn)
    assert vectors.paid == Paid(2, 3)
    endpoint.answers = [change(lambda data: None), change(lambda data: data.append(data[0]))]
    assert vectors.fill(["ccc"]) == Paid(1, 1)
    assert vectors.fill(["a", "ccc"]) == Paid()
    with pytest.raises(FlywheelError, match="none was stored"):  # and yet it was paid
        vectors.fill(["d", "e"])
    assert vectors.paid == Paid(5, 5)
    assert json.loads(ledger.read_bytes().splitlines()[-1]).keys() == {"time", "texts", "tokens"}


def test_an_endpoint_that_counts_no_tokens_is_taken_as_it_is(endpoint: Endpoint, vectors: ApiVectors) -> None:
    data = [{"object": "embedding", "index": 0, "embedding": [1.0, 0.0, 0.0, 0.0]}]
    endpoint.answers = [say(json.dumps({"object": "list", "data": data, "model": vectors.model}))]
    assert vectors.fill(["a"]) == Paid(1, 0, 1)
    assert vectors.fill(["b"]) == Paid(1, 1)
    assert vectors.paid == Paid(2, 1, 1)


def test_a_ledger_that_cannot_be_written_loses_no_vector_and_is_told(
    endpoint: Endpoint, vectors: ApiVectors, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = vectors.cache.folder / "paid.jsonl"
    ledger.mkdir(parents=True)
    assert vectors.fill(["a", "bb"]) == Paid(2, 3)
    (told,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told.startswith(f"{ledger} cannot be written (Is a directory): an answer for 2 texts, for which {endpoint.url}")
    assert "counted 3 tokens" in told
    assert np.allclose(vectors.get(["a", "bb"]), unit(["a", "bb"]), atol=1e-6)
    assert endpoint.asked == [["a", "bb"]]
    with pytest.raises(FlywheelError, match=r"what was paid is not known\. Move it away"):
        _ = vectors.paid
    ledger.rmdir()
    vectors.fill(["ccc"])
    assert vectors.paid == Paid(1, 3)


def test_an_answer_that_cannot_be_stored_is_written_down_as_paid(
    endpoint: Endpoint, vectors: ApiVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", no_space)
    with pytest.raises(FlywheelError, match="full"):
        vectors.fill(["a", "bb"])
    assert vectors.paid == Paid(2, 3)
    assert vectors.missing(["a", "bb"]) == 2


def test_a_damaged_shard_is_paid_for_again_alone_and_the_ledger_stays(endpoint: Endpoint, vectors: ApiVectors) -> None:
    vectors.fill(["a", "bb"])
    (damaged,) = vectors.cache.folder.glob("*.vectors.npy")
    vectors.fill(["ccc"])
    os.truncate(damaged, damaged.stat().st_size - 1)
    with pytest.raises(FlywheelError, match="is damaged") as caught:
        replace(vectors).fill(["a", "bb", "ccc"])
    for name in re.findall(r"\S+\.npy", str(caught.value).partition("Delete ")[2]):
        (vectors.cache.folder / name).unlink()
    assert replace(vectors).fill(["a", "bb", "ccc"]) == Paid(2, 3)
    assert endpoint.asked[2:] == [["a", "bb"]]
    assert vectors.paid == Paid(5, 9)


# A process that asks for the vectors of texts 0 to n - 1; endpoint and cache are told on its command line.
FILLER = """
import os, sys
from pathlib import Path
from flywheel.models.api.vectors import ApiVectors
ApiVectors("text-embedding-3-small", 4, sys.argv[1], os.environ["OPENAI_API_KEY"], Path(sys.argv[2])).fill(
    str(number) for number in range(int(sys.argv[3]))
)
"""


def filler(vectors: ApiVectors, count: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FILLER, vectors.base_url, str(vectors.cache_folder), str(count)]
    return subprocess.Popen(command, env={**os.environ, "OPENAI_API_KEY": KEY})


def test_a_killed_process_is_gone_on_from_without_paying_twice(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(7000)
    third_came = threading.Event()

    def say_and_stay_silent(handler: Handler, body: dict[str, Any]) -> None:
        third_came.set()
        stay_silent(handler, body)

    Shape(grown=2048).remember(vectors.cache.folder)
    endpoint.answers = [embed, embed, say_and_stay_silent]
    process = filler(vectors, len(texts))
    assert third_came.wait(60)
    process.kill()
    process.wait()
    assert vectors.missing(texts) == 7000 - 4096
    assert filler(vectors, len(texts)).wait() == 0
    answered = [text for asked in (*endpoint.asked[:2], *endpoint.asked[3:]) for text in asked]
    assert sorted(answered) == sorted(texts)
    assert vectors.paid == Paid(7000, tokens_of(texts))
    assert np.allclose(vectors.get(texts), unit(texts), atol=1e-6)


def test_two_processes_at_once_pay_once(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(7000)
    first, second = filler(vectors, len(texts)), filler(vectors, len(texts))
    assert (first.wait(), second.wait()) == (0, 0)
    assert sorted(text for asked in endpoint.asked for text in asked) == sorted(texts)
    assert vectors.paid == Paid(7000, tokens_of(texts))


def test_two_processes_at_once_learn_a_limit_and_set_a_text_aside_without_paying_twice(
    endpoint: Endpoint, vectors: ApiVectors
) -> None:
    texts = numbers(400)
    refusing, limited = refuse(400, "No"), SERVERS["TEI"]
    endpoint.usually = lambda handler, body: (refusing if "250" in body["input"] else limited)(handler, body)
    first, second = filler(vectors, len(texts)), filler(vectors, len(texts))
    assert (first.wait(), second.wait()) == (0, 0)
    assert list(vectors.failed(texts)) == ["250"]
    answered = [text for asked in endpoint.answered for text in asked if text in texts]
    assert sorted(answered) == sorted(set(texts) - {"250"})
    assert vectors.paid.texts == sum(map(len, endpoint.answered))


def test_a_process_that_is_killed_while_it_looks_for_a_text_is_gone_on_from(endpoint: Endpoint, vectors: ApiVectors) -> None:
    texts = numbers(400)
    alone = threading.Event()

    def refuse_and_then_nothing(handler: Handler, body: dict[str, Any]) -> None:
        if body["input"] == ["250"] and not alone.is_set():
            alone.set()
            return stay_silent(handler, body)
        return (refuse(400, "No") if "250" in body["input"] else embed)(handler, body)

    endpoint.usually = refuse_and_then_nothing
    process = filler(vectors, len(texts))
    assert alone.wait(60)
    process.kill()
    process.wait()
    assert vectors.failed(texts) == {}
    assert 0 < vectors.missing(texts) < 400
    assert filler(vectors, len(texts)).wait() == 0
    assert vectors.failed(texts) == {"250": "400 - No"}
    answered = [text for asked in endpoint.answered for text in asked if text in texts]
    assert sorted(answered) == sorted(set(texts) - {"250"})
    assert vectors.paid.texts == sum(map(len, endpoint.answered))
