"""Our head on the API's vectors: what training buys without a model of one's own."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import is_current
from flywheel.evaluation.failures import holds_any
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.subjects import Subject, Training
from flywheel.files import digest
from flywheel.models.api.vectors import ApiVectors
from flywheel.models.catalogue import Variant
from flywheel.models.head import Head, untuned_head
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.evaluation import leaderboard, read_record
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.thresholds import MIN_LABELS, fit_scores
from flywheel.training.head import PairFeatures, pair_arrays
from flywheel.training.job import VERSION, Cell, TrainingJob
from flywheel.training.model import OutOfFold
from flywheel.training.progress import Listener
from flywheel.training.starts import UNTUNED, direction_pairs
from flywheel.training.train import fit_head

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def evaluate_api_heads(workspace: Workspace, snapshot: Snapshot) -> list[Evaluation]:
    """Train and evaluate a head on the API's vectors at each size of the board's cells; returns their records.

    At the smallest dimension of the board, and only where every vector that takes is cached: nothing is paid for. What goes
    wrong with one is logged, and the others are made all the same.
    """
    board = leaderboard(workspace, snapshot)
    if snapshot.is_cross_fitted:
        log.info("No heads on the API's vectors: they choose on calibration pairs, and there are none yet.")
        return []
    if workspace.settings.baseline.source in ("local", "guess") or not board.tuned:
        return []
    variant = min((Variant.parse(row.variant) for row in board.tuned), key=lambda variant: variant.dim)
    records = []
    for size, random_seed in dict.fromkeys((str(row.size), row.random_seed or 0) for row in board.tuned):
        try:
            job = training_job(workspace, snapshot, Cell(variant, size), "head")
            record = evaluate_head_on_api(workspace, workspace.api, replace(job, random_seed=random_seed), snapshot)
        except FlywheelError as error:
            log.warning("No head on the vectors of %s at size %s: %s", workspace.settings.baseline.model, size, error)
            continue
        if record is not None:
            records.append(record)
    return records


def evaluate_head_on_api(workspace: Workspace, api: ApiVectors, job: TrainingJob, snapshot: Snapshot) -> Evaluation | None:
    """The record of a head trained on the API's vectors: the pairs, the recipe `head`, the redraw and the output dimension of
    `job`, from a start like that of ours.

    None while vectors of these pairs are missing: nothing is paid for here.
    """
    dim = min(Variant.parse(job.variant).dim, api.dimensions)
    drawn = f"{job.size}|{job.random_seed}|{job.interaction_share}|{snapshot.snapshot_id}"
    record_id = digest(f"{api.weights_id}|{dim}|{job.head}|{drawn}|{VERSION}")
    record = read_record(workspace, snapshot, record_id)
    if record and is_current(record, api.failed, snapshot):
        return record
    pairs = snapshot.training_pairs(job.size, job.random_seed, job.interaction_share)
    frames = pairs, direction_pairs(snapshot), snapshot.pairs("calibration"), snapshot.judging_pairs()
    texts = unique_texts(*frames)
    if len(pairs) < MIN_LABELS or api.missing(texts):
        return None
    failed = api.failed(texts)
    pairs, direction, calibration = (frame[~holds_any(frame, failed)] for frame in frames[:3])
    start = untuned_head(api.get(unique_texts(direction)), dim)
    head, training = _train(api, job, start, pairs, calibration, workspace.listener)
    variant = f"{api.model}@{dim}"
    subject = Subject(
        record_id, "baseline", variant, lambda texts: head.apply(api.get(texts)), training=training, failed=api.failed
    )
    return workspace.evaluate(subject, snapshot)


def _train(
    api: ApiVectors, job: TrainingJob, start: Head, pairs: pd.DataFrame, calibration: pd.DataFrame, listener: Listener
) -> tuple[Head, Training]:
    """The head that ships at the place that is chosen as ours is."""
    started = time.perf_counter()
    training, judging = (pair_arrays(frame, lambda t: api.get(t).astype(np.float16)) for frame in (pairs, calibration))
    fitted = fit_head(job, start, training, judging, listener)
    seconds, own = time.perf_counter() - started, _out_of_fold(fitted.out_of_fold, training)
    choice = fitted.choice
    how = Training(
        job.size, "head", job.random_seed, job.snapshot_id, len(pairs), seconds, UNTUNED, choice.place, choice.reason, own
    )
    return fitted.head, how


def _out_of_fold(scores: np.ndarray | None, pairs: PairFeatures) -> OutOfFold | None:
    import pandas as pd

    if scores is None:
        return None
    try:
        fit = fit_scores(scores, pairs.labels)
    except FlywheelError:  # one label only
        return None
    return OutOfFold(pd.DataFrame({"score": scores, "label": pairs.labels, "component": pairs.components}), fit)
