"""What the benchmarks of training share: a home on Quora's pairs, the machine in words, scores of pairs."""

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from flywheel.models.catalogue import CATALOGUE
from flywheel.models.encoder import resolve_device
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.ingest import ingest_seed, take_snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What every one of these benchmarks asks for."""
    parser.add_argument("--quora", type=Path, required=True, help="Parquet file of pairs: text_a, text_b, label")
    parser.add_argument("--home", type=Path, help="the home to work in (a temporary one)")
    parser.add_argument("--base", default="all-MiniLM-L6-v2", help="base model")


def dimensions(base: str) -> tuple[int, ...]:
    """The experiment's dimensions of a base model: 256, and 512 or its width."""
    return 256, min(512, CATALOGUE[base].width or 512)


@contextmanager
def quora_home(quora: Path, home: Path | None) -> Iterator[tuple[Workspace, Snapshot]]:
    """A home that holds the pairs, and a snapshot of it."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        opened = Workspace(load_settings(home or Path(temporary)))
        workspace = opened.with_options("pairs", seed_pairs="quora", quora_path=quora)
        ingest_seed(workspace)
        yield workspace, take_snapshot(workspace)


def machine(device: str) -> str:
    """The machine and what runs on it, in words."""
    import torch

    place = resolve_device(device)
    if place.startswith("cuda"):
        return f"{torch.cuda.get_device_name(place)}, torch {torch.__version__}"
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.partition(": ")[2] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {len(names)} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, {place}"


def cosines(embed: Callable[[list[str]], np.ndarray], pairs: pd.DataFrame) -> np.ndarray:
    """The cosine of each pair's vectors (n,), whatever their length."""
    left, right = embed(list(pairs["text_a"])), embed(list(pairs["text_b"]))
    return np.asarray((left * right).sum(1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)), dtype=np.float64)


def row(*cells: object) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
