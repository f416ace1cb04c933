"""Whether more training pairs would help: a power law through the error rates of one line of models, with its band.

Error rates of classifiers fall about as floor + scale * pairs^-exponent: Hestness et al. 2017, "Deep Learning Scaling is
Predictable, Empirically"; Viering and Loog 2021, "The Shape of Learning Curves: a Review", who also say that not every
curve is one and that extrapolation beyond a few doublings is a guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.scores import decisions
from flywheel.evaluation.statistics import component_weights
from flywheel.pairs.snapshots.snapshot import ALL

MIN_SIZES = 4
_REPLICATES = 300
_PERCENTILES = (2.5, 97.5)
_GRID_POINTS, _GRID_REACH = 60, 4
_EXPONENTS = (0.01, 2.0)
# Where the search starts: the exponent, and the floor as a share of the lowest error.
_STARTS = tuple((exponent, floor) for exponent in (0.1, 0.5, 1.5) for floor in (0.5, 0.95))
# What the sentence would print as 0.0 points. A power law never rises, so even noise gives it a gain a hair above 0.
_PRINTS_AS_ZERO = 0.0005


@dataclass(frozen=True)
class MeasuredPoint:
    """Error rate (a share) measured at one size; the mean where a size was trained several times."""

    train_pairs: int
    error: float


@dataclass(frozen=True)
class FittedPoint:
    """Error rate (a share) by the fit at one number of pairs, with its 95 % interval."""

    train_pairs: int
    error: float
    interval: Interval


@dataclass(frozen=True)
class Gain:
    """By how much (a share) the fit's error rate falls from `now` to `then` training pairs, with its 95 % interval."""

    now: int
    then: int
    estimate: float
    interval: Interval


@dataclass(frozen=True)
class LearningCurve:
    """floor + scale * pairs^-exponent through the `points` of one variant and recipe, sizes ascending.

    `band` runs evenly on a log axis from the smallest to four times the largest size measured. Its intervals, and that
    of `next_doubling`, say what other test pairs would have changed. What another random seed of training would have
    changed is not in them, nor that the truth may be no power law. Floor and exponent are hard to separate by a few
    sizes: read the band, not them.
    """

    variant: str
    recipe: str | None
    points: tuple[MeasuredPoint, ...]
    floor: float
    scale: float
    exponent: float
    band: tuple[FittedPoint, ...]
    next_doubling: Gain


@dataclass(frozen=True)
class Advice:
    """What to do about more pairs, and why, in one sentence."""

    action: Literal["collect more", "stop collecting", "unclear"]
    sentence: str


def learning_curve_of(evaluations: Path, records: Sequence[Evaluation]) -> LearningCurve | str:
    """The curve of one line's records, at their calibrated thresholds, or the reason in words why there is none.

    Raises FlywheelError for records of several lines or test splits, or one that does not say how many pairs it trained on.
    """
    if not records:
        return "no model of this line has been evaluated"
    for what, values in (
        ("test splits", {record.test_id for record in records}),
        ("lines", {(record.variant, record.recipe) for record in records}),
    ):
        if len(values) > 1:
            raise FlywheelError(f"There are records of {len(values)} {what}: a learning curve takes those of one.")
    if reason := next((record.no_verdict for record in records if record.no_verdict), None):
        return f"no verdict: {reason}"
    sizes = sorted({trained_pairs(record) for record in records})
    if len(sizes) < MIN_SIZES:
        return f"of the {MIN_SIZES} sizes at least that a learning curve needs, {len(sizes)} are there"
    decided = [(trained_pairs(record), decisions(evaluations, record)) for record in records]
    wrong = {size: np.mean([frame["wrong"] for pairs, frame in decided if pairs == size], axis=0) for size in sizes}
    return fit_curve(records[0].variant, records[0].recipe, wrong, decided[0][1]["component"].to_numpy())


def trained_pairs(record: Evaluation) -> int:
    """How many pairs the model that was judged was trained on: of all pairs, that of a fold lacks the fold's.

    Raises FlywheelError when the record does not say.
    """
    if not record.train_pairs:
        raise FlywheelError(f"The record of {record.name} names no number of training pairs: evaluate it again.")
    if record.is_cross_fitted and record.size == ALL:
        return round(record.train_pairs * (1 - 1 / len(record.fold_errors)))
    return record.train_pairs


