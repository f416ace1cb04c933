"""Texts per CPU second of `flywheel reembed` against `SentenceTransformer(path).encode(texts)`, here and over Ray.

    python benchmarks/reembed.py --quora PATH [--texts 4000] [--base all-MiniLM-L6-v2]

All use one thread an encoder. Ray runs on this machine alone, with one actor and with two. CPU seconds are those of this
process and of all that it starts, looked at four times a second; `embedding alone` leaves out Ray's own processes and all
starts.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from quora import machine, row

from flywheel.models.catalogue import CATALOGUE
from flywheel.models.embedder import Embedder, folder_fingerprint
from flywheel.models.folder import open_model
from flywheel.models.weights import locate_weights
from flywheel.pairs.corpus.source import open_corpus
from flywheel.pairs.corpus.survey import survey
from flywheel.pipeline.reembedding.engines import Engine, Here
from flywheel.pipeline.reembedding.generation import Generation, Plan
from flywheel.pipeline.reembedding.on_ray import OnRay, ray_cluster
from flywheel.pipeline.reembedding.plan import Work, part_rows

_LOOK_SECONDS = 0.25


@dataclass
class Spent:
    """Wall seconds and CPU seconds by process, with what each process is called."""

    wall: float = 0.0
    cpu: dict[int, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def of(self, chosen: Callable[[str], bool]) -> float:
        """CPU seconds of the processes whose names are chosen."""
        return sum(seconds for pid, seconds in self.cpu.items() if chosen(self.names[pid]))


def main() -> None:
    """Embed the same texts in each way and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quora", type=Path, required=True, help="Parquet file of pairs: text_a, text_b, label")
    parser.add_argument("--texts", type=int, default=4_000)
    parser.add_argument("--actors", type=int, nargs="*", default=[1, 2], help="numbers of actors to try over Ray")
    parser.add_argument("--base", default="all-MiniLM-L6-v2", help="base model")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    pairs = pd.read_parquet(arguments.quora)
    texts = [str(text) for text in pd.unique(pd.concat([pairs["text_a"], pairs["text_b"]]))[: arguments.texts]]
    model = locate_weights(CATALOGUE[arguments.base])
    load = os.getloadavg()[0]
    print(f"{arguments.base} on {machine('cpu')}; {len(texts):,} texts; load {load:.1f} at the start\n", flush=True)
    print(row("way", "wall s", "CPU s", "texts per CPU s", "embedding alone, texts per CPU s", "largest difference"))
    print(row("---", *["---:"] * 5), flush=True)
    plain = open_model(model, "cpu")
    plain.encode(texts[:64], show_progress_bar=False)
    with watched() as spent:
        expected = plain.encode(texts, show_progress_bar=False)
    show("plain encode", spent, texts, sum(spent.cpu.values()), 0.0)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        corpus = Path(folder) / "corpus.parquet"
        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), corpus)
        for numbers in ("float32", "bfloat16"):
            work = plan(model, corpus, Path(folder) / numbers, numbers, 1)
            engine = Here(work)
            engine.rate(texts[:64])
            with watched() as spent:
                run(engine, work)
            show(f"reembed, {numbers}", spent, texts, sum(spent.cpu.values()), difference(work, expected))
        for actors in arguments.actors:
            work = plan(model, corpus, Path(folder) / f"{actors}", "float32", actors)
            with watched() as spent, ray_cluster("local", actors) as cluster:
                run(OnRay(cluster, work), work)
            startup = actors * cpu_of_start(model)
            alone = spent.of(lambda name: "MapWorker" in name) - startup
            show(
                f"reembed over Ray, {actors} actor{'s' if actors > 1 else ''}", spent, texts, alone, difference(work, expected)
            )


def plan(model: Path, corpus_file: Path, output: Path, numbers: str, workers: int) -> Work:
    """The texts as a corpus, planned as the verb plans it, for a model that is no trained one."""
    corpus = open_corpus(corpus_file)
    found = survey(corpus, output.parent / "scratch", "512MB")
    dim = Embedder(model, "cpu").dim
    made = Plan(
        model.name, model.name, folder_fingerprint(model), numbers, dim, str(corpus_file), None, corpus.id_column,
        corpus.text_column, "int64", found.fingerprint, corpus.pieces, found.rows, found.texts, found.empty,
        found.empty_places, part_rows(sum(found.rows), workers),
    )  # fmt: skip
    generation = Generation(output / model.name, made)
    generation.folder.mkdir(parents=True)
    generation.write()
    return Work(model, corpus, generation, tuple(generation.missing()), found.sample, "cpu", corpus.stamp())


def run(engine: Engine, work: Work) -> None:
    """Embed all parts."""
    for _ in engine.run(work):
        pass


def difference(work: Work, expected: np.ndarray) -> float:
    """The largest difference of a number from plain `encode`'s."""
    table = pa.concat_tables(pq.read_table(part) for part in sorted(work.generation.folder.glob("part-*.parquet")))
    assert table["id"].to_pylist() == list(range(len(expected)))
    vectors = np.concatenate([chunk.values.to_numpy() for chunk in table["vector"].chunks])
    return float(np.abs(vectors.reshape(expected.shape) - expected).max())


def cpu_of_start(model: Path) -> float:
    """CPU seconds that a new process needs until it has the model."""
    code = (
        "import torch; torch.set_num_threads(1)\nfrom pathlib import Path\nfrom flywheel.models.embedder import Embedder\n"
        f"Embedder(Path({str(model)!r}), 'cpu')"
    )
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@contextmanager
def watched() -> Iterator[Spent]:
    """What the block spends; figures of processes that end meanwhile are at most a look old."""
    spent, over, me = Spent(), threading.Event(), psutil.Process()
    first = {process.pid: _seconds(process) for process in [me, *me.children(recursive=True)]}

    def look() -> None:
        for process in [me, *me.children(recursive=True)]:
            try:
                spent.cpu[process.pid] = _seconds(process) - first.get(process.pid, 0.0)
                spent.names[process.pid] = " ".join(process.cmdline()) or process.name()
            except psutil.Error:
                continue

    def keep_looking() -> None:
        while not over.wait(_LOOK_SECONDS):
            look()

    watcher, started = threading.Thread(target=keep_looking), time.perf_counter()
    watcher.start()
    try:
        yield spent
    finally:
        spent.wall = time.perf_counter() - started
        look()
        over.set()
        watcher.join()


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def show(name: str, spent: Spent, texts: list[str], alone: float, largest: float) -> None:
    """One row."""
    cpu = sum(spent.cpu.values())
    rates = f"{len(texts) / cpu:,.0f}", f"{len(texts) / alone:,.0f}"
    print(row(name, f"{spent.wall:,.0f}", f"{cpu:,.0f}", *rates, f"{largest:.0e}"), flush=True)


if __name__ == "__main__":
    main()
