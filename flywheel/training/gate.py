"""Whether training brought anything: a model that is not provably better than its untrained start ships as the start."""

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.scoring.thresholds import MIN_LABELS, fit_scores


def reason_not_better(tuned: np.ndarray, start: np.ndarray, labels: np.ndarray, components: np.ndarray) -> str | None:
    """Why the tuned scores are not better than the start's, or None if they are; all (n,), of pairs the tuned has not seen.

    The gain is the mean fall of the log loss, each side under a logistic fit of its own; it has to exceed one standard
    error, with pairs of one component counted as one draw. The log loss is used because errors alone are too few to show
    it.
    """
    if len(labels) < MIN_LABELS:
        return f"{len(labels)} pairs are too few to show whether training helps"
    try:
        falls = log_losses(start, labels) - log_losses(tuned, labels)
    except FlywheelError as error:
        return f"whether training helps is unknown: {error}"
    _, component = np.unique(components, return_inverse=True)
    sums = np.bincount(component, weights=falls - falls.mean())
    gain, error_of_gain = float(falls.mean()), float(np.sqrt((sums**2).sum())) / len(labels)
    if gain > error_of_gain:
        return None
    return f"the log loss falls by {gain:.4f}, not more than its standard error of {error_of_gain:.4f}"


def log_losses(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The log loss of each pair (n,) under a logistic fit of these very scores and labels."""
    right = np.where(labels == 1, (p := fit_scores(scores, labels).probability(scores)), 1 - p)
    return -np.log(np.maximum(right, 1e-6))
