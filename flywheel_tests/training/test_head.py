"""The head: what the untuned one keeps, what training learns and never takes for a negative, and how folds are cut."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.models.catalogue import CATALOGUE
from flywheel.models.head import Head, untuned_head
from flywheel.training.head import PairFeatures, folds_by_component, own_components, train_head, train_heads, train_with_folds
from flywheel.training.job import HeadRecipe
from flywheel.training.progress import Progress, Trained, ignore_progress
from flywheel_tests.helpers.clumps import clump_pairs, embed, six_texts

# Steps long enough for pairs as few as these.
BRISK = HeadRecipe(learning_rate=7.5e-3)
WIDTH = CATALOGUE["all-MiniLM-L6-v2"].width


def gap(head: Head, pairs: PairFeatures) -> float:
    """How far the mean scores of duplicates and siblings lie apart, in standard deviations of the siblings'."""
    scores = pairs.scores(head)
    same, other = scores[pairs.labels == 1], scores[pairs.labels == 0]
    return float((same.mean() - other.mean()) / other.std())


def test_the_untuned_head_at_full_width_changes_no_cosine() -> None:
    vectors = embed([text for clump in range(10) for text in six_texts(clump)])
    turned = untuned_head(vectors, WIDTH).apply(vectors)
    np.testing.assert_allclose(turned @ turned.T, vectors @ vectors.T, atol=2e-6)


@pytest.mark.parametrize("dim", [1, 16, 200])
def test_a_narrower_untuned_head_is_the_orthonormal_map_that_loses_least_and_repeats(dim: int) -> None:
    vectors = embed([text for clump in range(20) for text in six_texts(clump)])
    head = untuned_head(vectors, dim)
    np.testing.assert_allclose(head.weight @ head.weight.T, np.eye(dim), atol=1e-5)
    kept = np.sum((vectors @ head.weight.T) ** 2)
    best = np.sum(np.linalg.svd(vectors, compute_uv=False)[:dim] ** 2)  # Eckart and Young
    assert kept == pytest.approx(best, rel=1e-5)
    assert np.array_equal(head.weight, untuned_head(vectors.copy(), dim).weight)
    assert (head.weight.max(axis=1) == np.abs(head.weight).max(axis=1)).all()  # the sign too is no accident
    assert not head.bias.any()


def test_training_separates_unseen_duplicates_from_siblings_and_repeats_bit_for_bit() -> None:
    seen, unseen = clump_pairs(range(40)), clump_pairs(range(40, 60))
    start = untuned_head(seen.features, 64)
    heard: list[Progress] = []
    head = train_head(start, seen, BRISK, 0, heard.append)
    assert gap(head, unseen) > 1.2 * gap(start, unseen)
    last = heard[-1]
    assert isinstance(last, Trained)
    assert (last.done, last.of, last.seconds_left) == (80, 80, 0)  # 600 pairs in 10 batches, eight times
    assert last.loss > 0
    again = train_head(start, seen, BRISK, 0, ignore_progress)
    assert np.array_equal(head.weight, again.weight)
    assert np.array_equal(head.bias, again.bias)
    assert not np.array_equal(head.weight, train_head(start, seen, BRISK, 1, ignore_progress).weight)


@pytest.mark.parametrize("cores", [1, 2, 8])
def test_heads_trained_together_are_what_each_is_alone(cores: int) -> None:
    import torch

    pairs = clump_pairs(range(20))
    start = untuned_head(pairs.features, 32)
    random = np.random.default_rng(0)
    rows = [np.sort(random.permutation(len(pairs.labels))[:count]) for count in (300, 240, 65, 64, 1)]
    threads = torch.get_num_threads()
    torch.set_num_threads(cores)
    try:
        together = train_heads([start] * len(rows), pairs, rows, HeadRecipe(), 0, ignore_progress)
    finally:
        torch.set_num_threads(threads)
    alone = [train_heads([start], pairs, [some], HeadRecipe(), 0, ignore_progress)[0] for some in rows]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(pairs.scores(one), pairs.scores(other), atol=1e-4)
        assert np.abs(one.weight - start.weight).mean() > 0.005


