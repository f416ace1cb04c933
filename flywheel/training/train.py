"""The pure function of training: (job, snapshot) -> model folder. Reads `train` and `calibration`, never `test`."""

import hashlib
import logging
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.files import locked, publish, scratch_folder, write_json
from flywheel.models.catalogue import Variant
from flywheel.models.features import PARTS
from flywheel.models.folder import loading_code, shared_weights, write_model
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.scoring.thresholds import MIN_LABELS, ScoreFit, check_both_labels, fit_scores
from flywheel.training.gate import reason_not_better
from flywheel.training.head import PairFeatures, out_of_fold_scores, pair_arrays, train_head
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Encoded, Listener, Progress, Trained
from flywheel.training.starts import choose_start, direction_pairs, pair_scores

log = logging.getLogger(__name__)


OWN_THRESHOLD_PAIRS = 1_600


OWN_SCORES = "own_scores.parquet"


TUNED = ".tuned"


_STOPPING_PAIRS = 1_000


def train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    """Train `job`, or give back its finished output; the folder appears whole under `models` or not at all.

    Raises FlywheelError for a size beyond the data, a calibration split that is missing or of one label, weights that are
    not to be had, or a training that diverges.
    """
    with explain_disk_errors(models), locked(models, job.job_id if job.tuning is None else job.tuning_id):
        if (models / job.job_id / "flywheel.json").exists():
            return TrainedModel.load(models / job.job_id).as_reused()
        return _train(job, snapshot, vectors, models, listener)


def _train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    calibration = snapshot.pairs("calibration")
    if calibration.empty:
        raise FlywheelError(
            "There is no calibration split yet, so no threshold can be chosen: the pairs form too few components. "
            "Ingest more pairs and run `flywheel snapshot`."
        )
    check_both_labels(calibration["label"].to_numpy(), " in calibration")
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    texts = unique_texts(pairs, calibration, direction_pairs(snapshot))
    vectors.features(texts, lambda done, of: listener(Encoded(done, of)))
    losses: list[tuple[int, float]] = []

    def hear(event: Progress) -> None:
        if isinstance(event, Trained):
            losses.append((event.done, event.loss))
        listener(event)

    started = time.perf_counter()
    dim = Variant.parse(job.variant).dim
    start, scale = choose_start(snapshot, vectors, max(job.dims, default=dim), calibration)
    training = pair_features(pairs, vectors, scale)
    fallback = start.fold_scale(scale).truncated(dim)
    trained = train_head(start, training, job.head, job.random_seed, hear, job.dims)
    head, tuned, own, judges = trained.fold_scale(scale), vectors, None, calibration
    if job.tuning is not None:
        from flywheel.training.tune import TuningTask, tune

        losses.clear()  # the head's were those of its start
        stopping, judges = stopping_pairs(calibration)
        target = models / TUNED / job.tuning_id
        head = tune(TuningTask(job, trained, scale, pairs, training, stopping, vectors), target, hear)
        tuned = replace(vectors, tuned=_encoder_folder(vectors, target))
    elif MIN_LABELS <= len(pairs) <= OWN_THRESHOLD_PAIRS:
        own = out_of_fold_scores(start, training, job.head, job.random_seed)
    if len(pairs) < MIN_LABELS:
        kept: str | None = f"{len(pairs)} pairs are too few to tell whether training helps"
    elif own is not None:
        kept = reason_not_better(own, pair_scores(fallback, vectors, pairs), training.labels, training.components)
    else:
        both = (pair_scores(h, v, judges) for h, v in ((head.truncated(dim), tuned), (fallback, vectors)))
        kept = reason_not_better(*both, *(judges[name].to_numpy() for name in ("label", "component")))
    if kept:
        log.warning("%s at size %s is the untrained start: %s", job.variant, job.size, kept)
        head, tuned = fallback, vectors
        own = pair_scores(fallback, vectors, pairs) if own is not None else None
    scores = pair_scores(head.truncated(dim), tuned, calibration)
    head = head.truncated(dim)
    seconds = time.perf_counter() - started
    fit = fit_scores(scores, calibration["label"].to_numpy())
    own_frame = pd.DataFrame({"score": own, "label": training.labels, "component": training.components})
    with scratch_folder(models) as folder:
        shared = vectors.cache_folder / "weights" / vectors.weights_id
        weights = tuned.tuned / WEIGHTS_FILE if tuned.tuned else shared_weights(vectors.weights, shared)
        write_model(folder, vectors.weights, weights, head.weight, head.bias)
        own_fit = _own_fit(own_frame) if own is not None else None
        if own_fit is not None:
            own_frame.to_parquet(folder / OWN_SCORES)
        record = {
            "job": asdict(job),
            "fit": asdict(fit),
            "own_fit": own_fit,
            "threshold": fit.threshold,
            "calibration_error": float(((scores >= fit.threshold) != calibration["label"]).mean()),
            "calibration_pairs": len(calibration),
            "train_pairs": len(pairs),
            "seconds": seconds,
            "kept_start": kept,
            "losses": losses,
            "features_sha256": hashlib.sha256(training.features.tobytes()).hexdigest(),
            "computed_in": vectors.dtype,
            "versions": {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "numpy")},
        }
        write_json(folder / "flywheel.json", record)
        (folder / "README.md").write_text(_card(job, record))
        publish(folder, models / job.job_id)
    return TrainedModel.load(models / job.job_id)


