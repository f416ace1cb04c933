"""Tokens are counted where OpenAI's vocabulary is on the disk, bounded and estimated where not; nothing is fetched."""

import hashlib
import inspect
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from flywheel.models.api.tokens import ENCODING, VOCABULARY_SHA256, VOCABULARY_URL, Tokens

VOCABULARY = hashlib.sha1(VOCABULARY_URL.encode()).hexdigest()
FOLDERS = [os.environ.get("TIKTOKEN_CACHE_DIR", ""), "/tmp/data-gym-cache"]
AT_HAND = next((folder for folder in FOLDERS if folder and (Path(folder) / VOCABULARY).exists()), None)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_the_vocabulary_looked_for_is_the_one_that_tiktoken_reads() -> None:
    source = inspect.getsource(openai_public.cl100k_base)
    assert VOCABULARY_URL in source
    assert VOCABULARY_SHA256 in source
    assert tiktoken.encoding_name_for_model("text-embedding-3-small") == ENCODING


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "TMPDIR"])
def test_without_the_vocabulary_nothing_is_fetched_and_the_estimate_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path) if variable == "TMPDIR" else None)
    monkeypatch.setenv(variable, str(tmp_path))
    folder = tmp_path / "data-gym-cache" if variable == "TMPDIR" else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / VOCABULARY).write_bytes(b"damaged")
    tokens = Tokens.of_model("text-embedding-3-small")
    assert tokens.encoding is None
    assert "characters / 4" in tokens.counted_by
    assert tokens.estimate(["é" * 8, "abc"]) == 3
    assert tokens.bounds(["é" * 8, "abc"]).tolist() == [16, 3]
    assert (folder / VOCABULARY).read_bytes() == b"damaged"  # tiktoken would have removed it to fetch another


def test_no_texts_have_no_tokens() -> None:
    assert Tokens(None).estimate([]) == 0
    assert Tokens(None).bounds([]).shape == (0,)


@given(st.lists(st.text(max_size=40)))
def test_bytes_are_never_fewer_than_the_tokens_of_a_real_encoding(texts: list[str]) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"ab": 256, "é".encode(): 257}
    encoding = tiktoken.Encoding("tiny", pat_str=r"\S+|\s+", mergeable_ranks=ranks, special_tokens={"<|end|>": 258})
    counted, bounded = Tokens(encoding), Tokens(None)
    assert np.all(counted.bounds(texts) <= bounded.bounds(texts))
    assert counted.estimate(texts) == sum(len(encoding.encode(text, disallowed_special=())) for text in texts)


@pytest.mark.skipif(AT_HAND is None, reason=f"{ENCODING} is not in tiktoken's folder")
def test_with_the_vocabulary_tokens_are_counted_for_openais_models_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(AT_HAND))
    tokens = Tokens.of_model("text-embedding-3-small")
    assert tokens.counted_by == "tiktoken, cl100k_base"
    assert tokens.bounds(["tiktoken is great!", ""]).tolist() == [6, 0]  # the example of tiktoken's cookbook
    assert Tokens.of_model("nomic-embed-text").encoding is None
