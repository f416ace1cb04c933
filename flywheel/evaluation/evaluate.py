"""Scoring a model on a snapshot's `test` pairs, with a threshold that `test` has not seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flywheel.errors import explain_disk_errors
from flywheel.evaluation import failures
from flywheel.evaluation.cross_fitted import cross_fitted_interval
from flywheel.evaluation.deciding import Decided, decide, search_judging
from flywheel.evaluation.failures import Failures, holds_any
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.metrics import pair_metrics
from flywheel.evaluation.records import RECORD, Evaluation, OwnLabels, Slice, Terms, evaluation_folder, load_evaluation
from flywheel.evaluation.retention import Domain, Retention, retention
from flywheel.evaluation.sanity import Finding, Origin, Side, find_faults
from flywheel.evaluation.scores import SCORES, STORED
from flywheel.evaluation.slices import slices_of
from flywheel.evaluation.statistics import (
    ErrorParts,
    LabelledScores,
    error_interval,
    error_intervals,
    error_parts,
    error_rate,
    is_rough,
    reason_no_verdict,
)
from flywheel.evaluation.subjects import Embed, Subject
from flywheel.files import locked, replace_folder, scratch_folder, write_json
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.scoring.retrieval import Retrieval, Search
from flywheel.scoring.thresholds import INTERACTION, SEED
from flywheel.training.model import OutOfFold

if TYPE_CHECKING:
    import pandas as pd


def evaluate(
    subject: Subject, snapshot: Snapshot, evaluations: Path, terms: Terms, domains: Sequence[Domain] = ()
) -> Evaluation:
    """The record of `subject` on the snapshot's `test_id`, made if it is not there; a trained model's has its retention on
    the `domains`, whose ids are in the terms.

    Scores of every calibration and test pair are stored beside it. A record made on other terms, or by an older version, is
    made again, and so are one with an alarm, since its vectors may have been put right, and one with failures that are none
    any more. Raises FlywheelError when there is no test split.
    """
    target = evaluation_folder(evaluations, snapshot.test_id, subject.record_id)
    with explain_disk_errors(evaluations), locked(evaluations, f"{snapshot.test_id}-{subject.record_id}"):
        found = load_evaluation(target, terms)
        if found and is_current(found, subject.failed, snapshot):
            return found
        return _evaluate(subject, snapshot, target, terms, domains)


def _evaluate(subject: Subject, snapshot: Snapshot, target: Path, terms: Terms, domains: Sequence[Domain]) -> Evaluation:
    import pandas as pd

    decided = decide(subject, snapshot, terms.target_prior)
    judging, calibration, lost = decided.judging, decided.calibration, decided.lost
    searched = search_judging(subject, snapshot, judging, lost)
    record = _record(subject, snapshot, decided, terms, searched)
    lost_test = holds_any(judging, lost)
    if lost_test.any() or decided.lost_calibration:
        without = judging[~lost_test]
        error = float((without["same"] != without["label"]).mean())
        found = Failures(int(lost_test.sum()), decided.lost_calibration, error, _retrieval_without(searched, judging, without))
        record = replace(
            record, failures=found, no_verdict=record.no_verdict or _failed_too_often(found, calibration, without, terms)
        )
    if subject.untuned and domains:
        record = replace(record, retention=_retention(subject.embed, subject.untuned(snapshot), snapshot, domains, terms))
    with scratch_folder(target.parent) as folder:
        both = pd.concat([calibration.assign(split="calibration"), judging.assign(split="test")])
        both[STORED].to_parquet(folder / SCORES)
        write_json(folder / RECORD, record.to_json())
        replace_folder(folder, target)
    return record


def _retention(
    tuned: Embed, untuned: Embed, snapshot: Snapshot, domains: Sequence[Domain], terms: Terms
) -> tuple[Retention, ...]:
    train = snapshot.pairs("train")
    trains = frozenset({*train["question_a"], *train["question_b"]})
    return tuple(retention(each, tuned, untuned, trains, terms.min_components) for each in domains)


def is_current(found: Evaluation, failed: Callable[[list[str]], Collection[str]], snapshot: Snapshot) -> bool:
    """Whether a record needs not be made again: it has no alarm, and what it has no vectors for still `failed`."""
    if found.alarm or not found.failures:
        return not found.alarm
    calibration, test = snapshot.pairs("calibration"), snapshot.judging_pairs()
    lost = frozenset(failed(unique_texts(calibration, test)))
    counts = int(holds_any(test, lost).sum()), int(holds_any(calibration, lost).sum())
    return (found.failures.test, found.failures.calibration) == counts


def _failed_too_often(found: Failures, calibration: pd.DataFrame, test: pd.DataFrame, terms: Terms) -> str | None:
    """Why the pairs without a failure carry no verdict, or None."""
    splits = {"test": (found.test, test)}
    if len(calibration):
        splits["calibration"] = (found.calibration, calibration)
    reasons = (
        failures.reason_no_verdict(
            failed, len(others) + failed, split, reason_no_verdict(others["component"].to_numpy(), terms.min_components)
        )
        for split, (failed, others) in splits.items()
    )
    return next(filter(None, reasons), None)


def _labelled(pairs: pd.DataFrame, score: str = "score") -> LabelledScores:
    sources = pairs["source"].to_numpy() if "source" in pairs else None
    return LabelledScores(pairs[score].to_numpy(), pairs["label"].to_numpy(), pairs["component"].to_numpy(), sources)


def _record(subject: Subject, snapshot: Snapshot, decided: Decided, terms: Terms, searched: Search) -> Evaluation:
    test, rule = decided.judging, decided.rule
    wrong = (test["same"] != test["label"]).to_numpy()
    kinds = {name: mask for name, mask in slices_of(test).items() if mask.any()}
    # Scores of several folds are of several models: what they have in common is how far they are from the threshold.
    tested = _labelled(test, "margin" if snapshot.is_cross_fitted else "score")
    intervals, parts, no_verdict = _uncertain(
        snapshot, decided, tested, wrong, kinds, terms.min_components, subject.training is not None
    )
    training = subject.training
    own = training.own if training else None
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
        own_labels=_own_labels(own, tested, terms.min_components) if own else None,
        calibration_set_error=float(np.mean(decided.choice_errors)),
        metrics=pair_metrics(tested.scores, tested.labels, test["same"].to_numpy(), test["probability"].to_numpy()),
        retrieval=searched.retrieval,
        slices=tuple(
            Slice(name, float(wrong[mask].mean()), intervals[name], int(mask.sum()), test["component"][mask].nunique())
            for name, mask in kinds.items()
        ),
        parts=parts,
        components=test["component"].nunique(),
        rough=is_rough(tested.components),
        no_verdict=no_verdict,
        findings=() if subject.guess else _findings(subject, decided, searched, no_verdict is None),
        contamination=subject.contamination,
        train_pairs=training.pairs if training else None,
        train_seconds=training.seconds if training else None,
        start=training.start if training else None,
        place=training.place if training else None,
        kept_start=training.kept_start if training else None,
        fold_errors=decided.choice_errors if snapshot.is_cross_fitted else (),
    )


def _uncertain(
    snapshot: Snapshot,
    decided: Decided,
    tested: LabelledScores,
    wrong: NDArray[np.bool_],
    kinds: Mapping[str, NDArray[np.bool_]],
    minimum: int,
    trained: bool,
) -> tuple[Mapping[str, Interval | None], ErrorParts, str | None]:
    """The intervals of all pairs ("") and of each kind, the parts of the error rate, and why there is no verdict, if so."""
    groups = {"": np.ones(len(wrong), dtype=bool), **kinds}
    reason = reason_no_verdict(tested.components, minimum)
    if snapshot.is_cross_fitted:
        folds = decided.judging["fold"].to_numpy()
        intervals = {
            name: cross_fitted_interval(wrong[mask], tested.components[mask], folds[mask], trained=trained, minimum=minimum)
            for name, mask in groups.items()
        }
        return intervals, error_parts(tested, tested, thresholds=dict.fromkeys((SEED, INTERACTION), 0.0)), reason
    shared, prior = _labelled(decided.calibration), decided.rule.moved_to  # a trained model's may be older than the terms
    thresholds = {source: fit.threshold for source, fit in decided.rule.by_source.items()}
    found = error_intervals(shared, tested, groups, thresholds=thresholds, target_prior=prior, minimum=minimum)
    reasons = (("test", reason), ("calibration", reason_no_verdict(shared.components, minimum)))
    no_verdict = next((f"in {split}, {reason}" for split, reason in reasons if reason), None)
    return found, error_parts(shared, tested, prior, thresholds), no_verdict


def _own_labels(own: OutOfFold, test: LabelledScores, minimum: int) -> OwnLabels:
    """What the model's own pairs alone give: every test pair at the threshold that is theirs."""
    scores, threshold = _labelled(own.pairs), own.fit.threshold
    return OwnLabels(
        error=error_rate(test.scores, test.labels, threshold),
        interval=error_interval(scores, replace(test, sources=None), minimum=minimum),
        threshold=threshold,
        note=reason_no_verdict(scores.components, minimum),
    )


