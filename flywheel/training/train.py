"""The pure function of training: (job, snapshot) -> model folder. Reads `train` and `calibration`, never `test`."""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.evaluation.thresholds import MIN_LABELS, ScoreFit, check_both_labels, fit_scores
from flywheel.files import publish, scratch_folder, write_json
from flywheel.models.catalogue import Variant
from flywheel.models.features import PARTS
from flywheel.models.folder import loading_code, shared_weights, write_model
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots import Snapshot, questions_of
from flywheel.training.gate import log_losses, why_no_gain
from flywheel.training.head import PairFeatures, out_of_fold_scores, pair_arrays, train_head, untuned_head
from flywheel.training.job import Head, TrainedModel, TrainingJob
from flywheel.training.progress import Encoded, Listener, Progress, Trained

log = logging.getLogger(__name__)

OWN_THRESHOLD_PAIRS = 1_600
DIRECTION_PAIRS = 4_000
OWN_SCORES = "own_scores.parquet"
TUNED = ".tuned"
_STOPPING_PAIRS = 1_000
# Of many cells in a row, those of a base model share theirs.
_KEPT_STARTS = 4
_STARTS: dict[tuple[str, str, str, int], tuple[Head, np.ndarray]] = {}


def train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    """Train `job`, or give back its finished output; the folder appears whole under `models` or not at all.

    Raises FlywheelError for a size beyond the data, a calibration split that is missing or of one label, weights that are
    not to be had, or a training that diverges.
    """
    with explain_disk_errors(models), locked(models, job.job_id if job.tuning is None else job.tuning_id):
        if (models / job.job_id / "flywheel.json").exists():
            return TrainedModel.load(models / job.job_id).as_reused()
        return _train(job, snapshot, vectors, models, listener)


@contextmanager
def locked(models: Path, name: str, timeout: float = -1) -> Iterator[None]:
    """One process at a time for a job, or for all jobs that share trained layers: the next finds them finished.

    Raises filelock's Timeout when another one holds it for longer than `timeout` seconds; without it, waits.
    """
    locks = models / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / name, timeout=timeout):
        yield


def _train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    calibration = snapshot.pairs("calibration")
    if calibration.empty:
        raise FlywheelError(
            "There is no calibration split yet, so no threshold can be chosen: the pairs form too few components. "
            "Ingest more pairs and run `flywheel snapshot`."
        )
    check_both_labels(calibration["label"].to_numpy(), " in calibration")
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    texts = questions_of(pairs, calibration, direction_pairs(snapshot))
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
    fallback = start.on_scaled(scale).first(dim)
    trained = train_head(start, training, job.head, job.random_seed, hear, job.dims)
    head, tuned, own, judges = trained.on_scaled(scale), vectors, None, calibration
    if job.tuning is not None:
        from flywheel.training.tune import Task, tune

        losses.clear()  # the head's were those of its start
        stopping, judges = stopping_pairs(calibration)
        target = models / TUNED / job.tuning_id
        head = tune(Task(job, trained, scale, pairs, training, stopping, vectors), target, hear)
        tuned = replace(vectors, tuned=_encoder_folder(vectors, target))
    elif MIN_LABELS <= len(pairs) <= OWN_THRESHOLD_PAIRS:
        own = out_of_fold_scores(start, training, job.head, job.random_seed)
    if len(pairs) < MIN_LABELS:
        kept: str | None = f"{len(pairs)} pairs are too few to tell whether training helps"
    elif own is not None:
        kept = why_no_gain(own, _score(fallback, vectors, pairs), training.labels, training.components)
    else:
        both = (_score(h, v, judges) for h, v in ((head.first(dim), tuned), (fallback, vectors)))
        kept = why_no_gain(*both, *(judges[name].to_numpy() for name in ("label", "component")))
    if kept:
        log.warning("%s at size %s is the untrained start: %s", job.variant, job.size, kept)
        head, tuned = fallback, vectors
        own = _score(fallback, vectors, pairs) if own is not None else None
    scores = _score(head.first(dim), tuned, calibration)
    head = head.first(dim)
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


def untuned_start(snapshot: Snapshot, vectors: Vectors, dim: int) -> Head:
    """The untuned model at `dim`, a head on its unit vectors, from the questions of the first training pairs (their labels
    are not looked at).
    """
    return untuned_head(vectors.get(questions_of(direction_pairs(snapshot))), dim)


