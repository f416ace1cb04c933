"""The starter set: pairs derived, always the same ones, from the questions of `data/starter/questions.csv`.

Questions stand in intents (true duplicates), intents in clumps (siblings that are easy to confuse). Most clumps stay by
themselves: their negatives are siblings only, so each is a small component that a draw can give to `test` or `calibration`
whole. The others are linked in groups by negatives between clumps, grow too large to be drawn, and train.
"""

import csv
import json
from collections.abc import Iterator
from itertools import chain, combinations, groupby, product
from pathlib import Path

from flywheel.pairs.text import digest

_LINKED_CLUMPS, _CLUMPS_PER_GROUP = 52, 4
_DUPLICATES_PER_CLUMP, _SIBLINGS_PER_CLUMP, _LINKS_PER_CLUMP = 24, 24, 18
_LINKED_DUPLICATES_PER_CLUMP = 36

Clump = list[list[str]]


def starter_lines(questions: Path) -> Iterator[bytes]:
    """The starter pairs as JSON lines, in an order that depends on nothing but the file."""
    clumps = _read_clumps(questions)
    order = sorted(clumps, key=lambda name: digest(f"clump|{name}"))
    linked, alone = order[:_LINKED_CLUMPS], order[_LINKED_CLUMPS:]
    for name in alone:
        yield from _lines(_duplicates(clumps[name], _DUPLICATES_PER_CLUMP), 1)
        yield from _lines(_siblings(clumps[name]), 0)
    for start in range(0, len(linked), _CLUMPS_PER_GROUP):
        group = [clumps[name] for name in linked[start : start + _CLUMPS_PER_GROUP]]
        for i, clump in enumerate(group):
            yield from _lines(_duplicates(clump, _LINKED_DUPLICATES_PER_CLUMP), 1)
            yield from _lines(_siblings(clump), 0)
            yield from _lines(_links(clump, group[(i + 1) % len(group)]), 0)


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


def _siblings(clump: Clump) -> list[tuple[str, str]]:
    """Hard negatives, the same number for every two siblings."""
    two = list(combinations(clump, 2))
    return [pair for a, b in two for pair in _hash_order(product(a, b))[: _SIBLINGS_PER_CLUMP // len(two)]]


def _links(clump: Clump, neighbour: Clump) -> list[tuple[str, str]]:
    """Easy negatives between two clumps."""
    return _hash_order(product(chain(*clump), chain(*neighbour)))[:_LINKS_PER_CLUMP]


def _hash_order(pairs: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: digest("|".join(pair)))


def _lines(pairs: list[tuple[str, str]], label: int) -> Iterator[bytes]:
    for text_a, text_b in pairs:
        yield json.dumps({"text_a": text_a, "text_b": text_b, "label": label}).encode()
