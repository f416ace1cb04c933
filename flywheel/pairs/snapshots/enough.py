"""Whether what a draw gives to a split can judge, and if not, how much is missing and of what."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from flywheel.pairs.options import SplitOptions
from flywheel.scoring.thresholds import MIN_LABELS

Count = Literal["fresh", "explicit"]


@dataclass(frozen=True)
class Shares:
    """What one source's pairs should give to `test` and `calibration`, as shares of its pairs."""

    test: float
    calibration: float


@dataclass(frozen=True)
class SplitRules:
    """What a draw obeys: `SplitOptions`, with what `test` and `calibration` each need to judge: the fewest components, the
    largest share of the pairs that one may hold, the fewest pairs, and the fewest of either label. `window_days` limits
    training pairs by age.
    """

    seed: Shares
    interaction: Shares
    max_split_pairs: int
    max_component_pairs: int
    min_components: int
    max_component_share: float
    min_pairs: int
    min_labels: int
    window_days: int | None

    @classmethod
    def of(cls, options: SplitOptions, min_components: int, max_component_share: float) -> "SplitRules":
        """The rules that the settings give. Who asks for fewer components than usual gets by with larger ones, fewer labels."""
        return cls(
            Shares(options.seed_test_share, options.seed_calibration_share),
            Shares(options.interaction_test_share, options.interaction_calibration_share),
            options.max_split_pairs,
            options.max_component_pairs,
            min_components,
            max(max_component_share, 2 / min_components),
            MIN_LABELS,
            max(1, min(MIN_LABELS // 2, min_components // 4)),
            options.interaction_window_days,
        )


@dataclass(frozen=True)
class Component:
    """A component that may be drawn: its explicit pairs and how many of them are the same; of both, those that no earlier
    version held (`fresh`). `test` takes the fresh ones, `calibration` all explicit ones.
    """

    name: str
    explicit: int
    explicit_same: int
    fresh: int
    fresh_same: int

    def pairs(self, counted: Count) -> int:
        """How many pairs it gives."""
        return self.fresh if counted == "fresh" else self.explicit

    def labels(self, counted: Count) -> tuple[int, int]:
        """How many pairs of label 0 and of label 1 it gives."""
        same = self.fresh_same if counted == "fresh" else self.explicit_same
        return self.pairs(counted) - same, same


def label_counts(components: Sequence[Component], counted: Count) -> tuple[int, int]:
    """Pairs of label 0 and of label 1 in some components."""
    labels = [each.labels(counted) for each in components]
    return sum(each[0] for each in labels), sum(each[1] for each in labels)


def can_judge(components: Sequence[Component], counted: Count, rules: SplitRules) -> bool:
    """Whether a split of these components carries a threshold and a verdict."""
    sizes = [each.pairs(counted) for each in components]
    return (
        len(sizes) >= rules.min_components
        and sum(sizes) >= rules.min_pairs
        and max(sizes, default=0) <= rules.max_component_share * sum(sizes)
        and min(label_counts(components, counted)) >= rules.min_labels
    )


@dataclass(frozen=True)
class Offer:
    """What a source has for a draw: all its `pairs`, how many are `explicit`, and the components that are small enough and
    not fixed yet, of which those pairs may judge that are `counted`.
    """

    source: str
    pairs: int
    explicit: int
    components: Sequence[Component]
    counted: Count


@dataclass(frozen=True)
class Missing:
    """Why a source's pairs give no split that can judge, and what leads on from there."""

    why: str
    remedy: str


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
    different, same = _more(offer, share, share / (shares.test + shares.calibration), rules)
    kinds = [f"{count:,} more pairs labelled {kind}" for count, kind in ((same, "same"), (different, "different")) if count]
    remedy = f"Ingest about {' and '.join(kinds)}, on questions of their own, then run `flywheel snapshot`."
    return Missing(_held(offer, rules), remedy)


def _more(offer: Offer, share: float, part: float, rules: SplitRules) -> tuple[int, int]:
    """How many explicit pairs of label 0 and of label 1, each a component, make the lesser split judge: it gets `share` of
    what there is, at most the `part` of what is free. Twice the labels it needs are asked for, since chance decides where a
    pair goes.
    """
    free = label_counts(offer.components, offer.counted)
    more = [0, 0]
    while True:
        held = [before + new for before, new in zip(free, more, strict=True)]
        pairs = max(1, sum(held))
        size = min(share * (offer.explicit + sum(more)), part * pairs, rules.max_split_pairs)
        lacking = [label for label in (0, 1) if size * held[label] / pairs < 2 * rules.min_labels]
        components = size * (len(offer.components) + sum(more)) / pairs
        if not lacking and components > rules.min_components and size > rules.min_pairs:
            return more[0], more[1]
        for label in lacking or (0, 1):
            more[label] += max(5, more[label] // 20)


def _held(offer: Offer, rules: SplitRules) -> str:
    what = f"{offer.source} pairs"
    if not offer.explicit:
        none = f"none of the {offer.pairs:,} {what} has one" if offer.pairs else f"there are no {what}"
        return f"Only explicit labels judge, and {none}."
    different, same = label_counts(offer.components, offer.counted)
    fixed = offer.explicit - same - different
    rest = f"; {fixed:,} more hang on questions that train or judge already, or on large components" if fixed else ""
    return (
        f"The {what} give {same:,} explicit labels that say same and {different:,} that say different, in "
        f"{len(offer.components):,} components{rest}. Calibration and test get a share of them and need "
        f"{rules.min_components} components and {rules.min_labels} of either label each."
    )
