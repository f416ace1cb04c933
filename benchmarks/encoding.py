"""Questions per second of flywheel's encoding against `SentenceTransformer(path).encode(texts)` with its defaults.

    python benchmarks/encoding.py --quora PATH [--pairs 2000] [--rounds 5]

Both encode the same texts in turn, several times; the ratio is that of the medians. Parity: how far apart the cosines of the
same pairs are, and how many decisions change at a threshold fitted on the plain vectors' calibration pairs.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pandas as pd
from quora import add_arguments, cosines, machine, quora_home, row

from flywheel.evaluation.statistics import error_rate
from flywheel.models.encoder import quiet_transformers, resolve_device
from flywheel.models.features import pooled
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.scoring.thresholds import fit_scores

Encode = Callable[[list[str]], np.ndarray]
WARM_UP_TEXTS = 64


def main() -> None:
    """Encode in turn and print two Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=2_000, help="pairs of calibration and of test, each")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        ours, device = workspace.vectors(arguments.base), workspace.settings.encoding.device
        calibration, test = (snapshot.pairs(split).head(arguments.pairs) for split in ("calibration", "test"))
        texts = unique_texts(calibration, test)
        with quiet_transformers():
            plain = SentenceTransformer(str(ours.weights), device=resolve_device(device), local_files_only=True)
        sides: dict[str, Encode] = {
            "plain": lambda some: plain.encode(some, show_progress_bar=False),
            "flywheel": lambda some: pooled(ours.loaded, some, ours.facts.poolings),
        }
        print(
            f"{arguments.base} on {machine(device)}; {len(texts):,} texts, {arguments.rounds} rounds, {ours.dtype}\n",
            flush=True,
        )
        vectors, seconds = take_turns(sides, texts, arguments.rounds)
    print(speed_table(seconds, len(texts)))
    print(parity_table({name: lookup(texts, found) for name, found in vectors.items()}, calibration, test))


def take_turns(sides: dict[str, Encode], texts: list[str], rounds: int) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Each side's vectors (n, width) of `texts`, and its seconds in each round; who goes first changes from round to round."""
    vectors: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for name in sides:
        sides[name](texts[:WARM_UP_TEXTS])
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            vectors[name] = sides[name](texts)
            seconds[name].append(time.perf_counter() - started)
    return vectors, seconds


def lookup(texts: list[str], vectors: np.ndarray) -> Encode:
    """An encoder that knows these texts only."""
    places = {text: place for place, text in enumerate(texts)}
    return lambda some: vectors[[places[text] for text in some]]


def speed_table(seconds: dict[str, list[float]], texts: int) -> str:
    """Questions per second, in the median and at the extremes."""
    lines = [row("encoding", "questions/s", "slowest", "fastest"), row("---", "---:", "---:", "---:")]
    for name, taken in seconds.items():
        lines.append(row(name, *(f"{texts / figure:,.0f}" for figure in (median(taken), max(taken), min(taken)))))
    return "\n".join([*lines, "", f"Ratio of medians: {median(seconds['plain']) / median(seconds['flywheel']):.2f}", ""])


def parity_table(sides: dict[str, Encode], calibration: pd.DataFrame, test: pd.DataFrame) -> str:
    """How far flywheel's cosines are from the plain ones, and what this does to decisions and errors."""
    calibrated, tested = ({name: cosines(embed, pairs) for name, embed in sides.items()} for pairs in (calibration, test))
    threshold, own = (fit_scores(calibrated[name], calibration["label"]).threshold for name in ("plain", "flywheel"))
    gaps = np.abs(tested["flywheel"] - tested["plain"])
    flipped = ((tested["flywheel"] >= threshold) != (tested["plain"] >= threshold)).mean()
    errors = error_rate(tested["plain"], test["label"], threshold), error_rate(tested["flywheel"], test["label"], own)
    names = (f"largest difference of {len(test):,} cosines", "mean", f"decisions flipped at {threshold:.4f}")
    return "\n".join([
        row(*names, "error, plain", "error, flywheel"),
        row(*["---:"] * 5),
        row(f"{gaps.max():.2e}", f"{gaps.mean():.2e}", f"{flipped:.3%}", *(f"{error:.2%}" for error in errors)),
    ])  # fmt: skip


if __name__ == "__main__":
    main()
