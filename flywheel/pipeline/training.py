"""Training cells: the job of a cell, training it, and encoding ahead what many cells need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot, unique_texts
from flywheel.pairs.store.new_pairs import record_training
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import (
    Cell,
    TrainingJob,
    check_recipe,
    check_size,
    head_recipe,
    tuning_recipe,
)
from flywheel.training.model import TrainedModel
from flywheel.training.starts import direction_pairs

if TYPE_CHECKING:
    import pandas as pd


def training_job(workspace: Workspace, snapshot: Snapshot, cell: Cell, recipe: str) -> TrainingJob:
    """The spec of a cell on a snapshot. Raises FlywheelError for an unknown recipe, an invalid size, or missing weights."""
    options, name, variant = workspace.settings.training, check_recipe(recipe), cell.variant
    vectors = workspace.vectors(variant.base)
    vectors.check_dim(variant.dim)
    return TrainingJob(
        variant=str(variant),
        size=check_size(cell.size),
        recipe=name,
        random_seed=options.random_seed,
        interaction_share=options.interaction_share,
        snapshot_id=snapshot.snapshot_id,
        base=replace(vectors.model, path=None),
        weights=vectors.weights_id,
        head=head_recipe(options.recipes.get("head", {}) if name == "head" else {}),
        poolings=vectors.holds,
        tuning=tuning_recipe(name, options.recipes.get(name, {})),
        dims=() if name == "head" else tuple(sorted({*workspace.settings.grid.dims(variant.base), variant.dim})),
        target_prior=workspace.settings.evaluation.target_prior,
    )


def train_cell(workspace: Workspace, snapshot: Snapshot, cell: Cell, recipe: str) -> TrainedModel:
    """Train a cell on a snapshot, or find it finished."""
    job = training_job(workspace, snapshot, cell, recipe)
    model = workspace.train(job, snapshot)
    if job.size == ALL and (cell, recipe) == next_retraining(workspace):
        record_training(workspace.store, snapshot.snapshot_id)
    return model


def why_impossible(workspace: Workspace, snapshot: Snapshot, cell: Cell) -> str:
    """Why a cell cannot be filled on this machine with this data: no weights, or too few pairs; nothing if it can."""
    try:
        _ = workspace.vectors(cell.variant.base).weights_id
    except FlywheelError as error:
        return str(error)
    largest = snapshot.largest_size(workspace.settings.training.interaction_share)
    if cell.size == ALL or int(cell.size) <= largest:
        return ""
    held = f"`train` holds {snapshot.train.seed:,} seed and {snapshot.train.interaction:,} interaction pairs"
    if snapshot.is_cross_fitted:
        held += ", and each model is also trained without one fold and without two"
    return f"sizes above {largest:,} cannot be filled, since {held}"


def next_retraining(workspace: Workspace) -> tuple[Cell, str]:
    """The cell and recipe that a retraining trains: the champion's, or those of the settings while there is none."""
    champion = workspace.registry.champion()
    if champion is None:
        return Cell(Variant.parse(workspace.settings.retraining.variant), ALL), "head"
    return Cell(Variant.parse(champion.variant), ALL), champion.recipe


def texts_of_cells(workspace: Workspace, snapshot: Snapshot, sizes: Iterable[str]) -> list[str]:
    """Every text that cells of these sizes and their evaluation need, whatever their variant."""
    options, asked = workspace.settings.training, {ALL} if snapshot.is_cross_fitted else set(sizes)
    # Sizes nest, so that the largest holds the others; only `all` has pairs of another kind.
    needed = {max((size for size in asked if size != ALL), key=int, default=ALL), *({ALL} & asked)}
    frames = [snapshot.training_pairs(size, options.random_seed, options.interaction_share) for size in sorted(needed)]
    return unique_texts(*frames, direction_pairs(snapshot), *evaluated_pairs(workspace, snapshot))


def evaluated_pairs(workspace: Workspace, snapshot: Snapshot) -> list[pd.DataFrame]:
    """The pairs whose texts an evaluation of a trained model reads."""
    return [snapshot.pairs("calibration"), snapshot.judging_pairs(), *(domain.read() for domain in workspace.domains)]


def texts_encoded_here(workspace: Workspace, snapshot: Snapshot, sizes: Iterable[str]) -> list[str]:
    """The texts that this machine encodes for cells of these sizes: all, or where a cluster trains those of evaluations."""
    if workspace.settings.compute.engine is None:
        return texts_of_cells(workspace, snapshot, sizes)
    return unique_texts(*evaluated_pairs(workspace, snapshot))


def encode_ahead(
    workspace: Workspace, snapshot: Snapshot, cells: Sequence[Cell], progress: Callable[[int, int], None]
) -> tuple[int, dict[str, str]]:
    """Encode all that some cells and their evaluation will need of this machine; `progress` hears (encoded, to encode).

    Returns how many texts were new, and for each base model that cannot be loaded why.
    """
    texts = texts_encoded_here(workspace, snapshot, (cell.size for cell in cells))
    encoded, failures = 0, {}
    for base in dict.fromkeys(cell.variant.base for cell in cells):
        try:
            vectors = workspace.vectors(base)
            encoded += vectors.missing(texts)
            vectors.features(texts, progress)
        except FlywheelError as error:
            failures[base] = str(error)
    return encoded, failures