def _card(job: TrainingJob, record: dict[str, Any]) -> str:
    """The model card: what it is, how to use it, what was measured on calibration."""
    model = Variant.parse(job.variant).model
    return f"""---
library_name: sentence-transformers
base_model: {model.hub_id}
license: {model.licence.lower()}
pipeline_tag: sentence-similarity
---
# {job.variant}, fine-tuned by flywheel

{_what_it_is(job, record)} Recipe `{job.recipe}`, size `{job.size}`, random seed {job.random_seed}, snapshot
`{job.snapshot_id}`.

    from sentence_transformers import SentenceTransformer
    model = {loading_code(model)}
    vectors = model.encode(["how do I reset my password"])

Two texts mean the same when the cosine of their vectors is at least **{record["threshold"]:.4f}**, the point where a logistic
fit on {record["calibration_pairs"]} calibration pairs crosses one half. Error rate on those pairs, which chose the threshold:
{record["calibration_error"]:.2%}. Figures on unseen pairs stand in the evaluation records, not here.

What the base model had seen: {model.contamination}
"""


def _encoder_folder(vectors: Vectors, target: Path) -> Path:
    """A folder that loads as the tuned encoder: the base's configuration and tokenizer beside the trained weights."""
    folder = target / "encoder"
    if not folder.exists():
        with scratch_folder(target) as scratch:
            unused = np.eye(1, len(PARTS) * vectors.model.width, dtype=np.float32)
            write_model(scratch, vectors.weights, target / WEIGHTS_FILE, unused, np.zeros(1, np.float32))
            publish(scratch, folder)
    return folder


def _what_it_is(job: TrainingJob, record: dict[str, Any]) -> str:
    base, dim = Variant.parse(job.variant).model.hub_id, Variant.parse(job.variant).dim
    if record["kept_start"]:
        return f"`{base}` at {dim} dimensions, not trained: {record['kept_start']}."
    moved = {"head": "", "top": "its uppermost layers and ", "full": "all its layers and "}[job.recipe]
    return f"`{base}` with {moved}a linear head of {dim} dimensions, trained on {record['train_pairs']} labelled pairs."


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


def _own_fit(own: pd.DataFrame) -> dict[str, object] | None:
    if len(own) < MIN_LABELS:
        return None
    try:
        fit: ScoreFit = fit_scores(own["score"].to_numpy(), own["label"].to_numpy())
    except FlywheelError as error:  # one label only among them: the shared threshold is used
        log.warning("No threshold from the cell's own pairs: %s", error)
        return None
    return asdict(fit)