def choose_start(snapshot: Snapshot, vectors: Vectors, dim: int, calibration: pd.DataFrame) -> tuple[Head, np.ndarray]:
    """Where heads start, on scaled features, and the scale: the untuned model, or the principal directions of mean, max and
    CLS, whichever calibration pairs prefer. It is also what ships where training brings nothing.
    """
    untuned, wide = own_start(snapshot, vectors, dim), head_start(snapshot, vectors, dim)
    labels = calibration["label"].to_numpy()
    if len(labels) < MIN_LABELS:
        return untuned
    losses = [log_losses(_score(head.on_scaled(by), vectors, calibration), labels).mean() for head, by in (untuned, wide)]
    return wide if losses[1] < losses[0] else untuned


def own_start(snapshot: Snapshot, vectors: Vectors, dim: int) -> tuple[Head, np.ndarray]:
    """The untuned model as a head on scaled features, and the scale, which takes the other poolings away."""
    head = untuned_start(snapshot, vectors, dim)
    width, part = vectors.model.width, PARTS.index(vectors.model.pooling)
    features = vectors.features(questions_of(direction_pairs(snapshot)))[:, part * width : (part + 1) * width]
    weight, scale = np.zeros((dim, len(PARTS) * width), np.float32), np.zeros(len(PARTS) * width, np.float32)
    weight[:, part * width : (part + 1) * width] = head.weight
    scale[part * width : (part + 1) * width] = 1 / np.linalg.norm(features.astype(np.float32), axis=1).mean()
    return Head(weight, head.bias), scale


def stopping_pairs(calibration: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Calibration pairs that choose among the weights of a training, and those that judge what was chosen.

    Whole components go to one side: up to half of the pairs, and 1,000 at most, choose.
    """
    sizes = calibration.groupby("component").size().cumsum()  # by id, which is a hash
    chosen = sizes.index[sizes <= min(_STOPPING_PAIRS, len(calibration) // 2)]
    choosing = calibration["component"].isin(chosen)
    return calibration[choosing], calibration[~choosing]


def head_start(snapshot: Snapshot, vectors: Vectors, dim: int) -> tuple[Head, np.ndarray]:
    """The principal directions of mean, max and CLS as a head on scaled features, and the scale (3 * width,).

    The scale gives each of the three the same mean length. No label is looked at.
    """
    key = (snapshot.snapshot_id, vectors.weights_id, vectors.dtype, dim)
    if (found := _STARTS.get(key)) is None:
        if len(_STARTS) >= _KEPT_STARTS:
            _STARTS.clear()
        found = _STARTS[key] = _head_start(snapshot, vectors, dim)
    return found


def _head_start(snapshot: Snapshot, vectors: Vectors, dim: int) -> tuple[Head, np.ndarray]:
    features = vectors.features(questions_of(direction_pairs(snapshot))).astype(np.float32)
    lengths = np.linalg.norm(features.reshape(len(features), len(PARTS), -1), axis=2).mean(axis=0)
    scale = np.repeat(1 / (lengths * np.sqrt(len(PARTS))), features.shape[1] // len(PARTS)).astype(np.float32)
    return untuned_head(features * scale, dim), scale


def pair_features(pairs: pd.DataFrame, vectors: Vectors, scale: np.ndarray) -> PairFeatures:
    """The pairs of a frame as arrays, features scaled."""
    return pair_arrays(pairs, lambda texts: (vectors.features(texts) * scale).astype(np.float16))


def direction_pairs(snapshot: Snapshot) -> pd.DataFrame:
    """The pairs whose questions give the directions that heads start from."""
    return snapshot.pairs("train").head(DIRECTION_PAIRS)


def _score(head: Head, vectors: Vectors, pairs: pd.DataFrame) -> np.ndarray:
    left, right = (head.apply(vectors.features(list(pairs[side]))) for side in ("text_a", "text_b"))
    return (left * right).sum(1)


def _own_fit(own: pd.DataFrame) -> dict[str, object] | None:
    if len(own) < MIN_LABELS:
        return None
    try:
        fit: ScoreFit = fit_scores(own["score"].to_numpy(), own["label"].to_numpy())
    except FlywheelError as error:  # one label only among them: the shared threshold is used
        log.warning("No threshold from the cell's own pairs: %s", error)
        return None
    return asdict(fit)
