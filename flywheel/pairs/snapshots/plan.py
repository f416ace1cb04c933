"""Which components a draw takes: as many as the shares want, none too large for the verdict's own rule."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flywheel.pairs.snapshots.enough import Components, Missing, Offer, Shares, SplitRules, can_judge, held, to_ingest
from flywheel.scoring.power import detectable_in, effective_pairs, pairs_to_detect

_CAPS = (1, 2, 3, 5, 8, 13, 21, 34)  # beside the largest component that may be drawn at all
_ENOUGH = 0.01  # a difference of error rates that no test need show better
_TRIES = 200  # each adds a twentieth of the pairs that are asked for: to several hundred thousand of them
_WORSE = 1.1  # how much larger the difference that shows may be for the sake of a draw that resembles what it is drawn from


@dataclass(frozen=True)
class Goal:
    """How many explicit pairs `test` and `calibration` should hold; see `Shares`."""

    test: int
    calibration: int
    by_power: bool
    ratio: float | None

    @classmethod
    def of(cls, shares: Shares, explicit: int, rules: SplitRules) -> "Goal":
        """What the shares give of so many explicit pairs."""
        test, calibration = (min(int(share * explicit), rules.max_split_pairs) for share in (shares.test, shares.calibration))
        return cls(test, calibration, shares.by_power, shares.ratio)

    def is_met_by(self, components: Components) -> bool:
        """Whether the components hold so many pairs that none need be cut out of larger ones: by power, two thirds will do."""
        part = 2 / 3 if self.by_power else 1.0
        tested, explicit = components.fresh.sum(), components.explicit.sum()
        return bool(tested >= part * self.test and explicit >= part * (self.test + self.calibration))


@dataclass(frozen=True, eq=False)
class Plan:
    """What a draw takes."""

    test: Components
    calibration: Components

    def judges(self, rules: SplitRules) -> bool:
        """Whether both splits carry a verdict."""
        return can_judge(self.test.fresh, rules) and can_judge(self.calibration.explicit, rules)


def make_plan(components: Components, goal: Goal, rules: SplitRules) -> Plan | None:
    """The components, of those in hash order, that a draw takes; None where no draw can judge.

    Size of the splits, number of components and largest component are chosen together. For each of some caps on the explicit
    pairs of a component, `test` is filled with the first components below it, `calibration` with the first of the others; what
    is kept are the fillings of which both splits, as they came out, carry a verdict. The smaller the cap, the more pairs count
    for (Kish's effective number) and the smaller a difference shows; the larger, the more the draw resembles what it is drawn
    from. So of those whose `detectable_in` test is within a tenth of the smallest, the one with the largest cap is taken.
    """
    plans = [plan for plan in (_fill(components, goal, cap) for cap in _caps(rules)) if plan.judges(rules)]
    if not plans:
        return None
    shown = [detectable_in(plan.test.sizes("fresh")) or 1.0 for plan in plans]
    return next(plan for plan, each in zip(plans, shown, strict=True) if each <= _WORSE * min(shown))


def calibrate_only(components: Components, goal: Goal, rules: SplitRules) -> Plan | None:
    """A draw whose `test` is empty, for a source without new pairs beside one that tests; None where it cannot judge."""
    plans = (_fill(components, replace(goal, test=0, ratio=None), cap) for cap in _caps(rules))
    return next((plan for plan in plans if can_judge(plan.calibration.explicit, rules)), None)


def _caps(rules: SplitRules) -> list[int]:
    largest = rules.max_component_pairs
    return sorted({cap for cap in (*_CAPS, largest) if cap <= largest}, reverse=True)


def _fill(components: Components, goal: Goal, cap: int) -> Plan:
    """The first components below a cap whose fresh pairs fill `test`, and the first of the others that fill `calibration`.

    Where there are too few for both, each gets its part of them.
    """
    small = components.take(components.sizes("explicit") <= cap)
    there, wanted = int(small.explicit.sum()), goal.test + goal.calibration
    test, calibration = goal.test, goal.calibration
    if there < wanted:
        test, calibration = test * there // wanted, calibration * there // wanted
    tested = _first(small.sizes("fresh"), test, goal.by_power)
    taken = int(small.fresh[tested].sum())
    if goal.ratio is not None and taken < test:
        calibration = min(calibration, round(taken * goal.ratio))
    others = np.where(tested, 0, small.sizes("explicit"))
    return Plan(small.take(tested), small.take(_first(others, calibration, False)))


def _first(sizes: NDArray[np.int64], wanted: int, by_power: bool) -> NDArray[np.bool_]:
    """Which components (n,) are the first that give so many pairs or, by power, enough of them."""
    pairs = sizes.cumsum().astype(np.float64)
    before = np.concatenate([[0.0], pairs[:-1]])
    needed = before < wanted
    if by_power and len(sizes):
        squares = np.concatenate([[0.0], (sizes.astype(np.float64) ** 2).cumsum()[:-1]])
        needed &= effective_pairs(np.maximum(before, 1e-9), squares) < pairs_to_detect(_ENOUGH)
    return (sizes > 0) & needed


def set_aside(components: Components, goal: Goal) -> Components:
    """What waits for a draw that can judge: what would fill the splits, and all that holds a pair of the rarer label."""
    if not len(components):
        return components
    rare = int(np.argmin(components.explicit.sum(0)))
    before = components.sizes("explicit").cumsum() - components.sizes("explicit")
    return components.take((before < goal.test + goal.calibration) | (components.explicit[:, rare] > 0))


def what_is_missing(offer: Offer, shares: Shares, rules: SplitRules) -> Missing:
    """What the pairs of a source lack to give a `test` and a `calibration` that can judge."""
    share, lesser = min((shares.test, "test"), (shares.calibration, "calibration"))
    least = max(rules.min_components + 1, 4 * rules.min_labels, rules.min_pairs + 1)
    if share == 0:
        name = f"splits.{offer.source}_{lesser}_share"
        why = f"The {offer.source} pairs may not judge, since {name} is 0."
        return Missing(why, f"Set {name} to a share above 0, then run `flywheel snapshot`.")
    if rules.max_split_pairs < least:
        why = f"A split of {rules.max_split_pairs} pairs (splits.max_split_pairs) is too small for a verdict."
        return Missing(why, f"Set splits.max_split_pairs to at least {least}, then run `flywheel snapshot`.")
    needed = (
        f"Calibration and test get a share of them and need {rules.min_components} components, none above "
        f"{rules.max_component_share:.0%} of its split, and {rules.min_labels} of either label each."
    )
    return Missing(f"{held(offer)} {needed}", to_ingest(*_more(offer, shares, rules)))


def _more(offer: Offer, shares: Shares, rules: SplitRules) -> tuple[int, int]:
    """How many explicit pairs of label 0 and of label 1, each a component, let a draw judge, as a draw with them shows.

    Asked for are twice the labels that a split needs, and a tenth more components, since chance decides where a pair goes.
    """
    most = rules.max_split_pairs
    safe = replace(
        rules,
        min_components=min(rules.min_components + rules.min_components // 10, most - 1),
        min_labels=max(rules.min_labels, min(2 * rules.min_labels, most // 4)),
    )
    more = [0, 0]
    for _ in range(_TRIES):
        added = np.repeat(np.eye(2, dtype=np.int64), more, axis=0)
        labels = np.random.default_rng(0).permutation(np.concatenate([offer.labels, added]))
        goal = Goal.of(shares, offer.explicit + sum(more), rules)
        if sum(more) and make_plan(Components(np.arange(len(labels)), labels, labels), goal, safe):
            return more[0], more[1]
        part = min(goal.test, goal.calibration) / max(1, goal.test + goal.calibration, int(labels.sum()))
        lacking = [label for label in (0, 1) if part * labels[:, label].sum() < safe.min_labels]
        for label in lacking or (0, 1):
            more[label] += max(5, more[label] // 20)
    return more[0], more[1]
