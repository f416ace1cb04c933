"""Graphs of labelled pairs in many shapes, as edges between numbered questions, and what must hold of their snapshots."""

from collections.abc import Callable, Iterable
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from flywheel.evaluation.statistics import reason_no_verdict
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pairs.store.components import FROZEN
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.pairs.test_ingest import line

Edges = NDArray[np.int64]


def star(pairs: int) -> Edges:
    """One question with so many pairs."""
    return np.array([(0, i + 1) for i in range(pairs)], dtype=np.int64)


def chain(pairs: int) -> Edges:
    """Each question with the next."""
    return np.array([(i, i + 1) for i in range(pairs)], dtype=np.int64)


def clique(pairs: int) -> Edges:
    """The smallest clique with so many pairs, without those above."""
    questions = next(n for n in range(2, pairs + 3) if n * (n - 1) // 2 >= pairs)
    return np.array(list(combinations(range(questions), 2))[:pairs], dtype=np.int64)


FORMS: tuple[Callable[[int], Edges], ...] = (star, chain, clique)


def side_by_side(components: Iterable[Edges]) -> Edges:
    """Components that share no question."""
    parts, first = [], 0
    for part in components:
        parts.append(part + first)
        first += int(part.max()) + 1
    return np.concatenate(parts)


def of_sizes(sizes: Iterable[int], rng: np.random.Generator) -> Edges:
    """Components of so many pairs each, in forms by lot."""
    return side_by_side(FORMS[rng.integers(len(FORMS))](int(size)) for size in sizes)


def heavy_tailed(pairs: int, exponent: float, largest: int, rng: np.random.Generator) -> Edges:
    """Components whose sizes follow a power law up to the largest."""
    sizes = np.minimum(rng.zipf(exponent, pairs), largest)
    return of_sizes(sizes[: int(np.searchsorted(sizes.cumsum(), pairs)) + 1], rng)


def fill(workspace: Workspace, edges: Edges, rng: np.random.Generator, same: float = 0.4, source: str = "interaction") -> None:
    """Ingest the edges as pairs, labelled by lot."""
    labels = (rng.random(len(edges)) < same).astype(int)
    lines = [line(f"question {a}", f"question {b}", int(c)) for (a, b), c in zip(edges, labels, strict=True)]
    ingest(workspace.store, json_batch(f"{source} {len(edges)} {edges[0]}", source, "test", lines))  # type: ignore[arg-type]


def check_frozen(snapshot: Snapshot) -> None:
    """Whatever is frozen carries a verdict by evaluation's own rule, and nothing leaks; nothing else is frozen."""
    assert snapshot.shared_questions() == 0
    for split in FROZEN:
        pairs = snapshot.pairs(split)
        if not snapshot.is_drawn:
            assert pairs.empty
            continue
        assert reason_no_verdict(pairs["component"].to_numpy()) is None
        assert pairs["label"].value_counts().min() >= 10
        assert set(pairs["kind"]) == {"explicit"}


def check_folds(snapshot: Snapshot) -> None:
    """What judges out of fold carries a verdict by that rule; folds part components and are about even; all pairs are there."""
    judging = snapshot.judging_pairs()
    assert (len(judging), judging["component"].nunique()) == (snapshot.judging.pairs, snapshot.judging.components)
    assert reason_no_verdict(judging["component"].to_numpy()) is None
    assert judging["label"].value_counts().min() >= 10
    assert judging.groupby("label")["component"].nunique().min() >= 10
    sizes = judging.groupby("fold").size()
    assert list(sizes.index) == list(range(snapshot.folds))
    largest = int(judging.groupby("component").size().max())
    assert sizes.max() - sizes.min() <= 2 * largest
    for _, group in judging.groupby("label"):
        each = group.groupby("fold").size().reindex(range(snapshot.folds), fill_value=0)
        assert each.max() - each.min() <= 2 * largest
    assert snapshot.pairs("train").groupby("component")["fold"].nunique().max() == 1
