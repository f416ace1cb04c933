"""The loss of labelled pairs, the same for every recipe. Imports torch: load it only where something is trained."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn.functional import binary_cross_entropy_with_logits

_SHORTEST = 1e-12


class PairLoss(torch.nn.Module):
    """How wrong projections of pairs are, at each of several output dimensions.

    At every dimension, the first numbers of a projection, normalised, give the pair's cosine. The loss is the logistic
    loss of the label on a learned scale and offset of that cosine, plus `ranking_weight` times a ranking loss of the
    duplicates against the batch (see `ranking_loss`), averaged over the dimensions (Kusupati et al., 2022, "Matryoshka
    Representation Learning"). Pairs of weight 0 count as absent. A label between 0 and 1 is the probability that a teacher
    gives; in the ranking loss, and where the fit starts, it counts as the nearer of the two.
    """

    def __init__(self, fits: ArrayLike, dims: Sequence[int], weight: float, scale: float) -> None:
        """`fits` (dims, 2) holds the scale and offset to start from at each dimension, as `logistic_fit` gives them.

        With fits (h, dims, 2) the loss is that of h heads at once, (h,), and all tensors have a first axis of heads.
        """
        super().__init__()
        starts = torch.tensor(np.asarray(fits), dtype=torch.float32)
        self.scales = torch.nn.Parameter(starts[..., 0].clone())
        self.offsets = torch.nn.Parameter(starts[..., 1].clone())
        self.dims = tuple(dims)
        self.ranking_weight, self.ranking_scale = weight, scale

    def forward(
        self, left: torch.Tensor, right: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, components: torch.Tensor
    ) -> torch.Tensor:
        """The loss of projections `left` and `right` (b, largest dimension); the others are (b,)."""
        losses = []
        present = (weights > 0).sum(-1).clamp(min=1)
        for place, dim in enumerate(self.dims):
            cosines = all_cosines(left[..., :dim], right[..., :dim])
            own = cosines.diagonal(dim1=-2, dim2=-1)
            logits = self.scales[..., place, None] * own + self.offsets[..., place, None]
            loss = binary_cross_entropy_with_logits(logits, labels, weights, reduction="none").sum(-1) / present
            if self.ranking_weight:
                loss = loss + self.ranking_weight * ranking_loss(self.ranking_scale * cosines, labels, weights, components)
            losses.append(loss)
        return torch.stack(losses).mean(0)


def all_cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The cosine of every left projection with every right one, (..., b, b) of (..., b, dim)."""
    lengths = [torch.linalg.vector_norm(side, dim=-1).clamp(min=_SHORTEST) for side in (left, right)]
    return left @ right.mT / (lengths[0][..., :, None] * lengths[1][..., None, :])


def ranking_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
    """Each duplicate (b, b diagonal) should outrank the other pairs' texts of the batch, in both directions.

    Multiple negatives ranking loss (Henderson et al., 2017, "Efficient Natural Language Response Suggestion for Smart
    Reply") over the pairs with label 1, each counted by its weight (b,). Texts of one component may be duplicates of
    each other, so they are never taken as each other's negatives. Pairs of weight 0 count as absent.
    """
    absent, duplicates = weights <= 0, (labels > 0.5) & (weights > 0)
    apart = (components[..., :, None] == components[..., None, :]) | absent[..., :, None] | absent[..., None, :]
    own = logits.diagonal(dim1=-2, dim2=-1)
    logits = logits.masked_fill(apart & ~torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device), float("-inf"))
    both = torch.logsumexp(logits, -1) + torch.logsumexp(logits, -2) - 2 * own
    return (both * weights * duplicates).sum(-1) / (2 * duplicates.sum(-1).clamp(min=1))


def logistic_fit(cosines: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Scale and offset of a logistic regression of label on cosine, (n,) each, as are the weights of the pairs.

    The loss starts from them: from a scale that does not fit, the first steps repair it by spoiling the vectors.
    """
    from sklearn.linear_model import LogisticRegression

    counted, same = weights > 0, labels > 0.5
    if len(np.unique(same[counted])) < 2 or not np.isfinite(cosines).all():
        return 10.0, -5.0
    fit = LogisticRegression(C=100.0, solver="newton-cholesky").fit(cosines[counted, None], same[counted], weights[counted])
    return max(1.0, float(fit.coef_[0, 0])), float(fit.intercept_[0])
