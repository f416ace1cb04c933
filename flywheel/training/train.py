"""The pure function of training: (job, snapshot) -> model folder. Reads `train` and `calibration`, never `test`.

Three phases, each with its result: prepare the pairs and the start; fit the head (or layers and head) and choose how far to go
from the start; write the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError, explain_disk_errors, needs_extra
from flywheel.files import digest, locked
from flywheel.models.catalogue import Variant
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots.snapshot import DRAW_ANEW, Snapshot, unique_texts
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.thresholds import MIN_LABELS, ScoreFit, check_both_labels, fit_scores
from flywheel.training.checkpoints import KeptLayers
from flywheel.training.cross_fit import train_in_folds
from flywheel.training.environment import only_what_training_needs
from flywheel.training.head import PairFeatures, train_head, train_with_folds
from flywheel.training.job import TrainingJob
from flywheel.training.layers import Layers
from flywheel.training.model import TrainedModel, finished, write_trained_model
from flywheel.training.progress import Encoded, Listener, recording
from flywheel.training.readable import check_readable, shares_cut
from flywheel.training.shrink import Choice, choose_place, too_few
from flywheel.training.starts import Start, choose_start, direction_pairs, pair_features, pair_scores

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

OUT_OF_FOLD_PAIRS = 1_600  # up to so many pairs, a head's own pairs are scored out of fold
_STOPPING_PAIRS = 1_000
_TRAINED_LAYERS = ".tuned"


def train(
    job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener, shared: str | None = None
) -> TrainedModel:
    """Train `job`, or give back its finished output; the folder appears whole under `models` or not at all.

    What a training of layers has so far is kept below the URI `shared` too, if there is one: another machine goes on from
    there.

    Raises FlywheelError for a size beyond the data, a calibration split that is missing or of one label, weights that are
    not to be had, pairs that are mostly one and the same to the base model, or a training that diverges.
    """
    one_at_a_time = locked(models, job.job_id if job.tuning is None else job.tuning_id)
    with explain_disk_errors(models), one_at_a_time, only_what_training_needs():
        make = train_in_folds if snapshot.is_cross_fitted else partial(_train, shared=shared)
        return finished(models, job) or make(job, snapshot, vectors, models, listener)


def _train(
    job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener, shared: str | None
) -> TrainedModel:
    import pandas as pd

    calibration = _calibration_pairs(snapshot)
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    texts = unique_texts(pairs, calibration, direction_pairs(snapshot))
    vectors.features(texts, lambda done, of: listener(Encoded(done, of)))
    started = time.perf_counter()
    prepared = _prepare(job, snapshot, vectors, pairs, calibration)
    check_readable(pairs, vectors, prepared.training.scores(prepared.start.head))
    cut = shares_cut(pd.concat([pairs, calibration]), vectors)
    check_readable(calibration, vectors, pair_scores(prepared.start.raw, vectors, calibration), "calibration pairs")
    fitted = _fit(job, prepared, models, listener, shared)
    return _write(job, prepared, fitted, cut, models, time.perf_counter() - started)


def _calibration_pairs(snapshot: Snapshot) -> pd.DataFrame:
    snapshot.check_judges()
    calibration = snapshot.pairs("calibration")
    check_both_labels(calibration["label"].to_numpy(), " in calibration", DRAW_ANEW)
    return calibration


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What training starts from: the base model's `vectors`; the training pairs, also as arrays of features times the scale of
    `start`; the calibration pairs; the start at the largest dimension that the job serves.
    """

    vectors: Vectors
    pairs: pd.DataFrame
    training: PairFeatures
    calibration: pd.DataFrame
    start: Start


def _prepare(
    job: TrainingJob, snapshot: Snapshot, vectors: Vectors, pairs: pd.DataFrame, calibration: pd.DataFrame
) -> _Prepared:
    start = choose_start(snapshot, vectors, max(job.dims, default=Variant.parse(job.variant).dim))
    return _Prepared(vectors, pairs, pair_features(pairs, vectors, start.scale), calibration, start)


@dataclass(frozen=True, eq=False)
class _Fitted:
    """What is written: a head on raw features, the `vectors` it belongs on, and the place chosen for both between the start and
    what was trained.

    `out_of_fold` are the scores (n,) of the training pairs by heads that have not seen them, if they were made. `losses` are
    (step, loss).
    """

    head: Head
    vectors: Vectors
    choice: Choice
    out_of_fold: np.ndarray | None
    losses: list[tuple[int, float]]


def _fit(job: TrainingJob, prepared: _Prepared, models: Path, listener: Listener, shared: str | None) -> _Fitted:
    """Train the head, or head and layers, and choose how far to go from the start."""
    if job.tuning is not None:
        there = None if shared is None else f"{shared}/{_TRAINED_LAYERS}/{job.tuning_id}"
        return _fit_layers(job, prepared, KeptLayers(models / _TRAINED_LAYERS / job.tuning_id, there, listener), listener)
    losses, on_event = recording(listener)
    start = prepared.start
    judging = pair_features(prepared.calibration, prepared.vectors, start.scale)
    fitted = fit_head(job, start.head, prepared.training, judging, on_event)
    return _Fitted(fitted.head.fold_scale(start.scale), prepared.vectors, fitted.choice, fitted.out_of_fold, losses)


