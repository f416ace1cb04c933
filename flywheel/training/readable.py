"""Whether there is anything to learn: texts that are one and the same to the base model, and vectors that are one point."""

from __future__ import annotations

import json
import logging
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.head import Head
from flywheel.models.reading import Reader, share_text
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.training.job import HEAD, TUNING, HeadRecipe, RecipeName, TuningRecipe

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MOST = 0.5  # of the pairs: beyond it there is too little to learn from
_WORTH_SAYING = 0.01
_CUT_WORTH_SAYING = 0.0005  # shown as 0.1 %
_SAMPLE = 256  # texts that are looked at to tell whether all vectors are one point
_POINT = 1e-4


def is_one_point(head: Head, features: np.ndarray) -> bool:
    """Whether `head` gives practically one vector for all of the first texts' `features` (q, width)."""
    return len(features) > 1 and not float(head.apply(features[:_SAMPLE]).std(axis=0).max()) >= _POINT


def check_vectors(start: Head, features: np.ndarray) -> None:
    """Raise FlywheelError where no rate of learning helps, because `features` (q, width), or what `start` makes of them, are at
    fault.
    """
    broken = int(np.count_nonzero(~np.isfinite(features).all(axis=1)))
    if broken:
        raise FlywheelError(
            f"The vectors of {broken} of {len(features)} training texts hold what is no number, so that nothing can be trained "
            "on them. Choose another base model, or put the endpoint right that they come from. No model was saved."
        )
    if is_one_point(start, features):
        raise FlywheelError(
            "All training texts have practically the same vector before any training, so that nothing can be learned. Choose "
            "another base model, or put the endpoint right that the vectors come from. No model was saved."
        )


def check_readable(pairs: pd.DataFrame, vectors: Vectors, scores: np.ndarray, what: str = "training pairs") -> None:
    """Raise FlywheelError where most pairs are two texts of the same tokens; a smaller share is a warning.

    `scores` (n,) are the cosines of the pairs, which are `what`, before any training.
    """
    reader = Reader(vectors.model, vectors.weights)
    same = reader.same(list(pairs["text_a"]), list(pairs["text_b"]), scores)
    if same.share > MOST:
        raise FlywheelError(
            f"{same.words(what)}, so that there is too little to learn from. {same.remedy}. No model was trained."
        )
    if same.share >= _WORTH_SAYING:
        log.warning("%s; no training can tell these apart. %s.", same.words(what), same.remedy)


def shares_cut(pairs: pd.DataFrame, vectors: Vectors) -> dict[str, float]:
    """The share of texts that are longer than what the base model reads of them, for each source that has any; a warning says
    so unless it is next to nothing.
    """
    reader, shares = Reader(vectors.model, vectors.weights), {}
    for source, some in pairs.groupby("source"):
        cut = reader.cut(unique_texts(some))
        if cut.any():
            shares[str(source)] = float(cut.mean())
        if cut.mean() >= _CUT_WORTH_SAYING:
            log.warning("%s", cut_in_words(str(source), shares[str(source)], vectors.model.name))
    return shares


def cut_in_words(source: str, share: float, name: str) -> str:
    """What it means that a share of a source's texts is longer than what a base model reads."""
    return f"{share_text(share)} of the {source} texts are longer than what {name} reads: their end counts for nothing."


def lower_rate(recipe: HeadRecipe | TuningRecipe) -> str:
    """What to do about a rate of learning that is too high: which settings, and to what. A sentence without its full stop."""
    name: RecipeName = "head"
    if isinstance(recipe, TuningRecipe):
        name = "full" if recipe.layers is None else "top"
    usual = TUNING[name] or HEAD
    rates = [field.name for field in fields(recipe) if field.name.endswith("learning_rate")]
    lower = {rate: getattr(usual, rate) for rate in rates if getattr(recipe, rate) > getattr(usual, rate)}
    lower = lower or {rate: getattr(recipe, rate) / 10 for rate in rates}
    lines = " and ".join(f"{rate} = {value:g}" for rate, value in lower.items())
    return (
        f"lower the learning rate, now {' and '.join(f'{getattr(recipe, rate):g}' for rate in rates)}: set {lines} under "
        f"[training.recipes.{name}] in the home's flywheel.toml, or FLYWHEEL_TRAINING__RECIPES='{json.dumps({name: lower})}'"
    )
