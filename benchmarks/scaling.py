"""Growth on paper and by simulation: lines through the measured points, and grids of cells on five kinds of machines.

    python benchmarks/scaling.py [--seeds 20] [--figure docs/scaling.png]

What was measured is in `MEASURED...`, from RESULTS.md and docs/data.md; `PUBLISHED...` are figures of others; `ASSUMED...` and
most fields of `ENGINES` are guesses. Prints the tables of docs/scaling.md and draws its figure.
"""

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from quora import row

# Seconds on one busy core by training pairs, encoding done, all-MiniLM-L6-v2@256: "Learning curve" in RESULTS.md; for layers
# the CPU seconds of "How layers are best trained" too. Texts a second: "Encoding" there, two cores. Events: docs/data.md.
MEASURED_SECONDS = {
    "head": {100: 10.2, 400: 14.5, 1_600: 14.0, 6_400: 15.2, 25_600: 33.3, 50_435: 64.4},
    "top": {400: 73.8, 3_200: 73.4, 12_800: 219.1, 50_435: 729.0},
    "full": {400: 123.1, 3_200: 108.9, 50_435: 1_089.0},
}
MEASURED_INGEST = {10_000: 0.5, 100_000: 2.5, 1_000_000: 19.8}
MEASURED_SNAPSHOT = {10_000: 0.3, 100_000: 0.9, 1_000_000: 5.6}
MEASURED_TEXTS_A_SECOND = {"float32": 317.0, "bfloat16": 1_120.0}

# Published: sentences a second of all-MiniLM-L6-v2 on one V100 (table of pretrained models, sbert.net, since 2021).
PUBLISHED_V100 = 14_200.0
# Published in 2026 for Modal, US dollars an hour, billed by the second; the V100 is in no list, so the cards stand for a range.
PUBLISHED_DOLLARS = {"T4": 0.59, "L4": 0.80, "H100": 3.95}
# Assumed: what several cards keep of the sum of their speeds, and an hour of two cores.
ASSUMED_SCALING = {1: 1.0, 8: 0.95, 64: 0.9}
ASSUMED_CPU_DOLLARS = 0.10

SIZES = (100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 51_200, 102_400)
GRIDS = (66, 660, 6_600)
PAIRS = tuple(10**power for power in range(5, 10))
TEXTS = tuple(10**power for power in range(6, 11))
GIGA = 1e9


@dataclass(frozen=True)
class Engine:
    """Where cells run. Seconds: `start` until a cell works, `notice` until a lost machine is known, `wait` until its cell may
    start again. `least` and `step` are the seconds that an attempt is billed for at least and by steps of; `whole` bills every
    slot until the grid is done instead. `queue` is how long a job may wait for a slot, None without limit. `losses` are those
    of a machine in an hour.
    """

    name: str
    slots: int
    start: float
    notice: float
    wait: float
    dollars: float
    least: float
    step: float
    whole: bool
    losses: float
    queue: float | None = None


# Measured by hand on two cores: what Slurm 22.05 and Ray 2.60 take to start, to notice and to wait. Documented: Ray's 15
# minutes, Modal's seconds. The rest, prices, slots and losses above all, is assumed.
ENGINES = (
    Engine("laptop", 1, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, True, 0.0),
    Engine("Slurm, own machines", 16, 1.0, 5.0, 120.0, ASSUMED_CPU_DOLLARS, 0.0, 1.0, True, 0.02),
    Engine("Ray, held back by the pool", 16, 20.0, 20.0, 15.0, ASSUMED_CPU_DOLLARS, 60.0, 1.0, True, 0.02),
    Engine("Ray, all submitted at once", 16, 20.0, 20.0, 15.0, ASSUMED_CPU_DOLLARS, 60.0, 1.0, True, 0.02, queue=900.0),
    Engine("Kubernetes, spot machines", 64, 90.0, 40.0, 10.0, 0.35 * ASSUMED_CPU_DOLLARS, 60.0, 1.0, False, 0.10),
    Engine("Modal", 64, 15.0, 10.0, 0.0, 1.5 * ASSUMED_CPU_DOLLARS, 0.0, 1.0, False, 0.05),
)  # fmt: skip
CHECKPOINT_SHARE = 0.1  # layers save ten times in a training; a head starts over