def _fit_layers(job: TrainingJob, prepared: _Prepared, kept: KeptLayers, listener: Listener) -> _Fitted:
    """Train the layers with the head. The line goes from the base model and the start of the head to what came of both."""
    with needs_extra("tune", f"The recipe {job.recipe}"):
        importlib.import_module("accelerate")
        from flywheel.training.tune import TuningTask, tune

    start, vectors = prepared.start, prepared.vectors
    losses, on_event = recording(listener)
    stopping, judging = stopping_pairs(prepared.calibration)
    task = TuningTask(job, start.head, start.scale, prepared.pairs, prepared.training, stopping, vectors)
    layers = Layers(vectors, kept.target, start.raw, tune(task, kept, on_event))
    choice = layers.choose(judging, prepared.calibration, job.dims, listener)
    placed, placed_vectors = layers.at(choice.place)
    return _Fitted(placed.truncated(Variant.parse(job.variant).dim), placed_vectors, choice, None, losses)


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A head at the place chosen between its start and what was trained.

    `out_of_fold` are the scores (n,) of its training pairs, at the same place, by heads that have not seen them.
    """

    head: Head
    choice: Choice
    out_of_fold: np.ndarray | None


def fit_head(job: TrainingJob, start: Head, training: PairFeatures, judging: PairFeatures, listener: Listener) -> FittedHead:
    """Train a head from `start` and choose its place: out of fold where the pairs are few, else on the `judging` pairs."""
    if len(training.labels) > OUT_OF_FOLD_PAIRS:
        trained = train_head(start, training, job.head, job.random_seed, listener)
        choice = choose_place(judging.scores_between(start, trained), judging.labels, judging.components)
        return FittedHead(start.towards(trained, choice.place), choice, None)
    if len(training.labels) < MIN_LABELS:
        return FittedHead(start, Choice(0.0, too_few(len(training.labels))), None)
    trained, scores = train_with_folds(start, training, job.head, job.random_seed, listener)
    choice = choose_place(scores, training.labels, training.components)
    return FittedHead(start.towards(trained, choice.place), choice, scores[choice.row])


def _write(
    job: TrainingJob, prepared: _Prepared, fitted: _Fitted, cut: dict[str, float], models: Path, seconds: float
) -> TrainedModel:
    """Choose the decision rule on calibration pairs and write the model folder."""
    import pandas as pd

    calibration, training, choice = prepared.calibration, prepared.training, fitted.choice
    if choice.reason:
        log.warning("%s at size %s is its start, %s: %s", job.variant, job.size, prepared.start.name, choice.reason)
    scores = pair_scores(fitted.head, fitted.vectors, calibration)
    labels, sources = calibration["label"].to_numpy(), calibration["source"].to_numpy()
    rule = DecisionRule.fit(scores, labels, sources, job.target_prior)
    own_fit = None if fitted.out_of_fold is None else _own_fit(fitted.out_of_fold, training.labels)
    own = {"score": fitted.out_of_fold, "label": training.labels, "component": training.components}
    model = TrainedModel(
        folder=models / job.job_id,
        job=job,
        rule=rule,
        out_of_fold_fit=own_fit,
        calibration_set_error=float((rule.decide(scores, sources) != labels).mean()),
        calibration_pairs=len(calibration),
        train_pairs=len(prepared.pairs),
        seconds=seconds,
        start=prepared.start.name,
        place=choice.place,
        kept_start=choice.reason,
        losses=tuple(fitted.losses),
        cut=cut,
    )
    encoder = fitted.vectors.tuned / WEIGHTS_FILE if fitted.vectors.tuned else None
    digest = {"features_sha256": hashlib.sha256(training.features.tobytes()).hexdigest()}
    return write_trained_model(model, fitted.head, prepared.vectors, encoder, pd.DataFrame(own) if own_fit else None, digest)


def _own_fit(scores: np.ndarray, labels: np.ndarray) -> ScoreFit | None:
    try:
        return fit_scores(scores, labels)
    except FlywheelError as error:  # one label only among them
        log.warning("No threshold from the cell's own pairs: %s", error)
        return None


def stopping_pairs(calibration: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration pairs that choose among the weights of a training, and those that judge what was chosen.

    Whole components go to one side: up to half of the pairs, and 1,000 at most, choose. Their order is that of a hash of the
    component's id. The id itself is the least of its questions' ids, and would put the large components first.
    """
    sizes = calibration.groupby("component").size().sort_index(key=lambda ids: ids.map(digest)).cumsum()
    chosen = sizes.index[sizes <= min(_STOPPING_PAIRS, len(calibration) // 2)]
    choosing = calibration["component"].isin(chosen)
    return calibration[choosing], calibration[~choosing]
