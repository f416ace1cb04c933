"""Which pairs carry an interval and a verdict: the one rule that draws, folds and evaluations obey."""

import numpy as np
from numpy.typing import NDArray

MIN_COMPONENTS = 40
MAX_COMPONENT_SHARE = 0.05


def largest_share(minimum: int) -> float:
    """The largest share of the pairs that one component may hold: 5 %, or twice an even share of the fewest components."""
    return max(MAX_COMPONENT_SHARE, 2 / max(1, minimum))


def reason_no_verdict(sizes: NDArray[np.integer], minimum: int, largest: float) -> str | None:
    """None when components of so many pairs, `sizes` (n,), carry a verdict, else the reason in words."""
    if len(sizes) < minimum:
        return f"{len(sizes)} components are fewer than the {minimum} a verdict needs"
    share = sizes.max() / sizes.sum() if len(sizes) else 0.0
    if share > largest:
        return f"one component holds {share:.1%} of the pairs, more than the {largest:.0%} a verdict allows"
    return None
