"""Pair metrics are the usual ones, at one threshold and over all."""

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.metrics import pair_metrics

SCORES = np.array([0.1, 0.4, 0.35, 0.8, 0.5, 0.9])
LABELS = np.array([0, 0, 1, 1, 0, 1])


def test_figures_are_those_counted_by_hand() -> None:
    # At 0.5 the pairs called same are 0.8, 0.5 and 0.9: two right, one wrong; 0.35 is missed.
    metrics = pair_metrics(SCORES, LABELS, 0.5)
    assert metrics.error == pytest.approx(2 / 6)
    assert metrics.precision == pytest.approx(2 / 3)
    assert metrics.recall == pytest.approx(2 / 3)
    assert metrics.f1 == pytest.approx(2 / 3)
    assert metrics.average_precision == pytest.approx((1 / 1 + 2 / 2 + 3 / 5) / 3)
    assert metrics.roc_auc == pytest.approx(7 / 9)
    assert (metrics.n, metrics.positives) == (6, 3)


def test_a_score_at_the_threshold_says_same() -> None:
    assert pair_metrics(SCORES, LABELS, 0.8).recall == pytest.approx(2 / 3)
    assert pair_metrics(SCORES, LABELS, np.nextafter(0.8, 1)).recall == pytest.approx(1 / 3)


def test_calling_nothing_same_has_precision_zero() -> None:
    metrics = pair_metrics(SCORES, LABELS, 2.0)
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
        pair_metrics(scores, labels, 0.5)
