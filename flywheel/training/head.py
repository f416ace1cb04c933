"""The `head` recipe: the encoder stays as it is, a linear head is trained on its cached features."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.head import Head, between, unit
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.training.job import HeadRecipe, count_epochs
from flywheel.training.progress import Listener, Trained, ignore_progress
from flywheel.training.readable import check_vectors, is_one_point, lower_rate
from flywheel.training.shrink import PLACES

if TYPE_CHECKING:
    import pandas as pd

FOLDS = 5
_EVENTS = 100


@dataclass(frozen=True, eq=False)
class PairFeatures:
    """Training pairs as arrays: `features` (q, width) of questions, `left` and `right` (n,) their rows; labels, weights and
    component numbers (n,).
    """

    features: np.ndarray
    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    components: np.ndarray

    def take(self, rows: np.ndarray) -> PairFeatures:
        """The pairs of some rows."""
        names = ("left", "right", "labels", "weights", "components")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def scores(self, head: Head) -> np.ndarray:
        """The cosine of each pair under `head`, (n,)."""
        questions, places = np.unique(np.stack([self.left, self.right]), return_inverse=True)
        left, right = head.apply(self.features[questions])[places.reshape(2, -1)]
        return (left * right).sum(1)

    def scores_between(self, start: Head, trained: Head) -> np.ndarray:
        """The cosine of each pair at each of `PLACES` on the line through two heads, (places, n)."""
        questions, rows = np.unique(np.stack([self.left, self.right]), return_inverse=True)
        left, right = rows.reshape(2, -1)
        first, last = (head.project(self.features[questions]) for head in (start, trained))
        vectors = (unit(between(first, last, place)) for place in PLACES)
        return np.stack([(each[left] * each[right]).sum(1) for each in vectors])


def pair_arrays(pairs: pd.DataFrame, features: Callable[[list[str]], np.ndarray]) -> PairFeatures:
    """The pairs of a frame as arrays; `features` gives (q, width) for texts."""
    import pandas as pd

    texts = unique_texts(pairs)
    place = pd.Series(np.arange(len(texts)), index=texts)
    return PairFeatures(
        features=features(texts),
        left=place[pairs["text_a"]].to_numpy(),
        right=place[pairs["text_b"]].to_numpy(),
        labels=pairs["label"].to_numpy(),
        weights=pairs["weight"].to_numpy(),
        components=own_components(list(pairs["question_a"]), list(pairs["question_b"])),
    )


def train_head(start: Head, pairs: PairFeatures, recipe: HeadRecipe, random_seed: int, listener: Listener) -> Head:
    """Train from `start` on labelled pairs, by `PairLoss` at its dimension.

    Raises FlywheelError when the loss is no longer a number, the vectors collapse to one point, or they were one before.
    """
    return train_heads([start], pairs, [np.arange(len(pairs.labels))], recipe, random_seed, listener)[0]


def train_with_folds(
    start: Head, pairs: PairFeatures, recipe: HeadRecipe, random_seed: int, listener: Listener
) -> tuple[Head, np.ndarray]:
    """The head that `train_head` gives, and the scores (places, n) of every pair at each of `PLACES` between the start and a
    head that has not seen the pair's component.
    """
    folds = list(folds_by_component(pairs.components))
    rows = [np.arange(len(pairs.labels)), *(seen for seen, _ in folds)]
    head, *others = train_heads([start] * len(rows), pairs, rows, recipe, random_seed, listener)
    scores = np.empty((len(PLACES), len(pairs.labels)))
    for (_, held_out), other in zip(folds, others, strict=True):
        scores[:, held_out] = pairs.take(held_out).scores_between(start, other)
    return head, scores


def train_heads(
    starts: Sequence[Head],
    pairs: PairFeatures,
    rows: Sequence[np.ndarray],
    recipe: HeadRecipe,
    random_seed: int,
    listener: Listener,
) -> list[Head]:
    """Train one head on each of `rows`, arrays of row numbers of `pairs`, from the start at its place in `starts`, all of one
    shape; the listener hears of the first.

    All take the steps that `recipe` asks for all pairs. Each core trains some of them, in one product a step.
    """
    with _one_thread() as threads, ThreadPoolExecutor() as pool:
        shares = np.array_split(np.arange(len(rows)), min(threads, len(rows)))

        def train_share(share: np.ndarray, heard: Listener) -> list[Head]:
            return _train([starts[i] for i in share], pairs, [rows[i] for i in share], recipe, random_seed, heard)

        others = [pool.submit(train_share, share, ignore_progress) for share in shares[1:]]
        heads = train_share(shares[0], listener)
        return heads + [head for other in others for head in other.result()]


def _train(
    starts: Sequence[Head],
    pairs: PairFeatures,
    rows: Sequence[np.ndarray],
    recipe: HeadRecipe,
    random_seed: int,
    listener: Listener,
) -> list[Head]:
    import torch
    from torch.optim.adam import adam  # the class Adam would import torch's compiler, which takes longer than many a head

    from flywheel.training.losses import PairLoss, logistic_fit

    distinct = {id(start): start for start in starts}
    for start in distinct.values():
        check_vectors(start, pairs.features)
    used = pairs.features.any(axis=0)  # a feature that is 0 everywhere teaches nothing, so its weights stay
    features = torch.tensor(pairs.features[:, used])
    count = len(pairs.labels)  # also the number of the row that fills batches, a pair of weight 0
    left, right = (torch.tensor(np.append(side, 0)) for side in (pairs.left, pairs.right))
    label, importance = (torch.tensor(np.append(v, 0), dtype=torch.float32) for v in (pairs.labels, pairs.weights))
    component = torch.tensor(np.append(pairs.components, -1))
    scores = {name: pairs.scores(start) for name, start in distinct.items()}
    fits = [
        [logistic_fit(scores[id(start)][some], pairs.labels[some], pairs.weights[some])]
        for start, some in zip(starts, rows, strict=True)
    ]
    objective = PairLoss(fits, (len(starts[0].bias),), recipe.ranking_weight, recipe.ranking_scale)
    weight = torch.tensor(np.stack([start.weight[:, used].T for start in starts])).requires_grad_()
    bias = torch.tensor(np.stack([start.bias[None] for start in starts])).requires_grad_()
    steps = count_epochs(recipe, count) * -(-count // recipe.batch_size)
    trained = [weight, bias, *objective.parameters()]
    means, squares = ([torch.zeros_like(each) for each in trained] for _ in range(2))
    taken = [torch.zeros(()) for _ in trained]
    batches = [_batches(some, recipe.batch_size, random_seed) for some in rows]
    started, every = time.monotonic(), max(1, steps // _EVENTS)
    losses = []
    for step in range(1, steps + 1):
        batch = torch.tensor(_stacked([next(each) for each in batches], count))
        both = torch.baddbmm(bias, features[torch.cat([left[batch], right[batch]], 1)].float(), weight)
        loss = objective(*both.chunk(2, 1), label[batch], importance[batch], component[batch])
        if not torch.isfinite(loss).all():
            value = loss.sum().item()
            raise FlywheelError(f"The loss is {value} at step {step - 1}: {lower_rate(recipe)}. No model was saved.")
        gradients = torch.autograd.grad(loss.sum(), trained)
        rate = recipe.learning_rate * (min(1.0, step / max(1.0, 0.1 * steps)) * (1 - (step - 1) / steps))
        with torch.no_grad():
            adam(
                trained, list(gradients), means, squares, [], taken, lr=rate, beta1=0.9, beta2=0.999, eps=1e-8,
                weight_decay=0.0, amsgrad=False, maximize=False, fused=True,
            )  # fmt: skip
        losses.append(loss[0].item())
        if step % every == 0 or step == steps:
            remaining = (time.monotonic() - started) * (steps - step) / step
            listener(Trained(step, steps, sum(losses) / len(losses), remaining))
            losses = []
    heads = []
    for start, matrix, vector in zip(starts, weight.detach().numpy(), bias.detach().numpy(), strict=True):
        whole = start.weight.copy()
        whole[:, used] = matrix.T
        heads.append(Head(whole, vector[0]))
    if any(is_one_point(head, pairs.features) for head in heads):
        raise FlywheelError(f"All vectors collapsed to one point in training: {lower_rate(recipe)}. No model was saved.")
    return heads


def _batches(rows: np.ndarray, batch_size: int, random_seed: int) -> Iterator[np.ndarray]:
    """Batches of at most `batch_size` of the rows, all about one size, pass after pass in an order of its own."""
    random = np.random.default_rng(random_seed)
    while True:
        yield from np.array_split(random.permutation(rows), -(-len(rows) // batch_size))


def _stacked(batches: Sequence[np.ndarray], filler: int) -> np.ndarray:
    """Batches as rows of one array, the shorter ones filled up."""
    stack = np.full((len(batches), max(map(len, batches))), filler)
    for row, batch in zip(stack, batches, strict=True):
        row[: len(batch)] = batch
    return stack


@contextmanager
def _one_thread() -> Iterator[int]:
    """One thread for torch: the products are small, so threads cost more than they save. Gives how many there were."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def folds_by_component(components: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to train on, rows held out), five times; pairs of one component (n,) share a fold if five folds allow it."""
    from sklearn.model_selection import GroupKFold, KFold

    rows = np.arange(len(components))
    if len(np.unique(components)) >= FOLDS:
        return GroupKFold(FOLDS).split(rows, groups=components)
    return KFold(FOLDS, shuffle=True, random_state=0).split(rows)


def own_components(questions_a: list[str], questions_b: list[str]) -> np.ndarray:
    """The number of each pair's connected component among these pairs alone, (n,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = {question: i for i, question in enumerate(dict.fromkeys([*questions_a, *questions_b]))}
    a = [number[question] for question in questions_a]
    b = [number[question] for question in questions_b]
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(len(number), len(number)))
    return connected_components(graph, directed=False)[1][a]
