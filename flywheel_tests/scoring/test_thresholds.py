"""The threshold comes from a logistic fit that agrees with scikit-learn and moves with the scores."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.special import logit
from scipy.stats import norm

from flywheel.errors import FlywheelError
from flywheel.scoring.thresholds import ScoreFit, fit_by_source, fit_scores, thresholds_by_source

PEOPLE = settings(deadline=None, max_examples=60)


def fit_thresholds(scores: ArrayLike, labels: ArrayLike, weights: np.ndarray, prior: float | None = None) -> np.ndarray:
    """The thresholds of weighted seed pairs, moved to a prior."""
    sources = np.full(len(np.asarray(scores)), "seed")
    return thresholds_by_source(scores, labels, sources, weights, prior)["interaction"]


def draw(seed: int, n: int, separation: float = 0.15, share: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int64)
    labels[:2] = 0, 1
    return 0.6 + separation * labels + rng.normal(0, 0.1, n), labels


def polynomial(scores: np.ndarray, center: float, scale: float, width: int) -> np.ndarray:
    return np.vander((scores - center) / scale, width, increasing=True)


@pytest.mark.parametrize(("n", "width"), [(20, 2), (120, 2), (499, 2), (500, 4), (3000, 4)])
def test_fit_agrees_with_scikit_learn_on_the_same_features(n: int, width: int) -> None:
    from sklearn.linear_model import LogisticRegression

    scores, labels = draw(n, n)
    fit = fit_scores(scores, labels)
    features = polynomial(scores, fit.center, fit.scale, width)
    # Twice: our own penalty exactly, then a penalty so small that it could not matter.
    for strength, tolerance in ((1e3, 1e-5), (1e8, 2e-2)):
        theirs = LogisticRegression(C=strength, fit_intercept=False, solver="newton-cholesky", tol=1e-10, max_iter=1000)
        theirs.fit(features, labels)
        np.testing.assert_allclose(fit.coefficients, theirs.coef_[0], rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(fit.probability(scores), theirs.predict_proba(features)[:, 1], atol=tolerance)


def test_threshold_is_where_the_probability_crosses_one_half() -> None:
    for seed in range(20):
        for n in (60, 900):
            fit = fit_scores(*draw(seed, n))
            assert fit.probability(fit.threshold) == pytest.approx(0.5, abs=1e-9)
            assert fit.low < fit.threshold < fit.high


def test_fit_carries_the_prior_and_the_range_it_was_made_under() -> None:
    scores, labels = draw(3, 700, share=0.2)
    fit = fit_scores(scores, labels)
    assert fit.prior == labels.mean()
    assert (fit.low, fit.high) == (scores.min(), scores.max())
    assert fit.probability(fit.high + 5) == fit.probability(fit.high)
    assert fit.probability(np.zeros((2, 3))).shape == (2, 3)


@pytest.mark.parametrize("roots", [(-0.8, -0.5, 0.5), (-0.5, 0.5, 0.8)])
def test_of_several_crossings_the_one_with_least_expected_error_is_taken(roots: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, 6000)
    logits = 12 * np.prod([scores - root for root in roots], axis=0)
    labels = (rng.random(6000) < 1 / (1 + np.exp(-logits))).astype(int)
    fit = fit_scores(scores, labels)
    found = fit.center + fit.scale * np.polynomial.polynomial.polyroots(fit.coefficients)
    assert np.isreal(found).all(), "the data must make the fit cross three times"
    assert (np.abs(found) < 1).all(), "and within the scores"
    p = fit.probability(scores)
    expected = [np.where(scores >= root, 1 - p, p).sum() for root in found.real]
    assert fit.threshold == pytest.approx(found.real[np.argmin(expected)], abs=1e-9)


@pytest.mark.parametrize(("share", "same"), [(0.9, True), (0.1, False)])
@pytest.mark.parametrize("n", [200, 2000])
def test_without_a_crossing_everything_is_called_what_most_pairs_are(share: float, same: bool, n: int) -> None:
    scores, labels = draw(1, n, separation=0.0, share=share)
    fit = fit_scores(scores, labels)
    for given_scores in (scores, scores.astype(np.float32)):
        assert (given_scores >= fit.threshold).all() if same else (given_scores < fit.threshold).all()
    assert abs(fit.threshold - (fit.low if same else fit.high)) < 0.01 * fit.scale


@pytest.mark.parametrize("share", [0.8, 0.2])
def test_scores_that_rank_backwards_never_call_the_lower_half_different(share: float) -> None:
    scores, labels = draw(5, 400, separation=-0.15, share=share)
    fit = fit_scores(scores, labels)
    assert len(set(scores >= fit.threshold)) == 1


def test_collapsed_scores_follow_the_majority() -> None:
    labels = np.r_[np.ones(30), np.zeros(10)]
    assert fit_scores(np.full(40, 0.1), labels).threshold < 0.1
    assert fit_scores(np.full(40, 0.1), 1 - labels).threshold > 0.1


@pytest.mark.parametrize("n", [20, 400, 2000])
def test_separable_labels_give_a_threshold_in_the_gap(n: int) -> None:
    scores = np.r_[np.linspace(0.1, 0.4, n // 2), np.linspace(0.6, 0.9, n // 2)]
    fit = fit_scores(scores, scores > 0.5)
    assert 0.4 < fit.threshold < 0.6
    assert np.isfinite(fit.coefficients).all()


@given(seed=st.integers(0, 10_000), outlier=st.floats(-60, 60), n=st.sampled_from([40, 600]))
@PEOPLE
def test_fit_is_at_its_optimum_even_with_outliers(seed: int, outlier: float, n: int) -> None:
    scores, labels = draw(seed, n)
    scores[5] = outlier
    fit = fit_scores(scores, labels)
    features = polynomial(scores, fit.center, fit.scale, len(fit.coefficients))
    slope = features.T @ (fit.probability(scores) - labels) + 1e-3 * np.array(fit.coefficients)
    assert (np.abs(slope) <= 1e-6 * (1 + np.abs(features).sum(axis=0))).all()


@given(seed=st.integers(0, 10_000), n=st.sampled_from([25, 300, 800]))
@PEOPLE
def test_order_of_the_pairs_changes_nothing(seed: int, n: int) -> None:
    scores, labels = draw(seed, n)
    scores = scores.round(1)  # many ties
    order = np.random.default_rng(seed).permutation(n)
    assert fit_scores(scores[order], labels[order]) == fit_scores(scores, labels)


@given(
    seed=st.integers(0, 10_000),
    n=st.sampled_from([25, 300, 800]),
    shift=st.floats(1e-3, 10),
    stretch=st.floats(0.1, 10),
    separation=st.sampled_from([0.0, 0.1, 0.4]),
)
@PEOPLE
def test_threshold_moves_and_stretches_with_the_scores(
    seed: int, n: int, shift: float, stretch: float, separation: float
) -> None:
    scores, labels = draw(seed, n, separation)
    threshold = fit_scores(scores, labels).threshold
    shifted = fit_scores(scores + shift, labels).threshold
    assert shifted > threshold
    assert shifted == pytest.approx(threshold + shift, abs=1e-6)
    assert fit_scores(scores * stretch, labels).threshold == pytest.approx(threshold * stretch, abs=1e-6 * stretch)


@pytest.mark.parametrize("n", [300, 1000])
def test_weights_count_like_repeated_pairs(n: int) -> None:
    scores, labels = draw(8, n)
    weights = np.random.default_rng(8).integers(0, 4, (20, n))
    # Both sides must fit the same polynomial: repeated, 300 pairs pass 500 only where a weighting allows it.
    weights[:, 0] += 1
    thresholds = fit_thresholds(scores, labels, weights)
    for row, threshold in zip(weights, thresholds, strict=True):
        if (n >= 500) == (row.sum() >= 500):
            repeated = fit_scores(np.repeat(scores, row), np.repeat(labels, row))
            assert threshold == pytest.approx(repeated.threshold, abs=1e-4)
    assert thresholds.std() > 1e-4


def test_weights_decide_which_of_several_crossings_is_taken() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, 6000)
    logits = 12 * (scores + 0.8) * (scores + 0.5) * (scores - 0.5)
    labels = (rng.random(6000) < 1 / (1 + np.exp(-logits))).astype(int)
    # Pairs between the two lower roots are mostly same: count them often enough and the cut must move below them.
    often = np.where((scores > -0.8) & (scores < -0.5), 60, 1)
    plain, weighted = fit_thresholds(scores, labels, np.stack([np.ones(6000, dtype=int), often]))
    assert plain == pytest.approx(0.5, abs=0.1)
    assert weighted == pytest.approx(-0.8, abs=0.1)


@pytest.mark.parametrize("seed", range(10))
def test_weights_that_contradict_a_nearly_separable_fit_still_converge(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.arange(100) % 2
    scores = labels + rng.normal(0, 0.12, 100)
    labels[:3] = 1 - labels[:3]
    weights = np.ones((1, 100), dtype=int)
    weights[0, :3] = 30
    repeated = fit_scores(np.repeat(scores, weights[0]), np.repeat(labels, weights[0]))
    assert fit_thresholds(scores, labels, weights)[0] == pytest.approx(repeated.threshold, abs=1e-2 * repeated.scale)


def test_one_row_of_ones_is_the_fit_itself() -> None:
    scores, labels = draw(2, 800)
    assert fit_thresholds(scores, labels, np.ones((1, 800)))[0] == pytest.approx(fit_scores(scores, labels).threshold, abs=1e-9)


def test_many_weightings_give_what_each_gives_alone() -> None:
    scores, labels = draw(4, 2000)
    weights = np.random.default_rng(4).poisson(1, (600, 2000))
    together = fit_thresholds(scores, labels, weights)
    alone = [fit_thresholds(scores, labels, weights[[row]])[0] for row in (0, 249, 250, 599)]
    np.testing.assert_allclose(together[[0, 249, 250, 599]], alone, atol=1e-9)


def test_a_weighting_that_drops_one_label_calls_everything_the_other() -> None:
    scores, labels = draw(6, 100, separation=0.0)
    weights = np.stack([labels, 1 - labels])
    only_same, only_different = fit_thresholds(scores, labels, weights)
    assert only_same < scores.min()
    assert only_different > scores.max()


def test_many_weightings_of_ten_thousand_pairs_stay_small_in_memory() -> None:
    scores, labels = draw(7, 10_000)
    weights = np.random.default_rng(7).poisson(1, (400, 10_000)).astype(np.int8)
    tracemalloc.start()
    thresholds = fit_thresholds(scores, labels, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # 400 rows at once would take 32e6 for every array of the fit
    assert thresholds.std() < 0.01


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.linspace(0, 1, 19), np.arange(19) % 2, "19 labels are too few"),
        (np.linspace(0, 1, 40), np.ones(40), "40 of 40 pairs have label 1"),
        (np.linspace(0, 1, 40), np.zeros(40), "0 of 40 pairs have label 1"),
        (np.r_[np.nan, np.linspace(0, 1, 39)], np.arange(40) % 2, "1 of 40 scores are not finite"),
        (np.r_[np.inf, np.linspace(0, 1, 39)], np.arange(40) % 2, "1 of 40 scores are not finite"),
        (np.linspace(0, 1, 40), np.arange(39) % 2, r"\(40,\) and labels \(39,\)"),
        (np.linspace(0, 1, 40), np.arange(40) % 3, "13 labels are neither 0 nor 1"),
    ],
)
def test_what_cannot_carry_a_threshold_is_refused(scores: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(FlywheelError, match=message):
        fit_scores(scores, labels)
    with pytest.raises(FlywheelError, match=message):
        fit_thresholds(scores, labels, np.ones((2, len(scores))))


def test_weights_of_another_length_are_refused() -> None:
    with pytest.raises(FlywheelError, match=r"\(3, 99\) for 100 pairs"):
        fit_thresholds(*draw(0, 100), np.ones((3, 99)))


def error_at(threshold: float, share: float) -> float:
    """Error rate at a threshold in the population that `draw` draws from, with this share of label 1."""
    return float(share * norm.cdf((threshold - 0.75) / 0.1) + (1 - share) * norm.sf((threshold - 0.6) / 0.1))


@pytest.mark.parametrize("n", [400, 2000])
def test_a_threshold_of_natural_pairs_costs_points_on_balanced_ones_and_a_moved_one_nothing(n: int) -> None:
    best = error_at(0.675, 0.5)
    costs = np.array(
        [
            [error_at(fit_scores(*draw(seed, n, share=0.23), prior).threshold, 0.5) - best for prior in (None, 0.5)]
            for seed in range(20)
        ]
    )
    assert (costs[:, 0] > 0.03).all()
    assert costs[:, 1].mean() < 0.004


@pytest.mark.parametrize(("n", "share", "prior"), [(60, 0.4, 0.1), (400, 0.23, 0.5), (3000, 0.5, 0.7), (3000, 0.3, 0.02)])
def test_a_prior_moves_the_log_odds_of_every_score_alike(n: int, share: float, prior: float) -> None:
    scores, labels = draw(n, n, share=share)
    own, moved = fit_scores(scores, labels), fit_scores(scores, labels, prior)
    shift = logit(moved.probability(scores)) - logit(own.probability(scores))
    np.testing.assert_allclose(shift, logit(prior) - logit(labels.mean()), atol=1e-6)
    assert moved.prior == prior
    assert (moved.threshold > own.threshold) == (prior < labels.mean())
    if moved.low < moved.threshold < moved.high:
        assert moved.probability(moved.threshold) == pytest.approx(0.5, abs=1e-9)


def test_a_moved_fit_is_that_of_pairs_drawn_under_the_new_prior() -> None:
    scores, labels = draw(9, 40_000, share=0.23)
    same, different = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    balanced = np.r_[same, different[: len(same)]]
    drawn, moved = fit_scores(scores[balanced], labels[balanced]), fit_scores(scores, labels, 0.5)
    np.testing.assert_allclose(moved.probability(scores), drawn.probability(scores), atol=0.02)
    assert moved.threshold == pytest.approx(drawn.threshold, abs=0.003)


@pytest.mark.parametrize("n", [60, 900])
def test_the_share_a_fit_has_already_moves_nothing(n: int) -> None:
    scores, labels = draw(10, n)
    assert fit_scores(scores, labels, float(labels.mean())).threshold == pytest.approx(fit_scores(scores, labels).threshold)


@pytest.mark.parametrize("prior", [0.2, 0.35, 0.5, 0.65, 0.8])
def test_of_several_crossings_the_prior_decides_which_is_taken(prior: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1, 1, 6000)
    logits = 6 * (scores + 0.8) * (scores + 0.1) * (scores - 0.5)
    labels = (rng.random(6000) < 1 / (1 + np.exp(-logits))).astype(int)
    own, fit = fit_scores(scores, labels), fit_scores(scores, labels, prior)
    p, cuts = own.probability(scores), np.linspace(-1.01, 1.01, 400)
    ratio = prior / labels.mean(), (1 - prior) / (1 - labels.mean())
    costs = [np.where(scores >= cut, (1 - p) * ratio[1], p * ratio[0]).sum() for cut in [*cuts, fit.threshold]]
    assert costs[-1] <= min(costs) + 1e-6 * abs(min(costs))


def test_thresholds_of_many_weightings_are_moved_from_the_share_of_each() -> None:
    scores, labels = draw(11, 900, share=0.3)
    weights = np.random.default_rng(11).integers(0, 4, (20, 900))
    weights[0] = 1
    moved = fit_thresholds(scores, labels, weights, 0.6)
    assert moved[0] == pytest.approx(fit_scores(scores, labels, 0.6).threshold, abs=1e-9)
    for row, threshold in zip(weights, moved, strict=True):
        repeated = fit_scores(np.repeat(scores, row), np.repeat(labels, row), 0.6)
        assert threshold == pytest.approx(repeated.threshold, abs=1e-4)
    one_label = fit_thresholds(scores, labels, np.stack([labels, 1 - labels]), 0.6)
    assert one_label[0] < scores.min()
    assert one_label[1] > scores.max()


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, float("nan")])
def test_a_prior_that_leaves_nothing_to_decide_is_refused(prior: float) -> None:
    scores, labels = draw(0, 100)
    for refused in (
        lambda: fit_scores(scores, labels, prior),
        lambda: fit_thresholds(scores, labels, np.ones((1, 100)), prior),
        lambda: fit_by_source(scores, labels, np.full(100, "seed"), prior),
    ):
        with pytest.raises(FlywheelError, match="give one between 0 and 1"):
            refused()


def two_sources(seeds: int, interactions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores and labels of seed pairs, many of them different, and of interaction pairs, most the same and scored higher."""
    seed, interaction = draw(12, seeds, share=0.25), draw(13, interactions, share=0.7)
    scores, labels = np.r_[seed[0], interaction[0] + 0.1], np.r_[seed[1], interaction[1]]
    order = np.random.default_rng(14).permutation(len(scores))
    return scores[order], labels[order], np.repeat(["seed", "interaction"], [seeds, interactions])[order]


