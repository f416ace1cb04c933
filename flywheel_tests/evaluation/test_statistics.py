"""Intervals cover, tests hold their level when errors cluster, and thin data carry no verdict."""

import importlib
import tracemalloc
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import paired_score
from flywheel.evaluation.paired import alpha_for, detectable_difference, holm, paired_test, quick_p_value
from flywheel.evaluation.statistics import (
    ErrorParts,
    LabelledScores,
    component_weights,
    error_interval,
    error_intervals,
    error_parts,
    error_rate,
    is_rough,
    reason_no_verdict,
)
from flywheel.scoring.thresholds import fit_by_source, fit_scores


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


def within(share: float, low: float, high: float, simulations: int) -> bool:
    """Whether a simulated share lies in [low, high], give or take one standard error: seeds are fixed, so luck is too."""
    return low - np.sqrt(low * (1 - low) / simulations) <= share <= high + np.sqrt(high * (1 - high) / simulations)


# Population, fit, components, tail of their sizes, simulations.
CASES = [
    ("ordinary", "linear", 40, "zipf", 400),
    ("clustered", "linear", 100, "pareto", 400),
    ("few errors", "linear", 100, "even", 400),
    ("shifted", "linear", 40, "pareto", 400),
    ("shifted", "linear", 100, "zipf", 400),
    ("ordinary", "cubic", 40, "even", 200),
]
MORE = [("ordinary", "cubic", 400, "zipf", 800), ("clustered", "cubic", 100, "zipf", 800)]


@cache
def coverage(population: str, fit: str, components: int, tail: str, simulations: int) -> tuple[int, float]:
    """How many intervals there were, and which share held the error of the procedure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        study = importlib.import_module("interval_coverage")
    pairs = study.PAIRS[fit][components]
    # Fewer replicates than a verdict takes: what they add by chance is little beside what the drawn pairs do.
    found = study.simulate(study.POPULATIONS[population], tail, components, pairs, simulations, both=False, replicates=50)
    return found.simulations, found.procedure


@pytest.mark.parametrize(
    "case",
    [
        *(pytest.param(case, marks=[] if case in CASES[-2:] else pytest.mark.slow) for case in CASES),
        *(pytest.param(case, marks=[pytest.mark.slow, pytest.mark.long]) for case in MORE),
    ],
    ids=lambda case: " ".join(map(str, case)),
)
def test_interval_holds_the_error_of_the_procedure_about_95_times_in_100(case: tuple[str, str, int, str, int]) -> None:
    simulations, share = coverage(*case)
    assert simulations > 0.98 * case[-1]
    assert within(share, 0.93, 0.97, simulations)


@pytest.mark.long
@pytest.mark.slow
def test_intervals_of_all_populations_together_are_neither_too_narrow_nor_too_wide() -> None:
    # Enough simulations to tell an interval 0.8 as wide (89 %) or 1.25 as wide (99 %) from an honest one.
    simulations, shares = np.array([coverage(*case) for case in CASES]).T
    assert within(float(np.average(shares, weights=simulations)), 0.93, 0.97, int(simulations.sum()))


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
    assert (outcome.interval.low, outcome.difference, outcome.standard_error) == (-1.0, -1.0, 0.0)


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


def from_two_sources(seed: int, components: int, share: float, pairs_each: int = 3) -> LabelledScores:
    """Every other component holds interaction pairs, `share` of them the same; of the seed pairs a quarter are."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(components), pairs_each)
    sources = np.where(ids % 2 == 0, "seed", "interaction")
    labels = (rng.random(len(ids)) < np.where(sources == "seed", 0.25, share)).astype(int)
    return LabelledScores(0.6 + 0.15 * labels + rng.normal(0, 0.1, len(ids)), labels, ids, sources)


def test_each_group_has_the_interval_of_its_own_pairs_at_the_threshold_of_their_source() -> None:
    calibration, test = from_two_sources(0, 200, 0.7), from_two_sources(1, 400, 0.7)
    groups = {"all": test.scores > 0, "seed": test.sources == "seed", "interaction": test.sources == "interaction"}
    intervals = error_intervals(calibration, test, groups, target_prior=0.7, replicates=200)
    fits = fit_by_source(calibration.scores, calibration.labels, calibration.sources, 0.7)
    assert fits["interaction"].threshold < fits["seed"].threshold - 0.05
    for source, fit in fits.items():
        interval, mine = intervals[source], groups[source]
        assert interval is not None
        error = error_rate(test.scores[mine], test.labels[mine], fit.threshold)
        assert interval.low < error < interval.high
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(error * (1 - error) / 600), rel=0.2)
    whole = intervals["all"]
    assert whole is not None
    assert whole.high - whole.low < 0.8 * (intervals["seed"].high - intervals["seed"].low)


