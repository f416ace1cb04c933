"""Two models on the same pairs: the paired test by component, its interval, and the level that each decision may spend."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Clusters, Interval, paired_score
from flywheel.evaluation.statistics import check_components
from flywheel.scoring.logistic import Floats

FALSE_PROMOTIONS = 0.05


@dataclass(frozen=True)
class PairedTest:
    """Challenger against champion on the same pairs.

    `difference` is the challenger's error rate minus the champion's (below 0: the challenger is better), `standard_error` its
    standard error by component and `interval` its 95 % interval, `p_value` that of the one-sided test that the challenger
    makes fewer errors. `interval` takes both models' thresholds as given, where the `error_intervals` of each alone allow for
    others. `effective_components` of equal size would carry as much information as the components do, and
    `effective_pairs` independent pairs as much as the pairs.
    """

    difference: float
    p_value: float
    components: int
    pairs: int
    interval: Interval
    standard_error: float
    effective_components: float
    effective_pairs: float


def alpha_for(decision: int) -> float:
    """Level of the k-th decision (from 1) on one `test_id`: 0.05 * 6 / (pi^2 k^2), which sums to 0.05 over all k."""
    if decision < 1:
        raise FlywheelError(f"Decision number {decision} does not exist: decisions on a test set are counted from 1.")
    return FALSE_PROMOTIONS * 6.0 / (np.pi**2 * decision**2)


def paired_test(
    challenger_wrong: NDArray[np.bool_], champion_wrong: NDArray[np.bool_], components: NDArray[np.generic]
) -> PairedTest:
    """One-sided test, by component, that the challenger makes fewer errors than the champion on the same pairs (n,).

    Under the null the two are exchangeable within a component, so the sign of a component's difference in errors is a
    coin flip (Fisher's permutation test for paired samples). The p-value is exact. The interval is Tango's, its sample size
    that which gives the variance by component, so that few differing decisions, or none, leave it wide. It takes both models'
    thresholds as given, so that where calibration has another share of duplicates than test it holds the difference between
    the two procedures less often than 95 times in 100. Raises FlywheelError when lengths differ or there are no pairs.
    """
    difference, clusters = _paired(challenger_wrong, champion_wrong, components)
    mean, error = float(difference.mean()), float(np.sqrt(clusters.variance(difference)))
    size = _effective_pairs(clusters, difference, error**2)
    up, down = float((difference > 0.0).mean()), float((difference < 0.0).mean())
    return PairedTest(
        difference=mean,
        p_value=_sign_flip_p_value(clusters.sums(difference).astype(np.int64)),
        components=len(clusters.sizes),
        pairs=len(difference),
        interval=Interval(*paired_score(up, down, size, clusters.quantile())),
        standard_error=error,
        effective_components=clusters.effective,
        effective_pairs=size,
    )


def quick_p_value(
    challenger_wrong: NDArray[np.bool_],
    champion_wrong: NDArray[np.bool_],
    components: NDArray[np.generic],
    factor: float = 1.0,
) -> float:
    """The p-value of `paired_test` by its normal approximation, its variance times `factor`: for labels beside many rows, never
    for a decision.

    Raises FlywheelError as `paired_test` does.
    """
    from scipy.stats import norm

    difference, clusters = _paired(challenger_wrong, champion_wrong, components)
    moved = clusters.sums(difference)
    spread = float(np.sqrt(factor * (moved**2).sum()))
    return float(norm.cdf(moved.sum() / spread)) if spread else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for there being many, in the given order (Holm, "A Simple Sequentially Rejective Test", 1979)."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty(len(values))
    adjusted[order] = np.maximum.accumulate(np.minimum(1.0, values[order] * np.arange(len(values), 0, -1)))
    return [float(value) for value in adjusted]


def detectable_difference(test: PairedTest, alpha: float, power: float = 0.8) -> float | None:
    """The smallest true difference in error rate that `paired_test` at level `alpha` finds with this power, on such pairs.

    By the normal approximation, but never less than what lets enough components differ: n of them, all in the winner's
    favour, have the exact p-value 2^-n, so that fewer than log2(1 / alpha) cannot pass however large the gain. The chance of
    that many is a binomial over components, each of which differs where one of its effective pairs does. None where all
    components together could not pass.
    """
    from scipy.special import betaincinv
    from scipy.stats import norm

    needed = float(np.ceil(-np.log2(alpha)))
    if needed > test.effective_components:
        return None
    moved = betaincinv(needed, test.effective_components - needed + 1.0, power)
    fewest = -np.expm1(test.effective_components / test.effective_pairs * np.log1p(-moved))
    return max(float((norm.isf(alpha) + norm.ppf(power)) * test.standard_error), float(fewest))


def _effective_pairs(clusters: Clusters, difference: Floats, variance: float) -> float:
    """How many independent pairs would give the mean of `difference` (n,), of -1, 0 and 1, this variance; at most n."""
    spread = float((difference**2).mean() - difference.mean() ** 2)
    if spread <= 0.0:
        # As in `_rate_interval`: nothing shows that the pairs of a component do not go together.
        return clusters.effective
    return min(float(len(difference)), spread / variance) if variance > 0.0 else float(len(difference))


def _sign_flip_p_value(by_component: NDArray[np.int64]) -> float:
    """Chance that differences (components,) with signs by coin flips add up to no more than they do.

    The sum's distribution is the convolution of one binomial for each size of difference (Pagano and Tritchler, "On Obtaining
    Permutation Distributions in Polynomial Time", 1983).
    """
    from scipy.signal import convolve
    from scipy.stats import binom

    chances = np.ones(1)  # of 0, 1, ... as the sum of the differences that point up
    for size, count in zip(*np.unique(np.abs(by_component[by_component != 0]), return_counts=True), strict=True):
        one_size = np.zeros(size * count + 1)
        one_size[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = convolve(chances, one_size)
    return float(np.clip(chances[: by_component[by_component > 0].sum() + 1].sum(), 0.0, 1.0))


def _paired(
    challenger_wrong: NDArray[np.bool_], champion_wrong: NDArray[np.bool_], components: NDArray[np.generic]
) -> tuple[Floats, Clusters]:
    """The challenger's errors less the champion's (n,), and the components they fall into."""
    if not len(challenger_wrong) or len(challenger_wrong) != len(champion_wrong):
        raise FlywheelError(
            f"The challenger has {len(challenger_wrong)} decisions and the champion {len(champion_wrong)}: "
            "score both on the same pairs."
        )
    check_components(components, len(challenger_wrong))
    return challenger_wrong.astype(np.float64) - champion_wrong.astype(np.float64), Clusters.of(components)
