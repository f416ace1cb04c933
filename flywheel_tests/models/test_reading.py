"""What a base model reads of a text is what its encoder gets, and why two texts are one to it is told by its cause."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.features import tokenise
from flywheel.models.reading import Reader, SameTokens
from flywheel.models.weights import locate_weights
from flywheel_tests.helpers.hub_layout import random_tensors, write_hub_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = CATALOGUE["all-MiniLM-L6-v2"]
LONG = "why is the sky blue " * 80
CAUSES = {
    "cut": (LONG + "at noon", LONG + "at night"),
    "marks": ("Où est le café ?", "ou est le CAFE ?"),
    "unknown": ("I love it \N{GRINNING FACE}", "I love it \N{POUTING FACE}"),
    "dropped": ("don't panic", "don 't panic"),
}


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader(MINILM, locate_weights(MINILM))


def all_of(pairs: list[tuple[str, str]], reader: Reader) -> SameTokens:
    return reader.same([a for a, _ in pairs], [b for _, b in pairs], np.ones(len(pairs)))


def test_its_tokens_and_its_limit_are_those_of_the_encoder(reader: Reader, encoder: "SentenceTransformer") -> None:
    texts = ["", "one", LONG, *(text for pair in CAUSES.values() for text in pair)]
    assert reader.limit == encoder.max_seq_length == MINILM.reads == 256
    assert [reader._cut(ids) for ids in reader._ids(texts)] == tokenise(encoder, texts)


@pytest.mark.parametrize("cause", CAUSES)
def test_two_texts_of_the_same_tokens_are_told_by_their_cause(reader: Reader, cause: str) -> None:
    found = all_of([CAUSES[cause]], reader)
    assert found.same.tolist() == [True]
    assert found.why == {cause: 1}


def test_texts_that_differ_are_not_the_same_however_alike_their_vectors(reader: Reader) -> None:
    pairs = [("one", "two"), (LONG, LONG + "at night"), ("at noon " + LONG, "at night " + LONG), ("same", "same")]
    assert all_of(pairs, reader).same.tolist() == [False, True, False, False]


def test_pairs_whose_vectors_are_unlike_are_not_looked_at(reader: Reader) -> None:
    found = reader.same(["café"], ["cafe"], np.array([0.5]))
    assert (found.same.tolist(), found.share) == ([False], 0.0)


def test_the_commonest_cause_is_named_with_its_share_and_what_helps(reader: Reader) -> None:
    others = [(f"one {number}", f"two {number}") for number in range(6)]
    cut = [(f"{number} {LONG} at noon", f"{number} {LONG} at night") for number in range(14)]
    found = all_of([*cut, *others], reader)
    assert found.words("pairs") == "70 % of the pairs differ only after 256 tokens, which is all that all-MiniLM-L6-v2 reads"
    for longer in (
        "bge-base-en-v1.5 (512 tokens)",
        "all-mpnet-base-v2 (384 tokens)",
        "jina-embeddings-v2-small-en (8,192 tokens)",
    ):
        assert longer in found.remedy
    accents = [(f"café {number}", f"cafe {number}") for number in range(8)]
    assert all_of([*accents, cut[0], *others, *others[:5]], reader).words("test pairs") == (
        "40 % of the test pairs have the same tokens for all-MiniLM-L6-v2, which reads lower-case letters without accents "
        "(5.0 % more have the same tokens for other reasons)"
    )


def test_of_a_model_that_reads_much_only_those_that_read_more_are_advised(tmp_path: Path) -> None:
    jina = CATALOGUE["jina-embeddings-v2-small-en"]
    reader = Reader(jina, write_hub_folder(tmp_path, random_tensors(0)))
    longest = "why is the sky blue " * 2000
    found = all_of([(longest + "why", longest + "how")], reader)
    assert (reader.limit, dict(found.why)) == (8192, {"cut": 1})
    assert found.remedy.startswith("Use a model that reads more: Qwen3-Embedding-0.6B (32,768 tokens); or shorten the texts")


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "config.json").write_text('{"hidden_size": 384}')
    with pytest.raises(FlywheelError, match=rf"{tmp_path}/tokenizer\.json cannot be read .* Replace .* the hub's files"):
        all_of([("one", "two")], Reader(replace(MINILM, pooling="mean"), tmp_path))
