"""Retrieval agrees with a brute-force reference, and ties never help."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.scoring import retrieval as module
from flywheel.scoring.retrieval import retrieval


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def reference(vectors: np.ndarray, duplicates: list[tuple[int, int]]) -> tuple[float, float, int]:
    group = list(range(len(vectors)))
    for left, right in duplicates:
        old, new = group[left], group[right]
        group = [new if name == old else name for name in group]
    reciprocal, recall = [], []
    for query, own in enumerate(group):
        others = [row for row in range(len(vectors)) if row != query]
        found = {row for row in others if group[row] == own}
        if not found:
            continue
        score = {row: round(float(vectors[query].astype(float) @ vectors[row].astype(float)), 5) for row in others}
        ranking = sorted(others, key=lambda row: (-score[row], row in found))
        places = [place for place, row in enumerate(ranking, start=1) if row in found]
        reciprocal.append(1 / places[0] if places[0] <= 10 else 0.0)
        recall.append(sum(place <= 10 for place in places) / min(10, len(places)))
    return float(np.mean(reciprocal)), float(np.mean(recall)), len(recall)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, list[tuple[int, int]]]:
    n = draw(st.integers(2, 40))
    # Coordinates from a coarse grid: many exact ties, and different similarities differ by far more than rounding.
    coordinate = st.integers(-2, 2)
    row = st.tuples(coordinate, coordinate, coordinate).filter(any)
    rows = np.array(draw(st.lists(row, min_size=n, max_size=n)), dtype=float)
    index = st.integers(0, n - 1)
    pairs = draw(st.lists(st.tuples(index, index), min_size=1, max_size=30))
    pairs.append((0, n - 1))
    return unit(rows), pairs


@given(problem=problems(), block=st.integers(1, 200))
@settings(deadline=None, max_examples=200)
def test_retrieval_agrees_with_brute_force_whatever_the_block(
    problem: tuple[np.ndarray, list[tuple[int, int]]], block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_ELEMENTS", block)
        result = retrieval(*problem)
    mrr, recall, queries = reference(*problem)
    assert result.queries == queries
    assert result.mrr_at_10 == pytest.approx(mrr)
    assert result.recall_at_10 == pytest.approx(recall)


def test_perfect_vectors_find_every_duplicate() -> None:
    rows = np.repeat(np.eye(30), 2, axis=0)
    result = retrieval(unit(rows), [(i, i + 1) for i in range(0, 60, 2)])
    assert (result.mrr_at_10, result.recall_at_10, result.queries) == (1.0, 1.0, 60)


@pytest.mark.parametrize("noise", [0.0, 1e-8])
def test_collapsed_vectors_find_nothing(noise: float) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1, 384)) + noise * rng.normal(size=(200, 384))
    result = retrieval(unit(rows), [(i, i + 1) for i in range(0, 200, 2)])
    assert (result.mrr_at_10, result.recall_at_10) == (0.0, 0.0)


def test_duplicates_of_duplicates_count() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 16))
    rows[2] = rows[0] + 0.01 * rows[1]
    chain = retrieval(unit(rows), [(0, 1), (1, 2)])
    assert chain.queries == 3
    # Question 0 has 2 as its nearest, which it reaches through 1 alone.
    assert chain == retrieval(unit(rows), [(0, 1), (1, 2), (0, 2), (2, 0)])
    assert chain.mrr_at_10 >= 2 / 3


def test_recall_counts_ten_duplicates_at_most() -> None:
    rows = np.concatenate([np.tile(np.eye(20)[0], (15, 1)), np.eye(20)[1:]])
    result = retrieval(unit(rows), [(0, i) for i in range(1, 15)])
    assert result.recall_at_10 == 1.0


@pytest.mark.parametrize(
    ("vectors", "duplicates", "message"),
    [
        (np.eye(3), [], "No question has a duplicate"),
        (np.eye(3), [(1, 1)], "No question has a duplicate"),
        (np.eye(3), [(0, 3)], r"\(0, 3\) names a row beyond 3 vectors"),
        (np.eye(3), [(-1, 0)], r"\(-1, 0\) names a row beyond 3 vectors"),
        (2 * np.eye(3), [(0, 1)], "3 of 3 vectors are not of unit length"),
        (np.array([[1.0, 0.0], [np.nan, 0.0]]), [(0, 1)], "1 of 2 vectors are not of unit length"),
    ],
)
def test_what_cannot_be_searched_is_refused(vectors: np.ndarray, duplicates: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(FlywheelError, match=message):
        retrieval(vectors.astype(np.float32), duplicates)
