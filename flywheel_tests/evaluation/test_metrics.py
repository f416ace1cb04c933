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
    assert metrics.expected_calibration_error == pytest.approx(0.4 * 0.15 + 0.6 * 0.1, abs=1e-6)


def test_a_probability_that_is_no_number_is_refused() -> None:
    with pytest.raises(FlywheelError, match="1 of 2 scores are not finite"):
        pair_metrics([0.1, 0.2], [0, 1], np.array([True, False]), np.array([0.5, np.nan]))
