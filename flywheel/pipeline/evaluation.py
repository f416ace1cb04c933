"""Measuring models on a snapshot's test pairs: cells, and what they are compared with, the baseline and the champion."""

import logging

from flywheel.errors import FlywheelError
from flywheel.evaluation.comparison import Baseline
from flywheel.evaluation.leaderboard import Leaderboard, build_leaderboard
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.evaluation.speed import measure_speed
from flywheel.evaluation.subjects import Subject, api_subject, guess_subject, tuned_subject, untuned_subject
from flywheel.models.api.ledger import Paid
from flywheel.models.catalogue import Variant
from flywheel.models.folder import served_difference
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import TrainedModel

log = logging.getLogger(__name__)

_SERVED_TEXTS = 32
_WITHOUT_API = ("local", "guess")


def snapshot_of(workspace: Workspace, model: TrainedModel) -> Snapshot:
    """The snapshot that a model was trained on. Raises FlywheelError when it is deleted."""
    return workspace.snapshots.load(model.job.snapshot_id)


def evaluate_cell(workspace: Workspace, model: TrainedModel, snapshot: Snapshot) -> Evaluation:
    """Evaluate a trained cell, and the untuned model beside it."""
    variant = Variant.parse(model.job.variant)
    vectors = workspace.vectors(variant.model)
    workspace.evaluate(untuned_subject(variant, snapshot, vectors), snapshot)
    record = workspace.evaluate(tuned_subject(model, vectors), snapshot)
    measure_speed(workspace.home.speeds, vectors, unique_texts(snapshot.judging_pairs()))
    return record


def served_vectors_difference(workspace: Workspace, model: TrainedModel, snapshot: Snapshot) -> float:
    """Largest difference between the vectors the saved folder gives and the ones evaluation uses, on a few questions."""
    texts = unique_texts(snapshot.judging_pairs())[:_SERVED_TEXTS]
    subject = tuned_subject(model, workspace.vectors(Variant.parse(model.job.variant).model))
    return served_difference(model.folder, texts, subject.embed(texts))


def measure_baseline(workspace: Workspace, snapshot: Snapshot, pay: bool) -> Baseline:
    """Evaluate the API where its vectors are cached, else the local baseline (setting `baseline.source`).

    With `pay`, vectors that are missing are bought where a key is set. Raises FlywheelError when only the API will do and
    vectors are missing.
    """
    options, api = workspace.settings.baseline, workspace.api
    texts = unique_texts(snapshot.pairs("calibration"), snapshot.judging_pairs())
    missing = 0 if options.source in _WITHOUT_API else api.missing(texts)
    if options.source == "openai" or (options.source == "auto" and (not missing or (pay and api.api_key))):
        if missing and not pay:
            raise FlywheelError(
                f"{missing:,} texts have no vector of {options.model} yet. Set OPENAI_API_KEY and run `flywheel baseline "
                "embed`, which buys them, or bring them with `flywheel baseline import`."
            )
        paid = api.fill(texts)
        return Baseline(workspace.evaluate(api_subject(api), snapshot), True, None, paid)
    record = workspace.evaluate(_local_baseline(workspace, snapshot), snapshot)
    return Baseline(record, False, how_to_measure_the_api(workspace), Paid())


def read_baseline(workspace: Workspace, snapshot: Snapshot) -> Baseline:
    """The baseline as it was measured on this snapshot; measures and pays nothing.

    Raises FlywheelError when it has not been measured.
    """
    source = workspace.settings.baseline.source
    if source not in _WITHOUT_API and (record := _read(workspace, snapshot, api_subject(workspace.api).record_id)):
        return Baseline(record, True, None, Paid())
    if source != "openai" and (record := _read(workspace, snapshot, _local_baseline(workspace, snapshot).record_id)):
        return Baseline(record, False, how_to_measure_the_api(workspace), Paid())
    raise FlywheelError(
        f"The baseline has not been measured on snapshot {snapshot.snapshot_id[:12]}. Run `flywheel grid`, or materialise "
        "`baseline_scores`."
    )


def measure_champion(workspace: Workspace, snapshot: Snapshot) -> Evaluation | None:
    """The champion on the pairs that judge; None while there is none, it cannot be read, or it has trained on those pairs."""
    if (champion := _load_champion(workspace, snapshot)) is None:
        return None
    vectors = workspace.vectors(Variant.parse(champion.job.variant).model)
    return workspace.evaluate(tuned_subject(champion, vectors), snapshot)


def read_champion(workspace: Workspace, snapshot: Snapshot) -> Evaluation | None:
    """The same from its record; raises FlywheelError when the champion has not been evaluated on this snapshot."""
    if (champion := _load_champion(workspace, snapshot)) is None:
        return None
    if record := _read(workspace, snapshot, champion.name):
        return record
    raise FlywheelError(
        f"The champion has not been evaluated on snapshot {snapshot.snapshot_id[:12]}. Run `flywheel grid`, or materialise "
        "`baseline_scores`."
    )


def leaderboard(workspace: Workspace, snapshot: Snapshot) -> Leaderboard:
    """The leaderboard of a snapshot, from the records that are there."""
    champion = workspace.registry.champion()
    return build_leaderboard(snapshot, workspace.home.evaluations, workspace.terms, champion.model if champion else None)


def _load_champion(workspace: Workspace, snapshot: Snapshot) -> TrainedModel | None:
    """The champion's model, where the snapshot's pairs can judge it."""
    champion = workspace.registry.champion()
    if champion is None:
        return None
    try:
        model = TrainedModel.load(workspace.home.models / champion.model)
    except FlywheelError as error:
        log.warning("The champion cannot be read, so the next candidate is judged against the baseline: %s", error)
        return None
    if model.folds and champion.test_id != snapshot.test_id:
        log.warning(
            "The champion has trained on pairs that now judge, so the next candidate is judged against the model that the same "
            "training gives now, or against the baseline."
        )
        return None
    return model


def _local_baseline(workspace: Workspace, snapshot: Snapshot) -> Subject:
    if workspace.settings.baseline.source == "guess":
        return guess_subject()
    variant = Variant.parse(workspace.settings.baseline.local_variant)
    return untuned_subject(variant, snapshot, workspace.vectors(variant.model), kind="baseline")


def how_to_measure_the_api(workspace: Workspace) -> str:
    """What the baseline is while the API is not measured, and how to measure it."""
    options = workspace.settings.baseline
    if options.source == "guess":
        return "The baseline is always giving the commoner label. To compare with a model, set baseline.source to auto."
    first = "set baseline.source to auto, then " if options.source == "local" else ""
    return (
        f"The baseline is the untuned {options.local_variant}, not {options.model}. To measure the API, {first}set "
        "OPENAI_API_KEY and run `flywheel baseline embed`, or materialise `baseline_scores`."
    )


def _read(workspace: Workspace, snapshot: Snapshot, record_id: str) -> Evaluation | None:
    return load_evaluation(evaluation_folder(workspace.home.evaluations, snapshot.test_id, record_id), workspace.terms)
