"""Error rates with their uncertainty: components are drawn whole, because pairs that share questions err together."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Clusters, Interval, wilson
from flywheel.scoring import verdicts
from flywheel.scoring.logistic import Floats
from flywheel.scoring.thresholds import (
    INTERACTION,
    SEED,
    bases_by_source,
    check_both_labels,
    check_pairs,
    check_sources,
    fit_by_source,
    fit_scores,
    thresholds_by_source,
)
from flywheel.scoring.verdicts import MIN_COMPONENTS, largest_share

ROUGH_BELOW_COMPONENTS = 100
# How many numbers the bootstrap holds at a time.
_CHUNK_ELEMENTS = 2_000_000


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """Pairs of one split as one model scores them: `scores`, `labels` (0 or 1) and `components` (ids), each (n,).

    `sources` (n,) are "seed" or "interaction"; None: all are seed pairs. Raises FlywheelError when lengths differ, a score is
    not finite, a label is neither 0 nor 1 or a source is another word.
    """

    scores: NDArray[np.floating]
    labels: NDArray[np.integer]
    components: NDArray[np.generic]
    sources: NDArray[np.generic] | None = None

    def __post_init__(self) -> None:
        """Refuse arrays that do not belong together."""
        check_pairs(self.scores, self.labels)
        check_components(self.components, len(self.scores))
        if self.sources is not None:
            check_sources(self.sources, len(self.scores))

    @property
    def source_of_each(self) -> NDArray[np.generic]:
        """The source (n,) of each pair."""
        return np.full(len(self.scores), SEED) if self.sources is None else self.sources


@dataclass(frozen=True)
class ErrorParts:
    """What an error rate is made of; the three add up to it.

    `ranking` is the lowest error any single threshold per source could have on these pairs: only better scores lower it.
    `prior` is what the thresholds cost because they were fitted for another share of duplicates than these pairs have, and
    `threshold` the rest, what the fits miss even so. By chance `prior` and `threshold` may be slightly negative.
    """

    ranking: float
    threshold: float
    prior: float


def error_rate(scores: ArrayLike, labels: ArrayLike, threshold: float) -> float:
    """Share of wrong decisions on pairs (n,), where a score at or above `threshold` says same."""
    values, given = check_pairs(scores, labels)
    if not len(values):
        raise FlywheelError("There are 0 pairs: an error rate needs at least one.")
    return float(((values >= threshold) != given).mean())


def reason_no_verdict(components: NDArray[np.generic], minimum: int = MIN_COMPONENTS) -> str | None:
    """None when pairs with these component ids (n,) carry an interval and a verdict, else the reason in words."""
    return verdicts.reason_no_verdict(np.unique(components, return_counts=True)[1], minimum, largest_share(minimum))


def is_rough(components: NDArray[np.generic]) -> bool:
    """Whether pairs with these component ids (n,) carry a rough figure only: fewer than 100 components."""
    return len(np.unique(components)) < ROUGH_BELOW_COMPONENTS


def component_weights(components: NDArray[np.generic], replicates: int, rng: "np.random.Generator") -> NDArray[np.int32]:
    """How often each pair (n,) occurs in each bootstrap replicate that draws whole components: (replicates, n).

    The cluster bootstrap of Davison and Hinkley, "Bootstrap Methods and their Application", 3.8.
    """
    ids, index = np.unique(components, return_inverse=True)
    drawn = rng.multinomial(len(ids), np.full(len(ids), 1.0 / len(ids)), size=replicates)
    return drawn.astype(np.int32)[:, index]


def error_interval(
    calibration: LabelledScores,
    test: LabelledScores,
    *,
    replicates: int = 1_000,
    seed: int = 0,
    minimum: int = MIN_COMPONENTS,
) -> Interval | None:
    """95 % interval of the error rate on `test` at the thresholds chosen on `calibration`; None without a verdict.

    All test pairs are one group; see `error_intervals`.
    """
    everyone = {"all": np.ones(len(test.scores), dtype=np.bool_)}
    return error_intervals(calibration, test, everyone, replicates=replicates, seed=seed, minimum=minimum)["all"]


def error_intervals(
    calibration: LabelledScores,
    test: LabelledScores,
    groups: Mapping[str, NDArray[np.bool_]],
    *,
    thresholds: Mapping[str, float] | None = None,
    target_prior: float | None = None,
    replicates: int = 1_000,
    seed: int = 0,
    minimum: int = MIN_COMPONENTS,
) -> dict[str, Interval | None]:
    """95 % interval of the error rate on each group of `test` pairs, masks (n,), by the threshold of each pair's source.

    What it covers is the error rate of the procedure in the population: choose the thresholds on a calibration split of this
    size and make-up, decide all pairs there are; its mean over such splits. (The error at the very thresholds at hand differs
    from that mean by less than the interval allows for.) Two things make a measured rate differ from it, and each counts
    once:

    - other test components would have been drawn: the spread, between components, of how often a pair is decided wrongly,
      averaged over thresholds refitted on resampled calibration components;
    - other calibration components would have given other thresholds: the spread of these test pairs' error over those.

    (To resample both at once counts the second twice: drawing other test components also shakes their error between nearby
    thresholds, which its spread over thresholds holds already.) The interval is Wilson's around the measured rate, its sample
    size that which gives this variance. `thresholds` are those in use, by source; without them, those that `calibration`
    chooses. A group whose own pairs carry no verdict has None, and all have where `calibration`
    carries none. Raises FlywheelError where `calibration` cannot carry a threshold or a mask does not fit.
    """
    for name, mask in groups.items():
        if mask.shape != test.scores.shape:
            raise FlywheelError(f"The mask of {name} has shape {mask.shape} for {len(test.scores)} pairs: give one per pair.")
    carried = {name: not reason_no_verdict(test.components[mask], minimum) for name, mask in groups.items()}
    if reason_no_verdict(calibration.components, minimum) or not any(carried.values()):
        return dict.fromkeys(groups)
    wrong = _decided_wrong(test, thresholds or _thresholds(calibration, target_prior))
    drawn = _resampled_thresholds(calibration, target_prior, replicates, seed)
    often = _how_often_wrong(test, drawn)
    return {
        name: _rate_interval(Clusters.of(test.components[mask]), wrong[mask], often[mask], _errors_at(test, mask, drawn))
        if carried[name]
        else None
        for name, mask in groups.items()
    }


def error_parts(
    calibration: LabelledScores,
    test: LabelledScores,
    target_prior: float | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> ErrorParts:
    """Split the error rate on `test` into what scores, fits and priors cost, at `thresholds` or those `calibration` chooses.

    Raises FlywheelError where `calibration` cannot carry a threshold or `test` holds one label alone.
    """
    scores, labels = check_pairs(test.scores, test.labels)
    check_both_labels(labels)
    used = int(_decided_wrong(test, thresholds or _thresholds(calibration, target_prior)).sum())
    bases = bases_by_source(calibration.labels.astype(np.int64), calibration.source_of_each, target_prior)
    best = moved = 0
    for source, basis in bases.items():
        mine = test.source_of_each == source
        # A source of one label alone is decided without error by any fit that knows it.
        if 0 < (ones := int(labels[mine].sum())) < mine.sum():
            fit = fit_scores(calibration.scores[basis.chosen], calibration.labels[basis.chosen], ones / int(mine.sum()))
            moved += int(((scores[mine] >= fit.threshold) != labels[mine]).sum())
            best += _fewest_errors(scores[mine], labels[mine])
    n = len(scores)
    return ErrorParts(ranking=best / n, threshold=(moved - best) / n, prior=(used - moved) / n)


def _thresholds(calibration: LabelledScores, target_prior: float | None) -> dict[str, float]:
    fits = fit_by_source(calibration.scores, calibration.labels, calibration.source_of_each, target_prior)
    return {source: fit.threshold for source, fit in fits.items()}


def _resampled_thresholds(
    calibration: LabelledScores, target_prior: float | None, replicates: int, seed: int
) -> dict[str, Floats]:
    """Thresholds (replicates,) of each source, refitted on calibration components drawn with replacement."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK_ELEMENTS // len(calibration.scores))
    parts = [
        thresholds_by_source(
            calibration.scores,
            calibration.labels,
            calibration.source_of_each,
            component_weights(calibration.components, min(rows, replicates - first), rng),
            target_prior,
        )
        for first in range(0, replicates, rows)
    ]
    return {source: np.concatenate([part[source] for part in parts]) for source in (SEED, INTERACTION)}


