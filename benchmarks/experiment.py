"""Cost and error of flywheel's `head` recipe against the recipe of the experiment it grows from: same pairs, one machine.

    python benchmarks/experiment.py --quora PATH [--sizes 100 ... 3200] [--redraws 5] [--eval-pairs 2000] [--out FILE]

Redraw 0 is timed: the original trains and evaluates every cell from scratch, as it did; flywheel starts with an empty cache and
no models, trains every cell and scores the same test pairs. Errors come from all redraws, on every test pair: both sides after
their last epoch, at thresholds that the same rule takes from `calibration`. A redraw draws other training pairs, the same for
both. There the original's dimensions share the encoder's pass over each batch, and texts are encoded once for evaluation: an
encoder that is frozen and evaluated without dropout gives the same every time. What is done is kept in FILE; run the command
again to go on.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from forwards import plan_table
from original import TanhHead, best_average_precision, distinct, load_states, logistic_error, run_cell, train_heads
from quora import add_arguments, cosines, dimensions, machine, quora_home
from tables import cost_table, error_table, packed

from flywheel.evaluation.subjects import tuned_subject
from flywheel.files import write_json
from flywheel.models.catalogue import Variant
from flywheel.models.encoder import resolve_device
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.thresholds import fit_scores
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Encoded, Progress
from flywheel.training.train import train


def main() -> None:
    """Do what is not done yet and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200, 400, 800, 1600, 3200])
    parser.add_argument("--timed", type=int, nargs="*", help="sizes at which the original is timed, when not at all of them")
    parser.add_argument("--redraws", type=int, default=5)
    parser.add_argument("--eval-pairs", type=int, default=2_000, help="test pairs that the timed evaluation encodes")
    parser.add_argument("--out", type=Path, default=Path("experiment.json"), help="where results are kept")
    arguments = parser.parse_args()
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        bench = Bench(workspace, snapshot, arguments.base, arguments.eval_pairs)
        done = Done.open(arguments.out, bench.name, machine(workspace.settings.encoding.device))
        print(f"{arguments.base} on {done.machine}; snapshot {snapshot.snapshot_id}\n", flush=True)
        timed = arguments.sizes if arguments.timed is None else arguments.timed
        time_flywheel(bench, done, arguments.sizes)
        time_original(bench, done, timed)
        for redraw in range(arguments.redraws):
            measure_redraw(bench, done, redraw, arguments.sizes)
        components = bench.test["component"].to_numpy()
        print(cost_table(done.results, bench.dims, timed, arguments.eval_pairs))
        print(error_table(done.results, bench.dims, arguments.sizes, arguments.redraws, components))
        print(plan_table(snapshot, 0, workspace.settings.training.interaction_share))


@dataclass(frozen=True)
class Bench:
    """What is compared on what."""

    workspace: Workspace
    snapshot: Snapshot
    base: str
    eval_pairs: int

    @property
    def name(self) -> str:
        """What results must share to stand in one file."""
        return f"{self.snapshot.snapshot_id} {self.base} {self.eval_pairs}"

    @property
    def dims(self) -> tuple[int, ...]:
        """The experiment's dimensions of the base model."""
        return dimensions(self.base)

    @property
    def device(self) -> str:
        """Where encoders run."""
        return resolve_device(self.workspace.settings.encoding.device)

    @property
    def folder(self) -> Path:
        """Where the cache and the models of this benchmark lie, apart from the home's own."""
        return self.workspace.home.root / "benchmark"

    @cached_property
    def vectors(self) -> Vectors:
        """flywheel's cached vectors."""
        return Vectors.of(self.workspace.models.find(self.base), self.folder / "cache", self.workspace.settings.encoding)

    @cached_property
    def states(self) -> dict[str, np.ndarray]:
        """The original's mean token states of texts, encoded without dropout; `learn` adds some."""
        return {}

    def learn(self, *frames: pd.DataFrame) -> None:
        """Encode the texts of some pairs that `states` lacks."""
        if new := [text for text in distinct(*frames) if text not in self.states]:
            encoder = load_states(self.vectors.weights, self.device)
            self.states.update(zip(new, encoder.encode(new, show_progress_bar=False), strict=True))

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """The calibration pairs."""
        return self.snapshot.pairs("calibration")

    @cached_property
    def test(self) -> pd.DataFrame:
        """The test pairs; they lie in hash order, so that any number of the first is a sample."""
        return self.snapshot.pairs("test")

    def pairs(self, size: int, redraw: int) -> pd.DataFrame:
        """The training pairs of a cell."""
        return self.snapshot.training_pairs(str(size), redraw, self.workspace.settings.training.interaction_share)

    def train(self, size: int, dim: int, redraw: int, listener: Any) -> TrainedModel:
        """flywheel's model of a cell."""
        drawn = self.workspace.with_options("training", random_seed=redraw)
        job = training_job(drawn, self.snapshot, Cell(Variant(self.base, dim), str(size)), "head")
        return train(job, self.snapshot, self.vectors, self.folder / "models", listener)


