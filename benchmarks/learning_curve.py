"""Error against training pairs: base models, both dimensions, every size the file fills, several redraws, other recipes.

    python benchmarks/learning_curve.py --quora PATH --home HOME [--base B ...] [--redraws 3] [--recipe top] [--sizes 400 ...]

Cells are those of the product: trained by `train`, scored by `evaluate`. A redraw draws the nested training order anew. Errors
are by the decision rule that calibration pairs give; their 95 % intervals resample components of test and redraws. `own
threshold` is the error at the threshold that a small cell's own pairs give, out of fold. `seconds` of a dimension that shares
its layers with one trained before are those of its own head and threshold only. Finished cells are found again, so that the
command goes on where it was, and further recipes add to the same figure (`--figure FILE`).
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from quora import dimensions, machine, quora_home, row
from tables import difference_interval

from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.scores import decisions
from flywheel.evaluation.subjects import tuned_subject, untuned_subject
from flywheel.evidence.figures.images import learning_curve
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.evaluation import leaderboard
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import SIZES, Cell
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train


def main() -> None:
    """Train, evaluate, print a row for each cell as it is done, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quora", type=Path, required=True, help="Parquet file of pairs: text_a, text_b, label")
    parser.add_argument("--home", type=Path, help="the home to work in (a temporary one)")
    parser.add_argument("--base", nargs="+", default=["all-MiniLM-L6-v2"], help="base models")
    parser.add_argument("--recipe", default="head")
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--redraws", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="PNG file for the figure of everything in the home")
    arguments = parser.parse_args()
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        test = f"{snapshot.test.pairs:,} test pairs, {snapshot.test.components:,} components"
        print(f"On {machine(workspace.settings.encoding.device)}; {test}, {arguments.redraws} redraws\n")
        print(row("variant", "pairs", "recipe", "error, 95 %", "spread", "own threshold", "MRR@10", "seconds", "start shipped"))
        print(row("---", "---:", "---", "---:", "---:", "---:", "---:", "---:", "---:"), flush=True)
        records: list[Evaluation] = []
        for base in arguments.base:
            for dim in dimensions(base):
                records += curve(workspace, snapshot, Variant(base, dim), arguments)
        if arguments.figure:
            arguments.figure.write_bytes(learning_curve(all_records(workspace, snapshot), None))


def curve(workspace: Workspace, snapshot: Snapshot, variant: Variant, arguments: argparse.Namespace) -> list[Evaluation]:
    """The untuned model and every size the data fills, a row each."""
    vectors = workspace.vectors(variant.base)
    untuned = workspace.evaluate(untuned_subject(variant, snapshot, vectors), snapshot)
    tell(workspace, [untuned], "untuned", [])
    found = [untuned]
    for size in arguments.sizes:
        if size != ALL and int(size) > snapshot.largest_size(0.0):
            continue
        cell, seconds, kept = [], [], 0
        for redraw in range(arguments.redraws):
            drawn = workspace.with_options("training", random_seed=redraw)
            job = training_job(drawn, snapshot, Cell(variant, size), arguments.recipe)
            started = time.perf_counter()
            model = train(job, snapshot, vectors, workspace.home.models, ignore_progress)
            seconds.append(model.seconds if model.reused else time.perf_counter() - started)
            kept += model.kept_start is not None
            cell.append(workspace.evaluate(tuned_subject(model, vectors), snapshot))
        tell(workspace, cell, arguments.recipe, seconds, kept)
        found += cell
    return found


def tell(workspace: Workspace, records: list[Evaluation], recipe: str, seconds: list[float], kept: int = 0) -> None:
    """Print a row."""
    tables = [decisions(workspace.home.evaluations, record) for record in records]
    wrong = np.stack([table["wrong"].to_numpy(float) for table in tables])
    interval = difference_interval(wrong, tables[0]["component"].to_numpy())
    errors = 100 * wrong.mean(1)
    own = [100 * record.own_labels.error for record in records if record.own_labels]
    print(
        row(
            records[0].variant, f"{records[0].train_pairs or 0:,}", recipe,
            f"{errors.mean():.2f} % ({100 * interval.low:.2f} to {100 * interval.high:.2f})",
            f"{errors.std(ddof=1):.2f}" if len(errors) > 1 else "-",
            f"{np.mean(own):.2f} %" if own else "-",
            f"{np.mean([record.retrieval.mrr_at_10 for record in records]):.3f}",
            f"{np.mean(seconds):.1f}" if seconds else "-",
            f"{kept} of {len(records)}" if seconds else "-",
        ),
        flush=True,
    )  # fmt: skip


def all_records(workspace: Workspace, snapshot: Snapshot) -> list[Evaluation]:
    """Every record on the snapshot's test pairs, of all bases and recipes."""
    by_kind = defaultdict(list)
    for record in leaderboard(workspace, snapshot).rows:
        by_kind[record.kind].append(record)
    return [*by_kind["untuned"], *by_kind["tuned"]]


if __name__ == "__main__":
    main()
