"""How well vectors find a question's duplicates among all questions."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flywheel.errors import FlywheelError
from flywheel.scoring.logistic import Floats

DEPTH = 10
# Above the rounding of a float32 dot product: similarities this close are a tie.
_TIE = 1e-6
_BLOCK_ELEMENTS = 8_000_000


@dataclass(frozen=True)
class Retrieval:
    """MRR@10 and recall@10, both shares from 0 to 1, over `queries` questions that have a duplicate."""

    mrr_at_10: float
    recall_at_10: float
    queries: int


@dataclass(frozen=True, eq=False)
class Search:
    """What each query finds, (k,) each: its row number, 1 / rank of its first duplicate (0 beyond rank 10), the share of its
    duplicates among the first 10, and `chance`, what 1 / rank would be on average if the order were drawn by lot.
    """

    queries: NDArray[np.intp]
    reciprocal: Floats
    recall: Floats
    chance: Floats

    def only(self, kept: NDArray[np.bool_]) -> "Search":
        """The queries (k,) that are kept."""
        return Search(self.queries[kept], self.reciprocal[kept], self.recall[kept], self.chance[kept])

    @classmethod
    def joined(cls, parts: Sequence["Search"]) -> "Search":
        """The queries of several searches of the same questions."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    @property
    def retrieval(self) -> Retrieval:
        """The means."""
        return Retrieval(float(self.reciprocal.mean()), float(self.recall.mean()), len(self.queries))


def retrieval(
    vectors: NDArray[np.float32], duplicates: Sequence[tuple[int, int]], missing: NDArray[np.bool_] | None = None
) -> Retrieval:
    """The means of a `search`."""
    return search(vectors, duplicates, missing).retrieval


def search(
    vectors: NDArray[np.float32], duplicates: Sequence[tuple[int, int]], missing: NDArray[np.bool_] | None = None
) -> Search:
    """Search every question that has a duplicate among all others by dot product.

    `vectors` (q, d) are of unit length; `duplicates` are pairs of row numbers with label 1, and duplicates of
    duplicates are duplicates. MRR@10 is the mean of 1 / rank of the first duplicate, 0 beyond rank 10; recall@10 the
    mean share of a question's duplicates (at most 10 of them) among the first 10. Where a duplicate ties with a
    question that is none, the duplicate ranks below, so that collapsed vectors find nothing. Rows that are `missing` (q,) have
    no vector: they find nothing and are not found. Raises FlywheelError when a vector is not finite or not of unit length, a
    row number does not exist, or no question has a duplicate.
    """
    _check(vectors, duplicates)
    groups = _groups(len(vectors), duplicates)
    queries = [(query, group) for group in groups for query in group]
    if not queries:
        raise FlywheelError("No question has a duplicate: retrieval needs at least one pair with label 1.")
    reciprocal = np.zeros(len(queries))
    recall = np.zeros(len(queries))
    rows = max(1, _BLOCK_ELEMENTS // len(vectors))
    for first in range(0, len(queries), rows):
        block = queries[first : first + rows]
        similarities = vectors[[query for query, _ in block]] @ vectors.T
        if missing is not None:
            similarities[:, missing] = -np.inf
        for number, ((query, group), row) in enumerate(zip(block, similarities, strict=True), start=first):
            if missing is not None and missing[query]:
                continue
            ranks = _ranks(row, group[group != query], group)
            reciprocal[number] = 1.0 / ranks[0] if ranks[0] <= DEPTH else 0.0
            recall[number] = np.count_nonzero(ranks <= DEPTH) / min(len(ranks), DEPTH)
    others = np.array([len(group) - 1 for _, group in queries])
    return Search(np.array([query for query, _ in queries]), reciprocal, recall, _chance(len(vectors) - 1, others))


def _chance(candidates: int, relevant: NDArray[np.intp]) -> Floats:
    """The mean of 1 / rank of the first of `relevant` (k,) rows, 0 beyond rank 10, where lots order `candidates`."""
    mean, missed = np.zeros(len(relevant)), np.ones(len(relevant))
    for before in range(min(DEPTH, candidates)):
        hit = np.minimum(1.0, relevant / (candidates - before))
        mean += missed * hit / (before + 1)
        missed *= 1.0 - hit
    return mean


def _check(vectors: NDArray[np.float32], duplicates: Sequence[tuple[int, int]]) -> None:
    lengths = np.linalg.norm(vectors, axis=1)
    # Written so that a length that is not a number counts as wrong.
    wrong = int(np.count_nonzero(~(np.abs(lengths - 1.0) < 1e-3)))
    if wrong:
        raise FlywheelError(f"{wrong} of {len(vectors)} vectors are not of unit length: normalise them before retrieval.")
    outside = [pair for pair in duplicates if not all(0 <= row < len(vectors) for row in pair)]
    if outside:
        raise FlywheelError(f"The duplicate pair {outside[0]} names a row beyond {len(vectors)} vectors. Fix the pairs.")


def _groups(questions: int, duplicates: Sequence[tuple[int, int]]) -> list[NDArray[np.intp]]:
    """Row numbers of each group of two or more duplicates."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = np.asarray(duplicates, dtype=np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(questions, questions))
    _, group = connected_components(graph, directed=False)
    order = np.argsort(group, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(group[order])) + 1)
    return [rows for rows in members if len(rows) > 1]


def _ranks(similarities: NDArray[np.float32], relevant: NDArray[np.intp], group: NDArray[np.intp]) -> NDArray[np.intp]:
    """Ranks, from 1, of the relevant rows from the most similar on; exact up to 10, some number above 10 beyond.

    `group`, the relevant rows and the query, is struck out of `similarities` (q,) in place.
    """
    found = np.sort(similarities[relevant])[::-1]
    similarities[group] = -np.inf
    depth = min(DEPTH, len(similarities))
    rivals = np.partition(similarities, -depth)[-depth:]
    ranks = np.arange(1, len(found) + 1) + np.count_nonzero(rivals >= found[:, None] - _TIE, axis=1)
    return np.where(np.isneginf(found), len(similarities) + DEPTH, ranks)
