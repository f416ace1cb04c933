"""Made-up pairs with made-up vectors, on which training and evaluation run for real and in a second, with no encoder."""

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from flywheel.evaluation.retention import general_domain
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.vectors import Vectors
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.training.head import PairFeatures, own_components
from flywheel.training.job import HeadRecipe, TrainingJob
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import line

MINILM = CATALOGUE["all-MiniLM-L6-v2"]


def six_texts(clump: int) -> list[str]:
    """Three wordings of each of two intents."""
    return [f"clump{clump} intent{intent} wording{wording}" for intent in "ab" for wording in range(3)]


def clump_lines(clumps: range) -> list[bytes]:
    """Fifteen pairs a clump, label 1 within an intent."""
    pairs = [pair for clump in clumps for pair in combinations(six_texts(clump), 2)]
    return [line(a, b, int(a.split()[1] == b.split()[1])) for a, b in pairs]


def embed(texts: list[str]) -> np.ndarray:
    """Unit vectors: the intent lies in the first 32 numbers, louder noise of the wording in the next 96, the clump in all."""

    def part(name: str, first: int, width: int, length: float) -> np.ndarray:
        rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
        return np.pad(rng.normal(0, length / width**0.5, width), (first, 384 - first - width))

    named = [text.split() for text in texts]
    rows = [part(c, 0, 384, 0.7) + part(f"{c} {i}", 0, 32, 0.5) + part(f"{c} {i} {w}", 32, 96, 1.0) for c, i, w in named]
    return (np.stack(rows) / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clump_pairs(clumps: range) -> PairFeatures:
    """The pairs of some clumps as training takes them."""
    lines = [json.loads(each) for each in clump_lines(clumps)]
    a, b = ([each[text] for each in lines] for text in ("text_a", "text_b"))
    labels = np.array([each["label"] for each in lines])
    rows = np.arange(len(a))
    return PairFeatures(embed([*a, *b]), rows, len(a) + rows, labels, np.ones(len(a)), own_components(a, b))


@dataclass(frozen=True)
class World:
    """A home with a snapshot, and the vectors that its texts have."""

    workspace: Workspace
    snapshot: Snapshot
    vectors: Vectors

    def job(self, **fields: Any) -> TrainingJob:
        """A small job on the snapshot."""
        usual = {
            "variant": "all-MiniLM-L6-v2@32", "size": "100", "recipe": "head", "random_seed": 0, "interaction_share": 0.0,
            "snapshot_id": self.snapshot.snapshot_id, "base": replace(self.vectors.model, path=None),
            "weights": self.vectors.weights_id, "head": HeadRecipe(),
            "poolings": self.vectors.holds,
        }  # fmt: skip
        return TrainingJob(**{**usual, **fields})


def take_world(workspace: Workspace, lines: list[bytes]) -> World:
    """Ingest seed pairs and take a snapshot, drawn as soon as a draw can judge."""
    workspace = with_options(workspace, splits={"frozen_from": 0})
    ingest(workspace.store, json_batch(hashlib.sha256(b"".join(lines)).hexdigest(), "seed", "test", lines))
    snapshot = take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules)
    return World(workspace, snapshot, workspace.vectors(MINILM.name))


def clump_world(home: Path, clumps: int, **groups: dict[str, Any]) -> World:
    """A world of clumps. Their vectors are cached and the device does not exist, so that encoding anything else fails."""
    workspace = with_options(make_workspace(home, **groups), encoding={"device": "gone"})
    world = take_world(workspace, clump_lines(range(clumps)))
    texts = [text for clump in range(clumps) for text in six_texts(clump)]
    world.vectors.cache.get(texts, lambda some: np.tile(embed(some), len(world.vectors.poolings)))
    world.vectors.cache.get(unique_texts(general_domain().read()), lambda some: noise(some, world.vectors.width))
    return world


def noise(texts: list[str], width: int = 384) -> np.ndarray:
    """Features that say nothing, for texts that are of no clump."""
    return np.random.default_rng(0).normal(size=(len(texts), width)).astype(np.float16)
