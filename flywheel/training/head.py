"""The `head` recipe: the encoder stays as it is, a linear head is trained on its cached features."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError
from flywheel.models.head import Head
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.training.job import HeadRecipe, count_epochs
from flywheel.training.progress import Listener, Trained, ignore_progress

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

    def take(self, rows: np.ndarray) -> "PairFeatures":
        """The pairs of some rows."""
        names = ("left", "right", "labels", "weights", "components")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def scores(self, head: Head) -> np.ndarray:
        """The cosine of each pair under `head`, (n,)."""
        vectors = head.apply(self.features)
        return (vectors[self.left] * vectors[self.right]).sum(1)


def pair_arrays(pairs: pd.DataFrame, features: Callable[[list[str]], np.ndarray]) -> PairFeatures:
    """The pairs of a frame as arrays; `features` gives (q, width) for texts."""
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


def train_head(
    start: Head, pairs: PairFeatures, recipe: HeadRecipe, random_seed: int, listener: Listener, dims: tuple[int, ...] = ()
) -> Head:
    """Train from `start` on labelled pairs, by `PairLoss`, at all of `dims` together or else at the start's own.

    Raises FlywheelError when the loss is no longer a number or the vectors collapse to one point.
    """
    with _one_thread():
        return _train(start, pairs, recipe, random_seed, listener, dims or (len(start.bias),))


def _train(
    start: Head, pairs: PairFeatures, recipe: HeadRecipe, random_seed: int, listener: Listener, dims: tuple[int, ...]
) -> Head:
    import torch

    from flywheel.training.losses import PairLoss, logistic_fit

    features, left, right = (torch.tensor(array) for array in (pairs.features, pairs.left, pairs.right))
    label = torch.tensor(pairs.labels, dtype=torch.float32)
    importance = torch.tensor(pairs.weights, dtype=torch.float32)
    component = torch.as_tensor(pairs.components)
    weight, bias = torch.tensor(start.weight, requires_grad=True), torch.tensor(start.bias, requires_grad=True)
    fits = [logistic_fit(pairs.scores(start.truncated(dim)), pairs.labels, pairs.weights) for dim in dims]
    objective = PairLoss(fits, dims, recipe.ranking_weight, recipe.ranking_scale)
    epochs = count_epochs(recipe, len(label))
    steps = epochs * -(-len(label) // recipe.batch_size)
    optimizer = torch.optim.Adam([weight, bias, *objective.parameters()], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1.0, 0.1 * steps)) * (1 - step / steps)
    )
    generator = torch.Generator().manual_seed(random_seed)
    started, every = time.monotonic(), max(1, steps // _EVENTS)
    step, losses = 0, []
    for _ in range(epochs):
        for batch in torch.randperm(len(label), generator=generator).split(recipe.batch_size):
            both = features[torch.cat([left[batch], right[batch]])].float() @ weight.T + bias
            loss = objective(*both.chunk(2), label[batch], importance[batch], component[batch])
            if not torch.isfinite(loss):
                raise FlywheelError(f"The loss is {loss.item()} at step {step}: lower the learning rate. No model was saved.")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            step += 1
            losses.append(loss.item())
            if step % every == 0 or step == steps:
                remaining = (time.monotonic() - started) * (steps - step) / step
                listener(Trained(step, steps, sum(losses) / len(losses), remaining))
                losses = []
    head = Head(weight.detach().numpy(), bias.detach().numpy())
    if len(label) > 1 and head.apply(pairs.features).std(axis=0).max() < 1e-4:
        raise FlywheelError("All vectors collapsed to one point: lower the learning rate. No model was saved.")
    return head


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch: the products are small, so threads cost more than they save, and one repeats bit for bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def out_of_fold_scores(start: Head, pairs: PairFeatures, recipe: HeadRecipe, random_seed: int) -> np.ndarray:
    """The score of every pair (n,) by a head that has not seen its component. Folds train at once, a core each."""
    scores = np.empty(len(pairs.labels))

    def fold(rows: tuple[np.ndarray, np.ndarray]) -> None:
        seen, held_out = rows
        head = _train(start, pairs.take(seen), recipe, random_seed, ignore_progress, (len(start.bias),))
        scores[held_out] = pairs.take(held_out).scores(head)

    with _one_thread(), ThreadPoolExecutor(min(FOLDS, os.cpu_count() or 1)) as pool:
        list(pool.map(fold, folds_by_component(pairs.components)))
    return scores


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
