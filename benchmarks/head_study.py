"""Which head is best: features, losses, rates and the ranking loss, chosen on calibration pairs, several redraws each.

    python benchmarks/head_study.py --quora PATH [--home HOME] [--redraws 5] [--sizes 100 400 ...]

Every row is trained on the same pairs, a fresh draw of the nested order for each redraw. `calibration` is the log loss on
calibration pairs, each half under a logistic fit of the other half, and chooses the winner; test errors are at the
threshold that all calibration pairs give, and choose nothing. MRR@10 is that of the first redraw, on calibration questions.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from quora import add_arguments, machine, quora_home, row
from torch.nn.functional import binary_cross_entropy_with_logits, normalize

from flywheel.models.catalogue import Variant
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.scoring.retrieval import retrieval
from flywheel.scoring.thresholds import fit_scores
from flywheel.training.head import PairFeatures, train_head
from flywheel.training.job import HeadRecipe, count_epochs
from flywheel.training.losses import logistic_fit, ranking_loss
from flywheel.training.progress import ignore_progress
from flywheel.training.starts import Start, pair_features, start_from_features, start_from_pooling

Embed = Callable[[np.ndarray], np.ndarray]
DEFAULT = HeadRecipe()


@dataclass(frozen=True)
class Split:
    """A frozen split: features of its questions, rows of each pair, labels."""

    features: np.ndarray
    left: np.ndarray
    right: np.ndarray
    labels: np.ndarray

    def scores(self, embed: Embed) -> np.ndarray:
        """The cosine of each pair (n,)."""
        vectors = embed(self.features)
        return (vectors[self.left] * vectors[self.right]).sum(1)


def main() -> None:
    """Train every row at every size and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--redraws", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400, 1_600, 6_400])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variant = Variant(arguments.base, arguments.dim)
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        vectors = workspace.vectors(variant.base)
        print(f"{variant} on {machine(workspace.settings.encoding.device)}; {arguments.redraws} redraws\n", flush=True)
        study(snapshot, vectors, arguments.dim, arguments.sizes, arguments.redraws)


def study(snapshot: Snapshot, vectors: Vectors, dim: int, sizes: Sequence[int], redraws: int) -> None:
    """The table of rows by sizes."""
    wide, own = start_from_features(snapshot, vectors, dim), start_from_pooling(snapshot, vectors, dim)
    splits = {name: frozen(snapshot.pairs(name), vectors) for name in ("calibration", "test")}
    recipes = {
        **{
            f"own pooling, rate {rate:g}": partial(product, own, replace(DEFAULT, learning_rate=rate))
            for rate in (1.25e-3, 2.5e-3)
        },
        **{
            f"rate {rate:g}": partial(product, wide, replace(DEFAULT, learning_rate=rate)) for rate in (7.5e-4, 1.25e-3, 2.5e-3)
        },
        **{
            f"ranking {weight:g}": partial(product, wide, replace(DEFAULT, ranking_weight=weight)) for weight in (0.0, 0.3, 3.0)
        },
        "at least 1 step": partial(product, wide, replace(DEFAULT, min_steps=1)),
        "10 epochs and at least 200 steps, rate 5e-4": partial(
            product, wide, replace(DEFAULT, learning_rate=5e-4, epochs=10, min_steps=200)
        ),
        "CoSENT": partial(other, wide, "cosent", 0),
        "logistic from scale 10": partial(other, wide, "unfitted", 0),
        "hidden layer of 512": partial(other, wide, "logistic", 512),
    }
    print(row("head", *(f"{size:,} pairs: calibration, test error, MRR@10" for size in sizes)))
    print(row("---", *("---:" for _ in sizes)))
    for name, embed in (
        ("untuned", own.raw.apply),
        ("mean, max and CLS, untrained", wide.raw.apply),
    ):
        print(row(name, *[cell([judged(embed, splits, True)])] * len(sizes)), flush=True)
    for name, make in recipes.items():
        cells = []
        for size in sizes:
            found = []
            for redraw in range(redraws):
                pairs = snapshot.training_pairs(str(size), redraw, 0.0)
                found.append(judged(make(pairs, vectors, redraw), splits, redraw == 0))
            cells.append(cell(found))
        print(row(name + (" (default)" if name == "rate 0.00125" else ""), *cells), flush=True)


def frozen(pairs: pd.DataFrame, vectors: Vectors) -> Split:
    """A split's pairs as arrays."""
    texts = unique_texts(pairs)
    place = pd.Series(np.arange(len(texts)), index=texts)
    left, right = (place[pairs[side]].to_numpy() for side in ("text_a", "text_b"))
    return Split(vectors.features(texts), left, right, pairs["label"].to_numpy())


