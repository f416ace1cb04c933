"""What a paired test can find, said before anything is measured."""

from math import ceil, expm1, log1p, log2, sqrt

FIRST_LEVEL = 0.05 * 6 / 3.141592653589793**2  # of the first decision on a test set
POWER = 0.8
DIFFERING = 0.1  # share of pairs that two models decide differently: an assumption, until both are there


def expected_detectable(
    pairs: float, components: float, differing: float = DIFFERING, level: float = FIRST_LEVEL, power: float = POWER
) -> float | None:
    """The smallest true difference of two error rates (a share) that so many effective pairs in effective components show.

    By the normal approximation of the one-sided paired test at `level`, found with chance `power`, where the two models decide
    a share `differing` of the pairs differently. Never less than what lets enough components differ: n of them, all in the
    winner's favour, have the exact p-value 2^-n. None where all components together could not pass.
    """
    from scipy.special import betaincinv
    from scipy.stats import norm

    needed = ceil(-log2(level))
    if needed > components:
        return None
    moved = float(betaincinv(needed, components - needed + 1.0, power))
    fewest = -expm1(components / pairs * log1p(-moved))
    return max(float(norm.isf(level) + norm.ppf(power)) * sqrt(differing / pairs), float(fewest))
