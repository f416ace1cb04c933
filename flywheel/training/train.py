"""The pure function of training: (job, snapshot) -> model folder. Reads `train` and `calibration`, never `test`."""

import hashlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.evaluation.thresholds import MIN_LABELS, ScoreFit, fit_scores
from flywheel.files import publish, scratch_folder, write_json
from flywheel.models.catalogue import Variant
from flywheel.models.folder import write_head_model
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots import Snapshot, questions_of
from flywheel.training.head import PairVectors, folds_by_component, own_components, train_head, untuned_head
from flywheel.training.job import Head, TrainedModel, TrainingJob
from flywheel.training.progress import Encoded, Listener, unheard

log = logging.getLogger(__name__)

OWN_THRESHOLD_PAIRS = 1_600
DIRECTION_PAIRS = 10_000
OWN_SCORES = "own_scores.parquet"


def train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    """Train `job`, or give back its finished output; the folder appears whole under `models` or not at all.

    Raises FlywheelError for a size beyond the data, a missing calibration split, weights that are not to be had, or a
    training that diverges.
    """
    with explain_disk_errors(models), _job_lock(models, job):
        if (models / job.job_id / "flywheel.json").exists():
            return TrainedModel.load(models / job.job_id).as_reused()
        return _train(job, snapshot, vectors, models, listener)


@contextmanager
def _job_lock(models: Path, job: TrainingJob) -> Iterator[None]:
    """One process at a time for a job: the next finds it finished."""
    locks = models / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / job.job_id):
        yield


def _train(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, models: Path, listener: Listener) -> TrainedModel:
    target = models / job.job_id
    calibration = snapshot.pairs("calibration")
    if calibration.empty:
        raise FlywheelError(
            "There is no calibration split yet, so no threshold can be chosen: the pairs form too few components. "
            "Ingest more pairs and run `flywheel snapshot`."
        )
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    vectors.get(questions_of(pairs, calibration, _direction_pairs(snapshot)), lambda done, of: listener(Encoded(done, of)))
    started = time.perf_counter()
    arrays = PairVectors(
        left=vectors.get(list(pairs["text_a"])),
        right=vectors.get(list(pairs["text_b"])),
        labels=pairs["label"].to_numpy(),
        weights=pairs["weight"].to_numpy(),
        components=own_components(list(pairs["question_a"]), list(pairs["question_b"])),
    )
    start = untuned_start(snapshot, vectors, Variant.parse(job.variant).dim)
    head = train_head(start, arrays, job.head, job.random_seed, listener)
    own = _own_scores(start, arrays, job) if MIN_LABELS <= len(pairs) <= OWN_THRESHOLD_PAIRS else None
    seconds = time.perf_counter() - started
    scores = _score(head, vectors, calibration)
    fit = fit_scores(scores, calibration["label"].to_numpy())
    with scratch_folder(models) as folder:
        shared = vectors.cache_folder / vectors.weights_id / "model.safetensors"
        write_head_model(folder, vectors.weights, head.weight, head.bias, shared)
        if own is not None:
            own.to_parquet(folder / OWN_SCORES)
        record = {
            "job": asdict(job),
            "fit": asdict(fit),
            "own_fit": _own_fit(own),
            "threshold": fit.threshold,
            "calibration_error": float(((scores >= fit.threshold) != calibration["label"]).mean()),
            "calibration_pairs": len(calibration),
            "train_pairs": len(pairs),
            "seconds": seconds,
            "vectors_sha256": hashlib.sha256(arrays.left.tobytes() + arrays.right.tobytes()).hexdigest(),
            "versions": {name: version(name) for name in ("torch", "sentence-transformers", "transformers", "numpy")},
        }
        write_json(folder / "flywheel.json", record)
        (folder / "README.md").write_text(_card(job, record))
        publish(folder, target)
    return TrainedModel.load(target)


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

`{model.hub_id}` with a linear head of {Variant.parse(job.variant).dim} dimensions, trained on {record["train_pairs"]}
labelled pairs: recipe `{job.recipe}`, size `{job.size}`, random seed {job.random_seed}, snapshot
`{job.snapshot_id}`.

    from sentence_transformers import SentenceTransformer
    model = SentenceTransformer("path/to/this/folder")
    vectors = model.encode(["how do I reset my password"])

Two texts mean the same when the cosine of their vectors is at least **{record["threshold"]:.4f}**, the point where a logistic
fit on {record["calibration_pairs"]} calibration pairs crosses one half. Error rate on those pairs, which chose the threshold:
{record["calibration_error"]:.2%}. Figures on unseen pairs stand in the evaluation records, not here.

What the base model had seen: {model.contamination}
"""


def untuned_start(snapshot: Snapshot, vectors: Vectors, dim: int) -> Head:
    """The untuned model at `dim`, from the questions of the first training pairs (their labels are not looked at)."""
    return untuned_head(vectors.get(questions_of(_direction_pairs(snapshot))), dim)


def _direction_pairs(snapshot: Snapshot) -> pd.DataFrame:
    return snapshot.pairs("train").head(DIRECTION_PAIRS)


def _score(head: Head, vectors: Vectors, pairs: pd.DataFrame) -> np.ndarray:
    return (head.apply(vectors.get(list(pairs["text_a"]))) * head.apply(vectors.get(list(pairs["text_b"])))).sum(1)


def _own_scores(start: Head, pairs: PairVectors, job: TrainingJob) -> pd.DataFrame:
    """Score every pair by a head that has not seen its component: `score, label, component`."""
    scores = np.empty(len(pairs.labels))
    for seen, held_out in folds_by_component(pairs.components):
        head = train_head(start, pairs.take(seen), job.head, job.random_seed, unheard)
        scores[held_out] = (head.apply(pairs.left[held_out]) * head.apply(pairs.right[held_out])).sum(1)
    return pd.DataFrame({"score": scores, "label": pairs.labels, "component": pairs.components})


def _own_fit(own: pd.DataFrame | None) -> dict[str, object] | None:
    if own is None:
        return None
    try:
        fit: ScoreFit = fit_scores(own["score"].to_numpy(), own["label"].to_numpy())
    except FlywheelError as error:  # one label only among them: the shared threshold is used
        log.warning("No threshold from the cell's own pairs: %s", error)
        return None
    return asdict(fit)
