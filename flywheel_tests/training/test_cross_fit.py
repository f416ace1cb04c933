"""Cross-fitted heads: what judges a fold has seen neither its pairs nor their labels, and what ships has seen them all."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.head import Head, untuned_head
from flywheel.training.cross_fit import FoldHead, cross_fit, left_out
from flywheel.training.head import PairFeatures, train_head, train_heads
from flywheel.training.job import HeadRecipe, TrainingJob
from flywheel.training.progress import ignore_progress
from flywheel_tests.helpers.clumps import MINILM, clump_pairs

FOLDS = 4
JOB = TrainingJob(
    variant="all-MiniLM-L6-v2@32", size="all", recipe="head", random_seed=0, interaction_share=0.0, snapshot_id="s",
    base=MINILM, weights="w", head=HeadRecipe(learning_rate=7.5e-3),
)  # fmt: skip


def folded(training: PairFeatures, only_train: int = 0) -> pd.DataFrame:
    """The pairs as `cross_fit` takes them, clumps spread over the folds; the first so many clumps only train."""
    fold = np.where(training.components < only_train, -1, training.components % FOLDS)
    return pd.DataFrame(
        {"fold": fold, "kind": "explicit", "source": "interaction", "label": training.labels, "component": training.components}
    )


def fitted(training: PairFeatures, pairs: pd.DataFrame, job: TrainingJob = JOB) -> list[FoldHead]:
    start = untuned_head(training.features, 32)
    return cross_fit(job, [start] * len(left_out(FOLDS)), pairs, training, FOLDS, ignore_progress)


def same(ours: Head, theirs: Head) -> bool:
    return np.array_equal(ours.weight, theirs.weight) and np.array_equal(ours.bias, theirs.bias)


def test_a_head_is_left_out_of_nothing_of_each_fold_and_of_each_two() -> None:
    assert left_out(3) == [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]


def test_what_judges_a_fold_is_the_same_whatever_its_labels_are() -> None:
    training = clump_pairs(range(24))
    pairs = folded(training)
    before = fitted(training, pairs)
    turned = np.where(pairs["fold"] == 1, 1 - training.labels, training.labels)
    after = fitted(replace(training, labels=turned), pairs.assign(label=turned))
    assert same(before[2].head, after[2].head)  # the first is what ships, then come folds 0, 1, ...
    assert (before[2].choice, before[2].rule, before[2].error) == (after[2].choice, after[2].rule, after[2].error)
    for number in (0, 1, 3, 4):  # whoever may see these labels does
        assert not same(before[number].head, after[number].head)
        assert before[number].rule != after[number].rule


def test_what_judges_a_fold_is_the_same_whatever_its_texts_are() -> None:
    training = clump_pairs(range(24))
    pairs = folded(training)
    held_out = np.flatnonzero(pairs["fold"] == 2)
    features = training.features.copy()
    features[np.concatenate([training.left[held_out], training.right[held_out]])] *= -1
    start = [untuned_head(training.features, 32)] * len(left_out(FOLDS))
    ours = cross_fit(JOB, start, pairs, training, FOLDS, ignore_progress)[3]
    theirs = cross_fit(JOB, start, pairs, replace(training, features=features), FOLDS, ignore_progress)[3]
    assert same(ours.head, theirs.head)
    assert ours.rule == theirs.rule


def test_what_ships_is_trained_on_all_pairs_at_the_place_that_unseen_pairs_chose() -> None:
    training = clump_pairs(range(24))
    ships, *folds = fitted(training, folded(training))
    start = untuned_head(training.features, 32)
    whole = train_head(start, training, JOB.head, 0, ignore_progress)
    assert ships.choice.place > 0
    expected = start.towards(whole, ships.choice.place)
    np.testing.assert_allclose(ships.head.weight, expected.weight, atol=1e-5)
    assert len(folds) == FOLDS
    # Its rule and error are those of scores out of fold, which are worse than those of pairs it has seen.
    seen = training.scores(ships.head)
    assert ships.error > float((ships.rule.decide(seen, np.full(len(seen), "interaction")) != training.labels).mean())


def test_pairs_of_no_fold_train_every_head_and_choose_nothing() -> None:
    training = clump_pairs(range(24))
    pairs = folded(training, only_train=4)
    turned = np.where(pairs["fold"] < 0, 1 - training.labels, training.labels)
    before, after = fitted(training, pairs), fitted(replace(training, labels=turned), pairs.assign(label=turned))
    assert not any(same(ours.head, theirs.head) for ours, theirs in zip(before, after, strict=True))


def test_the_head_of_a_numbered_size_is_trained_on_the_first_pairs() -> None:
    training = clump_pairs(range(24))  # 360 pairs, 90 a fold
    pairs = folded(training)
    ships = fitted(training, pairs, replace(JOB, size="100"))[0]
    start = untuned_head(training.features, 32)
    first = train_heads([start], training, [np.arange(100)], JOB.head, 0, ignore_progress)[0]
    np.testing.assert_allclose(ships.head.weight, start.towards(first, ships.choice.place).weight, atol=1e-5)
    with pytest.raises(FlywheelError, match="Size 200 needs 200 pairs, but without the folds that judge `train` holds 180"):
        fitted(training, pairs, replace(JOB, size="200"))
