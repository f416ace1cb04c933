"""What intervals are made of where components err as one: a rate's spread between them, how many there are in effect."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.evaluation.logistic import Floats

_CONFIDENCE = 0.95


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
        """How many components of equal size would tell as much: Kish's effective number."""
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
