"""The pure function of training: (job, snapshot) -> model folder. Reads `train` and `calibration`, never `test`.

Four phases, each with its result: prepare the pairs and the start, fit the head (or layers and head), gate what was trained
against its start, write the folder.
"""

import hashlib
import importlib
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError, explain_disk_errors, needs_extra
from flywheel.files import locked, publish, scratch_folder
from flywheel.models.catalogue import Variant
from flywheel.models.features import PARTS
from flywheel.models.folder import write_model
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots.snapshot import DRAW_ANEW, Snapshot, unique_texts
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.thresholds import MIN_LABELS, ScoreFit, check_both_labels, fit_scores
from flywheel.training.environment import only_what_training_needs
from flywheel.training.gate import reason_not_better
from flywheel.training.head import PairFeatures, pair_arrays, train_head, train_with_folds
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel, finished, write_trained_model
from flywheel.training.progress import Encoded, Listener, Progress, Trained
from flywheel.training.readable import check_readable
from flywheel.training.starts import choose_start, direction_pairs, pair_scores

log = logging.getLogger(__name__)

OUT_OF_FOLD_PAIRS = 1_600  # up to so many pairs, a head's own pairs are scored out of fold
_STOPPING_PAIRS = 1_000
_TRAINED_LAYERS = ".tuned"


def train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    """Train `job`, or give back its finished output; the folder appears whole under `models` or not at all.

    Raises FlywheelError for a size beyond the data, a calibration split that is missing or of one label, weights that are
    not to be had, pairs that are mostly one and the same to the base model, or a training that diverges.
    """
    one_at_a_time = locked(models, job.job_id if job.tuning is None else job.tuning_id)
    with explain_disk_errors(models), one_at_a_time, only_what_training_needs():
        return finished(models, job) or _train(job, snapshot, vectors, models, listener)


def _train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    calibration = _calibration_pairs(snapshot)
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    texts = unique_texts(pairs, calibration, direction_pairs(snapshot))
    vectors.features(texts, lambda done, of: listener(Encoded(done, of)))
    started = time.perf_counter()
    prepared = _prepare(job, snapshot, vectors, pairs, calibration)
    check_readable(pairs, vectors, prepared.training.scores(prepared.start))
    check_readable(calibration, vectors, pair_scores(prepared.untrained, vectors, calibration), "calibration pairs")
    fitted = _fit(job, prepared, models, listener)
    gated = _gate(job, prepared, fitted)
    return _write(job, prepared, gated, models, time.perf_counter() - started)


def _calibration_pairs(snapshot: Snapshot) -> pd.DataFrame:
    snapshot.check_drawn()
    calibration = snapshot.pairs("calibration")
    check_both_labels(calibration["label"].to_numpy(), " in calibration", DRAW_ANEW)
    return calibration


@dataclass(frozen=True, eq=False)
class _Prepared:
    """What training starts from: the base model's `vectors`; the training pairs, also as arrays of features times `scale`;
    the calibration pairs; the `start` on scaled features, and the same at the variant's dimension on raw ones, `untrained`.
    """

    vectors: Vectors
    pairs: pd.DataFrame
    training: PairFeatures
    calibration: pd.DataFrame
    start: Head
    scale: np.ndarray
    untrained: Head


def _prepare(
    job: TrainingJob, snapshot: Snapshot, vectors: Vectors, pairs: pd.DataFrame, calibration: pd.DataFrame
) -> _Prepared:
    dim = Variant.parse(job.variant).dim
    start, scale = choose_start(snapshot, vectors, max(job.dims, default=dim))
    training = pair_features(pairs, vectors, scale)
    return _Prepared(vectors, pairs, training, calibration, start, scale, start.fold_scale(scale).truncated(dim))


@dataclass(frozen=True, eq=False)
class _Fitted:
    """A head on raw features at the variant's dimension and the `vectors` it belongs on, of trained layers if there are any.

    `out_of_fold` are the scores (n,) of the training pairs by heads that have not seen them, if they were made.
    `judging` are the calibration pairs that have chosen nothing in the training. `losses` are (step, loss).
    """

    head: Head
    vectors: Vectors
    out_of_fold: np.ndarray | None
    judging: pd.DataFrame
    losses: list[tuple[int, float]]


def _fit(job: TrainingJob, prepared: _Prepared, models: Path, listener: Listener) -> _Fitted:
    """Train the head, and after it the layers if the job's recipe moves some."""
    dim, scale = Variant.parse(job.variant).dim, prepared.scale
    losses, on_event = _recording(listener)
    head, out_of_fold = fit_head(job, prepared.start, prepared.training, on_event)
    if job.tuning is None:
        return _Fitted(head.fold_scale(scale).truncated(dim), prepared.vectors, out_of_fold, prepared.calibration, losses)
    with needs_extra("tune", f"The recipe {job.recipe}"):
        importlib.import_module("accelerate")
        from flywheel.training.tune import TuningTask, tune

    losses, on_event = _recording(listener)
    stopping, judging = stopping_pairs(prepared.calibration)
    target = models / _TRAINED_LAYERS / job.tuning_id
    task = TuningTask(job, head, scale, prepared.pairs, prepared.training, stopping, prepared.vectors)
    head = tune(task, target, on_event)
    tuned = replace(prepared.vectors, tuned=_encoder_folder(prepared.vectors, target))
    return _Fitted(head.truncated(dim), tuned, None, judging, losses)


