"""What users left since the champion was trained, against what it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.evaluation import drift
from flywheel.evaluation.drift import Drift, Sides
from flywheel.evaluation.subjects import Subject, tuned_subject
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.champions import Champion
from flywheel.training.model import TrainedModel

if TYPE_CHECKING:
    import pandas as pd


def find_label_drift(workspace: Workspace, now: Snapshot) -> Drift:
    """Of the share of pairs that are the same."""
    return _found(workspace, now, "train", lambda sides, *_: drift.label_drift(sides))


def find_text_drift(workspace: Workspace, now: Snapshot) -> Drift:
    """Of lengths and scripts."""
    return _found(workspace, now, "train", lambda sides, *_: drift.text_drift(sides))


def find_score_drift(workspace: Workspace, now: Snapshot) -> Drift:
    """Of the champion's scores. Encodes nothing.

    A model scores pairs of questions that it has trained on higher: new pairs of such questions are held against those of
    training, where they are most of the new ones, and the others else against those that were set aside.
    """

    def look(sides: Sides, then: Snapshot, champion: Champion) -> Drift:
        trained = then.pairs("train")
        known = {*trained["question_a"], *trained["question_b"]}
        of_known = sides.new["question_a"].isin(known) | sides.new["question_b"].isin(known)
        if of_known.mean() > 0.5:
            sides = Sides(sides.new[of_known], drift.own_or_all(trained))
        else:
            sides = Sides(sides.new[~of_known], sides.before)
        if sides.why_not:
            return sides.nothing(sides.why_not)
        subject = _subject(workspace, champion, unique_texts(sides.new, sides.before))
        if isinstance(subject, str):
            return sides.nothing(subject)
        return drift.score_drift(sides, *(_scores(subject, frame) for frame in (sides.new, sides.before)))

    return _found(workspace, now, "calibration", look)


def find_far_questions(workspace: Workspace, now: Snapshot) -> Drift:
    """Of questions that are far from all that the champion was trained on, by its own vectors. Encodes nothing."""

    def look(sides: Sides, then: Snapshot, champion: Champion) -> Drift:
        trained = unique_texts(then.pairs("train"))
        known = set(trained)
        new = [text for text in unique_texts(sides.new) if text not in known]
        aside = [text for text in unique_texts(then.pairs("calibration")) if text not in known]
        chosen = drift.some(new), drift.some_trained(trained), drift.some(aside)
        subject = _subject(workspace, champion, [text for texts in chosen for text in texts])
        if isinstance(subject, str) or not new:
            return sides.nothing(subject if isinstance(subject, str) else "every question of the new pairs was there before")
        return drift.far_share(sides, *(subject.embed(texts) for texts in chosen))

    return _found(workspace, now, "train", look)


def _found(workspace: Workspace, now: Snapshot, split: str, look: Callable[[Sides, Snapshot, Champion], Drift]) -> Drift:
    """What `look` finds between the pairs that are new in `now` and a split of the snapshot that the champion was trained on.

    A champion that was trained on `now` itself has seen them: then it is the one before.
    """
    champions = [entry.champion for entry in workspace.registry.history() if entry.champion]
    champion = next((each for each in reversed(champions) if each.snapshot_id != now.snapshot_id), None)
    if champion is None:
        return Drift({}, 0, 0, "nothing has come in since a champion was trained" if champions else "there is no champion yet")
    try:
        then = workspace.snapshots.load(champion.snapshot_id)
    except FlywheelError as error:
        return Drift({}, 0, 0, str(error))
    sides = drift.new_against(now, then, split)
    return sides.nothing(sides.why_not) if sides.why_not else look(sides, then, champion)


def _subject(workspace: Workspace, champion: Champion, texts: list[str]) -> Subject | str:
    """The champion as a subject, or why it has no vectors of these texts at hand."""
    try:
        model = TrainedModel.load(workspace.home.models / champion.model)
        vectors = workspace.vectors_of(model.job)
        cached = vectors.weights_id == model.job.weights and not model.tuned_encoder
        missing = vectors.missing(texts) if cached else len(texts)
        subject = tuned_subject(model, vectors)
    except FlywheelError as error:
        return str(error)
    return f"{missing:,} of {len(texts):,} texts have no cached vector" if missing else subject


def _scores(champion: Subject, pairs: pd.DataFrame) -> np.ndarray:
    """The cosine of each pair's two texts."""
    a, b = (champion.embed(list(pairs[side])) for side in ("text_a", "text_b"))
    return np.einsum("ij,ij->i", a, b)
