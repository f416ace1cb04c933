"""Always giving the commoner label: what an error rate has to be read beside."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.records import Terms
from flywheel.evaluation.statistics import rate_interval
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.scoring.decision_rule import DecisionRule

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Guess:
    """The error rate of a guess on the `n` pairs that judge, in so many components, with its 95 % interval."""

    error: float
    interval: Interval | None
    n: int
    components: int


def measure_guess(snapshot: Snapshot, terms: Terms) -> Guess | None:
    """How often the commoner label is wrong: that of the calibration pairs, by source as decision rules are, or of the other
    folds. It reads labels only. None where nothing judges, or the labels that choose are of one kind.
    """
    wrong, components = [], []
    try:
        for choosing, judged in _sides(snapshot):
            sources = judged["source"].to_numpy()
            chosen = choosing["label"].to_numpy(), choosing["source"].to_numpy()
            rule = DecisionRule.fit(np.ones(len(choosing)), *chosen, terms.target_prior)
            wrong.append(rule.decide(np.ones(len(judged)), sources) != judged["label"].to_numpy())
            components.append(judged["component"].to_numpy())
    except FlywheelError:
        return None
    if not wrong:
        return None
    errors, ids = np.concatenate(wrong), np.concatenate(components)
    return Guess(float(errors.mean()), rate_interval(errors, ids, terms.min_components), len(errors), len(np.unique(ids)))


def _sides(snapshot: Snapshot) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The pairs that choose the label and those that it is given to, once or for each fold."""
    judging = snapshot.judging_pairs()
    if snapshot.is_drawn:
        yield snapshot.pairs("calibration"), judging
    for fold in range(snapshot.folds):
        yield judging[judging["fold"] != fold], judging[judging["fold"] == fold]