def _decided_wrong(test: LabelledScores, thresholds: Mapping[str, float]) -> NDArray[np.bool_]:
    cut = np.where(test.source_of_each == INTERACTION, thresholds[INTERACTION], thresholds[SEED])
    return np.asarray((test.scores >= cut) != test.labels)


def _how_often_wrong(test: LabelledScores, drawn: Mapping[str, Floats]) -> Floats:
    """In which share of the drawn thresholds each pair (n,) is decided wrongly."""
    same = np.empty(len(test.scores))
    for source, thresholds in drawn.items():
        mine = test.source_of_each == source
        same[mine] = np.searchsorted(np.sort(thresholds), test.scores[mine], side="right") / len(thresholds)
    return np.where(test.labels == 1, 1.0 - same, same)


def _errors_at(test: LabelledScores, mask: NDArray[np.bool_], drawn: Mapping[str, Floats]) -> Floats:
    """Error rate of the pairs in `mask` (n,) at each of the drawn thresholds (replicates,)."""
    wrong = np.zeros(len(drawn[SEED]))
    for source, thresholds in drawn.items():
        mine = mask & (test.source_of_each == source)
        same, different = (np.sort(test.scores[mine & (test.labels == label)]) for label in (1, 0))
        wrong += np.searchsorted(same, thresholds) + len(different) - np.searchsorted(different, thresholds)
    return wrong / mask.sum()