@dataclass(frozen=True)
class Done:
    """Results by name, in a file that is written after each."""

    file: Path
    results: dict[str, Any]

    @classmethod
    def open(cls, file: Path, name: str, machine: str) -> "Done":
        """The file's results, none if there is no file. Ends the program when they are of another run or machine."""
        results = json.loads(file.read_text()) if file.exists() else {"run": name, "machine": machine}
        if (results["run"], results["machine"]) != (name, machine):
            raise SystemExit(f"{file} holds results of other data, settings or another machine; choose another --out.")
        return cls(file, results)

    @property
    def machine(self) -> str:
        """The machine it runs on."""
        return str(self.results["machine"])

    def put(self, **results: Any) -> None:
        """Keep some results."""
        self.results.update(results)
        write_json(self.file, self.results)


def time_flywheel(bench: Bench, done: Done, sizes: Sequence[int]) -> None:
    """All of flywheel's cells in one go, from nothing, if any is missing: seconds and sentences of each."""
    names = {f"time flywheel {size}@{dim}": (size, dim) for size in sizes for dim in bench.dims}
    if names.keys() <= done.results.keys():
        return
    shutil.rmtree(bench.folder, ignore_errors=True)
    vars(bench).pop("vectors", None)
    figures = {}
    for name, (size, dim) in names.items():
        counted: list[int] = []

        def count(event: Progress, counted: list[int] = counted) -> None:
            if isinstance(event, Encoded):
                counted.append(event.done)

        started = time.perf_counter()
        model = bench.train(size, dim, 0, count)
        tested = bench.test.head(bench.eval_pairs)
        before = bench.vectors.missing(distinct(tested))
        scores = cosines(tuned_subject(model, bench.vectors).embed, tested)
        error = float(wrong_decisions(model, scores, tested).mean())
        seconds = time.perf_counter() - started
        figures[name] = {"seconds": seconds, "sentences": max(counted, default=0) + before, "error": error}
    done.put(**figures)


def time_original(bench: Bench, done: Done, sizes: Sequence[int]) -> None:
    """The original's cells, one after the other, and the errors of what comes out."""
    for size in sizes:
        for dim in bench.dims:
            if f"time original {size}@{dim}" in done.results:
                continue
            pairs = bench.pairs(size, 0)
            cell = run_cell(bench.vectors.weights, dim, pairs, bench.test.head(bench.eval_pairs), 0, bench.device)
            timed = {"seconds": cell.seconds, "reported_error": cell.reported_error, **asdict(cell.sentences)}
            errors = original_errors(bench, cell.heads, pairs)
            done.put(**{f"time original {size}@{dim}": timed, f"original 0 {size}@{dim}": errors})


def measure_redraw(bench: Bench, done: Done, redraw: int, sizes: Sequence[int]) -> None:
    """Errors of both sides in every cell of one redraw."""
    for size in sizes:
        pairs = bench.pairs(size, redraw)
        if missing := [dim for dim in bench.dims if f"original {redraw} {size}@{dim}" not in done.results]:
            heads = train_heads(bench.vectors.weights, missing, pairs, redraw, bench.device)
            errors = {dim: original_errors(bench, heads[dim], pairs) for dim in missing}
            done.put(**{f"original {redraw} {size}@{dim}": found for dim, found in errors.items()})
        for dim in bench.dims:
            if f"flywheel {redraw} {size}@{dim}" not in done.results:
                model = bench.train(size, dim, redraw, lambda event: None)
                scores = cosines(tuned_subject(model, bench.vectors).embed, bench.test)
                wrong = wrong_decisions(model, scores, bench.test)
                done.put(**{f"flywheel {redraw} {size}@{dim}": {"wrong": packed(wrong)}})


def wrong_decisions(model: TrainedModel, scores: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """Which pairs (n,) the model's decision rule decides wrongly."""
    return np.asarray(model.rule.decide(scores, pairs["source"].to_numpy()) != pairs["label"].to_numpy())


def original_errors(bench: Bench, heads: Sequence[TanhHead], pairs: pd.DataFrame) -> dict[str, Any]:
    """The original's wrong decisions after its last epoch, and what it would have chosen and reported itself."""
    bench.learn(bench.calibration, bench.test, pairs)
    tested, labels = bench.test, bench.test["label"].to_numpy()
    epochs = []
    for head in heads:

        def embed(texts: list[str], head: TanhHead = head) -> np.ndarray:
            return head.apply(np.stack([bench.states[text] for text in texts]))

        calibrated, scores, trained = (cosines(embed, frame) for frame in (bench.calibration, tested, pairs))
        threshold = fit_scores(calibrated, bench.calibration["label"].to_numpy()).threshold
        precision = best_average_precision(embed(list(tested["text_a"])), embed(list(tested["text_b"])), labels)
        own = logistic_error(trained, pairs["label"].to_numpy(), scores, labels)
        epochs.append({"precision": precision, "error": float(((scores >= threshold) != labels).mean()), "own": own})
    best = max(epochs, key=lambda epoch: epoch["precision"])
    return {"wrong": packed((scores >= threshold) != labels), "best": best["error"], "own": best["own"], "epochs": epochs}


if __name__ == "__main__":
    main()
