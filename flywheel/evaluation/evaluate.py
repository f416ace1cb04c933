"""Scoring a model on a snapshot's `test` pairs, with a threshold that `test` has not seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.evaluation.metrics import pair_metrics
from flywheel.evaluation.records import EVALUATE_AGAIN, Evaluation, Slice, Terms, evaluation_folder, load_evaluation
from flywheel.evaluation.retrieval import Retrieval, retrieval
from flywheel.evaluation.slices import slices_of
from flywheel.evaluation.statistics import (
    LabelledScores,
    error_interval,
    error_intervals,
    error_parts,
    error_rate,
    is_rough,
    reason_no_verdict,
)
from flywheel.files import digest, locked, replace_folder, scratch_folder, write_json
from flywheel.models.api.vectors import ApiVectors
from flywheel.models.catalogue import Variant
from flywheel.models.folder import read_head
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.scoring.thresholds import ScoreFit, check_both_labels, check_pairs, fit_by_source
from flywheel.training.job import VERSION
from flywheel.training.model import TrainedModel
from flywheel.training.starts import untuned_start
from flywheel.training.train import OWN_SCORES, OWN_THRESHOLD_PAIRS

SCORES = "scores.parquet"
_STORED = ["pair_id", "label", "component", "score", "probability", "same", "split"]
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Training:
    """How a subject was trained: on `pairs` pairs of a snapshot in `seconds`. `kept_start` says why it is the untrained start
    where training brought no proven gain. `own` are the scores of those pairs out of fold and the threshold from them.
    """

    size: str
    recipe: str
    random_seed: int
    snapshot_id: str
    pairs: int
    seconds: float
    kept_start: str | None
    own: tuple[LabelledScores, float] | None


@dataclass(frozen=True)
class Subject:
    """What is evaluated: unit vectors for texts, and how it was trained if it was."""

    record_id: str
    kind: Literal["tuned", "untuned", "baseline"]
    variant: str
    embed: Embed
    contamination: str | None = None
    training: Training | None = None


def tuned_subject(model: TrainedModel, vectors: Vectors) -> Subject:
    """A trained model, by its head over the cached features of its encoder: the base model, or the one tuned from it."""
    head = Head(*read_head(model.folder))
    job = model.job
    variant = Variant.parse(job.variant)
    if model.tuned_encoder:
        vectors = replace(vectors, tuned=model.folder)
    own = (_labelled(pd.read_parquet(model.folder / OWN_SCORES)), model.own_fit.threshold) if model.own_fit else None
    training = Training(
        job.size, job.recipe, job.random_seed, job.snapshot_id, model.train_pairs, model.seconds, model.kept_start, own
    )
    return Subject(
        job.job_id, "tuned", str(variant), lambda t: head.apply(vectors.features(t)), variant.model.contamination, training
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


def evaluate(subject: Subject, snapshot: Snapshot, evaluations: Path, terms: Terms) -> tuple[Evaluation, bool]:
    """The record of `subject` on the snapshot's `test_id`, and whether it was there already.

    Scores of every calibration and test pair are stored beside it. A record made on other terms, or by an older version, is
    made anew. Raises FlywheelError when there is no test split.
    """
    target = evaluation_folder(evaluations, snapshot.test_id, subject.record_id)
    with explain_disk_errors(evaluations), locked(evaluations, f"{snapshot.test_id}-{subject.record_id}"):
        if found := load_evaluation(target, terms):
            return found, True
        return _evaluate(subject, snapshot, target, terms), False


def _evaluate(subject: Subject, snapshot: Snapshot, target: Path, terms: Terms) -> Evaluation:
    if not snapshot.test.pairs or not snapshot.calibration.pairs:
        raise FlywheelError(
            "There is no test split yet: the pairs form too few components. Ingest more pairs and run `flywheel snapshot`."
        )
    calibration, test = (_both_labels(snapshot.pairs(split), split) for split in ("calibration", "test"))
    calibration, test = _score(subject.embed, calibration), _score(subject.embed, test)
    scores, labels, sources = (calibration[name].to_numpy() for name in ("score", "label", "source"))
    fits = fit_by_source(scores, labels, sources, terms.target_prior)
    calibration, test = _decided(calibration, fits), _decided(test, fits)
    record = _record(subject, snapshot, calibration, test, fits, terms)
    with scratch_folder(target.parent) as folder:
        both = pd.concat([calibration.assign(split="calibration"), test.assign(split="test")])
        both[_STORED].to_parquet(folder / SCORES)
        write_json(folder / "evaluation.json", record.to_json())
        replace_folder(folder, target)
    return record


def _both_labels(pairs: pd.DataFrame, split: str) -> pd.DataFrame:
    check_both_labels(pairs["label"].to_numpy(), f" in {split}")
    return pairs


def _score(embed: Embed, pairs: pd.DataFrame) -> pd.DataFrame:
    scores = (embed(list(pairs["text_a"])) * embed(list(pairs["text_b"]))).sum(1)
    return pairs.assign(score=scores.astype(np.float64))


def _decided(pairs: pd.DataFrame, fits: dict[str, ScoreFit]) -> pd.DataFrame:
    """The pairs with the probability that they are the same, and the decision, by the fit of each one's source."""
    by_source = {source: (fit.probability(pairs["score"]), fit.threshold) for source, fit in fits.items()}
    seed = (pairs["source"] == "seed").to_numpy()
    probability = np.where(seed, by_source["seed"][0], by_source["interaction"][0])
    threshold = np.where(seed, by_source["seed"][1], by_source["interaction"][1])
    return pairs.assign(probability=probability, same=pairs["score"].to_numpy() >= threshold)


