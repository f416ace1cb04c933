"""Whether a retraining gains by starting from the last champion's layers instead of the base model's.

    python benchmarks/warm_start.py --quora PATH --home HOME [--pairs 16000] [--size 1600] [--redraws 3] [--recipe top]

A champion is trained on SIZE pairs. Then as many new ones come in, and the recipe trains on all: from the base model, and from
the champion, whose encoder is given as a base model of its own; each also with one epoch. `encoding` is what its encoder makes
of the texts: cached for a base model but for the new ones, and for a champion new. Seconds are processor seconds. Redraws draw
the nested order. Results stay under HOME: the same command goes on where it was.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from quora import add_arguments, machine, quora_home, row
from tuning_study import Figures, job_of_row, measured, spread

from flywheel.files import publish, scratch_folder
from flywheel.models.catalogue import Variant
from flywheel.models.encoder import quiet_transformers
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.training import texts_of_cells
from flywheel.pipeline.workspace import Workspace

ROWS = {
    "champion, on half of the pairs": (False, 1, ""),
    "from the base": (False, 2, ""),
    "from the champion": (True, 2, ""),
    "from the base, one epoch": (False, 2, '{"epochs": 1, "min_steps": 1}'),
    "from the champion, one epoch": (True, 2, '{"epochs": 1, "min_steps": 1}'),
}


def main() -> None:
    """Train, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=16_000, help="of the file, so many are used")
    parser.add_argument("--size", type=int, default=1_600)
    parser.add_argument("--redraws", type=int, default=3)
    parser.add_argument("--recipe", default="top")
    arguments = parser.parse_args()
    home = arguments.home
    home.mkdir(parents=True, exist_ok=True)
    if not (sample := home / "sample.parquet").exists():
        pd.read_parquet(arguments.quora).head(arguments.pairs).to_parquet(sample)
    found: dict[str, list[tuple[Figures, float]]] = {name: [] for name in ROWS}
    with quora_home(sample, home) as (workspace, snapshot):
        print(f"{arguments.base}@{arguments.dim}, {arguments.recipe}, on {machine(workspace.settings.encoding.device)}")
        print(f"{snapshot.calibration.pairs:,} calibration pairs, {snapshot.test.pairs:,} test pairs\n", flush=True)
        for redraw in range(arguments.redraws):
            for name, figures, encoding in redrawn(workspace, snapshot, arguments, redraw):
                found[name].append((figures, encoding))
                print(f"redraw {redraw}: {name}: {figures}, encoding {encoding:.1f} s", flush=True)
    print("\n" + row("training", "pairs", "loss", "test error", "difference", "places", "training, s", "encoding, s"))
    print(row("---", *["---:"] * 7))
    base = np.array([each.test_error for each, _ in found["from the base"]])
    for name, each in found.items():
        errors = np.array([figures.test_error for figures, _ in each])
        print(
            row(
                name, f"{arguments.size * ROWS[name][1]:,}", spread([figures.loss for figures, _ in each], 1, 4),
                spread(list(errors), 100, 2) + " %", spread(list(errors - base), 100, 2),
                ", ".join(f"{figures.place:g}" for figures, _ in each),
                spread([figures.cpu for figures, _ in each if figures.cpu is not None], 1, 0),
                spread([encoding for _, encoding in each], 1, 0),
            )
        )  # fmt: skip


def redrawn(
    workspace: Workspace, snapshot: Snapshot, arguments: argparse.Namespace, redraw: int
) -> Iterator[tuple[str, Figures, float]]:
    """The rows of one redraw, with the seconds that their base model's encoding took."""
    redrawn = workspace.with_options("training", random_seed=redraw)
    champion: Path | None = None
    for name, (warm, times, fields) in ROWS.items():
        opened, base = redrawn, arguments.base
        if warm:
            assert champion is not None
            base = f"champion-{redraw}"
            tables = type(workspace.settings.models)(**{base: {"path": str(champion)}})
            opened = Workspace(redrawn.settings.model_copy(update={"models": tables}))
        size = str(arguments.size * times)
        vectors, started = opened.vectors(base), time.process_time()
        vectors.features(texts_of_cells(opened, snapshot, [size]), lambda done, of: None)
        encoding = time.process_time() - started
        job = job_of_row(opened, snapshot, Variant(base, arguments.dim), size, f"{arguments.recipe} {fields}".strip())
        figures = measured(opened, snapshot, job, tested=True)
        if champion is None:
            champion = encoder_alone(workspace, job.tuning_id)
        yield name, figures, encoding


def encoder_alone(workspace: Workspace, tuning_id: str) -> Path:
    """The trained encoder as a folder that is a base model."""
    from sentence_transformers import SentenceTransformer

    target = workspace.home.root / "champions" / tuning_id
    if not target.exists():
        with scratch_folder(target.parent) as scratch, quiet_transformers():
            trained = SentenceTransformer(str(workspace.home.trained_layers / tuning_id / "encoder"), device="cpu")
            SentenceTransformer(modules=list(trained)[:2], device="cpu").save_pretrained(str(scratch), create_model_card=False)
            publish(scratch, target)
    return target


if __name__ == "__main__":
    main()
