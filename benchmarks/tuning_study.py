"""How layers are best trained: recipes with some fields changed, several redraws each, chosen on calibration pairs.

    python benchmarks/tuning_study.py --quora PATH --home HOME [--base B] [--size 12800] [--redraws 3] [--test] \\
        head top 'top {"learning_rate": 1e-4, "batch_size": 64}' ...

Every argument is a row: a recipe and the fields that it changes, as in `flywheel.toml`. A redraw draws the nested training
order; at size `all` it only shuffles. `loss` and `error` are those of what ships, on calibration pairs that have chosen
neither its weights nor its place, and they choose the winner. With `--test` a row also has its error and MRR@10 on test
pairs, as they are evaluated, which choose nothing. `CPU s` are processor seconds of training, places and calibration. Token
states of `top` are counted where they are made. Model folders stay under HOME: the same command goes on where it was.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd
from quora import add_arguments, machine, quora_home, row

from flywheel.evaluation.subjects import tuned_subject
from flywheel.models.catalogue import Variant
from flywheel.models.folder import read_head
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.thresholds import log_losses
from flywheel.training.job import Cell, TrainingJob
from flywheel.training.layers import JUDGING_PAIRS
from flywheel.training.model import TrainedModel
from flywheel.training.progress import ignore_progress
from flywheel.training.starts import pair_scores
from flywheel.training.train import stopping_pairs, train


@dataclass(frozen=True)
class Figures:
    """What one training gave; `test_error` and `mrr_at_10` only where test pairs were asked for, `cpu` where it was trained
    from first to last by one process.
    """

    loss: float
    error: float
    place: float
    cpu: float | None
    test_error: float | None = None
    mrr_at_10: float | None = None


def main() -> None:
    """Train every row and print it as a line of a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("rows", nargs="+", help="a recipe and a JSON object of fields")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--size", default="12800")
    parser.add_argument("--redraws", type=int, default=3)
    parser.add_argument("--test", action="store_true", help="evaluate on test pairs too")
    arguments = parser.parse_args()
    variant = Variant(arguments.base, arguments.dim)
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        on = machine(workspace.settings.encoding.device)
        print(f"{variant} on {on}; {arguments.size} pairs, {arguments.redraws} redraws\n")
        print(row("recipe", "loss", "error", "places", "CPU s", "test error", "MRR@10"))
        print(row("---", *["---:"] * 6), flush=True)
        for text in arguments.rows:
            found = []
            for redraw in range(arguments.redraws):
                job = job_of_row(
                    workspace.with_options("training", random_seed=redraw), snapshot, variant, arguments.size, text
                )
                found.append(measured(workspace, snapshot, job, arguments.test))
            print(line(text, found), flush=True)


def job_of_row(workspace: Workspace, snapshot: Snapshot, variant: Variant, size: str, text: str) -> TrainingJob:
    """The job of a row at one dimension only."""
    recipe, _, fields = text.partition(" ")
    changed = workspace.with_options("training", recipes={recipe: json.loads(fields or "{}")})
    job = training_job(changed, snapshot, Cell(variant, size), recipe)
    return job if job.tuning is None else replace(job, dims=(variant.dim,))


def measured(workspace: Workspace, snapshot: Snapshot, job: TrainingJob, tested: bool) -> Figures:
    """The figures of a job, trained if it is not there yet; those of calibration are kept beside the home's models."""
    vectors, models = workspace.vectors_of(job), workspace.home.models
    kept = workspace.home.root / "study" / f"{job.job_id}.json"
    begun = (workspace.home.trained_layers / job.tuning_id).exists()
    started = time.process_time()
    model = train(job, snapshot, vectors, models, ignore_progress)
    cpu = None if begun or model.reused else time.process_time() - started
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(asdict(on_calibration(model, vectors, snapshot, cpu))))
    figures = Figures(**json.loads(kept.read_text()))
    if not tested:
        return figures
    record = workspace.evaluate(tuned_subject(model, vectors), snapshot)
    return replace(figures, test_error=record.error, mrr_at_10=record.retrieval.mrr_at_10)


def on_calibration(model: TrainedModel, vectors: Vectors, snapshot: Snapshot, cpu: float | None) -> Figures:
    """Log loss and error of a model on the calibration pairs that chose nothing of its weights."""
    pairs = judging_pairs(snapshot)
    if model.tuned_encoder:
        vectors = replace(vectors, tuned=model.folder)
    scores, labels = pair_scores(Head(*read_head(model.folder, vectors.poolings)), vectors, pairs), pairs["label"].to_numpy()
    wrong = model.rule.decide(scores, pairs["source"].to_numpy()) != labels
    return Figures(float(log_losses(scores, labels).mean()), float(wrong.mean()), model.place, cpu)


def judging_pairs(snapshot: Snapshot) -> pd.DataFrame:
    """The calibration pairs that choose neither when a training stops nor the place."""
    judging = stopping_pairs(snapshot.pairs("calibration"))[1]
    return judging.iloc[min(JUDGING_PAIRS, len(judging) // 2) :]


def line(text: str, found: list[Figures]) -> str:
    """Means and, of the losses and errors, standard deviations."""
    cpu = [each.cpu for each in found if each.cpu is not None]
    ranks = [each.mrr_at_10 for each in found if each.mrr_at_10 is not None]
    return row(
        f"`{text}`",
        spread([each.loss for each in found], 1, 4),
        spread([each.error for each in found], 100, 2),
        ", ".join(f"{each.place:g}" for each in found),
        f"{np.mean(cpu):,.0f}" if cpu else "-",
        spread([each.test_error for each in found if each.test_error is not None], 100, 2),
        f"{np.mean(ranks):.4f}" if ranks else "-",
    )


def spread(values: list[float], times: float, digits: int) -> str:
    """Mean and standard deviation, times a factor."""
    if not values:
        return "-"
    deviation = f" ± {times * np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{times * np.mean(values):.{digits}f}{deviation}"


if __name__ == "__main__":
    main()
