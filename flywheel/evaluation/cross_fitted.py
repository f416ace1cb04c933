"""Verdicts from cross-fitted decisions: each fold's pairs are decided by what the other folds have taught."""

from dataclasses import replace
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Clusters, Interval, paired_score, wilson
from flywheel.evaluation.paired import PairedTest, paired_test
from flywheel.evaluation.statistics import check_components, reason_no_verdict
from flywheel.scoring.power import SHARED_TRAINING
from flywheel.scoring.verdicts import MIN_COMPONENTS


def cross_fitted_test(
    challenger_wrong: NDArray[np.bool_],
    champion_wrong: NDArray[np.bool_],
    components: NDArray[np.generic],
    folds: NDArray[np.integer],
) -> PairedTest:
    """One-sided test, by component, that the challenger's procedure makes fewer errors than the champion's.

    Each pair (n,) is decided once by either side, by what its side has learned from the other folds. What is tested is the
    mean difference over training sets of the size of n less a fold. The variance is that of `paired_test` times
    `SHARED_TRAINING`; both effective numbers are divided by it, and so is the square of the normal deviate that gives the
    p-value. Raises FlywheelError as `paired_test` does, and where a component stands in two folds or there is one fold only.
    """
    from scipy.stats import norm

    check_folds(components, folds)
    test = paired_test(challenger_wrong, champion_wrong, components)
    up, down = float((challenger_wrong & ~champion_wrong).mean()), float((champion_wrong & ~challenger_wrong).mean())
    size = test.effective_pairs / SHARED_TRAINING
    return replace(
        test,
        p_value=float(norm.sf(norm.isf(test.p_value) / sqrt(SHARED_TRAINING))),
        interval=Interval(*paired_score(up, down, size, Clusters.of(components).quantile())),
        standard_error=test.standard_error * sqrt(SHARED_TRAINING),
        effective_components=test.effective_components / SHARED_TRAINING,
        effective_pairs=size,
    )


def paired(
    challenger_wrong: NDArray[np.bool_],
    champion_wrong: NDArray[np.bool_],
    components: NDArray[np.generic],
    folds: NDArray[np.integer],
) -> PairedTest:
    """The test of decisions on pairs (n,): `cross_fitted_test` where they were made in several folds, else `paired_test`."""
    if not folds.any():
        return paired_test(challenger_wrong, champion_wrong, components)
    return cross_fitted_test(challenger_wrong, champion_wrong, components, folds)


def cross_fitted_interval(
    wrong: NDArray[np.bool_],
    components: NDArray[np.generic],
    folds: NDArray[np.integer],
    *,
    trained: bool,
    minimum: int = MIN_COMPONENTS,
) -> Interval | None:
    """95 % interval of a procedure's error rate from its cross-fitted decisions, right or `wrong` (n,); None without a verdict.

    Wilson's, its sample size that which gives the variance of `cross_fitted_test`. A side that is not `trained`, whose
    threshold alone comes from the other folds, has the variance without the factor. Raises FlywheelError when lengths differ,
    where a component stands in two folds or there is one fold only.
    """
    check_components(components, len(wrong))
    if reason_no_verdict(components, minimum):
        return None
    check_folds(components, folds)
    clusters, rate = Clusters.of(components), float(wrong.mean())
    variance = clusters.variance(wrong)
    # Where every decision was right, or every one wrong, nothing shows that the pairs of a component do not go together.
    size = min(float(len(wrong)), rate * (1.0 - rate) / variance) if variance > 0.0 else clusters.effective
    return Interval(*wilson(rate, size / SHARED_TRAINING if trained else size, clusters.quantile()))


def check_folds(components: NDArray[np.generic], folds: NDArray[np.integer]) -> None:
    """Raise FlywheelError unless pairs (n,) have a fold each, in two folds at least, and no component stands in two."""
    if len(folds) != len(components):
        raise FlywheelError(f"There are {len(folds)} folds for {len(components)} pairs: give one per pair.")
    if len(np.unique(folds)) < 2:
        raise FlywheelError("All pairs are in one fold, and nothing is left to learn from: use two folds at least.")
    both = np.unique(np.stack([np.unique(components, return_inverse=True)[1], folds]), axis=1)
    split = both.shape[1] - len(np.unique(components))
    if split:
        raise FlywheelError(f"{split} components stand in more than one fold: deal out whole components.")
