"""Whether a side of a comparison is sane: its vectors tell texts apart, and what it decides and finds is not chance.

No verdict rests on a side with an alarm. What is told by chance is a test by component, one-sided at 1 %, so that a side is
taken for sane where it is provably better than chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from flywheel.evaluation.intervals import Clusters
from flywheel.models.reading import Reader, share_text, without_marks
from flywheel.scoring.logistic import Floats
from flywheel.scoring.retrieval import Search

if TYPE_CHECKING:
    import pandas as pd

Origin = Literal["api", "untuned", "tuned"]

LEVEL = 0.01
_SWAPPED = 0.001  # level at which scores point the wrong way
_FEW, _MOST = 0.05, 0.5  # shares of texts, and of pairs, that are the same to a side: unexplained, and by what it can read
_WORTH_SAYING = 0.005
_NEARLY_ALL = 0.9
_SAME = 2e-6  # numbers of two unit vectors that differ by no more are rounded
_ROUNDING = 1e-6  # spread of cosines that is nothing but rounding
_ONE_DIRECTION, _LEAST_WIDTH = 1.2, 8  # how many directions vectors spread in, in effect; where it says something
_SAMPLE = 500
_LONG = 200  # characters: who reads so many of a text reads texts, and those that begin alike are alike to it
_PRIOR_SHIFT = 0.1


@dataclass(frozen=True)
class Finding:
    """What is odd about a side, its likely cause, and what to do. An `alarm` leaves no verdict, the others are remarks."""

    alarm: bool
    what: str
    cause: str
    remedy: str

    @property
    def reason(self) -> str:
        """What and why, in words."""
        return f"{self.what}. Likely cause: {self.cause}."

    @property
    def sentence(self) -> str:
        """All of it in words."""
        return f"{self.reason} {self.remedy}."


@dataclass(frozen=True, eq=False)
class Side:
    """What evaluation knows of a side.

    `vectors` (q, d) of the different `texts` of calibration and test; `pairs` of both with `text_a`, `text_b`, `label`,
    `source`, `component`, `split`, `score` and `same`; the `search` among the test questions and the component of each of its
    queries; whether the decision rule was `moved` to another share of duplicates; the `reader` of a local model.
    """

    origin: Origin
    texts: list[str]
    vectors: NDArray[np.float32]
    pairs: pd.DataFrame
    search: Search
    searched_components: NDArray[np.generic]
    moved: bool
    reader: Reader | None


def find_faults(side: Side, judges: bool) -> tuple[Finding, ...]:
    """What is odd about a side, alarms first. Where the splits carry no verdict (not `judges`), chance is not tested."""
    look = _vectors_fault(side) or _same_tokens(side)
    if look and look.alarm:  # whatever else is wrong comes of it
        return (look,)
    return tuple(each for each in (*(_chance_faults(side) if judges else ()), look) if each)


def _vectors_fault(side: Side) -> Finding | None:
    """What the vectors alone show."""
    import pandas as pd

    spread = float(side.pairs["score"].std(ddof=0))
    group = _same_vector(side.vectors)
    sizes = np.bincount(group)
    shared, n = np.flatnonzero(sizes[group] > 1), len(side.texts)
    if sizes.max() >= _NEARLY_ALL * n or not spread >= _ROUNDING:
        what = f"practically every text has the same vector (the cosines of its pairs spread by {spread:.1g})"
        cause = "the endpoint does not read the texts" if side.origin == "api" else "the model's vectors have collapsed"
        return Finding(True, what, cause, _REMEDY[side.origin])
    if side.vectors.shape[1] >= _LEAST_WIDTH and _directions(side.vectors) < _ONE_DIRECTION:
        what = "its vectors differ in practically one direction"
        return Finding(True, what, "one number, or one of two kinds, is all that depends on the text", _REMEDY[side.origin])
    if side.reader and len(shared):
        _, first = np.unique(group, return_index=True)
        others = [side.texts[row] for row in shared], [side.texts[first[group[row]]] for row in shared]
        explained = side.reader.same(*others, np.ones(len(shared))).same
        shared = shared[~explained & (first[group[shared]] != shared)]
    elif len(shared):  # an endpoint may well read lower-case letters without accents
        plain = pd.Series([without_marks(side.texts[row]) for row in shared])
        shared = shared[plain.groupby(group[shared]).transform("nunique").to_numpy() > 1]
    if len(shared) < _WORTH_SAYING * n:
        return None
    begin = _common_beginning(side.texts, group)
    cause = "only a part of each text is read, such as a few words"
    if begin:
        cause = f"only the beginning of a text is read: those with the same vector share their first {begin} characters or more"
    what = f"{share_text(len(shared) / n)} of {n:,} different texts have the very vector of another text"
    return Finding(len(shared) > (_MOST if begin >= _LONG else _FEW) * n, what, cause, _REMEDY[side.origin])


def _same_tokens(side: Side) -> Finding | None:
    """Pairs of which a local model reads the same twice."""
    if side.reader is None:
        return None
    left, right = list(side.pairs["text_a"]), list(side.pairs["text_b"])
    same = side.reader.same(left, right, side.pairs["score"].to_numpy())
    if same.share < _WORTH_SAYING:
        return None
    what = same.words("calibration and test pairs")
    return Finding(same.share > _MOST, what, "what differs in them is nothing that the model reads", same.remedy)


def _chance_faults(side: Side) -> tuple[Finding | None, Finding | None]:
    """An alarm, and a remark.

    An alarm where scores or search are not provably better than chance, or decisions no better than the commoner label.
    Decisions that are hardly better, or for another share of duplicates, are a remark as long as the scores say something.
    """
    test = side.pairs[side.pairs["split"] == "test"]
    area, swapped = _area(side.pairs, LEVEL), _area(side.pairs.assign(score=-side.pairs["score"]), _SWAPPED)
    error, guess, commoner, decides = _against_guess(test)
    searched = side.search.reciprocal - side.search.chance
    finds = provably_above(searched, Clusters.of(side.searched_components))
    percent = f"it is wrong on {100 * error:.1f} % of the test pairs, always answering '{commoner}' on {100 * guess:.1f} %"
    remark = None
    shift = abs(test["label"].mean() - side.pairs.loc[side.pairs["split"] == "calibration", "label"].mean())
    if area.above and not decides and (side.moved or shift > _PRIOR_SHIFT or error < guess):
        decides = True
        cause = "the pairs are hard for it"
        if side.moved or shift > _PRIOR_SHIFT:
            cause = "its threshold is for another share of duplicates than the test pairs have"
        remedy = "To compare with that label alone, set baseline.source to guess and run `flywheel grid`"
        remark = Finding(False, percent, cause, remedy)
    what = [
        *([] if area.above else [f"its scores tell no more than chance (area under the ROC curve {area.value:.3f})"]),
        *([] if decides else [percent]),
        *([] if finds else [_search_text(side.search)]),
    ]
    if not what:
        return None, remark
    cause, remedy = _NOTHING[side.origin], _REMEDY[side.origin]
    if swapped.above and finds:
        cause = "the labels are swapped (1 must mean the same), or the pairs labelled different are look-alikes"
        remedy = (
            "`flywheel evidence` shows pairs with their labels: if these are swapped, put them right at their source and "
            "ingest the pairs into a new home (`--home`)"
        )
    elif area.above and decides:
        cause = "its vectors tell some pairs apart, but hold too little of a text to find its like among all others"
    elif area.above and finds:
        cause = "its scores say something of these pairs, but nothing that decides better than the commoner label"
    return Finding(True, "; ".join(what), cause, remedy), remark


def _search_text(search: Search) -> str:
    found, chance = search.reciprocal.mean(), search.chance.mean()
    return f"its search finds duplicates no better than chance (MRR@10 {found:.3f}, by lot {chance:.3f})"


_REMEDY: dict[Origin, str] = {
    "api": "Put the endpoint right (baseline.url, baseline.model) and run `flywheel baseline embed --again`; or set "
    "baseline.source to local or to guess and run `flywheel grid`",
    "untuned": "Set baseline.local_variant to another model, or baseline.source to guess, and run `flywheel grid`",
    "tuned": "Train another base model, or on more pairs, with `flywheel grid`",
}
_NOTHING: dict[Origin, str] = {
    "api": "the vectors belong to other texts, are made up for each request, or the model does not know such texts",
    "untuned": "the model does not know such texts",
    "tuned": "the base model does not know such texts, or the training pairs say nothing of these",
}


@dataclass(frozen=True)
class Area:
    """The area under the ROC curve, and whether it is provably above one half."""

    value: float
    above: bool


def _area(pairs: pd.DataFrame, level: float) -> Area:
    """Over calibration and test pairs, within each source. Its variance by component is that of its influence function
    (Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", 1997).
    """
    import pandas as pd
    from scipy.stats import rankdata

    parts, by_source = [], [rows for _, rows in pairs.groupby("source")]
    mixed = [rows for rows in by_source if rows["label"].nunique() > 1]
    for rows in mixed or [pairs]:
        scores, ones = rows["score"].to_numpy(), rows["label"].to_numpy() == 1
        rank = rankdata(scores)
        place = np.empty(len(scores))
        place[ones] = (rank[ones] - rankdata(scores[ones])) / (~ones).sum()
        place[~ones] = 1 - (rank[~ones] - rankdata(scores[~ones])) / ones.sum()
        value = place[ones].mean()
        share = np.where(ones, ones.mean(), 1 - ones.mean())
        parts.append(rows.assign(area=value, influence=(place - value) / share))
    used = pd.concat(parts)
    value = float(used["area"].mean())
    clusters = Clusters.of(used["component"])
    return Area(value, provably_above(used["influence"].to_numpy() + value - 0.5, clusters, level))


def _against_guess(test: pd.DataFrame) -> tuple[float, float, str, bool]:
    """Error rates of the side and of always giving the commoner label, which it is, and whether the side's is provably less."""
    labels = test["label"].to_numpy()
    commoner = int(labels.mean() >= 0.5)
    wrong, guess = test["same"].to_numpy() != labels, labels != commoner
    better = provably_above(guess.astype(float) - wrong, Clusters.of(test["component"]))
    return float(wrong.mean()), float(guess.mean()), "same" if commoner else "different", better


def provably_above(values: Floats, clusters: Clusters, level: float = LEVEL) -> bool:
    """Whether the mean of `values` (n,) is above 0, one-sided at `level`, by Student's test over components."""
    from scipy.stats import t

    mean, error = float(values.mean()), float(np.sqrt(clusters.variance(values)))
    return mean > 0.0 and mean > float(t.isf(level, max(1.0, clusters.effective - 1.0))) * error


def _same_vector(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    """A number (q,) for each text, the same for texts of one vector but for rounding."""
    if len(vectors) < 2:
        return np.zeros(len(vectors), dtype=np.intp)
    along = vectors.astype(np.float64) @ np.random.default_rng(0).normal(size=vectors.shape[1])
    order = np.argsort(along, kind="stable")
    steps = [order[first : first + _SAMPLE + 1] for first in range(0, len(order) - 1, _SAMPLE)]
    apart = np.concatenate([np.abs(np.diff(vectors[rows], axis=0)).max(axis=1) > _SAME for rows in steps])
    group = np.empty(len(vectors), dtype=np.intp)
    group[order] = np.concatenate([[0], np.cumsum(apart)])
    return group


def _directions(vectors: NDArray[np.float32]) -> float:
    """In how many directions the vectors spread, in effect: the participation ratio of their covariance."""
    rows = np.random.default_rng(0).permutation(len(vectors))[:_SAMPLE]
    centred = vectors[rows].astype(np.float64) - vectors[rows].mean(axis=0, dtype=np.float64)
    squares = np.linalg.norm(centred @ centred.T) ** 2
    return float((centred**2).sum() ** 2 / squares) if squares > 0.0 else 0.0


def _common_beginning(texts: list[str], group: NDArray[np.intp]) -> int:
    """How many characters texts of one vector have in common at their beginning, in all but a twentieth of the groups."""
    import pandas as pd

    members = pd.Series(texts).str.casefold().groupby(group).agg(list)
    return int(np.quantile([_alike(min(each), max(each)) for each in members if len(each) > 1], _FEW))


def _alike(first: str, last: str) -> int:
    """How many characters two texts begin with in common; of the first and last in order, what all between them have."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
