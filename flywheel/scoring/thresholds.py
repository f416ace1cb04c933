"""The decision threshold of a model: where a logistic fit of label on score crosses 0.5, with the fit as a probability.

One routine fits many weightings of the same pairs at once, because the bootstrap refits the threshold for every replicate.
A fit may be moved to another share of label 1 than its labels have, and each source of pairs has its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.errors import FlywheelError
from flywheel.scoring.logistic import Floats, LogisticProblem, solve

MIN_LABELS = 20
MIN_LABELS_CUBIC = 500
MIN_INTERACTION_LABELS = 500
SEED, INTERACTION = "seed", "interaction"
# Wide enough to survive a comparison in float32, narrow enough to mean "just outside".
_MARGIN = 1e-3
_CHUNK_ELEMENTS = 500_000


@dataclass(frozen=True)
class ScoreFit:
    """A logistic polynomial of the standardised score, and the threshold that follows from it.

    `coefficients` belong to the powers 0, 1, ... of (score - center) / scale; `prior` is the share of label 1 the fit holds
    for, that of its labels or the one it was moved to; `low` and `high` are the smallest and the largest score it has seen.
    """

    coefficients: tuple[float, ...]
    center: float
    scale: float
    prior: float
    low: float
    high: float
    threshold: float

    def probability(self, scores: ArrayLike) -> Floats:
        """Probability of label 1 for scores of any shape; a score beyond the range seen counts as that range's edge."""
        seen = np.clip(np.asarray(scores, dtype=np.float64), self.low, self.high)
        logits = np.polynomial.polynomial.polyval((seen - self.center) / self.scale, self.coefficients)
        return 0.5 * (1.0 + np.tanh(0.5 * logits))

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "ScoreFit":
        """The inverse of `dataclasses.asdict` after a way through JSON."""
        return cls(**{**record, "coefficients": tuple(record["coefficients"])})


