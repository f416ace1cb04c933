"""The demo's heads, an older commit against this one: seconds, and errors over redraws of the training pairs.

    git worktree add ../older COMMIT
    python benchmarks/heads.py --against ../older [--rounds 3]
    python benchmarks/heads.py --against ../older --errors [--quora PATH] [--homes FOLDER] [--redraws 5] [--sizes 100 ...]

Both commits run in turn through their command lines, each in homes of its own. Seconds: `flywheel demo` as a whole, and what
its model folders say that training took, encoding apart; once on this processor as it is and once as on one that has AVX2 at
most and computes in float32. On a machine that does other things too, the processor seconds of the demo are the fairer figure.
Errors: `flywheel grid` with one random seed after the other, the same pairs for both.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from quora import machine, row

HERE = Path(__file__).resolve().parents[1]
VARIANT = "all-MiniLM-L6-v2@256"
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
RUN = "import sys; from flywheel.cli import main; sys.exit(main())"
RUN_IN_FLOAT32 = f"import torch; torch.cpu.get_capabilities = dict; {RUN}"


def main() -> None:
    """Run both commits in turn and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="a checkout of the older commit")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--errors", action="store_true", help="compare errors instead of seconds")
    parser.add_argument("--quora", type=Path, help="Parquet file of pairs, for errors on Quora besides the starter set")
    parser.add_argument("--homes", type=Path, help="where the homes of the comparison of errors stay (a temporary folder)")
    parser.add_argument("--redraws", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", default=["100", "400", "1600", "all"])
    arguments = parser.parse_args()
    sides = {"older": arguments.against.resolve(), "this": HERE}
    print(f"{machine('cpu')}; load {os.getloadavg()[0]:.1f}\n", flush=True)
    if not arguments.errors:
        return compare_seconds(sides, arguments.rounds)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as temporary:
        compare_errors(sides, arguments.quora, arguments.homes or Path(temporary), arguments.redraws, arguments.sizes)


def compare_seconds(sides: dict[str, Path], rounds: int) -> None:
    """Seconds of the demo and of its heads, per kind of processor: smallest, median and largest of the rounds."""
    print(
        row(
            "processor",
            "commit",
            "heads",
            "seconds of all heads",
            "of the demo",
            "processor seconds of the demo",
            "heads, older / this",
        )
    )
    print(row("---", "---", *["---:"] * 5), flush=True)
    for kind, environment in (("as it is", {}), ("AVX2, float32", AVX2)):
        seconds: dict[str, list[tuple[float, float, float, int]]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, checkout in sides.items():
                with tempfile.TemporaryDirectory(prefix="benchmark-") as home:
                    began, used = time.perf_counter(), processor_seconds()
                    run(checkout, ["demo", "--home", home, "--json"], environment)
                    whole, used = time.perf_counter() - began, processor_seconds() - used
                    heads = [json.loads(file.read_text())["seconds"] for file in Path(home).glob("models/*/flywheel.json")]
                    seconds[side].append((sum(heads), whole, used, len(heads)))
        older = [heads for heads, *_ in seconds["older"]]
        for side, found in seconds.items():
            times, demos, processors, numbers = zip(*found, strict=True)
            shown_here = map(spread, (times, demos, processors, np.divide(older, times)))
            print(row(kind, side, numbers[0], *shown_here), flush=True)


def compare_errors(sides: dict[str, Path], quora: Path | None, homes: Path, redraws: int, sizes: list[str]) -> None:
    """Figures of both commits on the same pairs, mean and standard deviation over the redraws."""
    data = {"starter": {"seed_pairs": "starter"}}
    if quora is not None:
        data["quora"] = {"seed_pairs": "quora", "quora_path": str(quora)}
    figures = ("test error, %", "calibration error, %", "out-of-fold threshold", "MRR@10", "trained heads shipped")
    print(row("pairs", "commit", *figures))
    print(row("---", "---", *("---:" for _ in figures)), flush=True)
    for name, settings in data.items():
        for seed in range(redraws):
            for side, checkout in sides.items():
                chosen = [word for size in sizes for word in ("--size", size)]
                grid = ["grid", "--home", str(homes / f"{name}-{side}"), "--variant", VARIANT, *chosen, "--json"]
                run(checkout, grid, variables(side, {**settings, "random_seed": str(seed), "source": "local"}))
        for size in sizes:
            for side in sides:
                print(row(f"{name} {size}", side, *shown(records(homes / f"{name}-{side}", size, redraws), size)), flush=True)


def variables(side: str, settings: dict[str, str]) -> dict[str, str]:
    """Environment variables for settings; the older commit had no groups, and other names for two of them."""
    groups = {"seed_pairs": "PAIRS", "quora_path": "PAIRS", "random_seed": "TRAINING", "source": "BASELINE"}
    older = {"seed_pairs": "SEED", "source": "BASELINE"}
    if side == "older":
        return {f"FLYWHEEL_{older.get(name, name.upper())}": value for name, value in settings.items()}
    return {f"FLYWHEEL_{groups[name]}__{name.upper()}": value for name, value in settings.items()}


def records(home: Path, size: str, redraws: int) -> list[dict[str, Any]]:
    """The records of the tuned models of a size."""
    every = [json.loads(file.read_text()) for file in home.glob("evaluations/*/*/*.json")]
    found = [record for record in every if record.get("kind") == "tuned" and record["size"] == size]
    if len(found) != redraws:
        raise SystemExit(f"{home} holds {len(found)} models of size {size} instead of {redraws}.")
    return found


def shown(found: list[dict[str, Any]], size: str) -> list[str]:
    """The figures of some records as cells of a table."""
    own = size.isdecimal() and int(size) <= 1_600
    return [
        varied([100 * record.get("calibrated_error", record["error"]) for record in found], 2),
        varied([100 * (record.get("calibration_error") or record["calibration_set_error"]) for record in found], 2),
        varied([(record.get("own_labels") or record)["threshold"] for record in found], 4) if own else "-",
        varied([record["retrieval"]["mrr_at_10"] for record in found], 4),
        f"{sum(record['kept_start'] is None for record in found)} of {len(found)}",
    ]


def run(checkout: Path, arguments: list[str], environment: dict[str, str]) -> None:
    """Run the command line of a checkout; what it says is shown if it fails."""
    code = RUN_IN_FLOAT32 if environment is AVX2 else RUN
    surroundings = {**os.environ, **environment, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=surroundings, cwd=checkout, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")


def processor_seconds() -> float:
    """What the processes that this one has waited for have used so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def varied(values: list[float], digits: int) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"


def spread(values: Any) -> str:
    """Median, smallest and largest."""
    return f"{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