def _recording(listener: Listener) -> tuple[list[tuple[int, float]], Listener]:
    """A list that fills with (step, loss) of one training, and the listener that fills it and passes everything on."""
    losses: list[tuple[int, float]] = []

    def on_event(event: Progress) -> None:
        if isinstance(event, Trained):
            losses.append((event.done, event.loss))
        listener(event)

    return losses, on_event


def fit_head(job: TrainingJob, start: Head, training: PairFeatures, listener: Listener) -> tuple[Head, np.ndarray | None]:
    """The trained head, on the features of `start`, and the scores of its pairs out of fold where there are few of them."""
    if job.tuning is None and MIN_LABELS <= len(training.labels) <= OUT_OF_FOLD_PAIRS:
        return train_with_folds(start, training, job.head, job.random_seed, listener)
    return train_head(start, training, job.head, job.random_seed, listener, job.dims), None


@dataclass(frozen=True, eq=False)
class _Gated:
    """What is written: the trained head, or the untrained one and why (`kept_start`)."""

    head: Head
    vectors: Vectors
    out_of_fold: np.ndarray | None
    kept_start: str | None
    losses: list[tuple[int, float]]


def _gate(job: TrainingJob, prepared: _Prepared, fitted: _Fitted) -> _Gated:
    """Keep what was trained where it is provably better than its start, else the start."""
    training, base, untrained = prepared.training, prepared.vectors, prepared.untrained
    if len(training.labels) < MIN_LABELS:
        reason: str | None = f"{len(training.labels)} pairs are too few to show whether training helps"
    elif fitted.out_of_fold is not None:
        start_scores = pair_scores(untrained, base, prepared.pairs)
        reason = reason_not_better(fitted.out_of_fold, start_scores, training.labels, training.components)
    else:
        judging = fitted.judging
        scores = pair_scores(fitted.head, fitted.vectors, judging), pair_scores(untrained, base, judging)
        reason = reason_not_better(*scores, judging["label"].to_numpy(), judging["component"].to_numpy())
    if reason is None:
        return _Gated(fitted.head, fitted.vectors, fitted.out_of_fold, None, fitted.losses)
    log.warning("%s at size %s is the untrained start: %s", job.variant, job.size, reason)
    own = None if fitted.out_of_fold is None else pair_scores(untrained, base, prepared.pairs)
    return _Gated(untrained, base, own, reason, fitted.losses)


def _write(job: TrainingJob, prepared: _Prepared, gated: _Gated, models: Path, seconds: float) -> TrainedModel:
    """Choose the decision rule on calibration pairs and write the model folder."""
    calibration, training = prepared.calibration, prepared.training
    scores = pair_scores(gated.head, gated.vectors, calibration)
    labels, sources = calibration["label"].to_numpy(), calibration["source"].to_numpy()
    rule = DecisionRule.fit(scores, labels, sources, job.target_prior)
    own_fit = None if gated.out_of_fold is None else _own_fit(gated.out_of_fold, training.labels)
    own = {"score": gated.out_of_fold, "label": training.labels, "component": training.components}
    model = TrainedModel(
        folder=models / job.job_id,
        job=job,
        rule=rule,
        out_of_fold_fit=own_fit,
        calibration_set_error=float((rule.decide(scores, sources) != labels).mean()),
        calibration_pairs=len(calibration),
        train_pairs=len(prepared.pairs),
        seconds=seconds,
        kept_start=gated.kept_start,
        losses=tuple(gated.losses),
    )
    encoder = gated.vectors.tuned / WEIGHTS_FILE if gated.vectors.tuned else None
    digest = {"features_sha256": hashlib.sha256(training.features.tobytes()).hexdigest()}
    return write_trained_model(model, gated.head, prepared.vectors, encoder, pd.DataFrame(own) if own_fit else None, digest)


def _own_fit(scores: np.ndarray, labels: np.ndarray) -> ScoreFit | None:
    try:
        return fit_scores(scores, labels)
    except FlywheelError as error:  # one label only among them
        log.warning("No threshold from the cell's own pairs: %s", error)
        return None


def _encoder_folder(vectors: Vectors, target: Path) -> Path:
    """A folder that loads as the tuned encoder: the base's configuration and tokenizer beside the trained weights."""
    folder = target / "encoder"
    if not folder.exists():
        with scratch_folder(target) as scratch:
            unused = np.eye(1, len(PARTS) * vectors.model.width, dtype=np.float32)
            write_model(scratch, vectors.weights, target / WEIGHTS_FILE, unused, np.zeros(1, np.float32))
            publish(scratch, folder)
    return folder


def stopping_pairs(calibration: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration pairs that choose among the weights of a training, and those that judge what was chosen.

    Whole components go to one side: up to half of the pairs, and 1,000 at most, choose.
    """
    sizes = calibration.groupby("component").size().cumsum()  # by id, which is a hash
    chosen = sizes.index[sizes <= min(_STOPPING_PAIRS, len(calibration) // 2)]
    choosing = calibration["component"].isin(chosen)
    return calibration[choosing], calibration[~choosing]


def pair_features(pairs: pd.DataFrame, vectors: Vectors, scale: np.ndarray) -> PairFeatures:
    """The pairs of a frame as arrays, features scaled."""
    return pair_arrays(pairs, lambda texts: (vectors.features(texts) * scale).astype(np.float16))
