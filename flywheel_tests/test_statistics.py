"""Intervals cover, tests hold their level when errors cluster, and thin data carry no verdict."""

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.statistics import (
    LabelledScores,
    alpha_for,
    component_weights,
    error_interval,
    error_rate,
    is_rough,
    paired_test,
    why_no_verdict,
)
from flywheel.evaluation.thresholds import fit_scores


def heavy_tailed(rng: np.random.Generator, components: int, largest: int, factor: float = 1.0) -> np.ndarray:
    """Component ids of pairs, sizes from a Pareto tail."""
    sizes = np.minimum(np.ceil(factor * (rng.pareto(1.2, components) + 0.3)).astype(int), largest)
    return np.repeat(np.arange(components), sizes)


def clustered(rng: np.random.Generator, components: int, largest: int, factor: float = 1.0) -> LabelledScores:
    """Pairs whose labels and scores both depend on their component."""
    ids = heavy_tailed(rng, components, largest, factor)
    labels = (rng.random(len(ids)) < rng.beta(1.5, 1.5, components)[ids]).astype(int)
    scores = 0.6 + 0.12 * labels + rng.normal(0, 0.04, components)[ids] + rng.normal(0, 0.07, len(ids))
    return LabelledScores(scores, labels, ids)


def coverage(components: int, largest: int, factor: float, simulations: int) -> tuple[float, int]:
    """Share of intervals that hold the error rate of the population at its own threshold, and how many there were."""
    rng = np.random.default_rng(1)
    everyone = clustered(rng, 50_000, largest, factor)
    truth = error_rate(everyone.scores, everyone.labels, fit_scores(everyone.scores, everyone.labels).threshold)
    hits = []
    for seed in range(simulations):
        sides = [clustered(rng, components, largest, factor) for _ in range(2)]
        interval = error_interval(*sides, replicates=300, seed=seed)
        if interval is not None:
            hits.append(interval.low <= truth <= interval.high)
    return float(np.mean(hits)), len(hits)


def within(share: float, low: float, high: float, simulations: int) -> bool:
    """Whether a simulated share lies in [low, high], give or take three standard errors."""
    return low - 3 * np.sqrt(low * (1 - low) / simulations) <= share <= high + 3 * np.sqrt(high * (1 - high) / simulations)


@pytest.mark.parametrize(("components", "largest"), [(60, 6), (90, 6), (120, 10)])
def test_interval_covers_the_population_error_about_95_times_in_100(components: int, largest: int) -> None:
    share, simulations = coverage(components, largest, 1.0, 300)
    assert simulations > 150
    assert within(share, 0.93, 0.97, simulations)


@pytest.mark.slow
@pytest.mark.parametrize(("components", "largest"), [(60, 25), (90, 25), (120, 40)])
def test_interval_covers_where_the_fit_is_cubic(components: int, largest: int) -> None:
    share, simulations = coverage(components, largest, 6.0, 800)
    assert simulations > 150
    assert within(share, 0.93, 0.97, simulations)


@pytest.mark.parametrize("size", [1, 4, 9])
def test_interval_is_the_textbook_one_where_the_threshold_is_beyond_doubt(size: int) -> None:
    # Calibration leaves a wide gap, and all pairs of a component are right or wrong together: what remains is a
    # binomial share over 400 components, however many pairs each holds.
    labels = np.arange(200) % 2
    calibration = LabelledScores(0.1 + 0.8 * labels, labels, np.arange(200))
    ids = np.repeat(np.arange(400), size)
    wrong, truth = ids % 5 == 0, ids // 5 % 2
    test = LabelledScores(np.where(wrong, 0.9 - 0.8 * truth, 0.1 + 0.8 * truth), truth, ids)
    interval = error_interval(calibration, test, replicates=20_000)
    assert interval is not None
    half = 1.96 * np.sqrt(0.2 * 0.8 / 400)
    assert interval.low == pytest.approx(0.2 - half, abs=0.1 * half)
    assert interval.high == pytest.approx(0.2 + half, abs=0.1 * half)


