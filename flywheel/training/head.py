"""The `head` recipe: the encoder stays as it is, a linear head is trained on its cached vectors."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.training.job import Head, HeadRecipe
from flywheel.training.progress import Listener, Trained

if TYPE_CHECKING:
    import torch

FOLDS = 5


def untuned_head(vectors: np.ndarray, dim: int) -> Head:
    """The untuned model at `dim`: projection on the first principal directions of unit vectors (n, width).

    Directions are eigenvectors of the uncentred second moments, so dot products survive as well as `dim` allows, and at
    the full width unchanged.
    """
    _, directions = np.linalg.eigh(vectors.T.astype(np.float64) @ vectors)
    leading = directions[:, ::-1][:, :dim].T
    leading *= np.sign(leading[np.arange(dim), np.abs(leading).argmax(axis=1)])[:, None]  # eigenvectors have no sign
    return Head(leading.astype(np.float32), np.zeros(dim, np.float32))


@dataclass(frozen=True, eq=False)
class PairVectors:
    """Training pairs as arrays: unit vectors `left`, `right` (n, width); labels, weights and component numbers (n,)."""

    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    components: np.ndarray

    def take(self, rows: np.ndarray) -> "PairVectors":
        """The pairs of some rows."""
        return PairVectors(*(getattr(self, field.name)[rows] for field in fields(self)))


def train_head(start: Head, pairs: PairVectors, recipe: HeadRecipe, random_seed: int, listener: Listener) -> Head:
    """Train from `start` on labelled pairs.

    Loss: logistic loss of the label on a learned scale and offset of the cosine, plus a ranking loss of the duplicates
    against the batch (see `_ranking_loss`). Raises FlywheelError when the loss is no longer a number or the vectors
    collapse to one point.
    """
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, normalize

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.tensor(array, dtype=torch.float32)

    with _one_thread():
        a, b, label, importance = (tensor(array) for array in (pairs.left, pairs.right, pairs.labels, pairs.weights))
        component = torch.as_tensor(pairs.components)
        weight, bias = tensor(start.weight).requires_grad_(), tensor(start.bias).requires_grad_()
        scale, offset = torch.tensor(10.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
        steps = recipe.epochs * -(-len(label) // recipe.batch_size)
        optimizer = torch.optim.Adam([weight, bias, scale, offset], lr=recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / max(1.0, 0.1 * steps)) * (1 - step / steps)
        )
        generator = torch.Generator().manual_seed(random_seed)
        step, started = 0, time.monotonic()
        for _ in range(recipe.epochs):
            losses = []
            for batch in torch.randperm(len(label), generator=generator).split(recipe.batch_size):
                za, zb = normalize(a[batch] @ weight.T + bias), normalize(b[batch] @ weight.T + bias)
                cosines = za @ zb.T
                loss = binary_cross_entropy_with_logits(
                    scale * cosines.diagonal() + offset, label[batch], importance[batch]
                ) + recipe.ranking_weight * _ranking_loss(recipe.ranking_scale * cosines, label[batch], component[batch])
                if not torch.isfinite(loss):
                    raise FlywheelError(
                        f"The loss is {loss.item()} at step {step}: lower the learning rate. No model was saved."
                    )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
                step += 1
            left = (time.monotonic() - started) * (steps - step) / step
            listener(Trained(step, steps, sum(losses) / len(losses), left))
    head = Head(weight.detach().numpy(), bias.detach().numpy())
    if len(label) > 1 and head.apply(np.concatenate([pairs.left, pairs.right])).std(axis=0).max() < 1e-4:
        raise FlywheelError("All vectors collapsed to one point: lower the learning rate. No model was saved.")
    return head


def _ranking_loss(logits: "torch.Tensor", label: "torch.Tensor", component: "torch.Tensor") -> "torch.Tensor":
    """Each duplicate (b, b diagonal) should outrank the other pairs' texts of the batch, in both directions.

    Multiple negatives ranking loss (Henderson et al., 2017, "Efficient Natural Language Response Suggestion for Smart
    Reply") over the pairs with label 1. Texts of one component may be duplicates of each other, so they are never taken
    as each other's negatives.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rows = torch.nonzero(label == 1).flatten()
    if not len(rows):
        return logits.new_zeros(())
    related = (component[:, None] == component[None, :]).fill_diagonal_(False)
    logits = logits.masked_fill(related, float("-inf"))
    return (cross_entropy(logits[rows], rows) + cross_entropy(logits.T[rows], rows)) / 2


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
