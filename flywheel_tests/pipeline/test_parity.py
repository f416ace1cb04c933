"""An exported model is held against the one that was judged: vectors, decisions and speed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flywheel.models.catalogue import CATALOGUE
from flywheel.models.exports.graph import Batch
from flywheel.pipeline.export_card import verdict
from flywheel.pipeline.parity import TORCH, Parity, measure_parity
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.training.job import HeadRecipe, TrainingJob
from flywheel.training.model import TrainedModel

N = 1_000
RNG = np.random.default_rng(0)
ANGLES = RNG.uniform(0, np.pi / 2, N)
PAIRS = pd.DataFrame(
    {
        "text_a": [f"a{i}" for i in range(N)],
        "text_b": [f"b{i}" for i in range(N)],
        "label": (np.cos(ANGLES) + RNG.normal(0, 0.2, N) > 0.7).astype(int),
        "source": "seed",
    }
)
TEXTS = [*PAIRS["text_a"], *PAIRS["text_b"]]
VECTORS = np.concatenate([np.tile([1.0, 0.0], (N, 1)), np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)]).astype(np.float32)
RULE = DecisionRule.fit(np.cos(ANGLES), PAIRS["label"], PAIRS["source"].to_numpy(), None)
JOB = TrainingJob(
    variant="all-MiniLM-L6-v2@2", size="100", recipe="head", random_seed=0, interaction_share=0.0, snapshot_id="s",
    base=CATALOGUE["all-MiniLM-L6-v2"], weights="w", head=HeadRecipe(),
)  # fmt: skip
MODEL = TrainedModel(Path("model"), JOB, RULE, None, 0.1, N, 100, 1.0, "untuned", 1.0)


def compared(name: str, vectors: np.ndarray) -> Parity:
    """An engine that gives these vectors, beside one that gives the model's."""
    rows = np.array_split(np.arange(len(TEXTS))[::-1], 7)
    batches = [Batch(some, {"input_ids": some[:, None]}) for some in rows]
    engines = {
        each: lambda tokens, given=given: given[tokens["input_ids"][:, 0]]
        for each, given in ((TORCH, VECTORS), (name, vectors))
    }
    heard: list[tuple[int, int]] = []
    _, report = measure_parity(MODEL, PAIRS, TEXTS, batches, engines, lambda done, of: heard.append((done, of)))
    assert heard[-1] == (len(TEXTS), len(TEXTS))
    return report


def turned(angles: np.ndarray) -> np.ndarray:
    """The vectors, of which the second texts' have other angles."""
    return np.concatenate([VECTORS[:N], np.stack([np.cos(angles), np.sin(angles)], 1)]).astype(np.float32)


def test_the_same_vectors_flip_nothing() -> None:
    report = compared("onnx float32", VECTORS.copy())
    assert (report.largest_difference, report.flips, report.pairs, report.texts) == (0, 0, N, 2 * N)
    assert report.rule == RULE
    assert report.keeps_decisions


def test_an_even_shift_of_scores_flips_decisions_in_float_and_none_once_the_threshold_is_refitted() -> None:
    squeezed = np.arccos(np.cos(ANGLES) * 0.9)
    fixed, refitted = (compared(name, turned(squeezed)) for name in ("onnx float32", "onnx int8"))
    assert fixed.largest_difference == pytest.approx(0.1 * np.cos(ANGLES).max(), abs=1e-3)
    assert fixed.flips > 0.002 * N
    assert not fixed.keeps_decisions
    assert refitted.flips <= 0.002 * N
    assert refitted.rule.threshold == pytest.approx(0.9 * RULE.threshold, abs=1e-3)


def test_noise_flips_decisions_whatever_the_threshold_and_the_card_says_so() -> None:
    report = compared("onnx int8", turned(ANGLES + RNG.normal(0, 0.1, N)))
    assert not report.keeps_decisions
    said = verdict(report, False, report)
    assert f"{100 * report.flips / N:.2f} % of the decisions differ, and at most 0.2 % may" in said
