"""The starter set: pairs derived, always the same ones, from the questions of `starter_set/questions.csv`.

Questions belong to intents (true duplicates), intents to clumps (siblings that are easy to confuse). Most clumps stay
small: each is a component that a draw can give to `test` or `calibration` whole. The others give more pairs, grow too
large to be drawn, and train. Every negative is a sibling, the hard kind.
"""

import csv
import json
from collections.abc import Iterator
from itertools import combinations, groupby, product
from pathlib import Path

from flywheel.files import digest

_LARGE_CLUMPS = 52
_SMALL_PAIRS, _LARGE_PAIRS = 24, 39  # of each label, in a clump
Clump = list[list[str]]


def starter_lines(questions: Path) -> Iterator[bytes]:
    """The starter pairs as JSON lines, in an order that depends on nothing but the file."""
    clumps = _read_clumps(questions)
    order = sorted(clumps, key=lambda name: digest(f"clump|{name}"))
    for rank, name in enumerate(order):
        wanted = _LARGE_PAIRS if rank < _LARGE_CLUMPS else _SMALL_PAIRS
        yield from _lines(_duplicates(clumps[name], wanted), 1)
        yield from _lines(_siblings(clumps[name], wanted), 0)


def _read_clumps(questions: Path) -> dict[str, Clump]:
    with questions.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        "/".join(name): [[row["text"] for row in intent] for _, intent in groupby(clump, key=lambda row: row["intent"])]
        for name, clump in groupby(rows, key=lambda row: (row["topic"], row["clump"]))
    }


def _duplicates(clump: Clump, wanted: int) -> list[tuple[str, str]]:
    """A ring through each intent's questions, which keeps the intent in one component, then chords up to `wanted` in all."""
    pairs = []
    for intent in clump:
        ring = sorted(intent, key=digest)
        circle = list(zip(ring, ring[1:] + ring[:1], strict=True))
        chords = [pair for pair in _hash_order(combinations(ring, 2)) if pair not in circle and pair[::-1] not in circle]
        pairs += circle + chords[: wanted // len(clump) - len(circle)]
    return pairs


def _siblings(clump: Clump, wanted: int) -> list[tuple[str, str]]:
    """Hard negatives, the same number for every two siblings."""
    two = list(combinations(clump, 2))
    return [pair for a, b in two for pair in _hash_order(product(a, b))[: wanted // len(two)]]


def _hash_order(pairs: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: digest("|".join(pair)))


def _lines(pairs: list[tuple[str, str]], label: int) -> Iterator[bytes]:
    for text_a, text_b in pairs:
        yield json.dumps({"text_a": text_a, "text_b": text_b, "label": label}).encode()
