"""The gate lets a training through that helps on unseen pairs, and nothing else."""

import numpy as np
import pytest

from flywheel.models.head import untuned_head
from flywheel.scoring.thresholds import fit_scores
from flywheel.training.gate import reason_not_better
from flywheel.training.head import PairFeatures, train_with_folds
from flywheel.training.job import HeadRecipe
from flywheel.training.progress import ignore_progress
from flywheel_tests.helpers.clumps import clump_pairs

BRISK = HeadRecipe(learning_rate=7.5e-3)


def scores_of(labels: np.ndarray, signal: float, seed: int) -> np.ndarray:
    return signal * labels + np.random.default_rng(seed).normal(0, 1, len(labels))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, 400)


def test_a_clear_gain_passes_and_its_mirror_does_not(labels: np.ndarray) -> None:
    weak, strong, components = scores_of(labels, 0.5, 1), scores_of(labels, 3.0, 2), np.arange(400)
    assert reason_not_better(strong, weak, labels, components) is None
    said = reason_not_better(weak, strong, labels, components)
    assert said is not None
    assert said.startswith("the log loss falls by -0.")


def test_the_same_scores_are_no_gain(labels: np.ndarray) -> None:
    scores = scores_of(labels, 1.0, 1)
    assert reason_not_better(scores, scores, labels, np.arange(400)) is not None


def test_pairs_of_one_component_count_as_one_draw(labels: np.ndarray) -> None:
    """Seven topics that gain and three that lose are no proof, however many pairs each of them has."""
    topics = np.arange(400) // 40
    start = scores_of(labels, 1.5, 1)
    tuned = np.where(topics < 7, scores_of(labels, 2.6, 2) - 1.3, scores_of(labels, 1.0, 3) - 0.5)
    assert reason_not_better(tuned, start, labels, np.arange(400)) is None
    assert reason_not_better(tuned, start, labels, topics) is not None


@pytest.mark.parametrize("few", [0, 5, 19])
def test_too_few_pairs_tell_nothing(labels: np.ndarray, few: int) -> None:
    assert reason_not_better(labels[:few].astype(float), np.zeros(few), labels[:few], np.arange(few)) == (
        f"{few} pairs are too few to show whether training helps"
    )


def test_one_label_alone_tells_nothing() -> None:
    said = reason_not_better(np.arange(50.0), np.arange(50.0), np.ones(50, int), np.arange(50))
    assert said is not None
    assert "whether training helps is unknown" in said


@pytest.mark.slow
def test_over_many_draws_what_ships_is_not_worse_than_the_start() -> None:
    """Few pairs with a third of their labels wrong: trained heads are a gamble, what the gate ships is not."""
    unseen = clump_pairs(range(40, 60))

    def error(head_scores: np.ndarray) -> float:
        return float(((head_scores >= fit_scores(head_scores, unseen.labels).threshold) != unseen.labels).mean())

    start = untuned_head(unseen.features, 32)
    untuned = error(unseen.scores(start))
    trained, shipped = [], []
    for draw in range(20):
        random = np.random.default_rng(draw)
        all_pairs = clump_pairs(range(40))
        few: PairFeatures = all_pairs.take(random.permutation(len(all_pairs.labels))[:60])
        few.labels[:] = np.where(random.random(60) < 0.35, 1 - few.labels, few.labels)
        head, own = train_with_folds(start, few, BRISK, draw, ignore_progress)
        trained.append(error(unseen.scores(head)))
        kept = reason_not_better(own, few.scores(start), few.labels, few.components)
        shipped.append(untuned if kept else trained[-1])
    assert np.mean(trained) > untuned  # else this would prove nothing
    assert np.mean(shipped) - untuned < 0.25 * (np.mean(trained) - untuned)
