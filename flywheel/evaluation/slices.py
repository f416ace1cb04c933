"""Kinds of test pairs that the page shows separately, by simple rules: where they came from and what their texts hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

_SHORT_WORDS, _LONG_WORDS = 8, 16
_NUMBER = re.compile(r"\d")
_NEGATION = re.compile(r"\b(?:no|not|never|none|nobody|nothing|nor|neither|without|cannot)\b|n['’]t\b", re.IGNORECASE)
# A capitalised word that does not begin a sentence, other than "I" and what is joined to it.
_NAME = re.compile(r"(?<![.!?:…])(?<!^)\s[\"'(“‘]?(?!I\b)[A-Z]\w*")


def slices_of(pairs: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """The mask (n,) of each kind over pairs with `text_a`, `text_b` and `source`; a pair may be of several kinds or of none.

    Short: both texts have at most 8 words; long: one has more than 16. Numbers, a negation or a name: in either text; a
    name is a capitalised word that does not begin a sentence.
    """
    words = np.stack([pairs[side].map(lambda text: len(text.split())).to_numpy() for side in ("text_a", "text_b")])

    def either(pattern: re.Pattern[str]) -> NDArray[np.bool_]:
        found = [pairs[side].map(lambda text: pattern.search(text) is not None) for side in ("text_a", "text_b")]
        return (found[0] | found[1]).to_numpy(dtype=bool)

    return {
        "seed pairs": (pairs["source"] == "seed").to_numpy(),
        "interaction pairs": (pairs["source"] == "interaction").to_numpy(),
        "short texts": words.max(axis=0) <= _SHORT_WORDS,
        "long texts": words.max(axis=0) > _LONG_WORDS,
        "numbers": either(_NUMBER),
        "negation": either(_NEGATION),
        "names": either(_NAME),
    }
