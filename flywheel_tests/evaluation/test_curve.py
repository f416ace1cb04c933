"""The learning curve recovers the law behind the errors, with a band that keeps its word, and advises by it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from flywheel.errors import FlywheelError
from flywheel.evaluation.curve import LearningCurve, advice, fit_curve, learning_curve_of
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.records import Evaluation, evaluation_folder
from flywheel.evaluation.scores import SCORES
from flywheel_tests.evidence.test_plots import MINI, cell, make

SIZES = [100 * 2**step for step in range(7)]
WORTH = 0.0025
Decisions = tuple[dict[int, NDArray[np.bool_]], NDArray[np.int64]]


def simulate(law: Callable[[float], float], random_seed: int, components: int, sizes: list[int] = SIZES) -> Decisions:
    """Decisions that err at the law's rates, alike within a component and across sizes."""
    from scipy.stats import norm

    rng = np.random.default_rng(random_seed)
    ids = np.repeat(np.arange(components), rng.integers(1, 8, components))
    hard = np.sqrt(0.3) * rng.standard_normal(components)[ids] + np.sqrt(0.5) * rng.standard_normal(len(ids))
    noise = np.sqrt(0.2) * rng.standard_normal((len(sizes), len(ids)))
    return {size: hard + row < norm.ppf(law(size)) for size, row in zip(sizes, noise, strict=True)}, ids


def fitted(law: Callable[[float], float], random_seed: int = 0, components: int = 800, replicates: int = 100) -> LearningCurve:
    wrong, ids = simulate(law, random_seed, components)
    return fit_curve("m@256", "head", wrong, ids, replicates=replicates)


@pytest.mark.slow
def test_band_and_gain_hold_the_truth_in_about_95_of_100_simulations() -> None:
    def law(pairs: float) -> float:
        return 0.1 + 1.2 * pairs**-0.4

    curves = [fitted(law, random_seed, components=400, replicates=80) for random_seed in range(60)]
    for pairs in (SIZES[0], SIZES[-1], 2 * SIZES[-1]):
        at = [next(point.interval for point in curve.band if point.train_pairs == pairs) for curve in curves]
        assert sum(interval.low <= law(pairs) <= interval.high for interval in at) >= 50
        # Not by being wide: the errors themselves stand some 0.01 off.
        assert np.mean([interval.high - interval.low for interval in at]) < 0.06
    gain = law(SIZES[-1]) - law(2 * SIZES[-1])
    assert sum(curve.next_doubling.interval.low <= gain <= curve.next_doubling.interval.high for curve in curves) >= 50
    assert np.mean([curve.next_doubling.estimate for curve in curves]) == pytest.approx(gain, rel=0.15)


def test_law_is_recovered_from_a_large_test_set() -> None:
    curve = fitted(lambda pairs: 0.1 + 1.2 * pairs**-0.4, components=20_000)
    assert (curve.floor, curve.scale, curve.exponent) == pytest.approx((0.1, 1.2, 0.4), rel=0.15)
    for point in curve.band:
        assert point.error == pytest.approx(curve.floor + curve.scale * point.train_pairs**-curve.exponent)
        assert point.interval.low < point.error < point.interval.high


def test_band_runs_from_the_smallest_to_four_times_the_largest_size_and_the_gain_is_read_off_it() -> None:
    curve = fitted(lambda pairs: 0.1 + 1.2 * pairs**-0.4)
    at = {point.train_pairs: point.error for point in curve.band}
    assert list(at) == sorted(at)
    assert (min(at), max(at)) == (100, 25_600)
    assert [point.train_pairs for point in curve.points] == SIZES
    gain = curve.next_doubling
    assert (gain.now, gain.then) == (6400, 12_800)
    assert gain.estimate == pytest.approx(at[6400] - at[12_800])


def test_sizes_share_their_test_pairs_so_the_gain_is_surer_than_either_error() -> None:
    curve = fitted(lambda pairs: 0.3 * (pairs / 6400) ** -0.1)
    now = next(point.interval for point in curve.band if point.train_pairs == 6400)
    gain = curve.next_doubling.interval
    assert gain.high - gain.low < 0.5 * (now.high - now.low)


def test_steep_curve_says_collect_more() -> None:
    said = advice(fitted(lambda pairs: 0.3 * (pairs / 6400) ** -0.1), WORTH)
    assert said.action == "collect more"
    assert said.sentence.startswith("Twice the pairs (12,800 instead of 6,400) would lower the error by about ")
    assert said.sentence.endswith("): collect more.")


def test_flat_curve_says_stop_collecting() -> None:
    said = advice(fitted(lambda pairs: 0.2, components=3000), WORTH)
    assert said.action == "stop collecting"
    assert said.sentence.endswith("less than the 0.25 that are worth it: stop collecting.")


@pytest.mark.slow
def test_flat_curve_on_a_small_test_set_is_hardly_ever_taken_for_a_falling_one() -> None:
    said = [advice(fitted(lambda pairs: 0.33, random_seed, components=58, replicates=60), WORTH) for random_seed in range(30)]
    assert sum(given.action == "collect more" for given in said) <= 2
    assert sum(given.action == "unclear" for given in said) >= 10