def test_a_head_with_folds_is_the_head_without_and_repeats_bit_for_bit() -> None:
    pairs = clump_pairs(range(20))
    start = untuned_head(pairs.features, 32)
    head, scores = train_with_folds(start, pairs, HeadRecipe(), 0, ignore_progress)
    again, same_scores = train_with_folds(start, pairs, HeadRecipe(), 0, ignore_progress)
    assert np.array_equal(head.weight, again.weight)
    assert np.array_equal(scores, same_scores)
    only = train_head(start, pairs, HeadRecipe(), 0, ignore_progress)
    np.testing.assert_allclose(pairs.scores(head), pairs.scores(only), atol=1e-4)


def test_the_score_of_a_pair_out_of_fold_does_not_depend_on_the_labels_of_its_fold() -> None:
    pairs = clump_pairs(range(20))
    start = untuned_head(pairs.features, 32)
    for _, held_out in folds_by_component(pairs.components):
        labels = pairs.labels.copy()
        labels[held_out] = 1 - labels[held_out]
        _, scores = train_with_folds(start, pairs, HeadRecipe(), 0, ignore_progress)
        _, flipped = train_with_folds(start, replace(pairs, labels=labels), HeadRecipe(), 0, ignore_progress)
        others = np.setdiff1d(np.arange(len(labels)), held_out)
        assert np.array_equal(scores[:, held_out], flipped[:, held_out])
        assert np.abs(scores[:, others] - flipped[:, others]).max() > 0.01  # the folds that train on them do see them


def test_features_that_are_nothing_everywhere_keep_their_weights_and_change_nothing_else() -> None:
    pairs = clump_pairs(range(8))
    start = untuned_head(pairs.features, 16)
    wide = replace(pairs, features=np.concatenate([np.zeros_like(pairs.features), pairs.features], axis=1))
    extra = np.random.default_rng(0).normal(size=start.weight.shape).astype(np.float32)
    head = train_head(Head(np.concatenate([extra, start.weight], axis=1), start.bias), wide, HeadRecipe(), 0, ignore_progress)
    assert np.array_equal(head.weight[:, :WIDTH], extra)
    narrow = train_head(start, pairs, HeadRecipe(), 0, ignore_progress)
    np.testing.assert_allclose(head.weight[:, WIDTH:], narrow.weight, atol=1e-4)


def test_the_weight_of_a_pair_is_how_much_it_teaches() -> None:
    pairs = clump_pairs(range(20))
    start, recipe = untuned_head(pairs.features, 16), HeadRecipe()
    unsure = np.arange(len(pairs.labels)) % 3 == 0
    lying = replace(pairs, labels=np.where(unsure, 1 - pairs.labels, pairs.labels))
    ignored = np.where(unsure, 0.0, 1.0)
    learned = [
        train_head(start, replace(each, weights=weights), recipe, 0, ignore_progress).weight
        for weights in (ignored, pairs.weights)
        for each in (pairs, lying)
    ]
    assert np.array_equal(learned[0], learned[1])
    assert not np.array_equal(learned[2], learned[3])


def test_one_question_on_the_left_of_every_pair_is_no_collapse() -> None:
    pairs = clump_pairs(range(8))
    star = replace(pairs, left=np.repeat(pairs.left[:1], len(pairs.left)))
    head = train_head(untuned_head(pairs.features, 16), star, HeadRecipe(), 0, ignore_progress)
    assert head.apply(pairs.features[pairs.right]).std(axis=0).max() > 0.1


def test_texts_of_one_component_are_never_each_others_negatives() -> None:
    import torch

    from flywheel.training.losses import ranking_loss

    component = torch.tensor([0, 0, 1, 1, 2])
    label = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    related = (component[:, None] == component).fill_diagonal_(False)
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    loss = ranking_loss(logits, label, torch.ones(5), component)
    assert ranking_loss(logits.masked_fill(related, 100.0), label, torch.ones(5), component) == loss
    assert ranking_loss(logits.masked_fill(related, 100.0), label, torch.ones(5), torch.arange(5)) > loss + 10

    ones = torch.ones(5)

    def with_cell(row: int, column: int) -> torch.Tensor:
        return ranking_loss(
            logits.index_put((torch.tensor(row), torch.tensor(column)), torch.tensor(100.0)), label, ones, component
        )

    assert with_cell(0, 4) > loss + 10  # a text of another component is a negative, both ways, whatever its own label
    assert with_cell(4, 0) > loss + 10
    assert with_cell(4, 3) == loss  # neither is a duplicate's text
    assert ranking_loss(logits, torch.zeros(5), ones, component) == 0
    assert ranking_loss(logits, label, 0.5 * ones, component) == pytest.approx(0.5 * loss)


