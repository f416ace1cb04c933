"""Ridge-penalised logistic regression on powers of one score, for many weightings of the same pairs at once.

Newton's method (IRLS; Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", 4.4.1) with step halving.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Against a log-likelihood that sums over pairs this is nothing, yet separable or one-sided data converge under it.
_RIDGE = 1e-3
_TOLERANCE = 1e-8
_MAX_STEPS = 200
_SMALLEST_STEP = 2.0**-30
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LogisticProblem:
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


def solve(problem: LogisticProblem, weights: Floats, start: Floats) -> Floats:
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


def _loss(problem: LogisticProblem, weights: Floats, coefficients: Floats) -> tuple[Floats, Floats, Floats]:
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