def _rate_interval(clusters: Clusters, wrong: NDArray[np.bool_], often: Floats, rates: Floats) -> Interval:
    """Interval of the mean of `wrong` (n,), from how `often` (n,) pairs are wrong and the `rates` over drawn thresholds."""
    rate, usual = float(wrong.mean()), float(often.mean())
    variance = clusters.variance(often) + float(rates.var(ddof=1))
    # Where every decision was right, or every one wrong, nothing shows that the pairs of a component do not go together.
    size = float(len(wrong)) if 0.0 < rate < 1.0 else clusters.effective
    if variance > 0.0:
        size = min(size, usual * (1.0 - usual) / variance)
    return Interval(*wilson(rate, size, clusters.quantile()))


def rate_interval(wrong: NDArray[np.bool_], components: NDArray[np.generic], minimum: int = MIN_COMPONENTS) -> Interval | None:
    """95 % interval of the mean of `wrong` (n,), decisions that no calibration pair could change; None without a verdict."""
    if reason_no_verdict(components, minimum):
        return None
    return _rate_interval(Clusters.of(components), wrong, wrong.astype(np.float64), np.zeros(2))


def _fewest_errors(scores: Floats, labels: NDArray[np.int64]) -> int:
    """The fewest wrong decisions that one threshold can leave on pairs (n,)."""
    order = np.argsort(scores)
    # A threshold above pair k leaves its errors among the same pairs up to k and the different pairs beyond.
    errors = (labels == 0).sum() + np.cumsum(2 * labels[order] - 1)
    apart = np.append(np.diff(scores[order]) > 0.0, True)
    return int(min((labels == 0).sum(), errors[apart].min()))


def check_components(components: NDArray[np.generic], pairs: int) -> None:
    """Raise FlywheelError unless there is one component id for each of so many pairs."""
    if len(components) != pairs:
        raise FlywheelError(f"There are {len(components)} component ids for {pairs} pairs: give one per pair.")
