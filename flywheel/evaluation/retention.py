"""What tuning costs elsewhere: a trained model beside its untuned base on pairs of other topics, which nothing trains on.

`general_pairs.csv` holds 300 pairs in English from fifteen everyday topics, half of them paraphrases, half look-alikes or other
sentences of the topic. They were written for this project and have its licence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.statistics import component_weights, reason_no_verdict
from flywheel.pairs.labelled import labelled_id, read_labelled
from flywheel.pairs.options import PairOptions
from flywheel.scoring.thresholds import check_both_labels

if TYPE_CHECKING:
    import pandas as pd

GENERAL = "general pairs"
_REPLICATES = 1_000
_AT_ONCE = 2_000_000  # numbers of bootstrap weights in memory
_OTHER_FILE = "Name another file in evaluation.second_domain."
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Domain:
    """Labelled pairs from elsewhere, as `read_labelled` gives them, and the id of their content."""

    name: str
    domain_id: str
    read: Callable[[], pd.DataFrame]


@dataclass(frozen=True)
class Retention:
    """Average precision of the cosine on `n` pairs of a domain: of the trained model, and of its untuned base at the same
    dimension. `interval` is the 95 % interval of the difference, None where the pairs carry none. `left_out` pairs have a
    question that trains.
    """

    domain: str
    domain_id: str
    tuned: float
    untuned: float
    interval: Interval | None
    n: int
    left_out: int

    @property
    def difference(self) -> float:
        """Of the trained model less the untuned one: below 0 where tuning cost something."""
        return self.tuned - self.untuned


@cache
def general_domain() -> Domain:
    """The project's own pairs."""
    path = Path(str(files("flywheel.evaluation"))) / "general_pairs.csv"
    return Domain(GENERAL, labelled_id(path, PairOptions()), cache(lambda: read_labelled(path, PairOptions(), "512MB")))


def file_domain(path: Path, options: PairOptions, memory: str) -> Domain:
    """The labelled pairs of a user's file, read as the settings of [pairs] say.

    Raises FlywheelError, here or when they are read, if the file cannot be read or has no labels.
    """

    def read() -> pd.DataFrame:
        with _explained():
            return read_labelled(path, options, memory)

    with _explained():
        return Domain(path.name, labelled_id(path, options), read)


def retention(domain: Domain, tuned: Embed, untuned: Embed, trains: frozenset[str], minimum: int) -> Retention:
    """Both models on a domain's pairs without those of a question in `trains` (ids). `minimum` components carry an interval.

    Each replicate of the interval draws whole components, the same for both models. Raises FlywheelError when one label alone
    is left.
    """
    from sklearn.metrics import average_precision_score

    pairs = domain.read()
    kept = pairs[~(pairs["question_a"].isin(trains) | pairs["question_b"].isin(trains))]
    left_out = len(pairs) - len(kept)
    labels, components = kept["label"].to_numpy(), kept["component"].to_numpy()
    without = f", without {left_out:,} that have a question which trains," if left_out else ""
    check_both_labels(labels, f" of {domain.name}{without}", _OTHER_FILE)
    scores = [_cosines(embed, kept) for embed in (tuned, untuned)]
    judges = reason_no_verdict(components, minimum) is None
    return Retention(
        domain=domain.name,
        domain_id=domain.domain_id,
        tuned=float(average_precision_score(labels, scores[0])),
        untuned=float(average_precision_score(labels, scores[1])),
        interval=_interval(scores[0], scores[1], labels, components) if judges else None,
        n=len(kept),
        left_out=left_out,
    )


def weighted_average_precision(
    scores: NDArray[np.floating], labels: NDArray[np.integer], weights: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Average precision (replicates,) of scores (n,) for labels (n,) under each row of weights (replicates, n), as
    scikit-learn defines it; nan where a row weighs no pair with label 1.
    """
    order = np.argsort(-scores, kind="stable")
    cuts = np.append(np.diff(scores[order]) != 0, True)
    weights = weights[:, order]
    called, right = weights.cumsum(1)[:, cuts], (weights * labels[order]).cumsum(1)[:, cuts]
    with np.errstate(invalid="ignore"):
        return (np.diff(right, axis=1, prepend=0) * right / np.maximum(called, 1)).sum(1) / right[:, -1]


def _interval(
    tuned: NDArray[np.float64], untuned: NDArray[np.float64], labels: NDArray[np.integer], components: NDArray[np.integer]
) -> Interval:
    rng = np.random.default_rng(0)
    together = max(1, _AT_ONCE // len(labels))
    differences = []
    for first in range(0, _REPLICATES, together):
        weights = component_weights(components, min(together, _REPLICATES - first), rng)
        differences.append(
            weighted_average_precision(tuned, labels, weights) - weighted_average_precision(untuned, labels, weights)
        )
    return Interval(*map(float, np.nanpercentile(np.concatenate(differences), [2.5, 97.5])))


def _cosines(embed: Embed, pairs: pd.DataFrame) -> NDArray[np.float64]:
    return np.asarray((embed(list(pairs["text_a"])) * embed(list(pairs["text_b"]))).sum(1), dtype=np.float64)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except UnreadableFileError as error:
        raise FlywheelError(f"evaluation.second_domain: {error}") from error
