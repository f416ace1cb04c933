"""Pair metrics are the usual ones, at one threshold and over all."""

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.metrics import PairMetrics, pair_metrics

SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.5, 0.9])
LABELS = np.array([0, 0, 1, 1, 0, 1])


def at(threshold: float) -> PairMetrics:
    """The figures where a score at or above `threshold` says same, and is the probability itself."""
    return pair_metrics(SCORES, LABELS, threshold <= SCORES, SCORES)


def test_figures_are_those_counted_by_hand() -> None:
    # At 0.5 the pairs called same are 0.8, 0.5 and 0.9: two right, one wrong; 0.35 is missed.
    metrics = at(0.5)
    assert metrics.error == pytest.approx(2 / 6)
    assert metrics.precision == pytest.approx(2 / 3)
    assert metrics.recall == pytest.approx(2 / 3)
    assert metrics.f1 == pytest.approx(2 / 3)
    assert metrics.average_precision == pytest.approx((1 / 1 + 2 / 2 + 3 / 5) / 3)
    assert metrics.roc_auc == pytest.approx(7 / 9)
    assert metrics.mcc == pytest.approx((2 * 2 - 1 * 1) / 9)
    assert (metrics.n, metrics.positives) == (6, 3)


def test_a_score_at_the_threshold_says_same() -> None:
    assert at(0.8).recall == pytest.approx(2 / 3)
    assert at(np.nextafter(0.8, 1)).recall == pytest.approx(1 / 3)


def test_calling_nothing_same_has_precision_zero() -> None:
    metrics = at(2.0)
    assert (metrics.precision, metrics.recall, metrics.f1, metrics.error) == (0.0, 0.0, 0.0, 0.5)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, np.nan], [0, 1], "1 of 2 scores are not finite"),
        ([0.1, 0.2], [1, 1], "2 of 2 pairs have label 1"),
        ([0.1, 0.2], [0, 0], "0 of 2 pairs have label 1"),
        ([], [], "0 of 0 pairs"),
        ([0.1, 0.2], [0, 1, 1], "one score and one label"),
    ],
)
def test_what_has_no_figures_is_refused(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(FlywheelError, match=message):
        pair_metrics(scores, labels, np.zeros(len(labels), dtype=bool), np.full(len(labels), 0.5))


def test_expected_calibration_error_is_the_distance_of_probability_from_share_over_bins() -> None:
    # One bin holds 40 pairs called 0.9 of which 30 are the same, another 60 called 0.3 of which 12 are.
    probabilities = np.repeat([0.9, 0.3], [40, 60])
    labels = np.repeat([1, 0, 1, 0], [30, 10, 12, 48])
    metrics = pair_metrics(probabilities, labels, probabilities > 0.5, probabilities)
    assert metrics.ece == pytest.approx(0.4 * 0.15 + 0.6 * 0.1)


def ece(probabilities: list[float], labels: list[int]) -> float:
    same = np.array(probabilities) >= 0.5
    return pair_metrics(probabilities, labels, same, np.array(probabilities)).ece


@pytest.mark.parametrize(
    ("probabilities", "labels", "expected"),
    [
        ([0.0, 1.0], [0, 1], 0.0),  # certain and right
        ([0.0, 1.0], [1, 0], 1.0),  # certain and wrong
        ([0.0, 0.0, 1.0, 1.0], [0, 1, 1, 1], 0.25),  # the first bin says 0 where half are the same
        ([0.95, 1.0], [1, 0], 0.475),  # 1.0 shares the last bin, from 14/15 on, with 0.95: 0.975 is said, 0.5 is true
        ([0.92, 1.0], [1, 0], (0.08 + 1.0) / 2),  # 0.92 is in the bin before it
        ([0.06, 0.066], [1, 0], (1 - 0.126) / 2),  # one bin: up to 1/15 ...
        ([0.06, 0.067], [1, 0], (0.94 + 0.067) / 2),  # ... and two bins, where opposite distances do not cancel
        ([0.5, 0.5], [0, 1], 0.0),
    ],
)
def test_expected_calibration_error_by_hand(probabilities: list[float], labels: list[int], expected: float) -> None:
    assert ece(probabilities, labels) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_expected_calibration_error_is_that_of_guo_et_al_bin_by_bin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = rng.random(400).round(2)
    labels = (rng.random(400) < given**2).astype(int)
    total = 0.0
    for lower in range(15):
        inside = [k for k in range(400) if lower / 15 <= given[k] < (lower + 1) / 15 or (lower == 14 and given[k] == 1.0)]
        if inside:
            total += len(inside) / 400 * abs(np.mean(given[inside]) - np.mean(labels[inside]))
    assert total > 0.05
    assert ece(list(given), list(labels)) == pytest.approx(total)


def test_a_probability_that_is_no_number_is_refused() -> None:
    with pytest.raises(FlywheelError, match="1 of 2 scores are not finite"):
        pair_metrics([0.1, 0.2], [0, 1], np.array([True, False]), np.array([0.5, np.nan]))
