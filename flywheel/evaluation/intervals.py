"""What intervals are made of where components err as one: a rate's spread between them, how many there are in effect."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.scoring.logistic import Floats

_CONFIDENCE = 0.95
# Below any difference that is shown.
_CLOSE = 1e-9


@dataclass(frozen=True, eq=False)
class Clusters:
    """Pairs (n,) by component: `index` (n,) of the component of each, and `sizes`, how many pairs each component has."""

    index: NDArray[np.intp]
    sizes: Floats

    @classmethod
    def of(cls, components: ArrayLike) -> "Clusters":
        """From component ids (n,)."""
        _, index, sizes = np.unique(np.asarray(components), return_inverse=True, return_counts=True)
        return cls(index, sizes.astype(np.float64))

    @property
    def effective(self) -> float:
        """How many components of equal size would carry as much information: Kish's effective number."""
        return float(self.sizes.sum() ** 2 / (self.sizes**2).sum())

    def sums(self, values: NDArray[np.generic]) -> Floats:
        """The sum of `values` (n,) in each component."""
        return np.bincount(self.index, weights=values, minlength=len(self.sizes)).astype(np.float64)

    def variance(self, values: NDArray[np.generic]) -> float:
        """Sampling variance of the mean of `values` (n,) when components are drawn whole.

        The linearised variance of a ratio of sums (Cochran, "Sampling Techniques", 6.3 and 9A.1). 0 for one component.
        """
        if len(self.sizes) < 2:
            return 0.0
        sums, pairs = self.sums(values), self.sizes.sum()
        rest = sums - sums.sum() / pairs * self.sizes
        return float(len(sums) / (len(sums) - 1) * (rest**2).sum() / pairs**2)

    def quantile(self) -> float:
        """How many standard errors a 95 % interval reaches to either side.

        Student's, whose degrees of freedom are the effective number of components less one.
        """
        from scipy.stats import t

        return float(t.ppf(0.5 + 0.5 * _CONFIDENCE, max(1.0, self.effective - 1.0)))


def wilson(share: float, size: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval of a `share` found in a sample of this (effective) `size`, `quantile` standard errors wide.

    It stays between 0 and 1 and does not shrink to nothing where no error was seen (Wilson 1927; with an effective size for
    clustered samples: Dean and Pagano, "Evaluating Confidence Interval Methods for Binomial Proportions in Clustered Surveys",
    2015).
    """
    square = quantile**2 / size
    centre = (share + 0.5 * square) / (1.0 + square)
    half = np.sqrt(square * (share * (1.0 - share) + 0.25 * square)) / (1.0 + square)
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def paired_score(up: float, down: float, size: float, quantile: float) -> tuple[float, float]:
    """Score interval of the difference `up` - `down`, shares of a sample of this (effective) `size` that two deciders split.

    In `up` of the sample the first alone errs, in `down` the second alone. The difference that a limit supposes has its own
    variance, so the interval does not shrink to nothing where no decision differs: there it is Wilson's to either side (Tango,
    "Equivalence test and confidence interval for the difference in proportions for the paired-sample design", 1998).
    """
    from scipy.optimize import brentq

    difference = up - down

    def beyond(supposed: float, direction: int) -> float:
        slope = up + down - (2.0 - difference) * supposed
        rest = (sqrt(max(0.0, slope**2 + 8.0 * down * supposed * (1.0 - supposed))) + slope) / 4.0
        variance = max(0.0, 2.0 * rest + supposed * (1.0 - supposed)) / size
        return direction * (supposed - difference) - quantile * sqrt(variance)

    # At the measured difference itself the variance may be 0, so the search ends just short of it.
    ends = ((-1.0, max(-1.0, difference - _CLOSE), -1), (min(1.0, difference + _CLOSE), 1.0, 1))
    low, high = (float(brentq(beyond, *end, args=(way,))) if end[0] < end[1] else difference for *end, way in ends)
    return low, high


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float
