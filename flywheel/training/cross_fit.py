"""Heads where labels are few: every pair trains, and every labelled pair judges, each by a head that has not seen its fold.

One head is trained on all pairs, which ships; one without each fold, which judges that fold; and one without each two folds.
What is chosen for the head without fold k (its place between start and trained head, its decision rule) is chosen on the
scores of the other folds' pairs, those of fold j by the head without j and k: nothing that judges fold k has seen it. In the
same way the heads without one fold choose for the one that ships.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot, unique_texts
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.training.head import PairFeatures, train_heads
from flywheel.training.job import TrainingJob
from flywheel.training.model import FoldChoice, TrainedModel, write_trained_model
from flywheel.training.progress import Encoded, Listener, recording
from flywheel.training.readable import check_readable, shares_cut
from flywheel.training.shrink import Choice, choose_place
from flywheel.training.starts import LeftOut, direction_pairs, on_features, pair_features, start_from_pooling, untuned_start

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FoldHead:
    """A head at the place that pairs chose which it has not seen; the decision rule that they chose, and its error rate on
    them.
    """

    head: Head
    choice: Choice
    rule: DecisionRule
    error: float


def left_out(folds: int) -> list[LeftOut]:
    """Which folds each head is trained without: none, each one, each two."""
    return [(), *((fold,) for fold in range(folds)), *combinations(range(folds), 2)]


def train_in_folds(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    """Train `job` on a cross-fitted snapshot and write its folder, with the head of each fold beside the one that ships.

    Raises FlywheelError for a recipe that moves layers, a size beyond the data, or as `cross_fit` and `check_readable` do.
    """
    if job.tuning is not None:
        raise FlywheelError(
            f"The recipe {job.recipe} chooses its weights on calibration pairs, and there are none yet: with so few labels "
            f"every pair trains and judges. Choose the recipe head. {snapshot.lack}".rstrip()
        )
    pairs = snapshot.training_pairs(ALL, job.random_seed, job.interaction_share)
    vectors.features(unique_texts(pairs, direction_pairs(snapshot)), lambda done, of: listener(Encoded(done, of)))
    started, dim = time.perf_counter(), Variant.parse(job.variant).dim
    start = start_from_pooling(snapshot, vectors, dim)
    training = pair_features(pairs, vectors, start.scale)
    check_readable(pairs, vectors, training.scores(start.head))
    cut = shares_cut(pairs, vectors)
    starts = [on_features(untuned_start(snapshot, vectors, dim, out), vectors) for out in left_out(snapshot.folds)]
    losses, on_event = recording(listener)
    ships, *folds = cross_fit(job, starts, pairs, training, snapshot.folds, on_event)
    if ships.choice.reason:
        log.warning("%s at size %s is its start, %s: %s", job.variant, job.size, start.name, ships.choice.reason)
    model = TrainedModel(
        folder=models / job.job_id,
        job=job,
        rule=ships.rule,
        out_of_fold_fit=None,
        calibration_set_error=ships.error,
        calibration_pairs=len(snapshot.judging_pairs()),
        train_pairs=len(pairs) if job.size == ALL else int(job.size),
        seconds=time.perf_counter() - started,
        start=start.name,
        place=ships.choice.place,
        kept_start=ships.choice.reason,
        losses=tuple(losses),
        cut=cut,
        folds=tuple(FoldChoice(each.rule, each.error) for each in folds),
    )
    heads = [each.head.fold_scale(start.scale) for each in (ships, *folds)]
    digest = {"features_sha256": hashlib.sha256(training.features.tobytes()).hexdigest()}
    return write_trained_model(model, heads[0], vectors, None, None, digest, heads[1:])


def cross_fit(
    job: TrainingJob, starts: Sequence[Head], pairs: pd.DataFrame, training: PairFeatures, folds: int, listener: Listener
) -> list[FoldHead]:
    """The head that ships, then those of the folds, in order.

    `pairs` (n) are in the order in which sizes are drawn, `training` the same as arrays; their column `fold` is -1 where a pair
    only trains. Each head begins at its place in `starts`, which are in the order of `left_out`, and is trained on the first
    pairs that it may see, as many as the job's size. Raises FlywheelError where these are fewer, where the pairs that choose
    are of one label, or a training diverges.
    """
    fold, explicit = pairs["fold"].to_numpy(), (pairs["kind"] == "explicit").to_numpy()
    size = None if job.size == ALL else int(job.size)
    without = left_out(folds)
    rows = [_first(np.flatnonzero(~np.isin(fold, out)), size) for out in without]
    trained = train_heads(starts, training, rows, job.head, job.random_seed, listener)
    lines = dict(zip(without, zip(starts, trained, strict=True), strict=True))
    judging = [np.flatnonzero((fold == each) & explicit) for each in range(folds)]

    def chosen(out: LeftOut) -> FoldHead:
        others = [each for each in range(folds) if each not in out]
        scores = [training.take(judging[each]).scores_between(*lines[tuple(sorted((*out, each)))]) for each in others]
        by = pairs.iloc[np.concatenate([judging[each] for each in others])]
        return _choose(*lines[out], np.concatenate(scores, axis=1), by, job.target_prior)

    return [chosen(out) for out in without if len(out) < 2]


def _first(rows: np.ndarray, size: int | None) -> np.ndarray:
    if size is not None and len(rows) < size:
        raise FlywheelError(
            f"Size {size} needs {size} pairs, but without the folds that judge `train` holds {len(rows)}. Choose a smaller "
            "size, or `all`."
        )
    return rows[:size]


def _choose(start: Head, trained: Head, scores: np.ndarray, by: pd.DataFrame, target_prior: float | None) -> FoldHead:
    """The choices of pairs (n) that the heads behind their scores (places, n) have not seen."""
    labels, sources = by["label"].to_numpy(), by["source"].to_numpy()
    choice = choose_place(scores, labels, by["component"].to_numpy())
    at_place = scores[choice.row]
    rule = DecisionRule.fit(at_place, labels, sources, target_prior)
    error = float((rule.decide(at_place, sources) != labels).mean())
    return FoldHead(start.towards(trained, choice.place), choice, rule, error)
