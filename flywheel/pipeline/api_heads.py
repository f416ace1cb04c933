"""The API's vectors with our head on them: what training buys without a model of one's own."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import Subject, Training, evaluate
from flywheel.evaluation.records import Evaluation, Terms, evaluation_folder, load_evaluation
from flywheel.evaluation.statistics import LabelledScores
from flywheel.files import digest
from flywheel.models.api.vectors import ApiVectors
from flywheel.models.catalogue import Variant
from flywheel.models.head import Head, untuned_head
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.scoring.thresholds import MIN_LABELS, fit_scores
from flywheel.training.gate import reason_not_better
from flywheel.training.head import PairFeatures, out_of_fold_scores, pair_arrays, train_head
from flywheel.training.job import VERSION, TrainingJob
from flywheel.training.progress import Listener
from flywheel.training.starts import direction_pairs
from flywheel.training.train import OWN_THRESHOLD_PAIRS


def evaluate_head_on_api(
    api: ApiVectors, job: TrainingJob, snapshot: Snapshot, evaluations: Path, terms: Terms, listener: Listener
) -> Evaluation | None:
    """The record of a head trained on the API's vectors: the pairs, the recipe `head`, the redraw and the output dimension of
    `job`, from a start like that of ours.

    None while vectors of these pairs are missing: nothing is asked for here.
    """
    dim = min(Variant.parse(job.variant).dim, api.dimensions)
    drawn = f"{job.size}|{job.random_seed}|{job.interaction_share}|{snapshot.snapshot_id}"
    record_id = digest(f"{api.weights_id}|{dim}|{job.head}|{drawn}|{VERSION}")
    if found := load_evaluation(evaluation_folder(evaluations, snapshot.test_id, record_id), terms):
        return found
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    frames = pairs, direction_pairs(snapshot), snapshot.pairs("calibration"), snapshot.pairs("test")
    if len(pairs) < MIN_LABELS or api.missing(unique_texts(*frames)):
        return None
    start = untuned_head(api.get(unique_texts(direction_pairs(snapshot))), dim)
    head, training = _train(api, job, start, pairs, snapshot.pairs("calibration"), listener)
    subject = Subject(record_id, "baseline", f"{api.model}@{dim}", lambda texts: head.apply(api.get(texts)), training=training)
    return evaluate(subject, snapshot, evaluations, terms)[0]


def _train(
    api: ApiVectors, job: TrainingJob, start: Head, pairs: pd.DataFrame, calibration: pd.DataFrame, listener: Listener
) -> tuple[Head, Training]:
    """The head that ships by the same rules as ours: its start where training brings no proven gain."""
    started = time.perf_counter()
    training, judges = (pair_arrays(each, lambda t: api.get(t).astype(np.float16)) for each in (pairs, calibration))
    head = train_head(start, training, job.head, job.random_seed, listener)
    own = None
    if len(pairs) <= OWN_THRESHOLD_PAIRS:
        own = out_of_fold_scores(start, training, job.head, job.random_seed)
        kept = reason_not_better(own, training.scores(start), training.labels, training.components)
        own = training.scores(start) if kept else own
    else:
        kept = reason_not_better(judges.scores(head), judges.scores(start), judges.labels, judges.components)
    seconds = time.perf_counter() - started
    how = Training(job.size, "head", job.random_seed, job.snapshot_id, len(pairs), seconds, kept, _own(own, training))
    return start if kept else head, how


def _own(scores: np.ndarray | None, pairs: PairFeatures) -> tuple[LabelledScores, float] | None:
    if scores is None:
        return None
    try:
        return LabelledScores(scores, pairs.labels, pairs.components), fit_scores(scores, pairs.labels).threshold
    except FlywheelError:  # one label only: the shared threshold is used
        return None
