"""What ships where the place between start and trained head is chosen on pairs that the head has not seen.

    python benchmarks/shrink.py --quora PATH [--home HOME] [--redraws 20] [--large-redraws 5] [--sizes 100 ...]

On Quora's pairs and on the starter set's. Every redraw is a fresh draw of the nested order. `always trained` is place 1,
whatever it brings. Up to 1,600 pairs the place is chosen out of fold, beyond on calibration pairs; the threshold comes from
calibration pairs for all. Test errors choose nothing.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from head_study import frozen, judged
from quora import add_arguments, machine, quora_home, row

from flywheel.models.catalogue import Variant
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.ingest import ingest_seed, take_snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings
from flywheel.training.head import PairFeatures, train_head, train_with_folds
from flywheel.training.job import HEAD
from flywheel.training.progress import ignore_progress
from flywheel.training.shrink import PLACES, choose_place
from flywheel.training.starts import Start, choose_start, pair_features, start_from_pooling
from flywheel.training.train import OUT_OF_FOLD_PAIRS


def main() -> None:
    """Print a Markdown table for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--redraws", type=int, default=20, help="redraws of sizes that choose out of fold")
    parser.add_argument("--large-redraws", type=int, default=5, help="redraws of larger sizes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100 * 2**k for k in range(8)])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    variant = Variant(arguments.base, arguments.dim)
    redraws = {size: arguments.redraws if size <= OUT_OF_FOLD_PAIRS else arguments.large_redraws for size in arguments.sizes}
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot), tempfile.TemporaryDirectory() as home:
        print(f"{variant} on {machine(workspace.settings.encoding.device)}", flush=True)
        study("Quora", snapshot, workspace.vectors(variant.base), arguments.dim, redraws)
        starter = Workspace(load_settings(Path(home)))
        ingest_seed(starter)
        study("Starter set", take_snapshot(starter), starter.vectors(variant.base), arguments.dim, redraws)


def study(name: str, snapshot: Snapshot, vectors: Vectors, dim: int, redraws: dict[int, int]) -> None:
    """The table of one set of pairs."""
    splits = {split: frozen(snapshot.pairs(split), vectors) for split in ("calibration", "test")}
    start, own = choose_start(snapshot, vectors, dim), start_from_pooling(snapshot, vectors, dim)
    untuned, kept = (judged(each.raw.apply, splits, True) for each in (own, start))
    judging = pair_features(snapshot.pairs("calibration"), vectors, start.scale)
    print(
        f"\n{name}: untuned {untuned[1]:.2f} %, MRR@10 {untuned[2]:.4f}; start {start.name}, {kept[1]:.2f} %, {kept[2]:.4f}\n"
    )
    print(
        row("pairs", "redraws", "always trained", "ships", "spread", "worst", *(f"at {place:g}" for place in PLACES), "MRR@10")
    )
    print(row(*["---:"] * (7 + len(PLACES))), flush=True)
    for size, count in redraws.items():
        if size > snapshot.largest_size(0.0):
            continue
        found = [shipped(start, snapshot, vectors, size, redraw, judging) for redraw in range(count)]
        always = [judged(trained.raw.apply, splits, False)[1] for trained, _, _ in found]
        ships = [judged(placed.raw.apply, splits, i == 0) for i, (_, placed, _) in enumerate(found)]
        errors = np.array([error for _, error, _ in ships])
        figures = f"{np.mean(always):.2f} %", f"{errors.mean():.2f} %", f"{errors.std(ddof=1):.2f}", f"{errors.max():.2f} %"
        places = [sum(place == each for _, _, place in found) for each in PLACES]
        print(row(f"{size:,}", count, *figures, *places, f"{ships[0][2]:.4f}"), flush=True)


def shipped(
    start: Start, snapshot: Snapshot, vectors: Vectors, size: int, redraw: int, judging: PairFeatures
) -> tuple[Start, Start, float]:
    """The trained head, the one that ships, and its place."""
    training = pair_features(snapshot.training_pairs(str(size), redraw, 0.0), vectors, start.scale)
    if size <= OUT_OF_FOLD_PAIRS:
        head, scores = train_with_folds(start.head, training, HEAD, redraw, ignore_progress)
        place = choose_place(scores, training.labels, training.components).place
    else:
        head = train_head(start.head, training, HEAD, redraw, ignore_progress)
        place = choose_place(judging.scores_between(start.head, head), judging.labels, judging.components).place
    trained, placed = (Start(start.name, each, start.scale) for each in (head, start.head.towards(head, place)))
    return trained, placed, place


if __name__ == "__main__":
    main()