def _retrieval_without(searched: Search, test: pd.DataFrame, others: pd.DataFrame) -> Retrieval | None:
    """What the search finds for questions of the `others` among the test pairs that have a duplicate there."""
    questions, same = unique_texts(test), others[others["label"] == 1]
    held = {*same["text_a"], *same["text_b"]}
    kept = np.array([questions[row] in held for row in searched.queries], dtype=bool)
    return searched.only(kept).retrieval if kept.any() else None


def _findings(subject: Subject, decided: Decided, searched: Search, judges: bool) -> tuple[Finding, ...]:
    """What is odd about the subject, by the pairs that it has vectors for."""
    import pandas as pd

    questions = unique_texts(decided.judging)
    test = decided.judging[~holds_any(decided.judging, decided.lost)]
    both = pd.concat([decided.calibration.assign(split="calibration"), test.assign(split="test")], ignore_index=True)
    texts = unique_texts(both)
    component = {text: each for name in ("text_a", "text_b") for text, each in zip(test[name], test["component"], strict=True)}
    searched = searched.only(np.array([questions[row] in component for row in searched.queries], dtype=bool))
    origin: Origin = "api" if subject.reader is None else "tuned" if subject.training else "untuned"
    side = Side(
        origin=origin,
        texts=texts,
        vectors=subject.embed(texts),
        pairs=both,
        search=searched,
        searched_components=np.array([component[questions[row]] for row in searched.queries]),
        moved=decided.rule.moved_to is not None,
        reader=subject.reader,
    )
    return find_faults(side, judges)