def test_interval_of_a_difference_weighs_components_by_their_pairs() -> None:
    ids = heavy_tailed(np.random.default_rng(9), 100, 10)
    always = np.ones(len(ids), dtype=bool)
    outcome = paired_test(~always, always, ids)
    assert (outcome.interval.low, outcome.difference, outcome.interval.high) == (-1.0, -1.0, -1.0)


def test_interval_is_wider_by_component_than_by_pair() -> None:
    data = clustered(np.random.default_rng(2), 120, 10)
    blind = LabelledScores(data.scores, data.labels, np.arange(len(data.scores)))
    honest, naive = error_interval(data, data), error_interval(blind, blind)
    assert honest is not None
    assert naive is not None
    assert honest.high - honest.low > 1.05 * (naive.high - naive.low)


def test_interval_pays_for_a_small_calibration() -> None:
    rng = np.random.default_rng(3)
    # So much test data that the threshold is nearly all that is uncertain.
    test = clustered(rng, 20_000, 3)
    small, large = (error_interval(clustered(rng, n, 3), test, replicates=200) for n in (60, 5000))
    assert small is not None
    assert large is not None
    assert small.high - small.low > 1.3 * (large.high - large.low)


def test_interval_repeats_for_a_seed_and_holds_the_measured_error() -> None:
    rng = np.random.default_rng(4)
    calibration, test = clustered(rng, 200, 10), clustered(rng, 200, 10)
    interval = error_interval(calibration, test, seed=7)
    assert interval == error_interval(calibration, test, seed=7)
    assert interval != error_interval(calibration, test, seed=8)
    assert interval is not None
    threshold = fit_scores(calibration.scores, calibration.labels).threshold
    assert interval.low < error_rate(test.scores, test.labels, threshold) < interval.high


def test_no_interval_where_either_side_carries_no_verdict() -> None:
    rng = np.random.default_rng(5)
    good = clustered(rng, 200, 5)
    few = LabelledScores(good.scores, good.labels, np.arange(len(good.scores)) % 39)
    lopsided = LabelledScores(good.scores, good.labels, np.maximum(np.arange(len(good.scores)) - 50, 0))
    assert error_interval(good, good, replicates=20) is not None
    for bad in (few, lopsided):
        assert error_interval(good, bad, replicates=20) is None
        assert error_interval(bad, good, replicates=20) is None
    assert error_interval(few, few, replicates=20, minimum=39) is not None


def test_verdict_needs_40_components_and_none_above_a_twentieth_of_the_pairs() -> None:
    assert why_no_verdict(np.arange(40)) is None
    assert why_no_verdict(np.arange(39)) == "39 components are fewer than the 40 a verdict needs"
    assert why_no_verdict(np.arange(39), minimum=39) is None
    exactly = np.concatenate([np.zeros(5), np.arange(1, 96)])
    assert why_no_verdict(exactly) is None
    above = np.concatenate([np.zeros(6), np.arange(1, 95)])
    assert why_no_verdict(above) == "one component holds 6.0% of the pairs, more than the 5% a verdict allows"
    assert why_no_verdict(np.array([], dtype=int)) == "0 components are fewer than the 40 a verdict needs"


def test_below_100_components_is_rough() -> None:
    assert is_rough(np.repeat(np.arange(99), 3))
    assert not is_rough(np.arange(100))


def test_whole_components_are_drawn() -> None:
    components = np.array(["b", "a", "b", "c", "a", "b"])
    weights = component_weights(components, 4000, np.random.default_rng(0))
    assert weights.shape == (4000, 6)
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] == weights[:, 5]).all()
    assert (weights[:, 1] == weights[:, 4]).all()
    once = weights[:, [1, 0, 3]]
    assert (once.sum(axis=1) == 3).all()
    np.testing.assert_allclose(once.mean(axis=0), 1.0, atol=0.06)
    np.testing.assert_allclose(once.var(axis=0), 2 / 3, atol=0.06)


