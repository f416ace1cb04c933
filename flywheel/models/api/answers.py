"""Reading an endpoint's answer: whose vector is whose, however they are written, and what it cost."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from flywheel.models.api.ledger import Paid


class BadAnswerError(Exception):
    """An answer that is no list of vectors, or not of these texts: what it is instead, to follow "answered with"."""


@dataclass(frozen=True)
class Answer:
    """Vectors of k texts in their order, float32 (k, width): of unit length, or NaN where the endpoint gave none that is
    finite and not zero.
    """

    vectors: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Which texts have a vector, bool (k,)."""
        return np.isfinite(self.vectors).all(axis=1) & (self.vectors.shape[1] > 0)


def paid_for(answer: dict[str, Any], count: int) -> Paid:
    """What an answer for `count` texts cost, as the endpoint counted it."""
    usage = answer.get("usage")
    named = (usage.get(name) for name in ("total_tokens", "prompt_tokens")) if isinstance(usage, dict) else ()
    counted = next((tokens for tokens in map(_count, named) if tokens is not None), None)
    return Paid(count, uncounted=count) if counted is None else Paid(count, counted)


def read_answer(answer: dict[str, Any], count: int) -> Answer:
    """The vectors of an answer for `count` texts. Raises BadAnswerError when it is not clear whose they are, or what."""
    items = answer["data"]
    if not all(isinstance(item, dict) for item in items):
        raise BadAnswerError("a list of something else than embeddings")
    order = _order([item.get("index") for item in items], count)
    vectors = [_vector(items[place].get("embedding")) for place in order]
    widths = {len(vector) for vector in vectors if vector is not None}
    if len(widths) > 1:
        raise BadAnswerError(f"vectors of {' and '.join(map(str, sorted(widths)))} numbers")
    width = widths.pop() if widths else 0
    stacked = np.stack([np.full(width, np.nan) if vector is None else vector for vector in vectors])
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
        usable = np.isfinite(lengths) & (lengths > 0)
        return Answer(np.where(usable, stacked / np.where(usable, lengths, 1.0), np.nan).astype(np.float32))


def _order(indexes: list[Any], count: int) -> list[int]:
    """The place in the answer of each text's vector: by index, or as they come where no vector has one.

    One that is left out is 0 where all others have theirs: some endpoints leave out what has its default value.
    """
    if len(indexes) != count:
        raise BadAnswerError(f"{len(indexes)} vectors for {count} texts")
    if count == 1 or all(index is None for index in indexes):
        return list(range(count))
    numbers = [0 if index is None else -1 if (number := _count(index)) is None else number for index in indexes]
    if sorted(numbers) != list(range(count)):
        known = len(set(numbers) & set(range(count)))
        raise BadAnswerError(f"{count} vectors whose index names {known} of {count} texts")
    return [int(place) for place in np.argsort(numbers)]


def _count(value: Any) -> int | None:
    """A whole number from 0, given as a number or in digits; None for anything else."""
    if isinstance(value, str):
        return int(value) if re.fullmatch("[0-9]{1,15}", value) else None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53 and value == int(value)
    return int(value) if fits else None


def _vector(said: Any) -> np.ndarray | None:
    """One embedding, float64 (width,): a list of numbers, or base64 of float32; None where there is none."""
    if said is None or said in ("", []):
        return None
    try:
        if isinstance(said, str):
            vector = np.frombuffer(base64.b64decode(said, validate=True), dtype="<f4").astype(np.float64)
        else:
            vector = np.asarray(said, dtype=np.float64)  # null becomes NaN
    except (binascii.Error, TypeError, ValueError):
        raise BadAnswerError("something else than numbers in its embeddings") from None
    if vector.ndim != 1:
        raise BadAnswerError(f"an embedding of shape {vector.shape}")
    return vector
