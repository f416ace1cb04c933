"""Features are the poolings of the model's own token states, whatever the batch, and bfloat16 decides as float32 does."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.encoder import load_encoder
from flywheel.models.features import PARTS, longest_first, pooled, token_states, working_dtype
from flywheel.models.vectors import Vectors
from flywheel.models.weights import locate_weights
from flywheel_tests.models.test_encoder import TEXTS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = CATALOGUE["all-MiniLM-L6-v2"]


def unit(features: np.ndarray) -> np.ndarray:
    mean = features[:, :384].astype(np.float32)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


def test_the_mean_normalised_is_what_the_library_encodes(encoder: "SentenceTransformer") -> None:
    one_by_one = np.stack([encoder.encode(text, show_progress_bar=False) for text in TEXTS])
    np.testing.assert_allclose(unit(pooled(encoder, TEXTS, PARTS)), one_by_one, atol=2e-6)


def test_features_are_mean_max_and_cls_of_the_token_states(encoder: "SentenceTransformer") -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = locate_weights(MINILM)
    model = AutoModel.from_pretrained(folder)
    for text, features in zip(TEXTS, pooled(encoder, TEXTS, PARTS), strict=True):
        tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            states = model(**tokens).last_hidden_state[0].numpy()
        wanted = {"mean": states.mean(0), "max": states.max(0), "cls": states[0]}
        np.testing.assert_allclose(features, np.concatenate([wanted[part] for part in PARTS]), atol=1e-4)


def test_rows_stand_in_the_order_of_the_texts_whatever_shares_their_batch(encoder: "SentenceTransformer") -> None:
    texts = [f"{'word ' * (place * 7 % 23)}{place}" for place in range(400)]
    features = pooled(encoder, texts, PARTS)
    np.testing.assert_allclose(features[::-1], pooled(encoder, texts[::-1], PARTS), atol=1e-4)
    np.testing.assert_allclose(features[7:8], pooled(encoder, texts[7:8], PARTS), atol=1e-4)


def test_no_texts_give_no_rows_of_the_right_width(encoder: "SentenceTransformer") -> None:
    assert pooled(encoder, [], PARTS).shape == (0, 3 * 384)


def test_progress_counts_up_to_the_number_of_texts(encoder: "SentenceTransformer") -> None:
    heard: list[tuple[int, int]] = []
    pooled(encoder, ["a"] * 600, PARTS, lambda done, total: heard.append((done, total)))
    assert len(heard) > 1
    assert heard == sorted(set(heard))
    assert heard[-1] == (600, 600)


def test_bfloat16_moves_no_cosine_by_more_than_half_a_hundredth(encoder: "SentenceTransformer") -> None:
    import torch

    words = ["how", "what", "learn", "buy", "python", "delhi", "doctor", "love", "money", "exam", "english", "weight"]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, size)) + "?" for size in random.integers(3, 20, 300)]
    exact = unit(pooled(encoder, texts, PARTS))
    halved = unit(pooled(load_encoder(MINILM, "cpu").to(torch.bfloat16), texts, PARTS))
    assert np.abs(exact @ exact.T - halved @ halved.T).max() < 0.005


def test_token_states_are_each_texts_own_without_padding(encoder: "SentenceTransformer") -> None:
    import torch

    ragged = token_states(encoder, TEXTS, 4)
    model: Any = encoder[0]
    for text, rows in zip(TEXTS, np.split(ragged.rows, np.cumsum(ragged.lengths)[:-1]), strict=True):
        tokens = encoder.tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        with torch.inference_mode():
            states = model.auto_model(**tokens, output_hidden_states=True).hidden_states[4][0].numpy()
        np.testing.assert_allclose(rows.astype(np.float32), states, atol=1e-2)


def test_token_states_beyond_the_disk_budget_are_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    vectors = Vectors(MINILM, tmp_path, "cpu", state_bytes=10_000)
    with pytest.raises(FlywheelError, match=r"token states of all-MiniLM-L6-v2 would take about .* GB .*state_cache_gb"):
        vectors.states([f"text {number}" for number in range(100)], 4)
    assert vectors.state_cache(4).texts() == 0


@pytest.mark.parametrize("tokens", [1, 64, 10_000])
def test_batches_hold_every_row_once_longest_first_within_the_budget(tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    batches = longest_first(lengths, tokens, 32)
    assert sorted(np.concatenate(batches).tolist()) == list(range(200))
    assert all(len(batch) == 1 or len(batch) * lengths[batch].max() <= tokens for batch in batches)
    assert (np.diff(lengths[np.concatenate(batches)]) <= 0).all()


def test_a_device_without_the_instructions_computes_in_float32() -> None:
    assert working_dtype("mps") == working_dtype("gone") == "float32"
    assert working_dtype("cpu") in ("bfloat16", "float32")


def test_what_a_cpu_computes_in_is_told_as_torch_tells_it_and_without_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import sys; from flywheel.models.features import working_dtype as w; print(w('cpu'), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        assert run.stdout.split() == [working_dtype("cpu"), "False"]
    told = working_dtype("cpu")
    monkeypatch.setattr("flywheel.models.features._of_linux", lambda device: None)
    assert working_dtype("cpu") == told
