"""A subject decides the pairs that judge: those set aside as `test`, or, cross-fitted, every labelled pair in its fold."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.evaluation.failures import as_errors, holds_any
from flywheel.evaluation.subjects import Embed, Subject
from flywheel.pairs.snapshots.snapshot import DRAW_AGAIN, Snapshot, unique_texts
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.retrieval import Search, search
from flywheel.scoring.thresholds import check_both_labels

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False)
class Decided:
    """The pairs that judge, in order of their ids, and those of calibration, none where the snapshot is cross-fitted.

    Both have `score`, `probability` and `same` by the subject's decision rule, `margin`, by how much the score is above its
    threshold, and `fold`, 0 where there are none; `lost` are the texts that it has no vector for, and pairs of calibration with
    one are left out. `rule` is the one it goes by from now on. `choice_errors` are the error rates on the pairs that chose its
    rule, one for each fold.
    """

    judging: pd.DataFrame
    calibration: pd.DataFrame
    rule: DecisionRule
    choice_errors: tuple[float, ...]
    lost: frozenset[str]
    lost_calibration: int


def decide(subject: Subject, snapshot: Snapshot, target_prior: float | None) -> Decided:
    """Decide every pair that judges, by a rule and vectors that have not seen it.

    A subject without a rule gets one from the calibration pairs, or in each fold from the pairs of the others. Pairs with a
    text that it has no vector for count as its errors, and choose no rule. Raises FlywheelError when the snapshot has no pairs
    that judge, or they, or those that the subject has vectors for, are of one label.
    """
    snapshot.check_judges()
    calibration, judging = snapshot.pairs("calibration"), _both_labels(snapshot.judging_pairs(), "test")
    lost = frozenset(subject.failed(unique_texts(calibration, judging)))
    if holds_any(judging, lost).all():
        raise FlywheelError(
            f"{subject.variant} could not embed one text or both of every test pair. Run `flywheel baseline embed --retry`, or "
            "choose another baseline.model."
        )
    if snapshot.is_cross_fitted:
        return _by_folds(subject, snapshot.folds, judging, lost, target_prior)
    return _by_splits(subject, _both_labels(calibration, "calibration"), judging, lost, target_prior)


def _by_splits(
    subject: Subject, calibration: pd.DataFrame, test: pd.DataFrame, lost: Collection[str], target_prior: float | None
) -> Decided:
    without = holds_any(calibration, lost)
    calibration = _scored(subject, subject.embed, calibration[~without])
    rule = subject.rule or _fit(calibration, target_prior)
    calibration = _decided(calibration, rule)
    error = float((calibration["same"] != calibration["label"]).mean())
    judging = _held_out(subject.embed, test.assign(fold=0), lost, rule)
    return Decided(judging, calibration, rule, (error,), frozenset(lost), int(without.sum()))


def _by_folds(subject: Subject, folds: int, pairs: pd.DataFrame, lost: Collection[str], target_prior: float | None) -> Decided:
    import pandas as pd

    held, errors = [], []
    for fold in range(folds):
        out, own = (pairs["fold"] == fold).to_numpy(), subject.in_fold(fold)
        rule, error = own.rule, own.error
        if rule is None:
            others = _scored(subject, own.embed, pairs[~out & ~holds_any(pairs, lost)])
            rule = _fit(others, target_prior)
            others = _decided(others, rule)
            error = float((others["same"] != others["label"]).mean())
        held.append(_held_out(own.embed, pairs[out], lost, rule))
        errors.append(error)
    rule = subject.rule or _fit(_scored(subject, subject.embed, pairs[~holds_any(pairs, lost)]), target_prior)
    judging = pd.concat(held).loc[pairs.index]
    return Decided(judging, judging.iloc[:0], rule, tuple(errors), frozenset(lost), 0)


def search_judging(subject: Subject, snapshot: Snapshot, judging: pd.DataFrame, lost: Collection[str]) -> Search:
    """What the subject's search finds among the questions of the judging pairs, each query by vectors that have not seen it."""
    questions = unique_texts(judging)
    number = {question: i for i, question in enumerate(questions)}
    missing = np.array([question in lost for question in questions])
    same = judging[judging["label"] == 1]
    duplicates = [(number[a], number[b]) for a, b in zip(same["text_a"], same["text_b"], strict=True)]
    if not snapshot.is_cross_fitted:
        return search(_without(subject.embed(questions), missing), duplicates, missing)
    fold = np.zeros(len(questions), dtype=np.intp)
    for side in ("text_a", "text_b"):
        fold[[number[text] for text in judging[side]]] = judging["fold"]
    found = []
    for each in range(snapshot.folds):
        searched = search(_without(subject.in_fold(each).embed(questions), missing), duplicates, missing)
        found.append(searched.only(fold[searched.queries] == each))
    return Search.joined(found)


def _without(vectors: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The vectors (q, d) with one in place of those that are `missing` (q,), which nothing finds."""
    return np.where(missing[:, None], np.eye(1, vectors.shape[1], dtype=vectors.dtype), vectors) if missing.any() else vectors


def _held_out(embed: Embed, pairs: pd.DataFrame, lost: Collection[str], rule: DecisionRule) -> pd.DataFrame:
    import pandas as pd

    failed = holds_any(pairs, lost)
    return pd.concat([_decided(_score(embed, pairs[~failed]), rule), as_errors(pairs[failed])]).loc[pairs.index]


def _scored(subject: Subject, embed: Embed, pairs: pd.DataFrame) -> pd.DataFrame:
    return _score(embed, _both_labels(pairs, f"the pairs of calibration that {subject.variant} can embed"))


def _score(embed: Embed, pairs: pd.DataFrame) -> pd.DataFrame:
    scores = (embed(list(pairs["text_a"])) * embed(list(pairs["text_b"]))).sum(1)
    return pairs.assign(score=scores.astype(np.float64))


def _fit(pairs: pd.DataFrame, target_prior: float | None) -> DecisionRule:
    scores, labels, sources = (pairs[name].to_numpy() for name in ("score", "label", "source"))
    return DecisionRule.fit(scores, labels, sources, target_prior)


def _decided(pairs: pd.DataFrame, rule: DecisionRule) -> pd.DataFrame:
    """The pairs with the probability that they mean the same, and the decision, by the rule."""
    scores, sources = pairs["score"].to_numpy(), pairs["source"].to_numpy()
    margin = scores - rule.thresholds(sources)
    return pairs.assign(probability=rule.probability(scores, sources), same=rule.decide(scores, sources), margin=margin)


def _both_labels(pairs: pd.DataFrame, where: str) -> pd.DataFrame:
    check_both_labels(pairs["label"].to_numpy(), f" in {where}", DRAW_AGAIN)
    return pairs
