"""Error rates with their uncertainty: components are drawn whole, because pairs that share questions err together."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.errors import FlywheelError
from flywheel.evaluation.thresholds import check_pairs, fit_thresholds

MIN_COMPONENTS = 40
ROUGH_BELOW_COMPONENTS = 100
MAX_COMPONENT_SHARE = 0.05
FALSE_PROMOTIONS = 0.05
_PERCENTILES = (2.5, 97.5)
_REPLICATES = 2_000
# The smallest p-value is one over one more than this.
_SIGN_FLIPS = 99_999


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Pairs of one split as one model scores them: `scores`, `labels` (0 or 1) and `components` (ids), each (n,).

    Raises FlywheelError when lengths differ, a score is not finite or a label is neither 0 nor 1.
    """

    scores: NDArray[np.floating]
    labels: NDArray[np.integer]
    components: NDArray[np.generic]

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        check_pairs(self.scores, self.labels)
        _check_components(self.components, len(self.scores))


@dataclass(frozen=True)
class PairedTest:
    """Challenger against champion on the same pairs.

    `difference` is the challenger's error rate minus the champion's (below 0: the challenger is better), `interval` its
    95 % interval, `p_value` that of the one-sided test that the challenger makes fewer errors.
    """

    difference: float
    p_value: float
    components: int
    pairs: int
    interval: Interval


def error_rate(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Share of wrong decisions on pairs (n,), where a score at or above `threshold` says same."""
    values, given = check_pairs(scores, labels)
    if not len(values):
        raise FlywheelError("There are 0 pairs: an error rate needs at least one.")
    return float(((values >= threshold) != given).mean())


def alpha_for(decision: int) -> float:
    """Level of the k-th decision (from 1) on one `test_id`: 0.05 * 6 / (pi^2 k^2), which sums to 0.05 over all k."""
    if decision < 1:
        raise FlywheelError(f"Decision number {decision} does not exist: decisions on a test set are counted from 1.")
    return FALSE_PROMOTIONS * 6.0 / (np.pi**2 * decision**2)


def why_no_verdict(components: NDArray[np.generic], minimum: int = MIN_COMPONENTS) -> str | None:
    """None when pairs with these component ids (n,) carry an interval and a verdict, else the reason in words."""
    sizes = np.unique(components, return_counts=True)[1]
    if len(sizes) < minimum:
        return f"{len(sizes)} components are fewer than the {minimum} a verdict needs"
    share = sizes.max() / sizes.sum()
    if share > MAX_COMPONENT_SHARE:
        return f"one component holds {share:.1%} of the pairs, more than the {MAX_COMPONENT_SHARE:.0%} a verdict allows"
    return None


def is_rough(components: NDArray[np.generic]) -> bool:
    """Whether pairs with these component ids (n,) carry a rough figure only: fewer than 100 components."""
    return len(np.unique(components)) < ROUGH_BELOW_COMPONENTS


def component_weights(components: NDArray[np.generic], replicates: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """How often each pair (n,) occurs in each bootstrap replicate that draws whole components: (replicates, n).

    The cluster bootstrap of Davison and Hinkley, "Bootstrap Methods and their Application", 3.8.
    """
    ids, index = np.unique(components, return_inverse=True)
    even = np.full(len(ids), 1.0 / len(ids))
    weights = np.empty((replicates, len(index)), dtype=np.int32)
    for row in weights:
        row[:] = rng.multinomial(len(ids), even)[index]
    return weights


def error_interval(
    calibration: LabelledScores,
    test: LabelledScores,
    *,
    replicates: int = 1_000,
    seed: int = 0,
    minimum: int = MIN_COMPONENTS,
) -> Interval | None:
    """95 % interval of the error rate on `test` at the threshold chosen on `calibration`; None without a verdict.

    Each replicate resamples the calibration components, refits the threshold, resamples the test components and takes
    the error rate; the interval lies between the 2.5th and the 97.5th percentile. Raises FlywheelError where
    `calibration` cannot carry a threshold.
    """
    if why_no_verdict(calibration.components, minimum) or why_no_verdict(test.components, minimum):
        return None
    rng = np.random.default_rng(seed)
    thresholds = fit_thresholds(
        calibration.scores, calibration.labels, component_weights(calibration.components, replicates, rng)
    )
    weights = component_weights(test.components, replicates, rng)
    scores, labels = check_pairs(test.scores, test.labels)
    rates = np.empty(replicates)
    for replicate, threshold in enumerate(thresholds):
        rates[replicate] = np.average((scores >= threshold) != labels, weights=weights[replicate])
    return _interval(rates)


def paired_test(
    challenger_wrong: NDArray[np.bool_],
    champion_wrong: NDArray[np.bool_],
    components: NDArray[np.generic],
    seed: int = 0,
) -> PairedTest:
    """One-sided test, by component, that the challenger makes fewer errors than the champion on the same pairs (n,).

    Under the null the two are exchangeable within a component, so the sign of a component's difference in errors is a
    coin flip (Fisher's permutation test for paired samples, `scipy.stats.permutation_test`). The interval resamples
    components. Raises FlywheelError when lengths differ or there are no pairs.
    """
    from scipy.stats import permutation_test

    if not len(challenger_wrong) or len(challenger_wrong) != len(champion_wrong):
        raise FlywheelError(
            f"The challenger has {len(challenger_wrong)} decisions and the champion {len(champion_wrong)}: "
            "score both on the same pairs."
        )
    _check_components(components, len(challenger_wrong))
    ids, index, sizes = np.unique(components, return_inverse=True, return_counts=True)
    difference = challenger_wrong.astype(np.float64) - champion_wrong.astype(np.float64)
    by_component = np.bincount(index, weights=difference)
    rng = np.random.default_rng(seed)
    # A component without a difference keeps it whatever its sign: leaving those out changes nothing but the time. Two
    # stay in, because scipy refuses a sample of one.
    moved = np.append(by_component[by_component != 0.0], [0.0, 0.0])
    flips = permutation_test(
        (moved,),
        np.sum,
        permutation_type="samples",
        alternative="less",
        n_resamples=_SIGN_FLIPS,
        batch=1_000,
        vectorized=True,
        rng=rng,
    )
    draws = component_weights(np.arange(len(ids)), _REPLICATES, rng)
    return PairedTest(
        difference=float(difference.mean()),
        p_value=float(flips.pvalue),
        components=len(ids),
        pairs=len(difference),
        interval=_interval(draws @ by_component / (draws @ sizes)),
    )


def _interval(replicates: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(replicates, _PERCENTILES)
    return Interval(float(low), float(high))


def _check_components(components: NDArray[np.generic], pairs: int) -> None:
    if len(components) != pairs:
        raise FlywheelError(f"There are {len(components)} component ids for {pairs} pairs: give one per pair.")
