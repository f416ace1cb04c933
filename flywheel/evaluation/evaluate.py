"""Scoring a model on a snapshot's `test` pairs, with a threshold that `test` has not seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError
from flywheel.evaluation.metrics import pair_metrics
from flywheel.evaluation.records import Evaluation, SourceError, evaluation_folder, load_evaluation
from flywheel.evaluation.retrieval import Retrieval, retrieval
from flywheel.evaluation.statistics import LabelledScores, error_interval, error_rate, is_rough, why_no_verdict
from flywheel.evaluation.thresholds import fit_scores
from flywheel.files import publish, scratch_folder, write_json
from flywheel.models.api import ApiVectors
from flywheel.models.catalogue import Variant
from flywheel.models.folder import read_head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots import Snapshot, questions_of
from flywheel.pairs.text import digest
from flywheel.training.job import VERSION, Head, TrainedModel
from flywheel.training.train import OWN_SCORES, OWN_THRESHOLD_PAIRS, untuned_start

SCORES = "scores.parquet"
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Subject:
    """What is evaluated: unit vectors for texts, and the out-of-fold scores of its own training pairs if it has them."""

    record_id: str
    kind: Literal["tuned", "untuned", "baseline"]
    variant: str
    embed: Embed
    contamination: str | None = None
    model: TrainedModel | None = None


def tuned_subject(model: TrainedModel, vectors: Vectors) -> Subject:
    """A trained model, by its head over the cached features of its encoder: the base model, or the one tuned from it."""
    head = Head(*read_head(model.folder))
    variant = Variant.parse(model.job.variant)
    if model.tuned_encoder:
        vectors = replace(vectors, tuned=model.folder)
    return Subject(
        model.job.job_id, "tuned", str(variant), lambda t: head.apply(vectors.features(t)), variant.model.contamination, model
    )


def untuned_subject(
    variant: Variant, snapshot: Snapshot, vectors: Vectors, kind: Literal["untuned", "baseline"] = "untuned"
) -> Subject:
    """The same base model at the same dimension without training."""
    head = untuned_start(snapshot, vectors, variant.dim)
    record_id = digest(f"{kind}|{variant}|{vectors.weights_id}|{vectors.dtype}|{snapshot.snapshot_id}|{VERSION}")
    return Subject(record_id, kind, str(variant), lambda t: head.apply(vectors.get(t)), variant.model.contamination)


def api_subject(vectors: ApiVectors) -> Subject:
    """An embedding API, by its cached vectors."""
    return Subject(digest(vectors.weights_id), "baseline", f"{vectors.model}@{vectors.dimensions}", vectors.get)


def evaluate(subject: Subject, snapshot: Snapshot, evaluations: Path, min_components: int) -> tuple[Evaluation, bool]:
    """The record of `subject` on the snapshot's `test_id`, and whether it was there already.

    Scores of every calibration and test pair are stored beside it. Raises FlywheelError when there is no test split.
    """
    target = evaluation_folder(evaluations, snapshot.test_id, subject.record_id)
    if found := load_evaluation(target):
        return found, True
    if not snapshot.test.pairs or not snapshot.calibration.pairs:
        raise FlywheelError(
            "There is no test split yet: the pairs form too few components. Ingest more pairs and run `flywheel snapshot`."
        )
    scored = {split: _score(subject.embed, snapshot.pairs(split)) for split in ("calibration", "test")}
    record = _record(subject, snapshot, scored["calibration"], scored["test"], min_components)
    with scratch_folder(target.parent) as folder:
        columns = ["pair_id", "label", "component", "score", "split"]
        pd.concat([pairs.assign(split=split)[columns] for split, pairs in scored.items()]).to_parquet(folder / SCORES)
        write_json(folder / "evaluation.json", record.to_json())
        publish(folder, target)
    return record, False


def _score(embed: Embed, pairs: pd.DataFrame) -> pd.DataFrame:
    scores = (embed(list(pairs["text_a"])) * embed(list(pairs["text_b"]))).sum(1)
    return pairs.assign(score=scores.astype(np.float64))


def _labelled(pairs: pd.DataFrame) -> LabelledScores:
    return LabelledScores(pairs["score"].to_numpy(), pairs["label"].to_numpy(), pairs["component"].to_numpy())


def _record(subject: Subject, snapshot: Snapshot, calibration: pd.DataFrame, test: pd.DataFrame, minimum: int) -> Evaluation:
    shared, tested = _labelled(calibration), _labelled(test)
    threshold = fit_scores(shared.scores, shared.labels).threshold
    interval = error_interval(shared, tested, minimum=minimum)
    calibrated_error = error_rate(tested.scores, tested.labels, threshold)
    own_threshold, own_interval, own_note = threshold, interval, None
    if subject.model is not None and subject.model.own_fit is not None:
        own = _labelled(pd.read_parquet(subject.model.folder / OWN_SCORES))
        own_threshold = subject.model.own_fit.threshold
        own_interval = error_interval(own, tested, minimum=minimum)
        own_note = why_no_verdict(own.components, minimum)
    elif subject.model is not None and subject.model.job.tuning is None and subject.model.train_pairs <= OWN_THRESHOLD_PAIRS:
        own_interval, own_note = (
            None,
            "its own pairs are too few for a threshold; the shared one is shown",
        )
    job = subject.model.job if subject.model else None
    return Evaluation(
        record_id=subject.record_id,
        kind=subject.kind,
        variant=subject.variant,
        size=job.size if job else None,
        recipe=job.recipe if job else None,
        random_seed=job.random_seed if job else None,
        snapshot_id=job.snapshot_id if job else snapshot.snapshot_id,
        test_id=snapshot.test_id,
        error=error_rate(tested.scores, tested.labels, own_threshold),
        interval=own_interval,
        threshold=own_threshold,
        calibrated_error=calibrated_error,
        calibrated_interval=interval,
        calibrated_threshold=threshold,
        calibration_error=error_rate(shared.scores, shared.labels, threshold),
        metrics=pair_metrics(tested.scores, tested.labels, threshold),
        retrieval=_retrieval(subject.embed, test),
        by_source=tuple(
            SourceError(str(source), error_rate(rows["score"], rows["label"], threshold), len(rows))
            for source, rows in test.groupby("source")
        ),
        components=test["component"].nunique(),
        rough=is_rough(tested.components),
        no_verdict=why_no_verdict(tested.components, minimum) or why_no_verdict(shared.components, minimum),
        own_note=own_note,
        contamination=subject.contamination,
        train_pairs=subject.model.train_pairs if subject.model else None,
        train_seconds=subject.model.seconds if subject.model else None,
    )


def _retrieval(embed: Embed, test: pd.DataFrame) -> Retrieval:
    questions = questions_of(test)
    number = {question: i for i, question in enumerate(questions)}
    same = test[test["label"] == 1]
    return retrieval(embed(questions), [(number[a], number[b]) for a, b in zip(same["text_a"], same["text_b"], strict=True)])


def decisions(evaluations: Path, record: Evaluation) -> pd.DataFrame:
    """Per test pair, ordered by pair id: `component`, `wrong` (at the calibrated threshold)."""
    scores = pd.read_parquet(evaluation_folder(evaluations, record.test_id, record.record_id) / SCORES)
    test = scores[scores["split"] == "test"].sort_values("pair_id").set_index("pair_id")
    return test.assign(wrong=(test["score"] >= record.calibrated_threshold) != test["label"])[["component", "wrong"]]
