"""How far to go from a start to what was trained from it: a place on the line through their weights, chosen on pairs that the
trained model has not seen.

On that line lie the start (0) and the trained model (1). Weights between a model and what was trained from it are often better
than either (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). Beyond 1 pairs are decided better still, but
search loses more than a promotion allows (`benchmarks/RESULTS.md`).
"""

from dataclasses import dataclass

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.scoring.thresholds import MIN_LABELS, log_losses

PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Choice:
    """One of `PLACES`; at 0 the start is kept, and `reason` says why."""

    place: float
    reason: str | None = None

    @property
    def row(self) -> int:
        """Where the place stands in `PLACES`."""
        return PLACES.index(self.place)


def choose_place(scores: np.ndarray, labels: np.ndarray, components: np.ndarray) -> Choice:
    """How far to go, by `scores` (places, n) of pairs with labels and components (n,), or (places, dims, n) where one place is
    to serve some dimensions.

    The lowest log loss says where to go, each place under a logistic fit of its own: errors alone are too few to tell. Of the
    way there it is the share of the fall that is signal, by its standard error: fall^2 / (fall^2 + error^2), and on to the next
    of `PLACES`. The start is kept where the loss is lowest there.
    """
    if len(labels) < MIN_LABELS:
        return Choice(0.0, too_few(len(labels)))
    try:
        losses = np.stack([np.mean([log_losses(each, labels) for each in np.atleast_2d(at)], axis=0) for at in scores])
    except FlywheelError as error:
        return Choice(0.0, f"whether training helps is unknown: {error}")
    means = losses.mean(axis=1)
    lowest = int(means.argmin())
    if lowest == 0:
        return Choice(0.0, f"the log loss is {means[0]:.4f} at the start and {means[1:].min():.4f} at best on the way from it")
    fall, deviation = mean_fall(losses[0], losses[lowest], components)
    wanted = PLACES[lowest] * fall**2 / (fall**2 + deviation**2)
    return Choice(next(place for place in PLACES if place >= wanted))


def too_few(pairs: int) -> str:
    """Why so few pairs choose no place."""
    return f"{pairs} pairs are too few to show whether training helps"


def mean_fall(before: np.ndarray, after: np.ndarray, components: np.ndarray) -> tuple[float, float]:
    """The mean fall from losses (n,) to others of the same pairs, and its standard error; a component (n,) is one draw."""
    falls = before - after
    _, component = np.unique(components, return_inverse=True)
    sums = np.bincount(component, weights=falls - falls.mean())
    return float(falls.mean()), float(np.sqrt((sums**2).sum())) / len(falls)