@dataclass(frozen=True)
class Line:
    """Seconds = `fixed` + `each` * n, through measured points with as little relative error as a line can have."""

    fixed: float
    each: float
    worst: float  # factor between the line and the point that is farthest from it

    @classmethod
    def through(cls, points: dict[int, float]) -> "Line":
        """The line whose relative squared error is least, without a negative part."""
        from scipy.optimize import nnls

        n, seconds = np.array(list(points), float), np.array(list(points.values()))
        (fixed, each), _ = nnls(np.column_stack([1 / seconds, n / seconds]), np.ones(len(n)))
        ratio = (fixed + each * n) / seconds
        return cls(float(fixed), float(each), float(np.exp(np.abs(np.log(ratio)).max())))

    def at(self, count: float) -> float:
        """Seconds for so many."""
        return self.fixed + self.each * count


def durations(cells: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (cells,) of the cells of a grid, and after how many each has a checkpoint: sizes in turn, one in six by layers.

    Each lies around its line as far as the measured points do.
    """
    lines = {recipe: Line.through(points) for recipe, points in MEASURED_SECONDS.items()}
    sizes = np.resize(SIZES, cells)
    recipes = np.where(random.random(cells) < 1 / 6, "top", "head")
    seconds = np.array([lines[recipe].at(size) for recipe, size in zip(recipes, sizes, strict=True)])
    spread = np.array([np.log(lines[recipe].worst) / 2 for recipe in recipes])
    seconds *= np.exp(random.normal(0.0, spread) - spread**2 / 2)
    return seconds, np.where(recipes == "top", CHECKPOINT_SHARE * seconds, np.inf)


@dataclass(frozen=True)
class Outcome:
    """What a grid took: seconds until the last cell was done, dollars, attempts that were lost, cells that were given up."""

    makespan: float
    dollars: float
    lost: int
    given_up: int


def simulate(engine: Engine, seconds: np.ndarray, checkpoints: np.ndarray, random: np.random.Generator) -> Outcome:
    """Let cells wait for slots in their order; a lost machine's cell goes on from its last checkpoint, before new ones do."""
    free = [0.0] * engine.slots
    heapq.heapify(free)
    waiting = [(0.0, 0.0, cell, float(seconds[cell])) for cell in range(len(seconds))]  # ready at, asked at, cell, seconds left
    heapq.heapify(waiting)
    end, billed, lost, given_up = 0.0, 0.0, 0, 0
    rate = engine.losses / 3600
    while waiting:
        ready, asked, cell, left = heapq.heappop(waiting)
        slot = heapq.heappop(free)
        begin = max(ready, slot)
        if engine.queue is not None and begin - asked > engine.queue:
            heapq.heappush(free, slot)
            given_up += 1
            continue
        works = begin + engine.start
        failure = works + float(random.exponential(1 / rate)) if rate else np.inf
        done = min(works + left, failure)
        billed += max(engine.least, np.ceil((done - begin) / engine.step) * engine.step)
        if failure < works + left:
            lost += 1
            kept = 0.0 if np.isinf(checkpoints[cell]) else checkpoints[cell] * ((failure - works) // checkpoints[cell])
            again = failure + engine.notice + engine.wait
            heapq.heappush(waiting, (again, again, cell, left - kept))
            heapq.heappush(free, failure + engine.notice)
        else:
            heapq.heappush(free, done)
            end = max(end, done)
    hours = (engine.slots * end if engine.whole else billed) / 3600
    return Outcome(end, hours * engine.dollars, lost, given_up)


def simulated(engine: Engine, cells: int, seeds: int) -> list[Outcome]:
    """One outcome a seed; the same seed gives every engine the same cells."""
    outcomes = []
    for seed in range(seeds):
        seconds, checkpoints = durations(cells, np.random.default_rng([seed, cells]))
        outcomes.append(simulate(engine, seconds, checkpoints, np.random.default_rng([seed, cells, 1])))
    return outcomes


def spread(values: Sequence[float], unit: str = "") -> str:
    """Mean and standard deviation over seeds."""
    return f"{np.mean(values):,.2f} ± {np.std(values, ddof=1):,.2f}{unit}"


def in_words(seconds: float) -> str:
    """A duration in its natural unit."""
    for unit, length in (("years", 31_557_600), ("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}" if seconds >= 10 * length else f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.0f} s"


def line_table() -> str:
    """The lines, and how far the points are from them."""
    lines = [row("what", "points", "seconds", "farthest point"), row("---", "---:", "---", "---:")]
    named = {**MEASURED_SECONDS, "ingest, events": MEASURED_INGEST, "snapshot, pairs": MEASURED_SNAPSHOT}
    for name, points in named.items():
        line = Line.through(points)
        lines.append(row(name, len(points), f"{line.fixed:.2g} + {line.each:.2g} n", f"{line.worst:.2f} times"))
    return "\n".join(lines)


def pairs_table() -> str:
    """Data and one training by pairs."""
    ingest, snapshot = Line.through(MEASURED_INGEST), Line.through(MEASURED_SNAPSHOT)
    recipes = {name: Line.through(points) for name, points in MEASURED_SECONDS.items()}
    lines = [row("pairs", "ingest", "snapshot", *recipes, "vectors on disk"), row(*["---:"] * (4 + len(recipes)))]
    for pairs in PAIRS:
        trained = [in_words(line.at(pairs)) for line in recipes.values()]
        vectors = pairs * 1.3 * 384 * 2 / GIGA
        lines.append(
            row(f"{pairs:,}", in_words(ingest.at(pairs)), in_words(snapshot.at(pairs)), *trained, f"{vectors:,.1f} GB")
        )
    return "\n".join(lines)


def texts_table() -> str:
    """Time, dollars and disk of a corpus."""
    names = ["two cores, float32", "two cores, bfloat16", *(f"{cards} GPU{'s' * (cards > 1)}" for cards in ASSUMED_SCALING)]
    lines = [row("texts", *names, "GPU dollars", "float32 @ 384"), row(*["---:"] * (3 + len(names)))]
    for texts in TEXTS:
        cells = [in_words(texts / rate) for rate in MEASURED_TEXTS_A_SECOND.values()]
        cells += [in_words(texts / (PUBLISHED_V100 * cards * kept)) for cards, kept in ASSUMED_SCALING.items()]
        hours = texts / PUBLISHED_V100 / 3600
        money = f"{hours * PUBLISHED_DOLLARS['T4']:,.2f} to {hours * PUBLISHED_DOLLARS['H100']:,.2f}"
        lines.append(row(f"{texts:,}", *cells, money, f"{texts * 384 * 4 / GIGA:,.1f} GB"))
    return "\n".join(lines)


def grid_table(results: dict[tuple[str, int], list[Outcome]]) -> str:
    """Makespan and cost of grids."""
    lines = [row("engine", "slots", "cells", "hours", "dollars", "attempts lost", "cells given up"), row("---", *["---:"] * 6)]
    for engine in ENGINES:
        for cells in GRIDS:
            found = results[engine.name, cells]
            hours, dollars = (
                [getattr(each, name) / over for each in found] for name, over in (("makespan", 3600), ("dollars", 1))
            )
            lost, given = (f"{np.mean([getattr(each, name) for each in found]):,.1f}" for name in ("lost", "given_up"))
            lines.append(row(engine.name, engine.slots, f"{cells:,}", spread(hours), spread(dollars), lost, given))
    return "\n".join(lines)


def draw(results: dict[tuple[str, int], list[Outcome]], file: Path) -> None:
    """Hours by cells and engine, and hours by texts and machines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for engine in ENGINES:
        if engine.queue is None:
            hours = np.array([[each.makespan / 3600 for each in results[engine.name, cells]] for cells in GRIDS])
            left.errorbar(
                GRIDS, hours.mean(1), yerr=hours.std(1, ddof=1), marker="o", capsize=3, label=f"{engine.name} ({engine.slots})"
            )
    left.set(xscale="log", yscale="log", xlabel="cells", ylabel="hours", title="A grid, simulated (slots)")
    texts = np.array(TEXTS, float)
    for name, rate in MEASURED_TEXTS_A_SECOND.items():
        right.plot(texts, texts / rate / 3600, marker="o", label=f"two cores, {name} (measured rate)")
    for cards, kept in ASSUMED_SCALING.items():
        label = f"{cards} GPU{'s' * (cards > 1)} (published rate)"
        right.plot(texts, texts / (PUBLISHED_V100 * cards * kept) / 3600, marker="s", linestyle="--", label=label)
    right.set(xscale="log", yscale="log", xlabel="texts", ylabel="hours", title="A corpus, all-MiniLM-L6-v2")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--figure", type=Path, default=Path(__file__).parents[1] / "docs" / "scaling.png")
    arguments = parser.parse_args()
    results = {(engine.name, cells): simulated(engine, cells, arguments.seeds) for engine in ENGINES for cells in GRIDS}
    for table in (line_table(), pairs_table(), texts_table(), grid_table(results)):
        print(table, end="\n\n")
    draw(results, arguments.figure)


if __name__ == "__main__":
    main()
