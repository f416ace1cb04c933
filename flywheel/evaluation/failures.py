"""Pairs with a text that a model could not embed: its own failures, by one rule that lets nobody win by them.

They count as errors in its error rate, whatever the threshold, and in calibration they are left out. The tests that decide look
at the other pairs alone. Above a hundredth of the pairs there is no verdict.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flywheel.scoring.retrieval import Retrieval

if TYPE_CHECKING:
    import pandas as pd

MAX_FAILED_SHARE = 0.01
EMBED_AGAIN = "flywheel baseline embed --retry"
_NOT_EMBEDDED = "the API could not embed a text of"
# A score on the wrong side of every threshold, which no cosine has.
_FAR = 1e6


@dataclass(frozen=True)
class Failures:
    """How many test and calibration pairs hold a text that could not be embedded; the error rate on the other test pairs, and
    what the search finds for the questions of those (None: no duplicate is left).
    """

    test: int
    calibration: int
    error_without: float
    retrieval_without: Retrieval | None = None

    def sentence(self, error: str) -> str:
        """What a reader is told, with the error rate on the other pairs in words."""
        told = []
        if self.test:
            count = "counts" if self.test == 1 else "count"
            told.append(
                f"{_hold(self.test, 'test')} a text that the API could not embed and {count} as "
                f"its errors; without them its error is {error}. No model wins by them: what decides is the other pairs."
            )
        if self.calibration:
            such = "such a text" if told else "a text that the API could not embed"
            told.append(f"{_hold(self.calibration, 'calibration')} {such}; no rule is chosen by them.")
        return " ".join(told)


def _hold(count: int, split: str) -> str:
    return f"1 {split} pair holds" if count == 1 else f"{count:,} {split} pairs hold"


def holds_any(pairs: pd.DataFrame, texts: Collection[str]) -> NDArray[np.bool_]:
    """Which pairs (n,) hold one of `texts`."""
    return np.asarray(pairs["text_a"].isin(texts) | pairs["text_b"].isin(texts)) if texts else np.zeros(len(pairs), dtype=bool)


def as_errors(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs as a model decides them that has no vector for them: wrong at every threshold, and sure of nothing."""
    wrong = pairs["label"] == 0
    far = np.where(wrong, _FAR, -_FAR)
    return pairs.assign(score=far, margin=far, probability=0.5, same=wrong.to_numpy())


def is_failure(scores: pd.Series) -> pd.Series[bool]:
    """Which of stored scores (n,) are of pairs that a model has no vector for."""
    return scores.abs() >= _FAR


def reason_no_verdict(failed: int, pairs: int, split: str, others: str | None) -> str | None:
    """None while few enough of the pairs of a split failed to let a verdict stand, else the reason in words. `others` says why
    the other pairs carry none, if so.
    """
    share = f"{_NOT_EMBEDDED} {failed / max(1, pairs):.1%} of the {split} pairs"
    if failed > MAX_FAILED_SHARE * pairs:
        return f"{share}, more than the {MAX_FAILED_SHARE:.0%} a verdict allows"
    return f"{share}, and of the others {others}" if failed and others else None


def way_on(reason: str, otherwise: str) -> str:
    """What leads on from a reason why there is no verdict: another try where texts failed, else what is said otherwise."""
    if not reason.startswith(_NOT_EMBEDDED):
        return otherwise
    return f"Run `{EMBED_AGAIN}`, which asks for them again, or choose another baseline.model."


def both_decided(left: pd.DataFrame, right: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The decisions of two models, without the pairs on which either failed."""
    kept = ~(left["failed"] | right["failed"])
    return left[kept], right[kept]