def part(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], source: str, prior: float | None = None) -> ScoreFit:
    scores, labels, sources = pairs
    return fit_scores(scores[sources == source], labels[sources == source], prior)


def test_each_source_has_its_own_fit_once_there_are_500_interaction_pairs() -> None:
    pairs = two_sources(700, 500)
    for target in (None, 0.5):
        assert fit_by_source(*pairs, target) == {"seed": part(pairs, "seed"), "interaction": part(pairs, "interaction")}


def test_before_that_interaction_pairs_have_the_seed_fit_moved_to_their_prior() -> None:
    pairs = two_sources(700, 499)
    seed = part(pairs, "seed")
    assert fit_by_source(*pairs, 0.7) == {"seed": seed, "interaction": part(pairs, "seed", 0.7)}
    assert fit_by_source(*pairs, None) == {"seed": seed, "interaction": seed}


def test_interaction_pairs_of_one_label_have_the_seed_fit_however_many() -> None:
    scores, labels, sources = two_sources(700, 600)
    pairs = scores, np.where(sources == "seed", labels, 1), sources
    assert fit_by_source(*pairs, 0.7)["interaction"] == part(pairs, "seed", 0.7)


def test_too_few_seed_pairs_share_the_fit_of_all() -> None:
    scores, labels, sources = two_sources(19, 600)
    everything = fit_scores(scores, labels)
    assert fit_by_source(scores, labels, sources, 0.7)["seed"] == everything
    one_label = np.where(sources == "seed", 0, labels)
    for these, kinds in ((two_sources(20, 600), 2), ((scores, one_label, sources), 1)):
        alone = fit_by_source(*these, None)["seed"]
        assert (alone == fit_scores(*these[:2])) == (kinds == 1)
    few = two_sources(10, 100)
    assert fit_by_source(*few, 0.7)["interaction"] == fit_scores(*few[:2], 0.7)