def _labelled(pairs: pd.DataFrame) -> LabelledScores:
    sources = pairs["source"].to_numpy() if "source" in pairs else None
    return LabelledScores(pairs["score"].to_numpy(), pairs["label"].to_numpy(), pairs["component"].to_numpy(), sources)


def _record(
    subject: Subject,
    snapshot: Snapshot,
    calibration: pd.DataFrame,
    test: pd.DataFrame,
    fits: dict[str, ScoreFit],
    terms: Terms,
) -> Evaluation:
    minimum, target_prior = terms.min_components, terms.target_prior
    shared, tested = _labelled(calibration), _labelled(test)
    wrong = (test["same"] != test["label"]).to_numpy()
    kinds = {name: mask for name, mask in slices_of(test).items() if mask.any()}
    everything = np.ones(len(test), dtype=bool)
    intervals = error_intervals(shared, tested, {"": everything, **kinds}, target_prior=target_prior, minimum=minimum)
    error, interval, threshold, own_note = float(wrong.mean()), intervals[""], fits["interaction"].threshold, None
    training = subject.training
    if training is not None and training.own is not None:
        own, threshold = training.own
        error = error_rate(tested.scores, tested.labels, threshold)
        interval = error_interval(own, replace(tested, sources=None), minimum=minimum)
        own_note = reason_no_verdict(own.components, minimum)
    elif training is not None and training.recipe == "head" and training.pairs <= OWN_THRESHOLD_PAIRS:
        interval, own_note = None, "its own pairs are too few for a threshold; the shared one is shown"
    return Evaluation(
        record_id=subject.record_id,
        kind=subject.kind,
        variant=subject.variant,
        size=training.size if training else None,
        recipe=training.recipe if training else None,
        random_seed=training.random_seed if training else None,
        snapshot_id=training.snapshot_id if training else snapshot.snapshot_id,
        test_id=snapshot.test_id,
        error=error,
        interval=interval,
        threshold=threshold,
        calibrated_error=float(wrong.mean()),
        calibrated_interval=intervals[""],
        fits=fits,
        terms=terms,
        calibration_error=float((calibration["same"] != calibration["label"]).mean()),
        metrics=pair_metrics(tested.scores, tested.labels, test["same"].to_numpy(), test["probability"].to_numpy()),
        retrieval=_retrieval(subject.embed, test),
        slices=tuple(
            Slice(name, float(wrong[mask].mean()), intervals[name], int(mask.sum()), test["component"][mask].nunique())
            for name, mask in kinds.items()
        ),
        parts=error_parts(shared, tested, target_prior),
        components=test["component"].nunique(),
        rough=is_rough(tested.components),
        no_verdict=reason_no_verdict(tested.components, minimum) or reason_no_verdict(shared.components, minimum),
        own_note=own_note,
        contamination=subject.contamination,
        train_pairs=training.pairs if training else None,
        train_seconds=training.seconds if training else None,
        kept_start=training.kept_start if training else None,
    )


def _retrieval(embed: Embed, test: pd.DataFrame) -> Retrieval:
    questions = unique_texts(test)
    number = {question: i for i, question in enumerate(questions)}
    same = test[test["label"] == 1]
    return retrieval(embed(questions), [(number[a], number[b]) for a, b in zip(same["text_a"], same["text_b"], strict=True)])


def tested_pairs(evaluations: Path, test_id: str) -> frozenset[str] | None:
    """The ids of the test pairs of a `test_id`, as any record made on it has them; None when no record is left."""
    for file in sorted((evaluations / test_id).glob(f"*/{SCORES}")):
        try:
            scores = pd.read_parquet(file, columns=["pair_id", "split"])
        except (OSError, ValueError):
            continue  # another record has them too
        return frozenset(scores.loc[scores["split"] == "test", "pair_id"])
    return None


def decisions(evaluations: Path, record: Evaluation) -> pd.DataFrame:
    """Per test pair, indexed by pair id and ordered by it: `component`, `label`, `probability` of being the same, `wrong`
    (at the thresholds from calibration). Raises FlywheelError when the scores cannot be read or one is not finite.
    """
    file = evaluation_folder(evaluations, record.test_id, record.record_id) / SCORES
    try:
        scores = pd.read_parquet(file, columns=_STORED)
        check_pairs(scores["score"], scores["label"])
        check_pairs(scores["probability"], scores["label"])
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(". ")
        raise FlywheelError(f"{file} cannot be read ({reason}). {EVALUATE_AGAIN}") from error
    except FlywheelError as error:
        raise FlywheelError(f"{file} is damaged ({error.args[0].partition(':')[0]}). {EVALUATE_AGAIN}") from error
    test = scores[scores["split"] == "test"].sort_values("pair_id").set_index("pair_id")
    return test.assign(wrong=test["same"] != test["label"])[["component", "label", "probability", "wrong"]]
