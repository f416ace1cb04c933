"""How well scores decide pairs, in the usual figures."""

from dataclasses import dataclass

from numpy.typing import ArrayLike

from flywheel.evaluation.thresholds import check_both_labels, check_pairs


@dataclass(frozen=True)
class PairMetrics:
    """Figures of one model on `n` pairs, `positives` of them with label 1; all but those two are shares from 0 to 1.

    `error`, `precision`, `recall` and `f1` hold at one threshold; `average_precision` and `roc_auc` over all of them.
    """

    error: float
    precision: float
    recall: float
    f1: float
    average_precision: float
    roc_auc: float
    n: int
    positives: int


def pair_metrics(scores: ArrayLike, labels: ArrayLike, threshold: float) -> PairMetrics:
    """Figures of scores (n,) against labels (n,) 0 or 1, where a score at or above `threshold` says same.

    Precision is 0 where nothing is called same. Raises FlywheelError for scores that are not finite, lengths that
    differ, or one label only.
    """
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    values, given = check_pairs(scores, labels)
    check_both_labels(given)
    called_same = values >= threshold
    precision, recall, f1, _ = precision_recall_fscore_support(given, called_same, average="binary", zero_division=0)
    return PairMetrics(
        error=float((called_same != given).mean()),
        precision=float(precision),
        recall=float(recall),
        f1=float(f1),
        average_precision=float(average_precision_score(given, values)),
        roc_auc=float(roc_auc_score(given, values)),
        n=len(given),
        positives=int(given.sum()),
    )
