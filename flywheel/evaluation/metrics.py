"""How well scores decide pairs, in the usual figures, as scikit-learn defines them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.scoring.thresholds import check_both_labels, check_pairs

_BINS = 15


@dataclass(frozen=True)
class PairMetrics:
    """Figures of one model on `n` pairs, `positives` of them with label 1; all but those two are shares from 0 to 1, `mcc`
    (Matthews' correlation) from -1 to 1.

    `error`, `precision`, `recall`, `f1` and `mcc` are those of its decisions, `average_precision` and `roc_auc` those of its
    scores. `ece` is how far its probability of "same" lies from the share that is, on average over
    fifteen bins of probability (expected calibration error: Guo et al., 2017).
    """

    error: float
    precision: float
    recall: float
    f1: float
    mcc: float
    average_precision: float
    roc_auc: float
    ece: float
    n: int
    positives: int


def pair_metrics(
    scores: ArrayLike, labels: ArrayLike, same: NDArray[np.bool_], probabilities: NDArray[np.floating]
) -> PairMetrics:
    """Figures of scores (n,), decisions `same` (n,) and probabilities of label 1 (n,) against labels (n,) 0 or 1.

    Precision is 0 where nothing is called same. Raises FlywheelError for scores that are not finite, lengths that
    differ, or one label only.
    """
    from sklearn.metrics import (
        average_precision_score,
        matthews_corrcoef,
        precision_recall_fscore_support,
        roc_auc_score,
    )

    values, given = check_pairs(scores, labels)
    check_both_labels(given)
    check_pairs(probabilities, given)
    precision, recall, f1, _ = precision_recall_fscore_support(given, same, average="binary", zero_division=0)
    return PairMetrics(
        error=float((same != given).mean()),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        mcc=float(matthews_corrcoef(given, same)),
        average_precision=float(average_precision_score(given, values)),
        roc_auc=float(roc_auc_score(given, values)),
        ece=_expected_calibration_error(np.asarray(probabilities, dtype=np.float64), given),
        n=len(given),
        positives=int(given.sum()),
    )


def _expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Mean distance, weighted by pairs, of probability and share of label 1 in bins of equal width (Guo et al., 2017)."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights=probabilities - labels, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(labels))
