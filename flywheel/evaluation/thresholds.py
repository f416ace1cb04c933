"""The decision threshold of a model: where a logistic fit of label on score crosses 0.5, with the fit as a probability.

The fit is a ridge-penalised logistic regression on powers of the standardised score, solved by Newton's method (IRLS;
Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", 4.4.1) with step halving. One routine fits many
weightings of the same pairs at once, because the bootstrap refits the threshold for every replicate.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.errors import FlywheelError

MIN_LABELS = 20
MIN_LABELS_CUBIC = 500
# Against a log-likelihood that sums over pairs this is nothing, yet separable or one-sided data converge under it.
_RIDGE = 1e-3
_TOLERANCE = 1e-8
_MAX_STEPS = 200
_SMALLEST_STEP = 2.0**-30
# Wide enough to survive a comparison in float32, narrow enough to mean "just outside".
_MARGIN = 1e-3
_CHUNK_ELEMENTS = 500_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScoreFit:
    """A logistic polynomial of the standardised score, and the threshold that follows from it.

    `coefficients` belong to the powers 0, 1, ... of (score - center) / scale; `prior` is the share of label 1 the fit
    was made under; `low` and `high` are the smallest and the largest score it has seen.
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


@dataclass(frozen=True)
class _Problem:
    """Pairs in order of their scores: `scores` (n,), `signs` (n,) -1 or 1 by label, `powers` (n, 2 * degree + 1)."""

    scores: Floats
    signs: Floats
    powers: Floats
    center: float
    scale: float
    order: NDArray[np.intp]

    @property
    def width(self) -> int:
        """How many coefficients the fit has."""
        return self.powers.shape[1] // 2 + 1


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
        raise FlywheelError(f"{strange.size} labels are neither 0 nor 1, such as {strange[0]}: mend the labels.")
    return values, given.astype(np.int64)


def check_both_labels(labels: NDArray[np.int64]) -> None:
    """Raise FlywheelError unless labels (n,) hold both a 0 and a 1."""
    positives = int(labels.sum())
    if positives in (0, len(labels)):
        raise FlywheelError(
            f"{positives} of {len(labels)} pairs have label 1: one label alone decides nothing, add pairs of the other."
        )


def fit_scores(scores: ArrayLike, labels: ArrayLike) -> ScoreFit:
    """Fit label (n,) 0 or 1 on score (n,), a cubic (linear below 500 labels), and take the threshold from the fit.

    A pair counts as same when its score is at or above the threshold. Raises FlywheelError for fewer than 20 labels,
    one label only, scores that are not finite, or lengths that differ.
    """
    problem = _prepare(scores, labels)
    weights = np.ones((1, len(problem.scores)))
    coefficients = _solve(problem, weights, np.zeros(problem.width))
    return ScoreFit(
        coefficients=tuple(map(float, coefficients[0])),
        center=problem.center,
        scale=problem.scale,
        prior=float(np.mean(problem.signs > 0)),
        low=float(problem.scores[0]),
        high=float(problem.scores[-1]),
        threshold=float(_crossings(problem, weights, coefficients)[0]),
    )


def fit_thresholds(scores: ArrayLike, labels: ArrayLike, weights: NDArray[np.generic]) -> Floats:
    """The threshold of each of many weightings of the same pairs, by the rule of `fit_scores`.

    `scores` and `labels` are (n,), `weights` (B, n) not negative; the result is (B,). A weighting under which one label
    alone remains gets a threshold just outside the observed scores. Raises FlywheelError as `fit_scores` does, and when
    `weights` does not fit the pairs.
    """
    problem = _prepare(scores, labels)
    n = len(problem.scores)
    if weights.ndim != 2 or weights.shape[1] != n:
        raise FlywheelError(f"Weights have shape {weights.shape} for {n} pairs: give one column per pair.")
    start = _solve(problem, np.ones((1, n)), np.zeros(problem.width))[0]
    thresholds = np.empty(len(weights))
    rows = max(1, _CHUNK_ELEMENTS // n)
    for first in range(0, len(weights), rows):
        chunk = weights[first : first + rows, problem.order].astype(np.float64)
        thresholds[first : first + rows] = _crossings(problem, chunk, _solve(problem, chunk, start))
    return thresholds


def _prepare(scores: ArrayLike, labels: ArrayLike) -> _Problem:
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
    return _Problem(values, signs, powers, center, scale, order)


def _solve(problem: _Problem, weights: Floats, start: Floats) -> Floats:
    """Coefficients (b, width) for weights (b, n), all from the same start (width,)."""
    best = np.tile(start, (len(weights), 1))
    value, gradient, hessian = _loss(problem, weights, best)
    step = _newton_step(gradient, hessian)
    size = np.ones(len(best))
    active = np.arange(len(best))
    for _ in range(_MAX_STEPS):
        # What is left to gain is about half the Newton decrement; the last step is still taken.
        close = np.einsum("ij,ij->i", gradient[active], -step[active]) < _TOLERANCE
        best[active[close]] += step[active[close]]
        active = active[~close & (size[active] > _SMALLEST_STEP)]
        if not active.size:
            break
        trial = best[active] + size[active, None] * step[active]
        in_play = weights if active.size == len(weights) else weights[active]
        trial_value, trial_gradient, trial_hessian = _loss(problem, in_play, trial)
        better = trial_value < value[active]
        moved = active[better]
        best[moved], value[moved], gradient[moved] = trial[better], trial_value[better], trial_gradient[better]
        step[moved] = _newton_step(trial_gradient[better], trial_hessian[better])
        size[moved] = 1.0
        size[active[~better]] /= 2.0
    return best


def _newton_step(gradient: Floats, hessian: Floats) -> Floats:
    return np.asarray(-np.linalg.solve(hessian, gradient[..., None])[..., 0], dtype=np.float64)


def _loss(problem: _Problem, weights: Floats, coefficients: Floats) -> tuple[Floats, Floats, Floats]:
    """Penalised negative log-likelihood (b,), its gradient (b, width) and its Hessian (b, width, width)."""
    width = problem.width
    margins = problem.signs * (coefficients @ problem.powers[:, :width].T)
    small = np.exp(-np.abs(margins))
    losses = np.log(1.0 + small) + np.maximum(-margins, 0.0)
    wrong = np.where(margins >= 0.0, small, 1.0) / (1.0 + small)  # the fit's probability of the other label
    value = np.einsum("ij,ij->i", weights, losses) + 0.5 * _RIDGE * np.einsum("ij,ij->i", coefficients, coefficients)
    pull = weights * wrong
    gradient = _RIDGE * coefficients - (pull * problem.signs) @ problem.powers[:, :width]
    # With powers of one variable as features, entry (i, j) of the Hessian is the weighted sum of power i + j.
    sums = (pull * (1.0 - wrong)) @ problem.powers
    hessian = sums[:, np.add.outer(np.arange(width), np.arange(width))] + _RIDGE * np.eye(width)
    return value, gradient, hessian


def _crossings(problem: _Problem, weights: Floats, coefficients: Floats) -> Floats:
    """Threshold (b,) per fit: the upward crossing of 0.5 with the least expected error under the fit itself.

    Calling everything same, or everything different, is a candidate too: it wins where the fit does not cross.
    """
    logits = coefficients @ problem.powers[:, : problem.width].T
    # Expected error of a cut before pair k, less that of a cut before all pairs: the sum of 2p - 1 over pairs below k.
    cuts = np.zeros((len(weights), len(problem.scores) + 1))
    np.cumsum(weights * np.tanh(0.5 * logits), axis=1, out=cuts[:, 1:])
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