@pytest.mark.parametrize(
    ("low", "estimate", "high", "action"),
    [
        (0.002, 0.008, 0.015, "collect more"),
        (0.0, 0.008, 0.015, "unclear"),
        (0.001, 0.002, 0.004, "unclear"),
        (0.0, 0.001, 0.0024, "stop collecting"),
    ],
)
def test_action_follows_the_interval_and_what_is_worth_it(low: float, estimate: float, high: float, action: str) -> None:
    curve = fitted(lambda pairs: 0.2, replicates=4)
    gain = replace(curve.next_doubling, now=4548, then=9096, estimate=estimate, interval=Interval(low, high))
    said = advice(replace(curve, next_doubling=gain), WORTH)
    assert said.action == action
    shown = f"about {100 * estimate:.1f} points (95 % {100 * low:.1f} to {100 * high:.1f})"
    assert shown in said.sentence
    assert ("measure more sizes or a larger test set" in said.sentence) == (action == "unclear")


def test_rising_errors_give_no_gain() -> None:
    curve = fitted(lambda pairs: 0.2 + 0.01 * np.log2(pairs / 100))
    assert curve.points[-1].error > curve.points[0].error
    assert curve.next_doubling.estimate == pytest.approx(0, abs=1e-4)
    assert advice(curve, WORTH).action != "collect more"


def test_equal_input_gives_an_equal_curve_whatever_its_order() -> None:
    wrong, ids = simulate(lambda pairs: 0.1 + 1.2 * pairs**-0.4, 0, 100)
    first = fit_curve("m@256", "head", wrong, ids, replicates=20)
    assert first == fit_curve("m@256", "head", dict(reversed(wrong.items())), ids, replicates=20)
    assert first != fit_curve("m@256", "head", wrong, ids, replicates=20, seed=1)


def test_test_set_without_a_single_error_has_a_curve_at_0() -> None:
    curve = fit_curve("m@256", "head", {size: np.zeros(200, bool) for size in SIZES}, np.arange(200), replicates=10)
    assert curve.next_doubling.estimate == pytest.approx(0, abs=1e-6)
    assert advice(curve, WORTH).action == "stop collecting"


def test_decisions_that_do_not_make_a_curve_are_refused() -> None:
    wrong, ids = simulate(lambda pairs: 0.2, 0, 50)
    with pytest.raises(FlywheelError, match="Sizes 100, 200, 400: a learning curve needs at least 4"):
        fit_curve("m@256", "head", {size: wrong[size] for size in SIZES[:3]}, ids)
    with pytest.raises(FlywheelError, match="one decision for each"):
        fit_curve("m@256", "head", {**wrong, 100: wrong[100][1:]}, ids)


def store(evaluations: Path, records: list[Evaluation], random_seed: int = 0) -> None:
    """Score files that err at each record's error rate: 400 test pairs of 200 components, in another order each."""
    for number, record in enumerate(records):
        right = np.arange(400) % 100 >= round(100 * record.error)
        label = np.arange(400) % 2
        score = np.where(right, label, 1 - label) * 0.5 + 0.5
        scores = pd.DataFrame({"pair_id": np.arange(400), "label": label, "component": np.arange(400) // 2, "score": score})
        scores = scores.assign(same=score >= 0.8, probability=score)
        folder = evaluation_folder(evaluations, record.test_id, record.record_id)
        folder.mkdir(parents=True)
        rows = pd.concat([scores.assign(split="test"), scores[:50].assign(split="calibration")]).assign(fold=0)
        rows.sample(frac=1, random_state=random_seed + number).to_parquet(folder / SCORES)


def test_stored_scores_of_a_line_give_its_curve_and_redraws_their_mean(tmp_path: Path) -> None:
    records = [cell(f"{MINI}@256", size, error) for size, error in zip(SIZES, np.linspace(0.3, 0.2, 7).round(2), strict=True)]
    redraw = cell(f"{MINI}@256", SIZES[-1], 0.24, random_seed=1)
    store(tmp_path, [*records, redraw])
    curve = learning_curve_of(tmp_path, [redraw, *records])
    assert isinstance(curve, LearningCurve)
    assert (curve.variant, curve.recipe) == (f"{MINI}@256", "head")
    assert [point.error for point in curve.points[:-1]] == pytest.approx([record.error for record in records[:-1]])
    assert curve.points[-1].error == pytest.approx(0.22)


def test_too_few_sizes_or_no_verdict_are_told_in_words(tmp_path: Path) -> None:
    records = [cell(f"{MINI}@256", size, 0.2) for size in SIZES]
    again = [cell(f"{MINI}@256", 100, 0.2, random_seed=1)]
    assert (
        learning_curve_of(tmp_path, [*records[:3], *again])
        == "of the 4 sizes at least that a learning curve needs, 3 are there"
    )
    without = [replace(record, no_verdict="31 components are fewer than the 40 a verdict needs") for record in records]
    assert learning_curve_of(tmp_path, without) == "no verdict: 31 components are fewer than the 40 a verdict needs"
    assert learning_curve_of(tmp_path, []) == "no model of this line has been evaluated"


def test_records_that_do_not_belong_to_one_line_are_refused(tmp_path: Path) -> None:
    records = [cell(f"{MINI}@256", size, 0.2) for size in SIZES]
    with pytest.raises(FlywheelError, match="2 test splits"):
        learning_curve_of(tmp_path, [*records, replace(records[0], test_id="other")])
    with pytest.raises(FlywheelError, match="2 lines"):
        learning_curve_of(tmp_path, [*records, cell(f"{MINI}@384", 100, 0.2)])
    with pytest.raises(FlywheelError, match="names no number of training pairs"):
        learning_curve_of(tmp_path, [make("tuned", f"{MINI}@256", 0.2)])