def fit_curve(
    variant: str,
    recipe: str | None,
    wrong: Mapping[int, NDArray],
    components: NDArray[np.generic],
    *,
    replicates: int = _REPLICATES,
    seed: int = 0,
) -> LearningCurve:
    """The curve from training pairs -> whether each test pair was decided wrongly (n,), all on the same pairs in one order.

    `components` (n,) are the pairs' components; of several trainings at one size, give the mean of their decisions. Every
    size errs on the same pairs, so their rates move together: each replicate draws whole components, once for all sizes,
    and fits again. Sizes weigh by the inverse of their rates' variance over the replicates. Equal input gives equal output.
    Raises FlywheelError for fewer than 4 sizes, a size below one pair, or lengths that differ.
    """
    sizes = sorted(wrong)
    if len(sizes) < MIN_SIZES or sizes[0] < 1:
        raise FlywheelError(f"Sizes {', '.join(map(str, sizes))}: a learning curve needs at least {MIN_SIZES}, each above 0.")
    if not len(components) or {len(rows) for rows in wrong.values()} != {len(components)}:
        raise FlywheelError(f"Every size needs one decision for each of the {len(components)} test pairs.")
    ids, index = np.unique(components, return_inverse=True)
    by_component = np.stack([np.bincount(index, weights=wrong[size]) for size in sizes], axis=1)
    counts = np.bincount(index)
    draws = component_weights(np.arange(len(ids)), replicates, np.random.default_rng(seed))
    rates = (draws @ by_component) / (draws @ counts)[:, None]
    errors = by_component.sum(0) / counts.sum()
    # In parts of the largest size, so that the scale is the error above the floor there and not an extrapolated one.
    parts = np.array(sizes) / sizes[-1]
    # One pair's worth at least: a size without an error in any replicate would weigh infinitely.
    deviations = np.maximum(rates.std(axis=0), 1 / len(components))
    law = _fit(parts, errors, deviations)
    laws = np.array([_fit(parts, row, deviations, law) for row in rates])
    at = np.unique(np.geomspace(sizes[0], _GRID_REACH * sizes[-1], _GRID_POINTS).round().astype(int))
    at = np.union1d(at, [*sizes, 2 * sizes[-1]])
    band = _percentiles(_errors(laws, at / sizes[-1]))
    return LearningCurve(
        variant=variant,
        recipe=recipe,
        points=tuple(MeasuredPoint(size, float(error)) for size, error in zip(sizes, errors, strict=True)),
        floor=float(law[0]),
        scale=float(law[1] * sizes[-1] ** law[2]),
        exponent=float(law[2]),
        band=tuple(
            FittedPoint(int(pairs), float(error), interval)
            for pairs, error, interval in zip(at, _errors(law[None], at / sizes[-1])[0], band, strict=True)
        ),
        next_doubling=Gain(sizes[-1], 2 * sizes[-1], float(_doubling(law[None])[0]), _percentiles(_doubling(laws)[:, None])[0]),
    )


def advice(curve: LearningCurve, worth: float) -> Advice:
    """Whether to collect more pairs, when a fall of the error rate by `worth` (a share) at twice the pairs is worth it.

    Stop where the whole interval of the gain is below `worth`; collect where the estimate reaches it and the interval leaves
    out 0 as printed; else it is unclear.
    """
    gain = curve.next_doubling
    low, high = 100 * gain.interval.low, 100 * gain.interval.high
    sentence = (
        f"Twice the pairs ({gain.then:,} instead of {gain.now:,}) would lower the error by about "
        f"{100 * gain.estimate:.1f} points (95 % {low:.1f} to {high:.1f})"
    )
    if gain.interval.high < worth:
        return Advice("stop collecting", f"{sentence}, less than the {100 * worth:g} that are worth it: stop collecting.")
    if gain.interval.low >= _PRINTS_AS_ZERO and gain.estimate >= worth:
        return Advice("collect more", f"{sentence}: collect more.")
    return Advice(
        "unclear",
        f"{sentence}: the band is too wide to say whether it reaches the {100 * worth:g} that are worth it; "
        "measure more sizes or a larger test set.",
    )


def _fit(parts: NDArray, errors: NDArray, deviations: NDArray, warm: NDArray | None = None) -> NDArray:
    """Floor, scale and exponent (3,) with the least squares, from `warm` or else the best of several starts.

    All of shape (sizes,): `parts` of the largest size, error rates, and the deviations they are divided by.
    """
    from scipy.optimize import least_squares

    logs = np.log(parts)
    lowest, highest = float(errors.min()), float(errors.max())
    # The floor may be above the lowest error: a flat line runs through the middle of the errors, not below them.
    bounds = (0.0, 0.0, _EXPONENTS[0]), (max(highest, 1e-9), 1.0, _EXPONENTS[1])

    def residuals(law: NDArray) -> NDArray:
        return (law[0] + law[1] * np.exp(-law[2] * logs) - errors) / deviations

    def slopes(law: NDArray) -> NDArray:
        decay = np.exp(-law[2] * logs)
        return np.stack([np.ones_like(decay), decay, -law[1] * logs * decay], axis=1) / deviations[:, None]

    starts = [warm] if warm is not None else [(lowest * floor, lowest * (1 - floor), power) for power, floor in _STARTS]
    fits = [least_squares(residuals, np.clip(start, *bounds), slopes, bounds) for start in starts]
    return min(fits, key=lambda fit: fit.cost).x


def _errors(laws: NDArray, parts: ArrayLike) -> NDArray:
    """Error rates (laws, parts) by laws (laws, 3) at parts of the largest size."""
    floor, scale, exponent = laws.T[:, :, None]
    return floor + scale * np.asarray(parts)[None] ** -exponent


def _doubling(laws: NDArray) -> NDArray:
    """By how much each law (laws, 3) falls from the largest size to twice that: (laws,)."""
    return laws[:, 1] * (1 - 2 ** -laws[:, 2])


def _percentiles(replicates: NDArray) -> list[Interval]:
    """95 % intervals over the rows of (replicates, k)."""
    return [Interval(float(low), float(high)) for low, high in np.percentile(replicates, _PERCENTILES, axis=0).T]
