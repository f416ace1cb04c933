"""What is evaluated: a trained model, a base model without training, an embedding API, or always the commoner label."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np

from flywheel.files import digest
from flywheel.models.api.vectors import ApiVectors
from flywheel.models.catalogue import Variant
from flywheel.models.folder import read_head
from flywheel.models.head import Head
from flywheel.models.reading import Reader
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.training.job import VERSION
from flywheel.training.model import OutOfFold, TrainedModel
from flywheel.training.starts import untuned_start

GUESS = "commoner label"
Embed = Callable[[list[str]], np.ndarray]


@dataclass(frozen=True)
class Training:
    """How a subject was trained: on `pairs` pairs of a snapshot in `seconds`. `start` names where training started, `place` how
    far from there to the trained weights the subject lies. `kept_start` says why it is the start itself, where training did not
    help. `own` are its scores of those pairs out of fold, if they were made.
    """

    size: str
    recipe: str
    random_seed: int
    snapshot_id: str
    pairs: int
    seconds: float
    start: str
    place: float
    kept_start: str | None
    own: OutOfFold | None


@dataclass(frozen=True)
class Fold:
    """A subject as it is without the pairs of one fold: vectors for texts, its decision rule (None: made where it is
    evaluated, from the pairs of the other folds) and its error rate, out of fold, on the pairs that chose that.
    """

    embed: Embed
    rule: DecisionRule | None = None
    error: float = 0.0


@dataclass(frozen=True)
class Subject:
    """What is evaluated: unit vectors for texts, its decision rule (None: made where it is evaluated), how it was trained if
    it was, and the tokenizer of a local model. `fold` gives it as it is without one fold's pairs, where these make a
    difference. `failed` gives those of some texts that it could not embed. A `guess` reads nothing, and nobody takes it for
    more. `untuned` is what a trained local model was before: its base model at the same dimension, from the questions of a
    snapshot.
    """

    record_id: str
    kind: Literal["tuned", "untuned", "baseline"]
    variant: str
    embed: Embed
    rule: DecisionRule | None = None
    contamination: str | None = None
    training: Training | None = None
    failed: Callable[[list[str]], Collection[str]] = lambda _: ()
    reader: Reader | None = None
    guess: bool = False
    untuned: Callable[[Snapshot], Embed] | None = None
    fold: Callable[[int], Fold] | None = None

    def in_fold(self, fold: int) -> Fold:
        """The subject as it is without the pairs of a fold."""
        return self.fold(fold) if self.fold else Fold(self.embed)


def tuned_subject(model: TrainedModel, vectors: Vectors) -> Subject:
    """A trained model, by its head over the cached features of its encoder: the base model, or the one tuned from it."""
    job = model.job
    variant, base = Variant.parse(job.variant), vectors
    if model.tuned_encoder or vectors.weights_id != job.weights:  # what bears the name now may be another model
        vectors = replace(vectors, model=job.base, tuned=model.folder)
    head = Head(*read_head(model.folder, vectors.poolings))
    training = Training(
        job.size, job.recipe, job.random_seed, job.snapshot_id, model.train_pairs, model.seconds,
        model.start, model.place, model.kept_start, model.out_of_fold(),
    )  # fmt: skip
    return Subject(
        record_id=job.job_id,
        kind="tuned",
        variant=str(variant),
        embed=lambda texts: head.apply(vectors.features(texts)),
        rule=model.rule,
        contamination=base.model.contamination,
        training=training,
        reader=Reader(vectors.model, vectors.weights),
        untuned=lambda snapshot: untuned_subject(variant, snapshot, base).embed,
        fold=_tuned_folds(model, vectors),
    )


def _tuned_folds(model: TrainedModel, vectors: Vectors) -> Callable[[int], Fold]:
    heads = cache(model.fold_heads)  # read once, and only where folds are asked for

    def fold(number: int) -> Fold:
        head, chosen = heads()[number], model.folds[number]
        return Fold(lambda texts: head.apply(vectors.features(texts)), chosen.rule, chosen.error)

    return fold


def untuned_subject(
    variant: Variant, snapshot: Snapshot, vectors: Vectors, kind: Literal["untuned", "baseline"] = "untuned"
) -> Subject:
    """The same base model at the same dimension without training."""
    vectors.check_dim(variant.dim)
    record_id = digest(f"{kind}|{variant}|{vectors.weights_id}|{vectors.dtype}|{snapshot.snapshot_id}|{VERSION}")

    @cache
    def head(*without: int) -> Head:
        return untuned_start(snapshot, vectors, variant.dim, without)

    def fold(number: int) -> Fold:
        return Fold(lambda texts: head(number).apply(vectors.get(texts)))

    return Subject(
        record_id=record_id,
        kind=kind,
        variant=str(variant),
        embed=lambda texts: head().apply(vectors.get(texts)),
        contamination=vectors.model.contamination,
        reader=Reader(vectors.model, vectors.weights),
        fold=fold,
    )


def api_subject(vectors: ApiVectors) -> Subject:
    """An embedding API, by its cached vectors."""
    variant = f"{vectors.model}@{vectors.dimensions}"
    return Subject(digest(vectors.weights_id), "baseline", variant, vectors.get, failed=vectors.failed)


def guess_subject() -> Subject:
    """Always giving the label that is commoner in calibration: what there is to beat where no model knows such texts."""
    return Subject(
        record_id=digest("the commoner label"),
        kind="baseline",
        variant=GUESS,
        embed=lambda texts: np.ones((len(texts), 1), np.float32),
        guess=True,
    )
