"""The API's vectors with our head on them: what training buys without a model of one's own."""

import time
from pathlib import Path

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import Subject, Training, evaluate
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.evaluation.statistics import LabelledScores
from flywheel.evaluation.thresholds import MIN_LABELS, fit_scores
from flywheel.models.api import ApiVectors
from flywheel.pairs.snapshots import Snapshot, questions_of
from flywheel.pairs.text import digest
from flywheel.training.gate import why_no_gain
from flywheel.training.head import PairFeatures, out_of_fold_scores, pair_arrays, train_head
from flywheel.training.job import VERSION, Head, TrainingJob
from flywheel.training.progress import unheard
from flywheel.training.train import OWN_THRESHOLD_PAIRS


def evaluate_head_on_api(
    api: ApiVectors, job: TrainingJob, snapshot: Snapshot, evaluations: Path, min_components: int, target_prior: float | None
) -> Evaluation | None:
    """The record of a head trained on the API's vectors: the pairs, the recipe `head` and the redraw of `job`.

    None while vectors of these pairs are missing: nothing is asked for here.
    """
    drawn = f"{job.size}|{job.random_seed}|{job.interaction_share}|{snapshot.snapshot_id}"
    record_id = digest(f"{api.weights_id}|{job.head}|{drawn}|{VERSION}")
    if found := load_evaluation(evaluation_folder(evaluations, snapshot.test_id, record_id), target_prior):
        return found
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    if len(pairs) < MIN_LABELS or api.missing(questions_of(pairs, snapshot.pairs("calibration"), snapshot.pairs("test"))):
        return None
    head, training = _train(api, job, pairs, snapshot.pairs("calibration"))
    variant = f"{api.model}@{api.dimensions}"
    subject = Subject(record_id, "baseline", variant, lambda texts: head.apply(api.get(texts)), training=training)
    return evaluate(subject, snapshot, evaluations, min_components, target_prior)[0]


def _train(api: ApiVectors, job: TrainingJob, pairs: pd.DataFrame, calibration: pd.DataFrame) -> tuple[Head, Training]:
    """The head that ships by the same rules as ours: the API's vectors as they are where training brings no proven gain."""
    started = time.perf_counter()
    start = Head(np.eye(api.dimensions, dtype=np.float32), np.zeros(api.dimensions, np.float32))
    training, judges = (pair_arrays(each, lambda t: api.get(t).astype(np.float16)) for each in (pairs, calibration))
    head = train_head(start, training, job.head, job.random_seed, unheard)
    own = None
    if len(pairs) <= OWN_THRESHOLD_PAIRS:
        own = out_of_fold_scores(start, training, job.head, job.random_seed)
        kept = why_no_gain(own, training.scores(start), training.labels, training.components)
        own = training.scores(start) if kept else own
    else:
        kept = why_no_gain(judges.scores(head), judges.scores(start), judges.labels, judges.components)
    seconds = time.perf_counter() - started
    how = Training(job.size, "head", job.random_seed, job.snapshot_id, len(pairs), seconds, _own(own, training))
    return start if kept else head, how


def _own(scores: np.ndarray | None, pairs: PairFeatures) -> tuple[LabelledScores, float] | None:
    if scores is None:
        return None
    try:
        return LabelledScores(scores, pairs.labels, pairs.components), fit_scores(scores, pairs.labels).threshold
    except FlywheelError:  # one label only: the shared threshold is used
        return None
