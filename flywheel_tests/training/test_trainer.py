"""Batches of pairs: however long the texts, few tokens go through the model at once, and the gradient stays the same."""

import platform
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from sentence_transformers import SentenceTransformer

from flywheel.training import trainer
from flywheel.training.losses import PairLoss
from flywheel.training.trainer import BatchLoss, Collator, EncoderInputs, MemoryCallback
from flywheel_tests.helpers.tiny_models import WIDTH, WORDS, write_tiny

PAIRS = 12
TOKENS = 48


def inputs_of(model: SentenceTransformer, texts: list[str]) -> EncoderInputs:
    ids = model.tokenizer(texts, truncation=True, max_length=24)["input_ids"]

    def pad(rows: np.ndarray) -> dict[str, torch.Tensor]:
        return dict(model.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt"))

    return EncoderInputs(pd.Series(np.arange(len(texts)), index=texts), np.array([len(each) for each in ids]), pad)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])  # padded on the right, padded on the left
def test_a_batch_in_parts_has_the_loss_and_gradient_of_the_whole(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SentenceTransformer(str(write_tiny(tmp_path / "model", architecture)), device="cpu")
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(WORDS, random.integers(2, 20))) for _ in range(2 * PAIRS)]
    rows = [
        {"left": i, "right": PAIRS + i, "label": float(i % 2), "weight": 1.0, "component": i} for i in random.permutation(PAIRS)
    ]
    loss = BatchLoss(model, PairLoss([[10.0, -5.0]], [WIDTH], 0.5, 20.0), "", dropout=False).train()
    passed: list[int] = []
    model[0].register_forward_pre_hook(lambda module, inputs: passed.append(inputs[0]["input_ids"].numel()))

    def once() -> tuple[float, dict[str, torch.Tensor]]:
        loss.zero_grad()
        batch = Collator(inputs_of(model, texts))(rows)
        value = loss([batch], batch["label"])
        value.backward()
        return value.item(), {name: each.grad.clone() for name, each in loss.named_parameters() if each.grad is not None}

    value, gradients = once()
    assert once()[0] == value, "no dropout"
    passed.clear()
    value, gradients = once()
    assert len(passed) == 1
    passed.clear()
    monkeypatch.setattr(trainer, "_TOKENS_AT_ONCE", TOKENS)
    value_of_parts, gradients_of_parts = once()
    assert len(passed) > 2
    assert max(passed) <= TOKENS
    assert value_of_parts == pytest.approx(value, rel=1e-5)
    assert gradients.keys() == gradients_of_parts.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradients_of_parts[name], gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="another C library keeps no such holes, or does not hand them back"
)
def test_holes_in_the_heap_go_back_to_the_system() -> None:
    blocks = [bytearray(b"x" * 60_000) for _ in range(3_000)]
    del blocks[::2]  # a hole beside each block that stays
    process = psutil.Process()
    before = process.memory_info().rss
    MemoryCallback().on_step_end(None, SimpleNamespace(global_step=1), None)
    assert process.memory_info().rss > before - 20e6, "not after every step"
    MemoryCallback().on_step_end(None, SimpleNamespace(global_step=25), None)
    assert process.memory_info().rss < before - 60e6
    assert len(blocks) == 1_500
