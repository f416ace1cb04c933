"""What it costs that a head reads the base model's own pooling alone, so that every server loads its folder.

    python benchmarks/portability.py --quora PATH --home HOME [--base B] [--sizes 1600,6400,25600] [--redraws 5]

A head on the own pooling against one on mean, max and CLS: the same training pairs, the same test pairs, one difference a
redraw. A redraw draws the training order. Encodes every text twice, once for each kind of features; the same command goes on
where it was.
"""

import argparse

import numpy as np
from quora import add_arguments, machine, quora_home, row

from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.subjects import tuned_subject
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell


def main() -> None:
    """Print a line of a Markdown table for each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--sizes", default="1600,6400,25600")
    parser.add_argument("--redraws", type=int, default=5)
    arguments = parser.parse_args()
    variant = Variant(arguments.base, arguments.dim)
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        print(f"{variant} on {machine(workspace.settings.encoding.device)}, {snapshot.test.pairs:,} test pairs\n")
        print(row("pairs", "own pooling", "mean, max and CLS", "difference", "range", "MRR@10, difference"))
        print(row("---:", "---:", "---:", "---:", "---:", "---:"), flush=True)
        for size in arguments.sizes.split(","):
            found = [
                [measured(workspace, snapshot, Cell(variant, size), redraw, poolings) for poolings in ("own", "all")]
                for redraw in range(arguments.redraws)
            ]
            errors = 100 * np.array([[record.error for record in pair] for pair in found])
            ranks = np.array([[record.retrieval.mrr_at_10 for record in pair] for pair in found])
            differences = errors[:, 0] - errors[:, 1]
            print(
                row(
                    f"{int(size):,}", *(spread(errors[:, kind]) + " %" for kind in (0, 1)), f"{spread(differences)} points",
                    f"{differences.min():+.2f} to {differences.max():+.2f}", f"{(ranks[:, 0] - ranks[:, 1]).mean():+.4f}",
                ),
                flush=True,
            )  # fmt: skip


def measured(workspace: Workspace, snapshot: Snapshot, cell: Cell, redraw: int, poolings: str) -> Evaluation:
    """A head of a redraw on one kind of features, on the test pairs."""
    asked = workspace.with_options("training", random_seed=redraw, poolings=poolings)
    model = asked.train(training_job(asked, snapshot, cell, "head"), snapshot)
    return asked.evaluate(tuned_subject(model, asked.vectors_of(model.job)), snapshot)


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


if __name__ == "__main__":
    main()
