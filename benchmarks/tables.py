"""The tables of `experiment.py` from its results."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from quora import row

from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.statistics import component_weights

REPLICATES = 2_000
ORIGINAL_EVALUATION_PAIRS = 10_000


def cost_table(results: dict[str, Any], dims: Sequence[int], sizes: Sequence[int], eval_pairs: int) -> str:
    """Seconds and sentences by size, the dimensions together."""
    lines = [
        f"Cost of {len(sizes) * len(dims)} cells, dimensions {' and '.join(map(str, dims))} together. After each epoch the "
        f"original evaluates on {eval_pairs:,} test pairs here, and on {ORIGINAL_EVALUATION_PAIRS:,} in the experiment: this "
        "favours it. flywheel's first row pays for calibration, test and the untuned start.",
        "",
        row("pairs", "original", "sentences", "flywheel", "sentences", "ratio of seconds"),
        row("---:", "---:", "---:", "---:", "---:", "---:"),
    ]
    totals = np.zeros(4)
    for size in sizes:
        theirs, ours = ([results[f"time {who} {size}@{dim}"] for dim in dims] for who in ("original", "flywheel"))
        figures = np.array([
            sum(cell["seconds"] for cell in theirs), sum(cell["training"] + cell["evaluation"] for cell in theirs),
            sum(cell["seconds"] for cell in ours), sum(cell["sentences"] for cell in ours),
        ])  # fmt: skip
        totals += figures
        lines.append(_cost_row(f"{size:,}", figures))
    return "\n".join([*lines, _cost_row("all", totals), ""])


def _cost_row(name: str, figures: np.ndarray) -> str:
    theirs, encoded, ours, our_encoded = figures
    return row(name, f"{theirs:,.1f} s", f"{encoded:,.0f}", f"{ours:,.1f} s", f"{our_encoded:,.0f}", f"{theirs / ours:.1f}")


def error_table(
    results: dict[str, Any], dims: Sequence[int], sizes: Sequence[int], redraws: int, components: np.ndarray
) -> str:
    """Errors by cell, means over the redraws, with the interval of the difference; `components` (n,) of the test pairs."""
    lines = [
        f"Error on {len(components):,} test pairs ({len(np.unique(components)):,} components), mean of {redraws} redraws, last "
        "epoch, threshold from `calibration`. Difference in points with a 95 % interval over components and redraws. `best "
        "epoch`: the original's epoch with the best average precision on test. `as reported`: that epoch at the original's own "
        "threshold.",
        "",
        row("pairs @ dimension", "flywheel", "original", "difference", "original, best epoch", "original, as reported"),
        row("---", "---:", "---:", "---:", "---:", "---:"),
    ]
    cells = []
    for dim in dims:
        for size in sizes:
            names = [f"{redraw} {size}@{dim}" for redraw in range(redraws)]
            theirs = [results[f"original {name}"] for name in names]
            wrong = np.stack([unpacked(results[f"flywheel {name}"]["wrong"], len(components)) for name in names])
            their_wrong = np.stack([unpacked(cell["wrong"], len(components)) for cell in theirs])
            cells.append((wrong, their_wrong, [cell["best"] for cell in theirs], [cell["own"] for cell in theirs]))
            lines.append(_error_row(f"{size:,} @ {dim}", components, *cells[-1]))
    lines.append(_error_row("all", components, *(np.mean([cell[i] for cell in cells], axis=0) for i in range(4))))
    return "\n".join([*lines, ""])


def _error_row(name: str, components: np.ndarray, ours: np.ndarray, theirs: np.ndarray, best: Any, own: Any) -> str:
    interval = difference_interval(ours - theirs, components)
    difference = f"{100 * (ours - theirs).mean():+.2f} ({100 * interval.low:+.2f} to {100 * interval.high:+.2f})"
    return row(name, f"{ours.mean():.2%}", f"{theirs.mean():.2%}", difference, f"{np.mean(best):.2%}", f"{np.mean(own):.2%}")


def difference_interval(differences: np.ndarray, components: np.ndarray) -> Interval:
    """95 % interval of the mean of paired differences (redraws, n): each replicate draws whole components, and redraws."""
    rng = np.random.default_rng(0)
    ids, index, sizes = np.unique(components, return_inverse=True, return_counts=True)
    by_component = np.stack([np.bincount(index, weights=difference) for difference in differences])
    draws = component_weights(np.arange(len(ids)), REPLICATES, rng)
    redraws = rng.multinomial(len(differences), np.full(len(differences), 1 / len(differences)), size=REPLICATES)
    means = ((draws @ by_component.T) * redraws).sum(1) / (len(differences) * (draws @ sizes))
    return Interval(*map(float, np.percentile(means, [2.5, 97.5])))


def packed(wrong: np.ndarray) -> str:
    """Decisions (n,) as hex digits."""
    return np.packbits(wrong).tobytes().hex()


def unpacked(digits: str, count: int) -> np.ndarray:
    """What `packed` has packed, as 0.0 and 1.0."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=count).astype(float)