def check_pairs(scores: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    """Scores (n,) as float64 and labels (n,) as int64.

    Raises FlywheelError when the lengths differ, a score is not finite or a label is neither 0 nor 1.
    """
    values, given = np.asarray(scores, dtype=np.float64), np.asarray(labels)
    if values.ndim != 1 or values.shape != given.shape:
        raise FlywheelError(
            f"Scores have shape {values.shape} and labels {given.shape}: give one score and one label per pair."
        )
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise FlywheelError(f"{bad} of {len(values)} scores are not finite: look for broken vectors and score again.")
    strange = given[~np.isin(given, (0, 1))]
    if strange.size:
        raise FlywheelError(f"{strange.size} labels are neither 0 nor 1, such as {strange[0]}. Fix the labels.")
    return values, given.astype(np.int64)


def check_both_labels(labels: NDArray[np.int64], where: str = "", remedy: str = "Add pairs of the other.") -> None:
    """Raise FlywheelError unless labels (n,) hold both a 0 and a 1; `where` they are, such as " in test", and what helps."""
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise FlywheelError(
            f"{positives} of {len(labels)} pairs{where} have label 1, and one label alone decides nothing. {remedy}".rstrip()
        )


def fit_scores(scores: ArrayLike, labels: ArrayLike, prior: float | None = None) -> ScoreFit:
    """Fit label (n,) 0 or 1 on score (n,), a cubic (linear below 500 labels), and take the threshold from the fit.

    A pair counts as same when its score is at or above the threshold. With `prior`, the fit is that of a population with
    this share of label 1 instead of the labels' own: the intercept moves by the difference of the two log odds (prior
    correction; King and Zeng, "Logistic Regression in Rare Events Data", 2001). Raises FlywheelError for fewer than 20
    labels, one label only, scores that are not finite, lengths that differ, or a prior that is not between 0 and 1.
    """
    _check_prior(prior)
    problem = _prepare(scores, labels)
    weights = np.ones((1, len(problem.scores)))
    coefficients, ratios = _moved(problem, weights, solve(problem, weights, np.zeros(problem.width)), prior)
    return ScoreFit(
        coefficients=tuple(map(float, coefficients[0])),
        center=problem.center,
        scale=problem.scale,
        prior=float(np.mean(problem.signs > 0)) if prior is None else float(prior),
        low=float(problem.scores[0]),
        high=float(problem.scores[-1]),
        threshold=float(_crossings(problem, weights, coefficients, ratios)[0]),
    )


def log_losses(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """The log loss of each pair (n,) under a logistic fit of these very scores and labels. Raises as `fit_scores` does."""
    same = fit_scores(scores, labels).probability(scores)
    return np.asarray(-np.log(np.maximum(np.where(np.asarray(labels) == 1, same, 1 - same), 1e-6)))


def fit_by_source(
    scores: ArrayLike, labels: ArrayLike, sources: NDArray[np.generic], target_prior: float | None
) -> dict[str, ScoreFit]:
    """The fits for "seed" and for "interaction" pairs, from pairs (n,) whose `sources` (n,) are those words.

    The seed fit is made on the seed pairs, or on all pairs where the seed pairs alone cannot carry one (fewer than 20, or
    one label). The interaction fit is made on the interaction pairs once there are 500 of them with both labels; before
    that it is the seed fit, moved to `target_prior` unless that is None. Raises FlywheelError as `fit_scores` does, and for
    a source of another name.
    """
    values, given = check_pairs(scores, labels)
    return {
        source: fit_scores(values[basis.chosen], given[basis.chosen], basis.prior)
        for source, basis in bases_by_source(given, sources, target_prior).items()
    }


def thresholds_by_source(
    scores: ArrayLike,
    labels: ArrayLike,
    sources: NDArray[np.generic],
    weights: NDArray[np.generic],
    target_prior: float | None,
) -> dict[str, Floats]:
    """The thresholds (B,) of `fit_by_source` for each of many weightings of the same pairs: `weights` (B, n), not negative.

    Which pairs a fit is made on is decided once, by the pairs as they are; each weighting moves to a prior from its own share
    of label 1. A weighting under which one label alone remains gets a threshold just outside the observed scores, whatever
    the prior. Raises FlywheelError as `fit_by_source` does, and when `weights` does not fit the pairs.
    """
    values, given = check_pairs(scores, labels)
    _check_weights(weights, len(values))
    seed, interaction = bases_by_source(given, sources, target_prior).values()

    def fitted(chosen: NDArray[np.bool_], *priors: float | None) -> list[Floats]:
        return _fit_many(values[chosen], given[chosen], weights if chosen.all() else weights[:, chosen], priors)

    if (seed.chosen == interaction.chosen).all():  # one fit, moved for the one and not for the other
        of_seed, of_interaction = fitted(seed.chosen, seed.prior, interaction.prior)
    else:
        [of_seed], [of_interaction] = fitted(seed.chosen, seed.prior), fitted(interaction.chosen, interaction.prior)
    return {SEED: of_seed, INTERACTION: of_interaction}


@dataclass(frozen=True, eq=False)
class FitBasis:
    """What the fit of one source is made on: which pairs (n,) are `chosen`, and the prior it is moved to, None for theirs."""

    chosen: NDArray[np.bool_]
    prior: float | None


def bases_by_source(labels: NDArray[np.int64], sources: NDArray[np.generic], target_prior: float | None) -> dict[str, FitBasis]:
    """What the fits of "seed" and "interaction" are made on, in this order; for the rule see `fit_by_source`."""
    _check_prior(target_prior)
    check_sources(sources, len(labels))
    seed, interaction = sources == SEED, sources == INTERACTION
    if not _can_carry(labels[seed], MIN_LABELS):
        seed = np.ones(len(labels), dtype=np.bool_)
    alone = _can_carry(labels[interaction], MIN_INTERACTION_LABELS)
    return {SEED: FitBasis(seed, None), INTERACTION: FitBasis(interaction, None) if alone else FitBasis(seed, target_prior)}


def check_sources(sources: NDArray[np.generic], pairs: int) -> None:
    """Raise FlywheelError unless there is one source per pair and each is "seed" or "interaction"."""
    if sources.shape != (pairs,):
        raise FlywheelError(f"There are {len(sources)} sources for {pairs} pairs: give one per pair.")
    strange = sources[(sources != SEED) & (sources != INTERACTION)]
    if strange.size:
        raise FlywheelError(f"{strange.size} pairs have a source such as {strange[0]!s}: it must be {SEED} or {INTERACTION}.")


def _can_carry(labels: NDArray[np.int64], least: int) -> bool:
    return len(labels) >= least and 0 < labels.sum() < len(labels)


def _check_prior(prior: float | None) -> None:
    if prior is not None and not 0.0 < prior < 1.0:
        raise FlywheelError(f"A share of label 1 of {prior} leaves nothing to decide: give one between 0 and 1.")


def _check_weights(weights: NDArray[np.generic], pairs: int) -> None:
    if weights.ndim != 2 or weights.shape[1] != pairs:
        raise FlywheelError(f"Weights have shape {weights.shape} for {pairs} pairs: give one column per pair.")


def _fit_many(
    scores: ArrayLike, labels: ArrayLike, weights: NDArray[np.generic], priors: Sequence[float | None]
) -> list[Floats]:
    """Thresholds (B,) under each prior, all from one fit per weighting."""
    for prior in priors:
        _check_prior(prior)
    problem = _prepare(scores, labels)
    n = len(problem.scores)
    _check_weights(weights, n)
    start = solve(problem, np.ones((1, n)), np.zeros(problem.width))[0]
    thresholds = [np.empty(len(weights)) for _ in priors]
    rows = max(1, _CHUNK_ELEMENTS // n)
    for first in range(0, len(weights), rows):
        chunk = weights[first : first + rows, problem.order].astype(np.float64)
        coefficients = solve(problem, chunk, start)
        for found, prior in zip(thresholds, priors, strict=True):
            found[first : first + rows] = _crossings(problem, chunk, *_moved(problem, chunk, coefficients, prior))
    return thresholds


def _moved(problem: LogisticProblem, weights: Floats, coefficients: Floats, prior: float | None) -> tuple[Floats, Floats]:
    """Coefficients (b, width) under `prior`, and what a pair of label 1 and one of label 0 counts there: (b, 2).

    A weighting of one label alone has no share to move from and stays.
    """
    ratios = np.ones((len(weights), 2))
    if prior is None:
        return coefficients, ratios
    ones, total = weights @ (problem.signs > 0), weights.sum(axis=1)
    mixed = (ones > 0) & (ones < total)
    share = ones[mixed] / total[mixed]
    ratios[mixed] = np.column_stack((prior / share, (1.0 - prior) / (1.0 - share)))
    moved = coefficients.copy()
    moved[:, 0] += np.log(ratios[:, 0] / ratios[:, 1])
    return moved, ratios


def _prepare(scores: ArrayLike, labels: ArrayLike) -> LogisticProblem:
    values, given = check_pairs(scores, labels)
    if len(values) < MIN_LABELS:
        raise FlywheelError(f"{len(values)} labels are too few for a threshold: give at least {MIN_LABELS}.")
    check_both_labels(given)
    # Sorting by score and label also makes every sum, and so the threshold, independent of the order the pairs came in.
    order = np.lexsort((given, values))
    values, signs = values[order], np.where(given[order] == 1, 1.0, -1.0)
    center = float(values.mean())
    scale = float(values.std()) if values[-1] > values[0] else 1.0
    degree = 3 if len(values) >= MIN_LABELS_CUBIC else 1
    powers = np.vander((values - center) / scale, 2 * degree + 1, increasing=True)
    return LogisticProblem(values, signs, powers, center, scale, order)


def _crossings(problem: LogisticProblem, weights: Floats, coefficients: Floats, ratios: Floats) -> Floats:
    """Threshold (b,) per fit: the upward crossing of 0.5 with the least expected error under the fit itself.

    `coefficients` and `ratios` are those of `_moved`. Calling everything same, or everything different, is a candidate too:
    it wins where the fit does not cross.
    """
    logits = coefficients @ problem.powers[:, : problem.width].T
    # Expected error of a cut before pair k, less that of a cut before all pairs: the sum, over pairs below k, of 2p - 1 times
    # what a pair with this score counts for under the prior. By the fit p before it was moved, and r1 and r0 for what pairs of
    # either label count, that is p * r1 - (1 - p) * r0.
    gains = np.tanh(0.5 * (logits - np.log(ratios[:, :1] / ratios[:, 1:])))
    gains = 0.5 * (ratios[:, :1] + ratios[:, 1:]) * gains + 0.5 * (ratios[:, :1] - ratios[:, 1:])
    cuts = np.zeros((len(weights), len(problem.scores) + 1))
    np.cumsum(weights * gains, axis=1, out=cuts[:, 1:])
    upward = (logits[:, :-1] < 0.0) & (logits[:, 1:] >= 0.0)
    cuts[:, 1:-1][~upward] = np.inf
    chosen = cuts.argmin(axis=1)

    margin = _MARGIN * problem.scale
    edges = np.concatenate(([problem.scores[0] - margin], problem.scores, [problem.scores[-1] + margin]))
    below, above = edges[chosen], edges[chosen + 1]
    inside = (chosen > 0) & (chosen < len(problem.scores))
    for _ in range(60):  # bisection: halving a gap between two neighbouring scores 60 times exhausts float64
        middle = 0.5 * (below + above)
        logit = np.polynomial.polynomial.polyval((middle - problem.center) / problem.scale, coefficients.T, tensor=False)
        below = np.where(inside & (logit < 0.0), middle, below)
        above = np.where(inside & (logit >= 0.0), middle, above)
    return 0.5 * (below + above)