@pytest.mark.parametrize("sizes", [(700, 499), (700, 500), (600, 2), (10, 600), (30, 60)])
@pytest.mark.parametrize("target", [None, 0.6])
def test_weightings_by_source_give_what_the_fits_by_source_give(sizes: tuple[int, int], target: float | None) -> None:
    pairs = two_sources(*sizes)
    weights = np.ones((3, len(pairs[0])), dtype=int)
    weights[1, :40] = 5
    thresholds = thresholds_by_source(*pairs, weights, target)
    assert list(thresholds) == ["seed", "interaction"]
    for source, fit in fit_by_source(*pairs, target).items():
        np.testing.assert_allclose(thresholds[source][[0, 2]], fit.threshold, atol=1e-9)
        assert thresholds[source].shape == (3,)
    assert thresholds["seed"][0] != thresholds["seed"][1]


def test_sources_that_do_not_belong_to_the_pairs_are_refused() -> None:
    scores, labels, sources = two_sources(50, 50)
    with pytest.raises(FlywheelError, match="99 sources for 100 pairs"):
        fit_by_source(scores, labels, sources[1:], None)
    with pytest.raises(FlywheelError, match="1 pairs have a source such as clicks"):
        fit_by_source(scores, labels, np.r_[["clicks"], sources[1:]], None)
    with pytest.raises(FlywheelError, match="1 of 100 scores are not finite"):
        fit_by_source(np.r_[np.nan, scores[1:]], labels, sources, None)
    with pytest.raises(FlywheelError, match="19 labels are too few"):
        fit_by_source(scores[:19], labels[:19], sources[:19], 0.5)
    with pytest.raises(FlywheelError, match=r"\(3, 99\) for 100 pairs"):
        thresholds_by_source(scores, labels, sources, np.ones((3, 99)), None)
