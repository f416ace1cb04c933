"""Where a head starts: the untuned model, or the principal directions of all pooled features."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flywheel.models.head import Head, untuned_head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.scoring.thresholds import MIN_LABELS, log_losses
from flywheel.training.head import PairFeatures, pair_arrays
from flywheel.training.shrink import mean_fall

if TYPE_CHECKING:
    import pandas as pd

LeftOut = tuple[int, ...]
UNTUNED = "untuned"
DIRECTION_PAIRS = 4_000
_SURE, _WORTHWHILE = 2.0, 0.01
_RECENT_STARTS = 4  # of many cells in a row, those of a base model and dimension share theirs


def untuned_start(snapshot: Snapshot, vectors: Vectors, dim: int, without: LeftOut = ()) -> Head:
    """The untuned model at `dim`, a head on its unit vectors, from the questions of the first training pairs (their labels
    are not looked at) that are in none of the folds `without`.
    """
    return untuned_head(vectors.get(unique_texts(direction_pairs(snapshot, without))), dim)


@dataclass(frozen=True, eq=False)
class Start:
    """Where heads start and what ships where training brings nothing: a head on features times `scale` (width,).

    `name` says which poolings it reads: `UNTUNED` is the untuned model itself, its own pooling alone.
    """

    name: str
    head: Head
    scale: np.ndarray

    @property
    def raw(self) -> Head:
        """The same on features as they are."""
        return self.head.fold_scale(self.scale)


def start_in_words(start: str) -> str:
    """What a start of this name is called in a sentence: untuned is one model only."""
    return "the untuned model" if start == UNTUNED else f"the untrained start on {start}"


def choose_start(snapshot: Snapshot, vectors: Vectors, dim: int) -> Start:
    """The untuned model, or, of features that hold more than its own pooling, the principal directions of all poolings where
    calibration pairs clearly prefer them.

    Their log loss has to be lower by more than two standard errors, and by more than one hundredth: on pairs of another kind
    the other poolings cost more often than they help.
    """
    names = snapshot.snapshot_id, vectors.weights_id, vectors.dtype, vectors.poolings, dim
    return _chosen_start(_StartOf(*names, snapshot, replace(vectors)))  # a copy, so that no loaded encoder is kept


@dataclass(frozen=True)
class _StartOf:
    """What a start is computed from; two are equal when the names of their contents are."""

    snapshot_id: str
    weights_id: str
    dtype: str
    poolings: tuple[str, ...]
    dim: int
    snapshot: Snapshot = field(compare=False)
    vectors: Vectors = field(compare=False)


@lru_cache(_RECENT_STARTS)
def _chosen_start(of: _StartOf) -> Start:
    snapshot, vectors, dim = of.snapshot, of.vectors, of.dim
    untuned = start_from_pooling(snapshot, vectors, dim)
    if len(vectors.poolings) == len(vectors.facts.poolings):
        return untuned
    wide = start_from_features(snapshot, vectors, dim)
    calibration = snapshot.pairs("calibration")
    labels, components = calibration["label"].to_numpy(), calibration["component"].to_numpy()
    if len(labels) < MIN_LABELS:
        return untuned
    before, after = (log_losses(pair_scores(start.raw, vectors, calibration), labels) for start in (untuned, wide))
    fall, error = mean_fall(before, after, components)
    return wide if fall > max(_SURE * error, _WORTHWHILE * before.mean()) else untuned


def start_from_pooling(snapshot: Snapshot, vectors: Vectors, dim: int) -> Start:
    """The untuned model; its scale takes the poolings away that are not the model's own."""
    used = vectors.own.weight.any(axis=0)
    features = vectors.features(unique_texts(direction_pairs(snapshot)))[:, used]
    size = float(1 / np.linalg.norm(features.astype(np.float32), axis=1).mean())
    head = on_features(untuned_start(snapshot, vectors, dim), vectors)
    return Start(UNTUNED, Head(head.weight, head.bias * np.float32(size)), np.where(used, np.float32(size), np.float32(0)))


def on_features(head: Head, vectors: Vectors) -> Head:
    """A head on a model's own vectors as one on its features: its Dense modules are part of it."""
    own = vectors.own
    return Head(head.weight @ own.weight, head.weight @ own.bias + head.bias)


def start_from_features(snapshot: Snapshot, vectors: Vectors, dim: int) -> Start:
    """The principal directions of all poolings that the features hold.

    The scale gives each of them the same mean length. No label is looked at.
    """
    features = vectors.features(unique_texts(direction_pairs(snapshot))).astype(np.float32)
    parts = len(vectors.poolings)
    lengths = np.linalg.norm(features.reshape(len(features), parts, -1), axis=2).mean(axis=0)
    scale = np.repeat(1 / (lengths * np.sqrt(parts)), features.shape[1] // parts).astype(np.float32)
    *first, last = (name.replace("cls", "CLS") for name in vectors.poolings)
    return Start(f"{', '.join(first)} and {last}", untuned_head(features * scale, dim), scale)


def direction_pairs(snapshot: Snapshot, without: LeftOut = ()) -> pd.DataFrame:
    """The pairs whose questions give the directions that heads start from, in none of the folds `without`."""
    pairs = snapshot.pairs("train")
    return (pairs[~pairs["fold"].isin(without)] if without else pairs).head(DIRECTION_PAIRS)


def pair_features(pairs: pd.DataFrame, vectors: Vectors, scale: np.ndarray) -> PairFeatures:
    """The pairs of a frame as arrays, features scaled."""
    return pair_arrays(pairs, lambda texts: (vectors.features(texts) * scale).astype(np.float16))


def pair_scores(head: Head, vectors: Vectors, pairs: pd.DataFrame) -> np.ndarray:
    """The cosine of each pair (n,) under a head on the features of `vectors`, as an evaluation takes it, to the last bit."""
    left, right = (head.apply(vectors.features(list(pairs[side]))) for side in ("text_a", "text_b"))
    return (left * right).sum(1)