def judged(embed: Embed, splits: dict[str, Split], ranked: bool) -> tuple[float, float, float]:
    """Log loss on calibration, test error in %, MRR@10 on calibration (or NaN)."""
    calibration, test = splits["calibration"], splits["test"]
    scores = calibration.scores(embed)
    halves = np.arange(len(scores)) % 2 == 0
    losses = np.empty(len(scores))
    for seen in (halves, ~halves):
        chance = fit_scores(scores[seen], calibration.labels[seen]).probability(scores[~seen])
        losses[~seen] = -np.log(np.clip(np.where(calibration.labels[~seen] == 1, chance, 1 - chance), 1e-6, None))
    threshold = fit_scores(scores, calibration.labels).threshold
    error = 100 * float(((test.scores(embed) >= threshold) != test.labels).mean())
    mrr = float("nan")
    if ranked:
        same = calibration.labels == 1
        duplicates = list(zip(calibration.left[same].tolist(), calibration.right[same].tolist(), strict=True))
        mrr = retrieval(embed(calibration.features), duplicates).mrr_at_10
    return float(losses.mean()), error, mrr


def cell(found: list[tuple[float, float, float]]) -> str:
    """Means, and the spread of the test error."""
    losses, errors, ranks = np.array(found).T
    spread_text = f" ± {errors.std(ddof=1):.2f}" if len(errors) > 1 else ""
    return f"{losses.mean():.4f}, {errors.mean():.2f} %{spread_text}, {ranks[0]:.4f}"


def product(start: Start, recipe: HeadRecipe, pairs: pd.DataFrame, vectors: Vectors, redraw: int) -> Embed:
    """What the product trains."""
    training = pair_features(pairs, vectors, start.scale)
    return train_head(start.head, training, recipe, redraw, ignore_progress).fold_scale(start.scale).apply


def other(begin: Start, loss: str, hidden: int, pairs: pd.DataFrame, vectors: Vectors, redraw: int) -> Embed:
    """What the product does not train: another loss of the pair, or a hidden layer beside the linear map."""
    start, scale = begin.head, begin.scale
    torch.manual_seed(redraw)
    training = pair_features(pairs, vectors, scale)
    features = torch.tensor(training.features)
    linear = torch.nn.Linear(*reversed(start.weight.shape))
    linear.load_state_dict({"weight": torch.from_numpy(start.weight), "bias": torch.from_numpy(start.bias)})
    deep = torch.nn.Sequential()
    if hidden:
        into, out = torch.nn.Linear(len(scale), hidden), torch.nn.Linear(hidden, len(start.bias))
        torch.nn.init.zeros_(out.weight)
        deep = torch.nn.Sequential(into, torch.nn.GELU(), torch.nn.Dropout(0.3), out)
    fit = (10.0, -5.0) if loss == "unfitted" else logistic_fit(training.scores(start), training.labels, training.weights)
    learned = torch.nn.Parameter(torch.tensor(fit))
    parameters = [*linear.parameters(), *(deep.parameters() if hidden else ()), learned]
    _fit(training, features, lambda x: linear(x) + (deep(x) if hidden else 0), loss, learned, parameters, redraw)
    deep.eval()

    def embed(raw: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            x = torch.from_numpy(raw * scale)
            return normalize(linear(x) + (deep(x) if hidden else 0)).numpy()

    return embed


def _fit(
    training: PairFeatures,
    features: torch.Tensor,
    project: Callable[[torch.Tensor], torch.Tensor],
    loss: str,
    learned: torch.Tensor,
    parameters: list[torch.nn.Parameter],
    redraw: int,
) -> None:
    labels, components = torch.tensor(training.labels, dtype=torch.float32), torch.as_tensor(training.components)
    left, right = torch.tensor(training.left), torch.tensor(training.right)
    epochs = count_epochs(DEFAULT, len(labels))
    steps = epochs * -(-len(labels) // DEFAULT.batch_size)
    optimizer = torch.optim.Adam(parameters, lr=DEFAULT.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / max(1.0, 0.1 * steps)) * (1 - step / steps)
    )
    generator = torch.Generator().manual_seed(redraw)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(DEFAULT.batch_size):
            a, b = normalize(project(features[torch.cat([left[batch], right[batch]])].float())).chunk(2)
            cosines = a @ b.T
            scores, told = cosines.diagonal(), labels[batch]
            if loss == "cosent":  # pairs called different should not score above pairs called same
                above = DEFAULT.ranking_scale * (scores[None, :] - scores[:, None])
                value = torch.logsumexp(torch.cat([torch.zeros(1), above[told[:, None] > told[None, :]]]), 0)
            else:
                value = binary_cross_entropy_with_logits(learned[0] * scores + learned[1], told)
            value = value + DEFAULT.ranking_weight * ranking_loss(
                DEFAULT.ranking_scale * cosines, told, torch.ones_like(told), components[batch]
            )
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()


if __name__ == "__main__":
    main()
