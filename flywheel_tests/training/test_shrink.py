"""The place between a start and what was trained from it: how it is chosen, and that what ships is not worse than the start."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.models.head import Head, between, untuned_head
from flywheel.scoring.thresholds import fit_scores
from flywheel.training.head import PairFeatures, train_with_folds
from flywheel.training.job import HeadRecipe
from flywheel.training.progress import ignore_progress
from flywheel.training.shrink import PLACES, choose_place, mean_fall
from flywheel_tests.helpers.clumps import clump_pairs

BRISK = HeadRecipe(learning_rate=7.5e-3)


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, 2_000)


def scores_best_at(place: float, labels: np.ndarray, seed: int = 1) -> np.ndarray:
    """Scores whose signal is strongest at one place and falls on both sides of it."""
    noise = np.random.default_rng(seed).normal(0, 1, len(labels))
    return np.stack([(2 - abs(each - place)) * labels + noise for each in PLACES])


@pytest.mark.parametrize("place", PLACES)
def test_many_pairs_find_the_place_where_scores_tell_labels_best(labels: np.ndarray, place: float) -> None:
    choice = choose_place(scores_best_at(place, labels), labels, np.arange(len(labels)))
    assert choice.place == place
    assert PLACES[choice.row] == place
    assert (choice.reason is None) == (place > 0)


def test_the_start_is_kept_with_the_losses_that_say_so(labels: np.ndarray) -> None:
    said = choose_place(scores_best_at(0.0, labels), labels, np.arange(len(labels))).reason
    assert said is not None
    start, best = (float(word) for word in said.split() if word.startswith("0."))
    assert start < best
    assert said == f"the log loss is {start:.4f} at the start and {best:.4f} at best on the way from it"


def test_places_that_differ_in_nothing_keep_the_start(labels: np.ndarray) -> None:
    assert choose_place(np.tile(scores_best_at(1.0, labels)[0], (len(PLACES), 1)), labels, labels).place == 0


def test_a_gain_that_is_hardly_more_than_noise_is_followed_for_a_part_of_the_way() -> None:
    """The same gain, at 1 alone, as many pairs see it and as few: those stop sooner."""

    def places(pairs: int) -> list[float]:
        found = []
        for draw in range(20):
            random = np.random.default_rng(draw)
            labels, scores = random.integers(0, 2, pairs), random.normal(size=(len(PLACES), pairs))
            scores[0] += 0.5 * labels
            scores[PLACES.index(1.0)] += labels
            found.append(choose_place(scores, labels, np.arange(pairs)).place)
        return found

    assert set(places(4_000)) == {1.0}
    few = [place for place in places(60) if place]
    assert len(few) > 5
    assert np.mean(few) < 0.8


def test_a_gain_in_a_few_components_is_less_certain() -> None:
    labels = np.random.default_rng(0).integers(0, 2, 400)
    topics = np.arange(400) // 40
    gaining = np.where(topics < 7, 2.0, 1.0)
    noise = np.random.default_rng(1).normal(0, 1, 400)
    scores = np.stack([(1.5 + place * (gaining - 1.5)) * (labels - 0.5) + noise for place in PLACES])
    assert choose_place(scores, labels, topics).place < choose_place(scores, labels, np.arange(400)).place


def test_one_place_serves_dimensions_together(labels: np.ndarray) -> None:
    """The dimension whose scores change more has its way, whichever stands first."""
    components = np.arange(len(labels))
    firm, mild = scores_best_at(0.0, labels), 0.2 * scores_best_at(1.0, labels, 2)
    mild += np.random.default_rng(2).normal(0, 1, mild.shape[1])
    together = choose_place(np.stack([firm, mild], axis=1), labels, components)
    assert together == choose_place(np.stack([mild, firm], axis=1), labels, components)
    assert together.place < choose_place(mild, labels, components).place


@pytest.mark.parametrize("few", [0, 5, 19])
def test_too_few_pairs_keep_the_start(labels: np.ndarray, few: int) -> None:
    choice = choose_place(np.zeros((len(PLACES), few)), labels[:few], np.arange(few))
    assert (choice.place, choice.reason) == (0, f"{few} pairs are too few to show whether training helps")


def test_one_label_alone_keeps_the_start() -> None:
    choice = choose_place(np.tile(np.arange(50.0), (len(PLACES), 1)), np.ones(50, int), np.arange(50))
    assert choice.place == 0
    assert choice.reason is not None
    assert "whether training helps is unknown" in choice.reason


@given(st.sampled_from(PLACES), st.integers(0, 2**32 - 1))
def test_a_head_on_the_line_is_start_and_trained_to_the_last_bit_and_scores_as_the_line_says(place: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    start, trained = (Head(*(random.normal(size=shape).astype(np.float32) for shape in ((4, 6), 4))) for _ in "ab")
    head = start.towards(trained, place)
    assert head.weight.dtype == np.float32
    for end, at in ((start, 0.0), (trained, 1.0)):
        assert np.array_equal(start.towards(trained, at).weight, end.weight)
    np.testing.assert_allclose(head.bias, between(start.bias, trained.bias, place))
    rows = np.arange(5)
    features = random.normal(size=(10, 6)).astype(np.float16)
    pairs = PairFeatures(features, rows, 5 + rows, rows % 2, np.ones(5), rows)
    line = pairs.scores_between(start, trained)
    np.testing.assert_allclose(line[PLACES.index(place)], pairs.scores(head), atol=1e-4)


def test_out_of_fold_scores_begin_at_the_start() -> None:
    pairs = clump_pairs(range(10))
    start = untuned_head(pairs.features, 16)
    head, scores = train_with_folds(start, pairs, BRISK, 0, ignore_progress)
    np.testing.assert_allclose(scores[0], pairs.scores(start), atol=1e-5)
    assert np.abs(scores[PLACES.index(1.0)] - pairs.scores(head)).max() > 0.01  # other heads, which have not seen the pair


def test_pairs_of_one_component_count_as_one_draw() -> None:
    random = np.random.default_rng(0)
    topics = np.repeat(np.arange(10), 40)
    before, after = random.normal(1, 0.1, 400), random.normal(0.9, 0.1, 400) + 0.2 * random.normal(size=10)[topics]
    alone, together = (mean_fall(before, after, components) for components in (np.arange(400), topics))
    assert alone[0] == together[0] == pytest.approx((before - after).mean())
    assert alone[1] == pytest.approx((before - after).std() / 20)
    assert together[1] > 3 * alone[1]


@pytest.mark.slow
def test_over_many_draws_what_ships_is_not_worse_than_the_start() -> None:
    """Few pairs with a third of their labels wrong: trained heads are a gamble, what ships is less of one."""
    unseen = clump_pairs(range(40, 60))

    def error(head: Head) -> float:
        scores = unseen.scores(head)
        return float(((scores >= fit_scores(scores, unseen.labels).threshold) != unseen.labels).mean())

    start = untuned_head(unseen.features, 32)
    trained, shipped = [], []
    for draw in range(20):
        random = np.random.default_rng(draw)
        all_pairs = clump_pairs(range(40))
        few = all_pairs.take(random.permutation(len(all_pairs.labels))[:60])
        few.labels[:] = np.where(random.random(60) < 0.35, 1 - few.labels, few.labels)
        head, own = train_with_folds(start, few, BRISK, draw, ignore_progress)
        trained.append(error(head))
        shipped.append(error(start.towards(head, choose_place(own, few.labels, few.components).place)))
    untuned = error(start)
    assert np.mean(trained) > untuned  # else this would prove nothing
    assert np.mean(shipped) - untuned < 0.25 * (np.mean(trained) - untuned)
