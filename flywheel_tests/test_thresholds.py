"""The threshold comes from a logistic fit that agrees with scikit-learn and moves with the scores."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.evaluation.thresholds import fit_scores, fit_thresholds

PEOPLE = settings(deadline=None, max_examples=60)


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
