"""Measuring models on a snapshot's test pairs: cells, and what they are compared with, the baseline and the champion."""

import logging
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from flywheel.errors import FlywheelError, TryAgainError
from flywheel.evaluation.comparison import Baseline
from flywheel.evaluation.leaderboard import Leaderboard, build_leaderboard
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.evaluation.speed import measure_speed
from flywheel.evaluation.subjects import Subject, api_subject, guess_subject, tuned_subject, untuned_subject
from flywheel.models.api.ledger import Paid
from flywheel.models.catalogue import Variant
from flywheel.models.folder import ALLOWED_DIFFERENCE, loaders, portability, served_difference
from flywheel.models.foreign import Portability
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline import passed
from flywheel.pipeline.training import evaluated_pairs
from flywheel.pipeline.workspace import Workspace
from flywheel.training.model import RECORD, TrainedModel, finished_models

log = logging.getLogger(__name__)

_SERVED_TEXTS = 32
_WITHOUT_API = ("local", "guess")


def snapshot_of(workspace: Workspace, model: TrainedModel) -> Snapshot:
    """The snapshot that a model was trained on. Raises FlywheelError when it is deleted."""
    return workspace.snapshots.load(model.job.snapshot_id)


def evaluate_cell(workspace: Workspace, model: TrainedModel, snapshot: Snapshot) -> Evaluation:
    """Evaluate a trained cell, and the untuned model beside it."""
    variant = Variant.parse(model.job.variant)
    vectors = workspace.vectors_of(model.job)
    workspace.evaluate(untuned_subject(variant, snapshot, vectors), snapshot)
    record = workspace.evaluate(tuned_subject(model, vectors), snapshot)
    measure_speed(workspace.home.speeds, vectors, unique_texts(snapshot.judging_pairs()))
    return record


def compared_with(workspace: Workspace, record: Evaluation, model: TrainedModel, snapshot: Snapshot) -> dict[str, Evaluation]:
    """What a cell's evaluation is read beside, as far as it is measured on its test pairs: `untuned` and `baseline`."""
    variant = Variant.parse(record.variant)
    untuned = read_record(workspace, snapshot, untuned_subject(variant, snapshot, workspace.vectors_of(model.job)).record_id)
    found = {"untuned": untuned} if untuned else {}
    with suppress(FlywheelError):  # not measured yet
        found["baseline"] = read_baseline(workspace, snapshot).evaluation
    return found


class Served(NamedTuple):
    """The largest difference between a cosine that a saved folder gives and the one that is evaluated, and the allowed one."""

    difference: float
    allowed: float


def served_vectors_difference(workspace: Workspace, model: TrainedModel, snapshot: Snapshot) -> Served:
    """How far the vectors that the saved folder gives are from the ones evaluation uses, on a few questions.

    A folder that has passed on the same snapshot and machine is not loaded again.
    """
    file, device = workspace.home.passed_checks, workspace.settings.encoding.device
    key = passed.key_of("served_vectors", model.folder, snapshot.snapshot_id, device, passed.this_machine())
    if found := passed.has_passed(file, key):
        return Served(*found)
    allowed = ALLOWED_DIFFERENCE[workspace.vectors_of(model.job).dtype]
    served = Served(served_difference(model.folder, *_served(workspace, model, snapshot)), allowed)
    if served.difference <= served.allowed:
        passed.remember(file, key, served)
    return served


def folder_portability(workspace: Workspace, model: TrainedModel, snapshot: Snapshot) -> Portability:
    """Who can load the saved folder, and what in it speaks against that; one that has passed is not loaded again."""
    file, key = workspace.home.passed_checks, passed.key_of("folder_portability", model.folder)
    if passed.has_passed(file, key):
        return Portability(loaders(model.folder), ())
    found = portability(model.folder, *_served(workspace, model, snapshot))
    if not found.faults:
        passed.remember(file, key, True)
    return found


def _served(workspace: Workspace, model: TrainedModel, snapshot: Snapshot) -> tuple[list[str], np.ndarray]:
    texts = unique_texts(snapshot.judging_pairs())[:_SERVED_TEXTS]
    return texts, tuned_subject(model, workspace.vectors_of(model.job)).embed(texts)


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
        api.cache.share()
        return Baseline(workspace.evaluate(api_subject(api), snapshot), True, None, paid)
    record = workspace.evaluate(_local_baseline(workspace, snapshot), snapshot)
    return Baseline(record, False, how_to_measure_the_api(workspace), Paid())