def test_paired_test_holds_its_level_when_errors_cluster() -> None:
    rng = np.random.default_rng(6)
    by_component, by_pair, covered = [], [], []
    for _ in range(400):
        ids = heavy_tailed(rng, 120, 10, 2.0)
        challenger, champion = (rng.random(len(ids)) < rng.beta(0.3, 1.5, 120)[ids] for _ in range(2))
        outcome = paired_test(challenger, champion, ids)
        by_component.append(outcome.p_value <= 0.05)
        by_pair.append(paired_test(challenger, champion, np.arange(len(ids))).p_value <= 0.05)
        covered.append(outcome.interval.low <= 0 <= outcome.interval.high)
    assert within(float(np.mean(by_component)), 0.045, 0.05, 400)
    assert within(float(np.mean(covered)), 0.93, 0.97, 400)
    assert np.mean(by_pair) > 0.1, "the errors must cluster enough to fool a test by pair"


def test_paired_test_sees_a_real_gain_beyond_the_later_alphas() -> None:
    rng = np.random.default_rng(7)
    ids = np.repeat(np.arange(150), 4)
    champion = rng.random(600) < 0.25
    challenger = champion & (rng.random(600) < 0.5)
    outcome = paired_test(challenger, champion, ids)
    assert outcome.p_value <= 1e-4 < alpha_for(10)
    assert outcome.difference == pytest.approx(challenger.mean() - champion.mean())
    assert outcome.interval.low < outcome.difference < outcome.interval.high < 0
    assert (outcome.components, outcome.pairs) == (150, 600)
    assert outcome == paired_test(challenger, champion, ids)


def test_paired_test_is_one_sided() -> None:
    rng = np.random.default_rng(8)
    ids = np.arange(300)
    worse, better = rng.random(300) < 0.3, rng.random(300) < 0.1
    assert paired_test(better, worse, ids).p_value < 0.001
    assert paired_test(worse, better, ids).p_value > 0.999


@pytest.mark.parametrize(("moved", "p_value"), [(0, 1.0), (1, 1 / 2), (2, 1 / 4), (5, 1 / 32)])
def test_few_changed_decisions_give_the_exact_p_value(moved: int, p_value: float) -> None:
    champion = np.arange(50) < moved
    outcome = paired_test(np.zeros(50, dtype=bool), champion, np.arange(50))
    assert outcome.p_value == pytest.approx(p_value)


def test_one_component_counts_once_however_many_pairs_it_holds() -> None:
    champion = np.arange(60) < 20
    ids = np.maximum(np.arange(60) - 19, 0)
    assert paired_test(np.zeros(60, dtype=bool), champion, ids).p_value == pytest.approx(0.5)


def test_alphas_sum_to_five_hundredths() -> None:
    alphas = [alpha_for(decision) for decision in range(1, 200_001)]
    assert sum(alphas) < 0.05
    assert sum(alphas) == pytest.approx(0.05, abs=1e-6)
    assert alphas[0] == pytest.approx(0.0304, abs=1e-4)
    with pytest.raises(FlywheelError, match="Decision number 0"):
        alpha_for(0)


def test_error_rate_calls_a_score_at_the_threshold_same() -> None:
    assert error_rate([0.1, 0.5, 0.9, 0.2], [0, 1, 1, 1], 0.5) == 0.25
    assert error_rate([0.5], [0], 0.5) == 1.0


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    ids, scores, labels = np.arange(30), np.linspace(0, 1, 30), np.arange(30) % 2
    with pytest.raises(FlywheelError, match="one score and one label per pair"):
        LabelledScores(scores, labels[1:], ids)
    with pytest.raises(FlywheelError, match="29 component ids for 30 pairs"):
        LabelledScores(scores, labels, ids[1:])
    with pytest.raises(FlywheelError, match="not finite"):
        LabelledScores(np.where(ids == 3, np.nan, scores), labels, ids)
    with pytest.raises(FlywheelError, match="challenger has 30 decisions and the champion 29"):
        paired_test(labels > 0, labels[1:] > 0, ids)
    with pytest.raises(FlywheelError, match="challenger has 0 decisions"):
        paired_test(ids[:0] > 0, ids[:0] > 0, ids[:0])
    with pytest.raises(FlywheelError, match="29 component ids"):
        paired_test(labels > 0, labels > 0, ids[1:])
    with pytest.raises(FlywheelError, match="0 pairs"):
        error_rate([], [], 0.5)