def test_all_pairs_as_one_group_have_the_one_interval() -> None:
    rng = np.random.default_rng(11)
    calibration, test = clustered(rng, 100, 5), clustered(rng, 100, 5)
    everyone = np.ones(len(test.scores), dtype=bool)
    together = error_intervals(calibration, test, {"a": everyone, "few": np.arange(len(everyone)) < 30, "b": everyone})
    assert together == {"a": error_interval(calibration, test), "few": None, "b": error_interval(calibration, test)}
    lopsided = LabelledScores(calibration.scores, calibration.labels, np.minimum(calibration.components, 50))
    assert error_intervals(lopsided, test, {"a": everyone, "b": everyone}) == {"a": None, "b": None}


def test_fifteen_groups_of_ten_thousand_pairs_stay_small_in_memory() -> None:
    calibration, test = from_two_sources(2, 5_000, 0.7, 2), from_two_sources(3, 5_000, 0.7, 2)
    groups = {str(k): np.arange(10_000) % 15 == k for k in range(15)}
    tracemalloc.start()
    intervals = error_intervals(calibration, test, groups)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6  # the thousand replicates at once would take 80e6 in float64
    assert None not in intervals.values()


def test_where_no_error_was_seen_the_interval_still_reaches_up() -> None:
    labels = np.arange(240) % 2
    for ids, high in ((np.arange(240), 3.9 / 240), (np.arange(240) // 4, 4.0 / 60)):
        data = LabelledScores(0.1 + 0.8 * labels, labels, ids)
        interval = error_interval(data, data, replicates=50)
        assert interval is not None
        assert interval.low == 0.0
        assert interval.high == pytest.approx(high, rel=0.1)


def test_parts_of_an_error_add_up_and_ranking_is_the_best_threshold_there_is() -> None:
    for seed in range(10):
        calibration, test = from_two_sources(seed, 60, 0.7), from_two_sources(seed + 100, 80, 0.6)
        parts = error_parts(calibration, test, 0.7)
        fits = fit_by_source(calibration.scores, calibration.labels, calibration.sources, 0.7)
        cut = np.where(test.sources == "seed", fits["seed"].threshold, fits["interaction"].threshold)
        assert parts.ranking + parts.threshold + parts.prior == pytest.approx(((test.scores >= cut) != test.labels).mean())
        best = 0
        for source in ("seed", "interaction"):
            scores, labels = test.scores[test.sources == source], test.labels[test.sources == source]
            best += min(((scores >= cut) != labels).sum() for cut in [*scores, np.inf])
        assert parts.ranking == best / len(test.scores)


def test_at_thresholds_in_use_the_interval_and_the_parts_are_of_the_error_there() -> None:
    calibration, test = from_two_sources(8, 200, 0.7), from_two_sources(9, 400, 0.7)
    everyone = {"all": np.ones(len(test.scores), dtype=bool)}
    fits = fit_by_source(calibration.scores, calibration.labels, calibration.sources, 0.7)
    chosen = {source: fit.threshold for source, fit in fits.items()}
    assert error_parts(calibration, test, 0.7, chosen) == error_parts(calibration, test, 0.7)
    interval = error_intervals(calibration, test, everyone, target_prior=0.7, replicates=50)
    assert error_intervals(calibration, test, everyone, thresholds=chosen, target_prior=0.7, replicates=50) == interval
    older = {"seed": chosen["seed"] - 0.08, "interaction": chosen["interaction"] + 0.05}
    cut = np.where(test.sources == "seed", older["seed"], older["interaction"])
    error = ((test.scores >= cut) != test.labels).mean()
    parts, best = error_parts(calibration, test, 0.7, older), error_parts(calibration, test, 0.7)
    assert parts.ranking + parts.threshold + parts.prior == pytest.approx(error)
    assert (parts.ranking, parts.threshold) == (best.ranking, best.threshold)
    assert parts.prior > best.prior + 0.02
    moved = error_intervals(calibration, test, everyone, thresholds=older, target_prior=0.7, replicates=50)["all"]
    assert interval["all"] is not None
    assert moved is not None
    assert moved.low < error < moved.high
    assert moved.low > interval["all"].low + 0.02


def test_tied_scores_cannot_be_ranked_apart() -> None:
    labels = np.arange(60) % 3 == 0
    parts = error_parts(from_two_sources(0, 60, 0.5), LabelledScores(np.full(60, 0.7), labels.astype(int), np.arange(60)))
    assert parts.ranking == pytest.approx(1 / 3)


def test_an_error_from_another_prior_is_told_apart_from_one_of_ranking() -> None:
    natural = from_two_sources(4, 4_000, 0.25)
    seeds = LabelledScores(natural.scores, natural.labels, natural.components)
    balanced = from_two_sources(5, 4_000, 0.75)
    at_seed_threshold, moved = error_parts(seeds, balanced), error_parts(seeds, balanced, 0.75)
    assert at_seed_threshold.prior > 0.03
    assert abs(moved.prior) < 0.005
    for parts in (at_seed_threshold, moved):
        assert abs(parts.threshold) < 0.01
        assert parts.ranking == pytest.approx(at_seed_threshold.ranking)


def test_a_source_of_one_label_in_test_costs_only_what_its_prior_does() -> None:
    calibration, test = from_two_sources(6, 100, 0.5), from_two_sources(7, 100, 1.0)
    parts, seed = error_parts(calibration, test, 0.5), test.sources == "seed"
    seeds_only = LabelledScores(test.scores[seed], test.labels[seed], test.components[seed])
    alone = error_parts(calibration, seeds_only, 0.5)
    assert (parts.ranking, parts.threshold) == pytest.approx((alone.ranking / 2, alone.threshold / 2))
    assert parts.prior > alone.prior / 2
    with pytest.raises(FlywheelError, match="150 of 150 pairs have label 1"):
        error_parts(calibration, LabelledScores(test.scores[~seed], test.labels[~seed], test.components[~seed]))


def test_a_perfect_model_has_no_error_to_split() -> None:
    labels = np.arange(60) % 2
    perfect = LabelledScores(0.2 + 0.6 * labels, labels, np.arange(60))
    assert error_parts(perfect, perfect) == ErrorParts(0.0, 0.0, 0.0)


def test_verdict_needs_40_components_and_none_above_a_twentieth_of_the_pairs() -> None:
    assert reason_no_verdict(np.arange(40)) is None
    assert reason_no_verdict(np.arange(39)) == "39 components are fewer than the 40 a verdict needs"
    assert reason_no_verdict(np.arange(39), minimum=39) is None
    exactly = np.concatenate([np.zeros(5), np.arange(1, 96)])
    assert reason_no_verdict(exactly) is None
    above = np.concatenate([np.zeros(6), np.arange(1, 95)])
    assert reason_no_verdict(above) == "one component holds 6.0% of the pairs, more than the 5% a verdict allows"
    assert reason_no_verdict(np.array([], dtype=int)) == "0 components are fewer than the 40 a verdict needs"


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
    rng, simulations = np.random.default_rng(6), 1_000
    by_component, by_pair, covered = [], [], []
    for _ in range(simulations):
        ids = heavy_tailed(rng, 120, 10, 2.0)
        challenger, champion = (rng.random(len(ids)) < rng.beta(0.3, 1.5, 120)[ids] for _ in range(2))
        outcome = paired_test(challenger, champion, ids)
        by_component.append(outcome.p_value <= 0.05)
        by_pair.append(paired_test(challenger, champion, np.arange(len(ids))).p_value <= 0.05)
        covered.append(outcome.interval.low <= 0 <= outcome.interval.high)
    assert within(float(np.mean(by_component)), 0.035, 0.05, simulations)
    assert within(float(np.mean(covered)), 0.93, 0.97, simulations)
    assert np.mean(by_pair) > 0.1, "the errors must cluster enough to fool a test by pair"


@pytest.mark.long
@pytest.mark.slow
def test_at_most_5_null_years_in_100_see_a_false_promotion() -> None:
    # Up to a twentieth of all pairs in one component; a model errs in few components, and there often.
    ids = np.repeat(np.arange(60), np.clip(60 // np.arange(1, 61), 1, 8))
    assert reason_no_verdict(ids) is None
    rng, years = np.random.default_rng(6), 300

    def decisions() -> np.ndarray:
        return rng.random(len(ids)) < rng.beta(0.2, 1, 60)[ids]

    def promotes_falsely() -> bool:
        champion = decisions()
        return any(paired_test(decisions(), champion, ids).p_value <= alpha_for(week) for week in range(1, 53))

    false = np.mean([promotes_falsely() for _ in range(years)])
    assert 0.0 < false <= 0.05 + np.sqrt(0.05 * 0.95 / years)


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


def test_p_value_is_that_of_scipys_permutation_test() -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(12)
    for _ in range(5):
        ids = heavy_tailed(rng, 14, 6)
        challenger, champion = rng.random(len(ids)) < 0.3, rng.random(len(ids)) < 0.4
        differences = np.bincount(ids, challenger.astype(float) - champion)
        theirs = permutation_test(
            (differences,), np.sum, permutation_type="samples", alternative="less", n_resamples=np.inf, vectorized=True
        )
        assert paired_test(challenger, champion, ids).p_value == pytest.approx(theirs.pvalue, abs=1e-12)


def test_p_value_of_very_many_changes_is_not_cut_off() -> None:
    champion = np.arange(5_000) < 60
    assert paired_test(np.zeros(5_000, dtype=bool), champion, np.arange(5_000)).p_value == pytest.approx(2.0**-60)


def test_quick_p_value_agrees_with_the_test_on_many_components() -> None:
    rng = np.random.default_rng(13)
    ids = heavy_tailed(rng, 3_000, 20, 2.0)
    for better in (0.0, 0.01, 0.02):
        champion, challenger = (rng.random(len(ids)) < rng.beta(0.5, 2 + gain, 3_000)[ids] for gain in (0.0, 20 * better))
        exact = paired_test(challenger, champion, ids).p_value
        assert quick_p_value(challenger, champion, ids) == pytest.approx(exact, abs=0.01)
    assert quick_p_value(champion, champion, ids) == 1.0
    with pytest.raises(FlywheelError, match="score both on the same pairs"):
        quick_p_value(champion[1:], champion, ids)


def test_standard_error_is_the_spread_of_differences_over_drawn_components() -> None:
    rng = np.random.default_rng(14)
    ids = heavy_tailed(rng, 300, 10, 2.0)
    challenger, champion = (rng.random(len(ids)) < rng.beta(0.5, 2, 300)[ids] for _ in range(2))
    weights = component_weights(ids, 2_000, rng)
    spread = (weights @ (challenger.astype(float) - champion) / weights.sum(axis=1)).std()
    assert paired_test(challenger, champion, ids).standard_error == pytest.approx(spread, rel=0.08)


def test_a_detectable_difference_is_found_four_times_in_five() -> None:
    rng, alpha, ids = np.random.default_rng(15), alpha_for(1), np.arange(2_000)
    outcome = paired_test(rng.random(2_000) < 0.2, rng.random(2_000) < 0.2, ids)
    gain, surer, later = (
        detectable_difference(outcome, level, power) or 0.0
        for level, power in ((alpha, 0.8), (alpha, 0.9), (alpha_for(10), 0.8))
    )
    found = [
        paired_test(rng.random(2_000) < 0.2 - gain / 2, rng.random(2_000) < 0.2 + gain / 2, ids).p_value <= alpha
        for _ in range(1_000)
    ]
    assert within(float(np.mean(found)), 0.79, 0.81, 1_000)
    assert 0.0 < gain < min(surer, later)


@pytest.mark.parametrize(("components", "each", "share"), [(45, 5, 0.005), (60, 10, 0.003), (100, 3, 0.01), (200, 1, 0.01)])
def test_a_difference_is_covered_where_few_decisions_differ(components: int, each: int, share: float) -> None:
    rng, ids = np.random.default_rng(16), np.repeat(np.arange(components), each)
    champion = np.zeros(len(ids), dtype=bool)
    intervals = [paired_test(rng.random(len(ids)) < share, champion, ids).interval for _ in range(400)]
    assert np.mean([interval.low <= share <= interval.high for interval in intervals]) >= 0.93


def test_identical_decisions_leave_a_difference_open() -> None:
    ids, none = np.repeat(np.arange(60), 4), np.zeros(240, dtype=bool)
    interval = paired_test(none, none, ids).interval
    # Wilson's upper limit for 0 of 60, to either side: how the pairs of a component go together was not seen.
    assert interval.high == pytest.approx(2.001**2 / (60 + 2.001**2), rel=1e-3)
    assert interval.low == pytest.approx(-interval.high)


def test_an_interval_of_a_difference_stays_between_minus_1_and_1() -> None:
    ids, none = np.repeat(np.arange(60), 4), np.zeros(240, dtype=bool)
    worst, best = paired_test(~none, none, ids).interval, paired_test(none, ~none, ids).interval
    assert 0.8 < worst.low < 0.9 < worst.high == 1.0
    assert -1.0 == best.low < -0.9 < best.high < -0.8


@pytest.mark.parametrize(("up", "down"), [(5, 1), (0, 3), (2, 2)])
def test_at_a_limit_of_a_difference_the_most_likely_shares_put_it_one_quantile_away(up: int, down: int) -> None:
    n, quantile = 40, 1.96
    for limit in paired_score(up / n, down / n, n, quantile):
        other = np.linspace(max(0.0, -limit), (1.0 - limit) / 2, 1_000_001)[1:-1]
        likelihood = up * np.log(other + limit) + down * np.log(other) + (n - up - down) * np.log1p(-2 * other - limit)
        likely = other[likelihood.argmax()]
        variance = (2 * likely + limit - limit**2) / n
        assert abs(limit - (up - down) / n) == pytest.approx(quantile * np.sqrt(variance), rel=1e-4)


def test_many_differing_decisions_leave_the_interval_at_two_standard_errors() -> None:
    rng, ids = np.random.default_rng(17), np.repeat(np.arange(200), 5)
    outcome = paired_test(rng.random(1_000) < 0.1, rng.random(1_000) < 0.15, ids)
    width = outcome.interval.high - outcome.interval.low
    assert width == pytest.approx(2 * 1.972 * outcome.standard_error, rel=0.05)


@pytest.mark.parametrize(("components", "each", "share"), [(60, 10, 0.004), (58, 48, 0.002), (200, 1, 0.01)])
def test_a_detectable_difference_lets_enough_components_differ(components: int, each: int, share: float) -> None:
    rng, ids, alpha = np.random.default_rng(18), np.repeat(np.arange(components), each), alpha_for(1)
    none = np.zeros(len(ids), dtype=bool)
    gains = [detectable_difference(paired_test(none, rng.random(len(ids)) < share, ids), alpha) or 0.0 for _ in range(100)]
    gain = float(np.median(gains))
    found = [paired_test(none, rng.random(len(ids)) < gain, ids).p_value <= alpha for _ in range(200)]
    assert np.mean(found) >= 0.72


def test_no_difference_is_detectable_where_all_components_together_could_not_pass() -> None:
    ids, none = np.repeat(np.arange(6), 4), np.zeros(24, dtype=bool)
    outcome = paired_test(none, none, ids)
    # Six coins all show heads once in 64: six components pass the first alpha, 0.030, and not the second, 0.0076.
    assert detectable_difference(outcome, alpha_for(1)) == pytest.approx(0.8 ** (1 / 6))
    assert detectable_difference(outcome, alpha_for(2)) is None


def test_holm_adjusts_as_the_worked_example_does() -> None:
    # Smallest times 4, next times 3, and so on; none below the one before, none above 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]) == []


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
    with pytest.raises(FlywheelError, match="29 sources for 30 pairs"):
        LabelledScores(scores, labels, ids, np.full(29, "seed"))
    with pytest.raises(FlywheelError, match="30 pairs have a source such as clicks"):
        LabelledScores(scores, labels, ids, np.full(30, "clicks"))
    data = LabelledScores(scores, labels, ids)
    with pytest.raises(FlywheelError, match=r"mask of some has shape \(29,\) for 30 pairs"):
        error_intervals(data, data, {"some": ids[1:] > 0})
    with pytest.raises(FlywheelError, match="19 labels are too few"):
        error_parts(LabelledScores(scores[:19], labels[:19], ids[:19]), data)
    with pytest.raises(FlywheelError, match="give one between 0 and 1"):
        error_intervals(data, data, {"all": ids >= 0}, target_prior=1.0, minimum=20)
    assert error_interval(data, data) is None
    with pytest.raises(FlywheelError, match="challenger has 30 decisions and the champion 29"):
        paired_test(labels > 0, labels[1:] > 0, ids)
    with pytest.raises(FlywheelError, match="challenger has 0 decisions"):
        paired_test(ids[:0] > 0, ids[:0] > 0, ids[:0])
    with pytest.raises(FlywheelError, match="29 component ids"):
        paired_test(labels > 0, labels > 0, ids[1:])
    with pytest.raises(FlywheelError, match="0 pairs"):
        error_rate([], [], 0.5)
