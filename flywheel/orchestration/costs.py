"""What a grid will take, told before it starts: texts, trainings, disk, time, money."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, Variant
from flywheel.models.vectors import Vectors, vectors_of
from flywheel.orchestration.steps import current_snapshot, texts_of_cells
from flywheel.orchestration.tidying import finished_models
from flywheel.pairs.snapshots.snapshot import ALL, unique_texts
from flywheel.settings import Settings
from flywheel.training.job import tuning_recipe
from flywheel.training.model import TrainedModel

_TIMED_TEXTS = 256


@dataclass(frozen=True)
class GridCost:
    """What a grid takes: texts to encode and those to encode by layers that it trains, token states on disk in bytes,
    trainings (one for both dimensions where layers move), seconds (None where nothing tells), money by `price_per_hour`.
    """

    texts: int
    texts_by_trained: int
    state_bytes: int
    trainings: int
    encoding_seconds: float
    training_seconds: float | None
    money: float | None


def estimate_grid(settings: Settings, cells: Sequence[tuple[Variant, str]], recipe: str) -> GridCost:
    """What the cells will take by this machine's own speed.

    Some of the texts are encoded and timed, and stay encoded; a training takes as long as the finished one of its base
    model and recipe that is nearest in size, or more by what it is larger. A base model that does not load costs nothing.
    """
    trainings = list(dict.fromkeys((v.base, v.dim if recipe == "head" else 0, size) for v, size in cells))
    texts = texts_of_cells(settings, list(dict.fromkeys(size for _, size in cells))) if cells else []
    on = current_snapshot(settings)
    frozen = len(unique_texts(on.pairs("calibration"), on.pairs("test")))
    missing, by_trained, state_bytes, encoding = 0, 0, 0, 0.0
    for base in dict.fromkeys(base for base, _, _ in trainings):
        vectors = vectors_of(CATALOGUE[base], settings)
        trained_here = sum(each == base for each, _, _ in trainings) if recipe != "head" else 0
        try:
            rate = _seconds_a_text(vectors, texts)
            tuning = tuning_recipe(recipe, settings.recipes.get(recipe, {}))  # type: ignore[call-overload]
            if tuning is not None and tuning.layers is not None:
                state_bytes += vectors.new_state_bytes(texts, CATALOGUE[base].layers - tuning.layers)
        except FlywheelError:
            continue
        new = vectors.missing(texts)
        missing += new
        by_trained += trained_here * frozen
        encoding += rate * (new + trained_here * frozen)
    done = finished_models(settings)
    seconds = [_training_seconds(done, each, recipe, _pairs(settings, each[2])) for each in trainings]
    training = None if None in seconds else sum(each for each in seconds if each is not None)
    price = settings.price_per_hour
    money = None if price is None or training is None else (encoding + training) / 3600 * price
    return GridCost(missing, by_trained, state_bytes, len(trainings), encoding, training, money)


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


def _pairs(settings: Settings, size: str) -> int:
    train = current_snapshot(settings).train
    return train.seed + train.interaction if size == ALL else int(size)


def _training_seconds(done: Sequence[TrainedModel], training: tuple[str, int, str], recipe: str, pairs: int) -> float | None:
    alike = [m for m in done if m.job.recipe == recipe and Variant.parse(m.job.variant).base == training[0] and m.train_pairs]
    if not alike:
        return None
    nearest = min(abs(np.log(model.train_pairs / pairs)) for model in alike)
    # Of models that share their layers, only the first one's training took its time.
    took = [m for m in alike if abs(np.log(m.train_pairs / pairs)) == nearest]
    longest = max(took, key=lambda model: model.seconds)
    return longest.seconds * max(1.0, pairs / longest.train_pairs)
