"""Scoring a model on a snapshot's `test` pairs, with a threshold that `test` has not seen."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError, explain_disk_errors, one_line
from flywheel.evaluation.metrics import pair_metrics
from flywheel.evaluation.records import EVALUATE_AGAIN, Evaluation, OwnLabels, Slice, Terms, evaluation_folder, load_evaluation
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
from flywheel.pairs.snapshots.snapshot import DRAW_ANEW, Snapshot, unique_texts
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.thresholds import check_both_labels, check_pairs
from flywheel.training.job import VERSION
from flywheel.training.model import OutOfFold, TrainedModel
from flywheel.training.starts import untuned_start

SCORES = "scores.parquet"
_STORED = ["pair_id", "label", "component", "score", "probability", "same", "split"]
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Training:
    """How a subject was trained: on `pairs` pairs of a snapshot in `seconds`. `kept_start` says why it is the untrained start
    where training brought no proven gain. `own` are its scores of those pairs out of fold, if they were made.
    """

    size: str
    recipe: str
    random_seed: int
    snapshot_id: str
    pairs: int
    seconds: float
    kept_start: str | None
    own: OutOfFold | None


@dataclass(frozen=True)
class Subject:
    """What is evaluated: unit vectors for texts, its decision rule (None: made here, from calibration pairs), and how it was
    trained if it was.
    """

    record_id: str
    kind: Literal["tuned", "untuned", "baseline"]
    variant: str
    embed: Embed
    rule: DecisionRule | None = None
    contamination: str | None = None
    training: Training | None = None


def tuned_subject(model: TrainedModel, vectors: Vectors) -> Subject:
    """A trained model, by its head over the cached features of its encoder: the base model, or the one tuned from it."""
    head = Head(*read_head(model.folder))
    job = model.job
    variant = Variant.parse(job.variant)
    if model.tuned_encoder:
        vectors = replace(vectors, tuned=model.folder)
    training = Training(
        job.size, job.recipe, job.random_seed, job.snapshot_id, model.train_pairs, model.seconds, model.kept_start,
        model.out_of_fold(),
    )  # fmt: skip
    return Subject(
        record_id=job.job_id,
        kind="tuned",
        variant=str(variant),
        embed=lambda texts: head.apply(vectors.features(texts)),
        rule=model.rule,
        contamination=variant.model.contamination,
        training=training,
    )


def untuned_subject(
    variant: Variant, snapshot: Snapshot, vectors: Vectors, kind: Literal["untuned", "baseline"] = "untuned"
) -> Subject:
    """The same base model at the same dimension without training."""
    record_id = digest(f"{kind}|{variant}|{vectors.weights_id}|{vectors.dtype}|{snapshot.snapshot_id}|{VERSION}")

    @cache
    def head() -> Head:
        return untuned_start(snapshot, vectors, variant.dim)

    contamination = variant.model.contamination
    return Subject(record_id, kind, str(variant), lambda texts: head().apply(vectors.get(texts)), contamination=contamination)


def api_subject(vectors: ApiVectors) -> Subject:
    """An embedding API, by its cached vectors."""
    return Subject(digest(vectors.weights_id), "baseline", f"{vectors.model}@{vectors.dimensions}", vectors.get)


def evaluate(subject: Subject, snapshot: Snapshot, evaluations: Path, terms: Terms) -> Evaluation:
    """The record of `subject` on the snapshot's `test_id`, made if it is not there.

    Scores of every calibration and test pair are stored beside it. A record made on other terms, or by an older version, is
    made again. Raises FlywheelError when there is no test split.
    """
    target = evaluation_folder(evaluations, snapshot.test_id, subject.record_id)
    with explain_disk_errors(evaluations), locked(evaluations, f"{snapshot.test_id}-{subject.record_id}"):
        if found := load_evaluation(target, terms):
            return found
        return _evaluate(subject, snapshot, target, terms)


def _evaluate(subject: Subject, snapshot: Snapshot, target: Path, terms: Terms) -> Evaluation:
    snapshot.check_drawn()
    calibration, test = (_both_labels(snapshot.pairs(split), split) for split in ("calibration", "test"))
    calibration, test = _score(subject.embed, calibration), _score(subject.embed, test)
    scores, labels, sources = (calibration[name].to_numpy() for name in ("score", "label", "source"))
    rule = subject.rule or DecisionRule.fit(scores, labels, sources, terms.target_prior)
    calibration, test = _decided(calibration, rule), _decided(test, rule)
    record = _record(subject, snapshot, calibration, test, rule, terms)
    with scratch_folder(target.parent) as folder:
        both = pd.concat([calibration.assign(split="calibration"), test.assign(split="test")])
        both[_STORED].to_parquet(folder / SCORES)
        write_json(folder / "evaluation.json", record.to_json())
        replace_folder(folder, target)
    return record


def _both_labels(pairs: pd.DataFrame, split: str) -> pd.DataFrame:
    check_both_labels(pairs["label"].to_numpy(), f" in {split}", DRAW_ANEW)
    return pairs


def _score(embed: Embed, pairs: pd.DataFrame) -> pd.DataFrame:
    scores = (embed(list(pairs["text_a"])) * embed(list(pairs["text_b"]))).sum(1)
    return pairs.assign(score=scores.astype(np.float64))


def _decided(pairs: pd.DataFrame, rule: DecisionRule) -> pd.DataFrame:
    """The pairs with the probability that they mean the same, and the decision, by the rule."""
    scores, sources = pairs["score"].to_numpy(), pairs["source"].to_numpy()
    return pairs.assign(probability=rule.probability(scores, sources), same=rule.decide(scores, sources))


def _labelled(pairs: pd.DataFrame) -> LabelledScores:
    sources = pairs["source"].to_numpy() if "source" in pairs else None
    return LabelledScores(pairs["score"].to_numpy(), pairs["label"].to_numpy(), pairs["component"].to_numpy(), sources)


def _record(
    subject: Subject,
    snapshot: Snapshot,
    calibration: pd.DataFrame,
    test: pd.DataFrame,
    rule: DecisionRule,
    terms: Terms,
) -> Evaluation:
    minimum, target_prior = terms.min_components, rule.moved_to  # a trained model's may be older than the terms
    shared, tested = _labelled(calibration), _labelled(test)
    wrong = (test["same"] != test["label"]).to_numpy()
    kinds = {name: mask for name, mask in slices_of(test).items() if mask.any()}
    everything = np.ones(len(test), dtype=bool)
    thresholds = {source: fit.threshold for source, fit in rule.by_source.items()}
    groups = {"": everything, **kinds}
    intervals = error_intervals(shared, tested, groups, thresholds=thresholds, target_prior=target_prior, minimum=minimum)
    training = subject.training
    return Evaluation(
        record_id=subject.record_id,
        kind=subject.kind,
        variant=subject.variant,
        size=training.size if training else None,
        recipe=training.recipe if training else None,
        random_seed=training.random_seed if training else None,
        snapshot_id=training.snapshot_id if training else snapshot.snapshot_id,
        test_id=snapshot.test_id,
        error=float(wrong.mean()),
        interval=intervals[""],
        rule=rule,
        terms=terms,
        own_labels=_own_labels(training.own, tested, minimum) if training and training.own else None,
        calibration_set_error=float((calibration["same"] != calibration["label"]).mean()),
        metrics=pair_metrics(tested.scores, tested.labels, test["same"].to_numpy(), test["probability"].to_numpy()),
        retrieval=_retrieval(subject.embed, test),
        slices=tuple(
            Slice(name, float(wrong[mask].mean()), intervals[name], int(mask.sum()), test["component"][mask].nunique())
            for name, mask in kinds.items()
        ),
        parts=error_parts(shared, tested, target_prior, thresholds),
        components=test["component"].nunique(),
        rough=is_rough(tested.components),
        no_verdict=reason_no_verdict(tested.components, minimum) or reason_no_verdict(shared.components, minimum),
        contamination=subject.contamination,
        train_pairs=training.pairs if training else None,
        train_seconds=training.seconds if training else None,
        kept_start=training.kept_start if training else None,
    )


def _own_labels(own: OutOfFold, test: LabelledScores, minimum: int) -> OwnLabels:
    """What the model's own pairs alone give: every test pair at the threshold that is theirs."""
    scores, threshold = _labelled(own.pairs), own.fit.threshold
    return OwnLabels(
        error=error_rate(test.scores, test.labels, threshold),
        interval=error_interval(scores, replace(test, sources=None), minimum=minimum),
        threshold=threshold,
        note=reason_no_verdict(scores.components, minimum),
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
        raise FlywheelError(f"{file} cannot be read ({one_line(error)}). {EVALUATE_AGAIN}") from error
    except FlywheelError as error:
        raise FlywheelError(f"{file} is damaged ({error.args[0].partition(':')[0]}). {EVALUATE_AGAIN}") from error
    test = scores[scores["split"] == "test"].sort_values("pair_id").set_index("pair_id")
    return test.assign(wrong=test["same"] != test["label"])[["component", "label", "probability", "wrong"]]
