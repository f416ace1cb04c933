"""What a threshold costs that was fitted under another share of duplicates, and what is left of that when it is moved.

    python benchmarks/prior_shift.py --home HOME [--target 0.5] [--redraws 20]

For every record of a home's current snapshot: test pairs are thinned, label by label, to the target share of duplicates, and
decided at three thresholds: the one fitted on calibration pairs as they are, the same moved to the target share, and one fitted
on calibration pairs thinned like the test pairs. Mean over redraws, with the standard deviation between them.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from quora import row

from flywheel.evaluation.records import evaluation_folder
from flywheel.evaluation.scores import SCORES
from flywheel.evaluation.statistics import error_rate
from flywheel.pipeline.evaluation import leaderboard
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.thresholds import fit_scores
from flywheel.settings import load_settings


def main() -> None:
    """Print a row for each record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--target", type=float, default=0.5, help="share of duplicates to thin to")
    parser.add_argument("--redraws", type=int, default=20)
    arguments = parser.parse_args()
    workspace = Workspace(load_settings(arguments.home))
    print(row("model", "test pairs", "threshold as fitted", "moved", "fitted on thinned pairs"))
    print(row("---", "---:", "---:", "---:", "---:"))
    for record in leaderboard(workspace, workspace.current_snapshot()).rows:
        scores = pd.read_parquet(evaluation_folder(workspace.home.evaluations, record.test_id, record.record_id) / SCORES)
        splits = {name: scores[scores["split"] == name] for name in ("calibration", "test")}
        errors, pairs = measure(splits["calibration"], splits["test"], arguments.target, arguments.redraws)
        told = (f"{mean:.2f} % ({spread:.2f})" for mean, spread in zip(100 * errors.mean(0), 100 * errors.std(0), strict=True))
        print(row(record.name, f"{pairs:,}", *told), flush=True)


def measure(calibration: pd.DataFrame, test: pd.DataFrame, target: float, redraws: int) -> tuple[np.ndarray, int]:
    """Error rates (redraws, 3) at the three thresholds, and how many test pairs were left."""
    natural, moved = (fit_scores(calibration["score"], calibration["label"], prior) for prior in (None, target))
    errors, pairs = [], 0
    for redraw in range(redraws):
        thinned = thin(test, target, redraw)
        beside = thin(calibration, target, redraw)
        thresholds = natural.threshold, moved.threshold, fit_scores(beside["score"], beside["label"]).threshold
        errors.append([error_rate(thinned["score"], thinned["label"], threshold) for threshold in thresholds])
        pairs = len(thinned)
    return np.array(errors), pairs


def thin(pairs: pd.DataFrame, target: float, redraw: int) -> pd.DataFrame:
    """As many of the pairs as have the target share of label 1."""
    same, other = pairs[pairs["label"] == 1], pairs[pairs["label"] == 0]
    kept = min(len(same) / target, len(other) / (1 - target))
    drawn = (rows.sample(round(kept * share), random_state=redraw) for rows, share in ((same, target), (other, 1 - target)))
    return pd.concat(list(drawn))


if __name__ == "__main__":
    main()
