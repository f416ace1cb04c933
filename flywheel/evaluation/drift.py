"""Drift: how what users left since a model was trained differs from what it was trained on. Figures only, no verdict.

Both sides hold `FEWEST` pairs at least (`Sides.why_not`).

Distances of distributions are Kolmogorov and Smirnov's (scipy.stats.ks_2samp): the largest gap between the two shares below any
value, 0 for alike and 1 for apart.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flywheel.pairs.snapshots.snapshot import SPLITS, Snapshot, unique_texts

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 100  # pairs on either side, for any figure
_MOST = 2_000  # new questions, and
_MOST_TRAINED = 20_000  # trained ones, that are held against each other
_TYPICAL = 0.05  # of the questions that were set aside from training count as far from it


@dataclass(frozen=True)
class Drift:
    """What was found, by name, in `new` pairs and `before`; or why nothing was."""

    figures: dict[str, float]
    new: int
    before: int
    why_not: str | None = None


@dataclass(frozen=True)
class Sides:
    """The pairs that are new, and those that they are compared with."""

    new: pd.DataFrame
    before: pd.DataFrame

    @property
    def why_not(self) -> str | None:
        """Why the two cannot be compared, if they are too few."""
        for frame, what in ((self.new, "new interaction pairs"), (self.before, "pairs from before")):
            if len(frame) < FEWEST:
                return f"{len(frame):,} {what}, and a comparison needs {FEWEST}"
        return None

    def found(self, figures: dict[str, float]) -> Drift:
        """Figures of the two."""
        return Drift(figures, len(self.new), len(self.before))

    def nothing(self, why_not: str) -> Drift:
        """No figures."""
        return Drift({}, len(self.new), len(self.before), why_not)


def new_against(now: Snapshot, then: Snapshot, split: str) -> Sides:
    """The interaction pairs that `now` has and `then` had not, and a split of `then`: its interaction pairs, if there are
    enough.
    """
    import pandas as pd

    known = {pair_id for name in SPLITS for pair_id in then.pairs(name)["pair_id"]}
    present = pd.concat([now.pairs(name) for name in SPLITS], ignore_index=True)
    new = present[(present["source"] == "interaction") & ~present["pair_id"].isin(known)]
    return Sides(new, own_or_all(then.pairs(split)))


def own_or_all(pairs: pd.DataFrame) -> pd.DataFrame:
    """The interaction pairs of some pairs, if they are enough, else all of them."""
    own = pairs[pairs["source"] == "interaction"]
    return own if len(own) >= FEWEST else pairs


def label_drift(sides: Sides) -> Drift:
    """The share of pairs that are the same, new and before."""
    new, before = (float(frame["label"].mean()) for frame in (sides.new, sides.before))
    return sides.found({"new": new, "before": before, "difference": new - before})


def text_drift(sides: Sides) -> Drift:
    """How long texts are, in characters, and in which scripts they are written."""
    from scipy.stats import ks_2samp

    texts = [unique_texts(frame) for frame in (sides.new, sides.before)]
    new, before = (np.array([len(text) for text in each]) for each in texts)
    mixes = [_scripts(each) for each in texts]
    apart = sum(abs(mixes[0][script] - mixes[1][script]) for script in mixes[0] | mixes[1]) / 2
    return sides.found(
        {
            "length_distance": float(ks_2samp(new, before).statistic),
            "median_length_new": float(np.median(new)),
            "median_length_before": float(np.median(before)),
            "script_distance": apart,
        }
    )


def score_drift(sides: Sides, new: np.ndarray, before: np.ndarray) -> Drift:
    """The model's scores of the two sides' pairs."""
    from scipy.stats import ks_2samp, wasserstein_distance

    return sides.found(
        {
            "distance": float(ks_2samp(new, before).statistic),
            "moved": float(wasserstein_distance(new, before)),
            "median_new": float(np.median(new)),
            "median_before": float(np.median(before)),
        }
    )


def far_share(sides: Sides, new: np.ndarray, trained: np.ndarray, aside: np.ndarray) -> Drift:
    """The share of new questions that are further from every question of training than nearly all of those set aside then.

    Unit vectors, a row a question. What counts as far is a matter of the model and the domain, so that it is measured on the
    questions `aside`, which never trained either: 5 % of these are far.
    """
    if len(aside) < FEWEST:
        return sides.nothing(f"{len(aside):,} questions were set aside, and a comparison needs {FEWEST}")
    far = float(np.quantile(_nearest(aside, trained), _TYPICAL))
    near = _nearest(new, trained)
    return sides.found({"share": float((near < far).mean()), "far_below": far, "median_nearest": float(np.median(near))})


def some(texts: Sequence[str], most: int = _MOST) -> list[str]:
    """At most so many of some texts, evenly chosen."""
    step = max(1, -(-len(texts) // most))
    return list(texts[::step])


def some_trained(texts: Sequence[str]) -> list[str]:
    """The same of the texts of training."""
    return some(texts, _MOST_TRAINED)


def _nearest(texts: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """The cosine of each to its nearest among the trained, float32; in bounded memory."""
    chunks = (texts[first : first + 256].astype(np.float32) for first in range(0, len(texts), 256))
    return np.concatenate([(chunk @ trained.T.astype(np.float32)).max(axis=1) for chunk in chunks])


def _scripts(texts: Sequence[str]) -> Counter[str]:
    """The share of letters of each script, by the first word of their Unicode names: LATIN, CYRILLIC, CJK, ..."""
    letters = Counter(letter for text in texts for letter in text if letter.isalpha())
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[unicodedata.name(letter, "OTHER").partition(" ")[0]] += count
    total = sum(scripts.values()) or 1
    return Counter({script: count / total for script, count in scripts.items()})