def test_pairs_of_weight_0_change_no_loss_and_heads_are_lost_side_by_side() -> None:
    import torch

    from flywheel.training.losses import PairLoss

    random = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 7, 8, generator=random), torch.randn(2, 7, 8, generator=random)
    labels, weights = torch.tensor([1.0, 0, 1, 0, 1, 1, 0]), torch.tensor([1.0, 0.5, 2, 1, 1, 0, 0])
    components = torch.arange(7)
    fits = [[(10.0, -5.0), (8.0, -3.0)], [(6.0, -2.0), (7.0, -4.0)]]
    both = PairLoss(fits, (8, 4), 0.5, 20.0)(left, right, *(v.expand(2, 7) for v in (labels, weights, components)))
    for head in range(2):
        one = PairLoss(fits[head], (8, 4), 0.5, 20.0)
        loss = one(left[head, :5], right[head, :5], labels[:5], weights[:5], components[:5])
        assert both[head].item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_ranking_weight_makes_duplicates_outrank_other_clumps_texts() -> None:
    import torch

    from flywheel.training.losses import ranking_loss

    pairs = clump_pairs(range(20))

    def loss_after(weight: float) -> float:
        head = train_head(untuned_head(pairs.features, 32), pairs, HeadRecipe(ranking_weight=weight), 0, ignore_progress)
        logits = torch.tensor(20 * head.apply(pairs.features[pairs.left]) @ head.apply(pairs.features[pairs.right]).T)
        ones = torch.ones(len(pairs.labels))
        return float(ranking_loss(logits, torch.tensor(pairs.labels), ones, torch.tensor(pairs.components)))

    assert loss_after(5.0) < 0.9 * loss_after(0.0)


def test_the_ranking_loss_of_a_batch_of_one_pair_is_nothing() -> None:
    import torch

    from flywheel.training.losses import ranking_loss

    assert ranking_loss(torch.tensor([[0.3]]), torch.ones(1), torch.ones(1), torch.zeros(1)) == 0


def test_labels_between_0_and_1_count_as_the_nearer_one_in_the_ranking_and_the_fit_and_as_they_are_in_the_pair_loss() -> None:
    import torch

    from flywheel.training.losses import PairLoss, logistic_fit, ranking_loss

    random = torch.Generator().manual_seed(0)
    logits, ones, components = torch.randn(4, 4, generator=random), torch.ones(4), torch.arange(4)
    soft, hard = torch.tensor([0.9, 0.6, 0.4, 0.1]), torch.tensor([1.0, 1, 0, 0])
    assert ranking_loss(logits, soft, ones, components) == ranking_loss(logits, hard, ones, components) > 0

    cosines = np.array([0.9, 0.4, 0.6, 0.1])
    assert logistic_fit(cosines, soft.numpy(), ones.numpy()) == logistic_fit(cosines, hard.numpy(), ones.numpy())

    same = torch.eye(4)  # a cosine of 1, so that the logit is the scale

    def loss(scale: float) -> float:
        return PairLoss([(scale, 0.0)], (4,), 0.0, 20.0)(same, same, torch.full((4,), 0.8), ones, components).item()

    assert loss(float(np.log(4))) < min(loss(1.0), loss(2.0))  # the odds of 0.8 are 4


@hypothesis_settings(max_examples=50, deadline=None)
@given(components=st.lists(st.integers(0, 12), min_size=5, max_size=60))
def test_folds_hold_every_row_out_once_and_share_no_component_where_five_exist(components: list[int]) -> None:
    groups = np.array(components)
    folds = list(folds_by_component(groups))
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(len(groups)))
    for seen, held_out in folds:
        assert set(seen) | set(held_out) == set(range(len(groups)))
        assert not set(seen) & set(held_out)
        if len(set(components)) >= 5:
            assert not set(groups[seen]) & set(groups[held_out])


def test_own_components_join_pairs_through_shared_questions() -> None:
    a, b, c, d, e = own_components(["p", "x", "q", "y", "s"], ["q", "y", "r", "z", "t"])
    assert a == c != b == d
    assert e not in (a, b)
