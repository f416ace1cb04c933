"""Whether what a draw gives to a split can judge, and if not, how much is missing and of what."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flywheel.pairs.options import TEST_SHARE, SplitOptions, calibration_share
from flywheel.scoring.thresholds import MIN_LABELS
from flywheel.scoring.verdicts import largest_share, reason_no_verdict

Count = Literal["fresh", "explicit"]


@dataclass(frozen=True)
class Shares:
    """What one source's explicit pairs give to `test` and `calibration`, as shares of them. By power, `test` gets less as soon
    as that shows enough, and calibration, if it has a `ratio`, so much for each pair of `test`.
    """

    test: float
    calibration: float
    by_power: bool = False
    ratio: float | None = None


@dataclass(frozen=True)
class SplitRules:
    """What a draw obeys: `SplitOptions`, with what `test` and `calibration` each need to judge: the fewest components, the
    largest share of the pairs that one may hold, the fewest pairs, and the fewest of either label. `window_days` limits
    training pairs by age, `frozen_from` says from how many explicit pairs of a source on a first draw is made.
    """

    seed: Shares
    interaction: Shares
    max_split_pairs: int
    max_component_pairs: int
    min_components: int
    max_component_share: float
    min_pairs: int
    min_labels: int
    frozen_from: int
    window_days: int | None

    @classmethod
    def of(cls, options: SplitOptions, min_components: int) -> "SplitRules":
        """The rules that the settings give. Who asks for fewer components than usual gets by with larger ones, fewer labels."""
        test, calibration = options.interaction_test_share, options.interaction_calibration_share
        by_power = test is None
        test = TEST_SHARE if test is None else test
        beside = calibration_share(test)
        ratio = beside / test if by_power and calibration is None else None
        return cls(
            Shares(options.seed_test_share, options.seed_calibration_share),
            Shares(test, beside if calibration is None else calibration, by_power, ratio),
            options.max_split_pairs,
            options.max_component_pairs,
            min_components,
            largest_share(min_components),
            MIN_LABELS,
            max(1, min(MIN_LABELS // 2, min_components // 4)),
            options.frozen_from,
            options.interaction_window_days,
        )


@dataclass(frozen=True, eq=False)
class Components:
    """Components that may be drawn, in the order in which they are: their `names` (n,), and how many pairs of label 0 and of
    label 1 each has: `explicit` (n, 2), and those of them that no earlier version held, `fresh` (n, 2). `test` takes the fresh
    ones, `calibration` all explicit ones.
    """

    names: NDArray[np.generic]
    explicit: NDArray[np.int64]
    fresh: NDArray[np.int64]

    def __len__(self) -> int:
        """How many components."""
        return len(self.names)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Components":
        """Some of them, in the same order."""
        return Components(self.names[rows], self.explicit[rows], self.fresh[rows])

    def labels(self, counted: Count) -> NDArray[np.int64]:
        """Pairs (n, 2) of label 0 and of label 1 in each."""
        return self.fresh if counted == "fresh" else self.explicit

    def sizes(self, counted: Count) -> NDArray[np.int64]:
        """Pairs (n,) in each."""
        return np.asarray(self.labels(counted).sum(1))


def can_judge(labels: NDArray[np.int64], rules: SplitRules) -> bool:
    """Whether a split of components with so many pairs of either label, (n, 2), carries a threshold and a verdict."""
    sizes = labels.sum(1)
    return (
        reason_no_verdict(sizes, rules.min_components, rules.max_component_share) is None
        and int(sizes.sum()) >= rules.min_pairs
        and int(labels.sum(0).min()) >= rules.min_labels
    )


@dataclass(frozen=True)
class Offer:
    """What a source has for a draw: all its `pairs`, how many are `explicit`, and the pairs of label 0 and of label 1, (n, 2),
    in each of the components that are small enough and not fixed yet.
    """

    source: str
    pairs: int
    explicit: int
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Missing:
    """Why a source's pairs give no split that can judge, and what leads on from there."""

    why: str
    remedy: str


def held(offer: Offer) -> str:
    """What a source gives, in a sentence."""
    what = f"{offer.source} pairs"
    if not offer.explicit:
        none = f"none of the {offer.pairs:,} {what} has one" if offer.pairs else f"there are no {what}"
        return f"Only explicit labels judge, and {none}."
    different, same = offer.labels.sum(0)
    fixed = offer.explicit - same - different
    rest = f"; {fixed:,} more hang on questions that train or judge already, or on large components" if fixed else ""
    return (
        f"The {what} give {same:,} explicit labels that say same and {different:,} that say different, in "
        f"{len(offer.labels):,} components{rest}."
    )


def to_ingest(different: int, same: int) -> str:
    """The remedy where so many pairs of either label are missing."""
    kinds = [f"{n:,} more pairs labelled {kind}" for n, kind in ((same, "same"), (different, "different")) if n]
    return f"Ingest about {' and '.join(kinds)}, on questions of their own, then run `flywheel snapshot`."
