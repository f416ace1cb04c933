"""The loss of labelled pairs, the same for every recipe. Imports torch: load it only where something is trained."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, normalize


class PairLoss(torch.nn.Module):
    """How wrong projections of pairs are, at each of several output dimensions.

    At every dimension, the first numbers of a projection, normalised, give the pair's cosine. The loss is the logistic
    loss of the label on a learned scale and offset of that cosine, plus `ranking_weight` times a ranking loss of the
    duplicates against the batch (see `ranking_loss`), averaged over the dimensions (Kusupati et al., 2022, "Matryoshka
    Representation Learning").
    """

    def __init__(self, fits: Sequence[tuple[float, float]], dims: Sequence[int], weight: float, scale: float) -> None:
        """`fits` holds the scale and offset to start from at each dimension, as `logistic_fit` gives them."""
        super().__init__()
        self.scales = torch.nn.Parameter(torch.tensor([fit[0] for fit in fits], dtype=torch.float32))
        self.offsets = torch.nn.Parameter(torch.tensor([fit[1] for fit in fits], dtype=torch.float32))
        self.dims = tuple(dims)
        self.ranking_weight, self.ranking_scale = weight, scale

    def forward(
        self, left: torch.Tensor, right: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, components: torch.Tensor
    ) -> torch.Tensor:
        """The loss of projections `left` and `right` (b, largest dimension); the others are (b,)."""
        losses = []
        for place, dim in enumerate(self.dims):
            cosines = normalize(left[:, :dim]) @ normalize(right[:, :dim]).T
            logits = self.scales[place] * cosines.diagonal() + self.offsets[place]
            loss = binary_cross_entropy_with_logits(logits, labels, weights)
            if self.ranking_weight:
                loss = loss + self.ranking_weight * ranking_loss(self.ranking_scale * cosines, labels, weights, components)
            losses.append(loss)
        return torch.stack(losses).mean()


def ranking_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, components: torch.Tensor) -> torch.Tensor:
    """Each duplicate (b, b diagonal) should outrank the other pairs' texts of the batch, in both directions.

    Multiple negatives ranking loss (Henderson et al., 2017, "Efficient Natural Language Response Suggestion for Smart
    Reply") over the pairs with label 1, each counted by its weight (b,). Texts of one component may be duplicates of
    each other, so they are never taken as each other's negatives.
    """
    rows = torch.nonzero((labels == 1) & (weights > 0)).flatten()
    if not len(rows):
        return logits.new_zeros(())
    related = (components[:, None] == components[None, :]).fill_diagonal_(False)
    logits = logits.masked_fill(related, float("-inf"))
    both = cross_entropy(logits[rows], rows, reduction="none") + cross_entropy(logits.T[rows], rows, reduction="none")
    return (both * weights[rows]).sum() / (2 * len(rows))


def logistic_fit(cosines: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Scale and offset of a logistic regression of label on cosine, (n,) each, as are the weights of the pairs.

    The loss starts from them: from a scale that does not fit, the first steps repair it by spoiling the vectors.
    """
    from sklearn.linear_model import LogisticRegression

    counted = weights > 0
    if len(np.unique(labels[counted])) < 2 or not np.isfinite(cosines).all():
        return 10.0, -5.0
    fit = LogisticRegression(C=100.0).fit(cosines[counted, None], labels[counted], weights[counted])
    return max(1.0, float(fit.coef_[0, 0])), float(fit.intercept_[0])
