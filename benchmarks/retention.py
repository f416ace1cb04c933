"""What heads cost elsewhere: average precision on the general pairs, trained and untuned, by size and data.

    python benchmarks/retention.py --quora PATH [--home FOLDER] [--base all-MiniLM-L6-v2] [--dim 256] [--redraws 3]

On the starter set and on Quora's pairs; sizes that the pairs do not fill are left out. Each redraw is another random seed.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from quora import add_arguments, machine, quora_home, row

from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.evaluation import evaluate_cell
from flywheel.pipeline.ingest import ingest_seed, take_snapshot
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings
from flywheel.training.job import Cell


def main() -> None:
    """Train, evaluate and print a Markdown table, mean and standard deviation over the redraws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--redraws", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", default=["400", "1600", "6400", "25600"])
    arguments = parser.parse_args()
    variant = Variant.parse(f"{arguments.base}@{arguments.dim}")
    print(f"{variant}; {machine('cpu')}\n")
    columns = ("data", "pairs", "test error", "untuned", "trained", "difference", "range", "falls shown", "starts kept")
    print(row(*columns))
    print(row("---", *["---:"] * (len(columns) - 1)), flush=True)
    with TemporaryDirectory(prefix="benchmark-") as folder:
        starter = Workspace(load_settings(Path(folder)))
        ingest_seed(starter)
        table("starter set", starter, take_snapshot(starter), variant, arguments)
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        table("Quora", workspace, snapshot, variant, arguments)


def table(name: str, workspace: Workspace, snapshot: Snapshot, variant: Variant, arguments: argparse.Namespace) -> None:
    """One row a size."""
    for size in arguments.sizes:
        if int(size) > snapshot.train.seed:
            continue
        models, records = [], []
        for seed in range(arguments.redraws):
            redrawn = workspace.with_options("training", random_seed=seed)
            models.append(train_cell(redrawn, snapshot, Cell(variant, size), "head"))
            records.append(evaluate_cell(redrawn, models[-1], snapshot))
        general = [record.retention[0] for record in records]
        differences = [each.difference for each in general]
        shown = sum(each.interval is not None and each.interval.high < 0 for each in general)
        print(
            row(
                name, f"{int(size):,}", varied([100 * record.error for record in records], 2) + " %",
                f"{general[0].untuned:.3f}", varied([each.tuned for each in general], 3), varied(differences, 3),
                f"{min(differences):+.3f} to {max(differences):+.3f}", f"{shown} of {len(general)}",
                f"{sum(model.kept_start is not None for model in models)} of {len(models)}",
            ),
            flush=True,
        )  # fmt: skip


def varied(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


if __name__ == "__main__":
    main()