def read_baseline(workspace: Workspace, snapshot: Snapshot) -> Baseline:
    """The baseline as it was measured on this snapshot; measures and pays nothing.

    Raises FlywheelError when it has not been measured.
    """
    source = workspace.settings.baseline.source
    if source not in _WITHOUT_API and (record := read_record(workspace, snapshot, api_subject(workspace.api).record_id)):
        return Baseline(record, True, None, Paid())
    if source != "openai" and (record := read_record(workspace, snapshot, _local_baseline(workspace, snapshot).record_id)):
        return Baseline(record, False, how_to_measure_the_api(workspace), Paid())
    raise FlywheelError(
        f"The baseline has not been measured on snapshot {snapshot.snapshot_id[:12]}. Run `flywheel grid`, or materialise "
        "`baseline_scores`."
    )


def measure_champion(workspace: Workspace, snapshot: Snapshot) -> Evaluation | None:
    """The champion on the pairs that judge; None while there is none, it cannot be read, or it has trained on those pairs."""
    if (champion := _load_champion(workspace, snapshot)) is None:
        return None
    vectors = workspace.vectors_of(champion.job)
    return workspace.evaluate(tuned_subject(champion, vectors), snapshot)


def carry_along(workspace: Workspace, snapshot: Snapshot) -> int:
    """Evaluate the cells of older snapshots on this one's test pairs where that costs no encoding; returns how many there are.

    So the board, the learning curve and its advice outlast a change of the test pairs. Of each cell the newest model counts.
    Cross-fitted models have trained on pairs that judge, and are left out.
    """
    if snapshot.is_cross_fitted or not snapshot.can_judge:
        return 0
    newest: dict[tuple[str, str, str, int], TrainedModel] = {}
    for folder in sorted(finished_models(workspace.home.models), key=lambda each: (each / RECORD).stat().st_mtime_ns):
        try:
            model = TrainedModel.load(folder)
        except FlywheelError as error:
            log.warning("A model is left out: %s", error)
            continue
        newest[model.job.variant, model.job.size, model.job.recipe, model.job.random_seed] = model
    texts = unique_texts(*evaluated_pairs(workspace, snapshot))
    carried = 0
    for model in newest.values():
        if model.job.recipe != "head" or model.folds or model.job.snapshot_id == snapshot.snapshot_id:
            continue
        vectors = workspace.vectors_of(model.job)
        with suppress(FlywheelError):  # its weights are gone, and so are its vectors
            if vectors.weights_id == model.job.weights and not vectors.missing(texts):
                workspace.evaluate(tuned_subject(model, vectors), snapshot)
                carried += 1
    return carried


def read_champion(workspace: Workspace, snapshot: Snapshot) -> Evaluation | None:
    """The same from its record; raises FlywheelError when the champion has not been evaluated on this snapshot."""
    if (champion := _load_champion(workspace, snapshot)) is None:
        return None
    if record := read_record(workspace, snapshot, champion.name):
        return record
    raise FlywheelError(
        f"The champion has not been evaluated on snapshot {snapshot.snapshot_id[:12]}. Run `flywheel grid`, or materialise "
        "`baseline_scores`."
    )


def leaderboard(workspace: Workspace, snapshot: Snapshot) -> Leaderboard:
    """The leaderboard of a snapshot, from the records that are there."""
    champion = workspace.registry.champion()
    evaluations = workspace.records.pull(snapshot.test_id)
    return build_leaderboard(snapshot, evaluations, workspace.terms, champion.model if champion else None)


def _load_champion(workspace: Workspace, snapshot: Snapshot) -> TrainedModel | None:
    """The champion's model, where the snapshot's pairs can judge it."""
    champion = workspace.registry.champion()
    if champion is None:
        return None
    try:
        model = workspace.trained.load(champion.model)
    except TryAgainError:
        raise
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
    return untuned_subject(variant, snapshot, workspace.vectors(variant.base), kind="baseline")


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


def read_record(workspace: Workspace, snapshot: Snapshot, record_id: str) -> Evaluation | None:
    """The record of a model on a snapshot's test pairs and the present terms, here or at the root; None where there is none."""
    evaluations = workspace.records.pull(snapshot.test_id)
    return load_evaluation(evaluation_folder(evaluations, snapshot.test_id, record_id), workspace.terms)
