"""What a grid will take, estimated before it starts: texts, trainings, disk, time, money."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot, unique_texts
from flywheel.pipeline.cleanup import readable_models
from flywheel.pipeline.training import evaluated_pairs, texts_encoded_here, texts_of_cells
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell, RecipeName, tuning_recipe
from flywheel.training.model import TrainedModel

_TIMED_TEXTS = 256


@dataclass(frozen=True)
class GridCost:
    """What a grid takes: texts to encode here, those to encode on the cluster's machines, those to encode by layers that it
    trains, token states on disk in bytes, trainings (one for both dimensions where layers move) and how many of them at once,
    seconds (None where nothing tells; those of the cluster's encoding by this machine's speed), money by `price_per_hour`.
    """

    texts: int
    texts_away: int
    texts_by_trained: int
    state_bytes: int
    trainings: int
    at_once: int
    encoding_seconds: float
    away_seconds: float
    training_seconds: float | None
    money: float | None


@dataclass(frozen=True)
class _Training:
    """One training: a base model at one dimension, or at all of the grid's where layers move (dim 0), on so many pairs."""

    base: str
    dim: int
    pairs: int


def estimate_grid(workspace: Workspace, snapshot: Snapshot, cells: Sequence[Cell], recipe: RecipeName) -> GridCost:
    """What the cells will take by this machine's own speed.

    Some of the texts are encoded and timed, and stay encoded; a training takes as long as the finished one of its base
    model and recipe that is nearest in size, or more by what it is larger. A base model that does not load costs nothing.
    """
    trainings = list(
        dict.fromkeys(
            _Training(cell.variant.base, cell.variant.dim if recipe == "head" else 0, _pairs(snapshot, cell.size))
            for cell in cells
        )
    )
    sizes = [cell.size for cell in cells]
    texts = texts_of_cells(workspace, snapshot, sizes) if cells else []
    here = texts_encoded_here(workspace, snapshot, sizes) if cells else []
    frozen = len(unique_texts(*evaluated_pairs(workspace, snapshot)))
    missing, missing_away, by_trained, state_bytes, encoding, encoding_away = 0, 0, 0, 0, 0.0, 0.0
    for base in dict.fromkeys(each.base for each in trainings):
        vectors = workspace.vectors(base)
        trained_here = sum(each.base == base for each in trainings) if recipe != "head" else 0
        try:
            rate = _seconds_a_text(vectors, texts)
            tuning = tuning_recipe(recipe, workspace.settings.training.recipes.get(recipe, {}))
            if tuning is not None and tuning.layers is not None:
                state_bytes += vectors.new_state_bytes(texts, max(0, (vectors.facts.layers or 0) - tuning.layers))
        except FlywheelError:
            continue
        new = vectors.missing(here)
        away = vectors.missing(texts) - new
        missing += new
        missing_away += away
        encoding_away += rate * away
        by_trained += trained_here * frozen
        encoding += rate * (new + trained_here * frozen)
    training = _all_seconds(readable_models(workspace), trainings, recipe)
    compute = workspace.settings.compute
    price = compute.price_per_hour
    at_once = 1 if compute.engine is None else max(1, min(compute.gpu_slots, len(trainings)))
    paid = encoding if compute.engine is None else encoding_away
    money = None if price is None or training is None else (paid + training) / 3600 * price
    return GridCost(
        missing, missing_away, by_trained, state_bytes, len(trainings), at_once, encoding, encoding_away, training, money
    )


def _seconds_a_text(vectors: Vectors, texts: Sequence[str]) -> float:
    """Timed on some of the texts that are missing; 0 when too few are to be worth it."""
    unknown = vectors.cache.unknown(texts)
    if len(unknown) < 4 * _TIMED_TEXTS:
        return 0.0
    sample = unknown[:: len(unknown) // _TIMED_TEXTS]
    vectors.features(sample[:8])  # loads the model
    started = time.perf_counter()
    vectors.features(sample[8:])
    return (time.perf_counter() - started) / len(sample[8:])


def _pairs(snapshot: Snapshot, size: str) -> int:
    return snapshot.train.seed + snapshot.train.interaction if size == ALL else int(size)


def _all_seconds(done: Sequence[TrainedModel], trainings: Sequence[_Training], recipe: str) -> float | None:
    """The sum over the trainings, or None when one has no finished one to go by."""
    total = 0.0
    for training in trainings:
        seconds = _training_seconds(done, training, recipe)
        if seconds is None:
            return None
        total += seconds
    return total


def _training_seconds(done: Sequence[TrainedModel], training: _Training, recipe: str) -> float | None:
    alike = [
        model
        for model in done
        if model.job.recipe == recipe and Variant.parse(model.job.variant).base == training.base and model.train_pairs
    ]
    if not alike:
        return None
    distances = [abs(np.log(model.train_pairs / training.pairs)) for model in alike]
    # Of models that share their layers, only the first one's training took its time.
    nearest = [model for model, distance in zip(alike, distances, strict=True) if distance == min(distances)]
    longest = max(nearest, key=lambda model: model.seconds)
    return longest.seconds * max(1.0, training.pairs / longest.train_pairs)
