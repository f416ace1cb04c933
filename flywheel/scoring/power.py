"""What a paired test can find, said before anything is measured."""

from math import ceil, expm1, log1p, log2, sqrt

import numpy as np
from numpy.typing import NDArray

FIRST_LEVEL = 0.05 * 6 / 3.141592653589793**2  # of the first decision on a test set
POWER = 0.8
DIFFERING = 0.1  # share of pairs that two equally good models decide differently: assumed, until both are there
ALIKE = 0.1  # correlation of two models' difference within a component, assumed; of two on 10,004 Quora pairs it was 0.03

# The variance of cross-fitted decisions over that of as many decisions by one model, where a model is trained. For large data
# and a stable procedure it is 1 (Bayle, Bayle, Janson, Mackey, "Cross-validation Confidence Intervals for Test Error", 2020).
# But a pair that is decided also trains the models that decide the others, and a choice between near equals is never stable.
# The correction of Nadeau and Bengio ("Inference for the Generalization Error", 2003), 1 + K / (K - 1) for K folds, is too
# large. This is what keeps coverage and level in `benchmarks/cross_fitting.py`, which simulates the whole procedure.
SHARED_TRAINING = 4.0 / 3.0


def expected_detectable(
    pairs: float, components: float, differing: float = DIFFERING, level: float = FIRST_LEVEL, power: float = POWER
) -> float | None:
    """The smallest true difference of two error rates (a share) that so many effective pairs in effective components show.

    By the normal approximation of the one-sided paired test at `level`, found with chance `power`. Two models whose error rates
    differ by d decide a share d of the pairs differently, and `differing` beside it, so that the variance of a pair's
    difference is d + differing - d^2. Never less than what lets enough components differ: n of them, all in the winner's
    favour, have the exact p-value 2^-n. None where all components together could not pass.
    """
    from scipy.special import betaincinv
    from scipy.stats import norm

    needed = ceil(-log2(level))
    if needed > components:
        return None
    moved = float(betaincinv(needed, components - needed + 1.0, power))
    fewest = -expm1(components / pairs * log1p(-moved))
    a = float(norm.isf(level) + norm.ppf(power)) ** 2 / pairs
    return max((a + sqrt(a * a + 4.0 * a * (1.0 + a) * differing)) / (2.0 * (1.0 + a)), float(fewest))


def effective_pairs(pairs: NDArray[np.floating] | float, squares: NDArray[np.floating] | float) -> NDArray[np.floating] | float:
    """How many pairs on their own carry as much as `pairs` in components whose sizes have this sum of `squares`.

    Kish's design effect, 1 + (size - 1) x correlation, at the mean size of the component that a pair is in.
    """
    return pairs / (1.0 + (squares / pairs - 1.0) * ALIKE)


def detectable_in(sizes: NDArray[np.integer], cross_fitted: bool = False) -> float | None:
    """`expected_detectable` for pairs in components of these `sizes` (n,): large ones carry less, and count for fewer. Where
    they are cross-fitted, it is for a trained side against one that is not.
    """
    pairs, squares = float(sizes.sum()), float((sizes.astype(np.float64) ** 2).sum())
    factor = SHARED_TRAINING if cross_fitted else 1.0
    return expected_detectable(float(effective_pairs(pairs, squares)) / factor, pairs**2 / squares / factor) if pairs else None


def pairs_to_detect(difference: float) -> float:
    """About how many effective pairs let a true difference of error rates (a share) show; see `expected_detectable`."""
    from scipy.stats import norm

    spread = difference + DIFFERING - difference**2
    return spread * float((norm.isf(FIRST_LEVEL) + norm.ppf(POWER)) / difference) ** 2
