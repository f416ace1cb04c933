"""How often verdicts from cross-fitted decisions hold what they claim, by simulation of the whole procedure.

    python benchmarks/cross_fitting.py [--pairs 100 200 400 800 1600] [--simulations 1000] [--folds 10]
    python benchmarks/cross_fitting.py --trained [--pairs 100 400 1600]
    python benchmarks/cross_fitting.py --years 150 --pairs 100

The procedure and the texts are those of `cross_fitting_world.py`. Its rivals are the untrained first model and models whose
true error is that of the procedure plus 0, 2, 4 or 8 points. What a verdict is about is the mean of the true errors, in a large
population, over training sets. Beside flywheel's method stand the variance over all pairs alone (Bayle et al., 2020), the
corrected t-test over fold means (Nadeau and Bengio, 2003), and a choice among base models by the decisions that then judge.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from cross_fitting_world import (
    CANDIDATES,
    NOISE,
    WORLDS,
    Population,
    Texts,
    World,
    deal,
    draw,
    procedure,
    sizes_of,
    untrained,
)
from scipy.stats import norm, t

from flywheel.evaluation.cross_fitted import cross_fitted_interval, cross_fitted_test
from flywheel.evaluation.paired import alpha_for, paired_test
from flywheel.scoring.power import SHARED_TRAINING, expected_detectable

METHODS = ("all pairs", "flywheel", "corrected t")
GAINS = (0.0, 0.02, 0.04, 0.08)
PILOT, WEEKS = 60, 52


@dataclass(frozen=True)
class Truth:
    """Mean true errors over training sets: of the procedure, of the untrained first model; and the `noises` of the rivals that
    err as the procedure does plus each of GAINS."""

    procedure: float
    start: float
    noises: np.ndarray

    @classmethod
    def of(cls, population: Population, tail: str, pairs: int, folds: int) -> "Truth":
        """From a pilot of PILOT training sets."""
        rng, grid = np.random.default_rng([pairs, 1]), np.array([0.0, 0.3, 0.5, 0.7, 0.9, 1.2, 1.6, 2.4])
        ours, cuts = [], []
        for _ in range(PILOT):
            texts, dealt, seen = draw(population.world, tail, pairs, folds, rng)
            ours.append(population.error(procedure(seen, texts.labels, dealt, folds)))
            sides = [seen[0], *(texts.products(noise, texts.noise(rng)) * population.world.rival for noise in grid)]
            cuts.append([untrained(side.sum(1), texts.labels, dealt, folds)[1] for side in sides])
        start, *theirs = (
            population.errors(noise, np.ravel(each)) for noise, each in zip((None, *grid), np.swapaxes(cuts, 0, 1), strict=True)
        )
        mean = float(np.mean(ours))
        return cls(mean, start, np.interp(mean + np.array(GAINS), theirs, grid))

    @property
    def differences(self) -> np.ndarray:
        """The procedure's error less that of each rival, the untrained model last."""
        return np.append(-np.array(GAINS), self.procedure - self.start)


def verdicts(ours: np.ndarray, theirs: np.ndarray, components: np.ndarray, dealt: np.ndarray) -> list[tuple[float, ...]]:
    """Interval of the difference and p-value by each of METHODS, from wrong decisions (n,)."""
    tests = [
        paired_test(ours, theirs, components),
        cross_fitted_test(ours, theirs, components, dealt),
    ]
    means = np.array([np.mean(ours[dealt == k]) - np.mean(theirs[dealt == k]) for k in np.unique(dealt)])
    count = len(means)
    error = max(np.sqrt(means.var(ddof=1) * (1 / count + 1 / (count - 1))), 1e-9)
    reach = t.ppf(0.975, count - 1) * error
    corrected = (means.mean() - reach, means.mean() + reach, float(t.cdf(means.mean() / error, count - 1)))
    found = [(test.interval.low, test.interval.high, test.p_value) for test in tests]
    return [*found, corrected]


@dataclass(frozen=True)
class Study:
    """Simulations of one world, tail and number of pairs; rivals are those of GAINS and the untrained first model.

    `verdicts` (simulations, rivals, METHODS, 3); `sides` (simulations, 4), the ends of the intervals of the procedure's error
    and of the untrained model's; `naive` (simulations,), the p-value of the best base model by itself against the equal rival;
    shares of decisions `differing` (simulations, rivals).
    """

    truth: Truth
    verdicts: np.ndarray
    sides: np.ndarray
    naive: np.ndarray
    differing: np.ndarray

    def covered(self) -> np.ndarray:
        """Share of intervals that hold the true difference, (rivals, METHODS)."""
        true = self.truth.differences[:, None]
        return np.mean((self.verdicts[..., 0] <= true) & (true <= self.verdicts[..., 1]), axis=0)

    def found(self, level: float) -> np.ndarray:
        """Share of verdicts "better" at a level, (rivals, METHODS)."""
        return np.mean(self.verdicts[..., 2] <= level, axis=0)


def simulate(name: str, tail: str, pairs: int, folds: int, simulations: int, seed: int = 0) -> Study:
    """Verdicts of so many simulations."""
    world = WORLDS[name]
    truth = Truth.of(Population(world), tail, pairs, folds)
    found = []
    for number in range(simulations):
        rng = np.random.default_rng([seed, pairs, number])
        texts, dealt, seen = draw(world, tail, pairs, folds, rng)
        ours, blur = procedure(seen, texts.labels, dealt, folds), texts.noise(rng)
        scores = [*(texts.products(noise, blur) @ world.rival for noise in truth.noises), seen[0].sum(1)]
        theirs = [untrained(each, texts.labels, dealt, folds)[0] for each in scores]
        intervals = [
            cross_fitted_interval(wrong, texts.components, dealt, trained=trained, minimum=2)
            for wrong, trained in ((ours.wrong, True), (theirs[-1], False))
        ]
        found.append(
            (
                [verdicts(ours.wrong, wrong, texts.components, dealt) for wrong in theirs],
                [end for interval in intervals if interval for end in (interval.low, interval.high)],
                paired_test(ours.best_by_itself, theirs[0], texts.components).p_value,
                [np.mean(ours.wrong != wrong) for wrong in theirs],
            )
        )
    return Study(truth, *map(np.array, zip(*found, strict=True)))


def simulate_trained(name: str, tail: str, pairs: int, folds: int, simulations: int) -> np.ndarray:
    """Verdicts (simulations, METHODS, 3) of a procedure against itself with other base models: the true difference is 0."""
    world, found = WORLDS[name], []
    for number in range(simulations):
        rng = np.random.default_rng([1, pairs, number])
        texts, dealt, seen = draw(world, tail, pairs, folds, rng)
        rivals = [texts.products(NOISE, texts.noise(rng)) for _ in range(CANDIDATES)]
        ours, theirs = (procedure(each, texts.labels, dealt, folds).wrong for each in (seen, rivals))
        found.append(verdicts(ours, theirs, texts.components, dealt))
    return np.array(found)


TRAINED = (
    "world", "components", "pairs", "simulations", *(f"difference held: {method}" for method in METHODS),
    *(f"false at {alpha_for(1):.2%}: {method}" for method in METHODS),
)  # fmt: skip


def trained(arguments: argparse.Namespace) -> Iterable[tuple[str, ...]]:
    """The cells of TRAINED."""
    for pairs, name, tail in product(arguments.pairs, arguments.world, arguments.tail):
        simulations = max(200, int(arguments.simulations * min(1.0, 400 / pairs)))
        low, high, p_values = np.moveaxis(simulate_trained(name, tail, pairs, arguments.folds, simulations), -1, 0)
        shares = [*np.mean((low <= 0.0) & (high >= 0.0), axis=0), *np.mean(p_values <= alpha_for(1), axis=0)]
        yield name, tail, f"{pairs:,}", f"{simulations:,}", *(f"{share:.1%}" for share in shares)


HOLDS = (
    "world", "components", "pairs", "simulations", *(f"difference held: {method}" for method in METHODS), "error held",
    "start's error held", *(f"false at {alpha_for(1):.2%}: {method}" for method in METHODS), "best by itself",
    f"flywheel at {alpha_for(2):.2%}",
)  # fmt: skip
POWER = (
    "world",
    "components",
    "pairs",
    *(f"{method}: 2, 4, 8 points" for method in METHODS),
    "four in five from",
    "expected",
    "differ",
)


def studies(arguments: argparse.Namespace) -> Iterable[tuple[str, str, int, Study]]:
    """What each row is about, and its simulations: as many as asked for up to 400 pairs, fewer beyond, 200 at least."""
    for pairs, name, tail in product(arguments.pairs, arguments.world, arguments.tail):
        simulations = max(200, int(arguments.simulations * min(1.0, 400 / pairs)))
        yield name, tail, pairs, simulate(name, tail, pairs, arguments.folds, simulations, arguments.seed)


def holds(study: Study) -> list[str]:
    """The cells of HOLDS after the first three. Intervals of differences: the mean over rivals, the lowest and the highest."""
    held, false = study.covered(), study.found(alpha_for(1))[0]
    low, high, start_low, start_high = study.sides.T
    sides = [
        np.mean((low <= study.truth.procedure) & (study.truth.procedure <= high)),
        np.mean((start_low <= study.truth.start) & (study.truth.start <= start_high)),
    ]
    return [
        f"{len(study.naive):,}",
        *(f"{each.mean():.1%} ({each.min():.1%} to {each.max():.1%})" for each in held.T),
        *(f"{share:.1%}" for share in (*sides, *false, np.mean(study.naive <= alpha_for(1)))),
        f"{study.found(alpha_for(2))[0, 1]:.2%}",
    ]


def power(study: Study, tail: str, pairs: int) -> list[str]:
    """The cells of POWER after the first three: shares found, the gain found 4 times in 5, what was expected; and the
    share of decisions that differ from an equal rival's and from the untrained model's.
    """
    found = study.found(alpha_for(1))[: len(GAINS), 1]
    inside = (found > 0.0) & (found < 1.0)
    slope, base = np.polyfit(np.array(GAINS)[inside], norm.ppf(found[inside]), 1)
    sizes = sizes_of(tail, pairs, np.random.default_rng(0))
    components = sizes.sum() ** 2 / (sizes**2).sum()
    expected = expected_detectable(pairs / SHARED_TRAINING, components / SHARED_TRAINING)
    equal, start = study.differing.mean(0)[[0, -1]]
    return [
        *(", ".join(f"{share:.0%}" for share in each) for each in study.found(alpha_for(1))[1 : len(GAINS)].T),
        f"{(norm.ppf(0.8) - base) / slope:.1%}",
        f"{expected:.1%}" if expected else "",
        f"{equal:.0%}, {start:.0%}",
    ]


def false_year(world: World, pairs: int, folds: int, noise: float, grows: bool, rng: np.random.Generator) -> np.ndarray:
    """Whether a year of weekly decisions against an equal rival sees a promotion: by cross-fitting, by the naive choice.

    Every week has four new base models. The pairs stay, or grow to so many from half of them.
    """
    texts = Texts.draw(world, sizes_of("pareto", pairs, rng), rng)
    theirs = texts.products(noise, texts.noise(rng)) @ world.rival
    order = rng.permutation(texts.components.max() + 1)
    when = np.argsort(order)[texts.components] / len(order)
    false = np.zeros(2, bool)
    for week in range(1, WEEKS + 1):
        there = when < (0.5 + 0.5 * week / WEEKS if grows else 1.0)
        ids = np.unique(texts.components[there], return_inverse=True)[1]
        dealt, labels = deal(ids, folds, rng), texts.labels[there]
        seen = [texts.products(NOISE, texts.noise(rng))[there] for _ in range(CANDIDATES)]
        ours, rival = procedure(seen, labels, dealt, folds), untrained(theirs[there], labels, dealt, folds)[0]
        false[0] |= cross_fitted_test(ours.wrong, rival, ids, dealt).p_value <= alpha_for(week)
        false[1] |= paired_test(ours.best_by_itself, rival, ids).p_value <= alpha_for(week)
        if false.all():
            break
    return false


YEARS = ("pairs", "data", "years", "false promotions: cross-fitted", "best by itself")


def years(arguments: argparse.Namespace) -> Iterable[tuple[str, ...]]:
    """The cells of YEARS."""
    population = Population(WORLDS["nothing to learn"])
    for pairs, grows in product(arguments.pairs, (False, True)):
        noise = float(Truth.of(population, "pareto", pairs, arguments.folds).noises[0])
        found = np.mean([
            false_year(population.world, pairs, arguments.folds, noise, grows, np.random.default_rng([pairs, year, grows]))
            for year in range(arguments.years)
        ], axis=0)  # fmt: skip
        data = f"grow from {pairs // 2:,}" if grows else "stay"
        yield f"{pairs:,}", data, f"{arguments.years}", f"{found[0]:.1%}", f"{found[1]:.1%}"


def line(*cells: str) -> None:
    """Print one line of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def header(names: tuple[str, ...]) -> None:
    """Print the head of a Markdown table."""
    line(*names)
    line(*["---"] * len(names))


def main() -> None:
    """Simulate and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1_000, help="up to 400 pairs; fewer beyond, 200 at least")
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 200, 400, 800, 1_600])
    parser.add_argument("--world", nargs="+", choices=WORLDS, default=list(WORLDS))
    parser.add_argument("--tail", nargs="+", choices=("even", "pareto"), default=["even", "pareto"])
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--years", type=int, help="null years of weekly decisions instead")
    parser.add_argument("--seed", type=int, default=0, help="other draws, for a check of what was chosen on these")
    parser.add_argument("--trained", action="store_true", help="a rival that is trained as well, instead")
    arguments = parser.parse_args()
    if arguments.years or arguments.trained:
        header(YEARS if arguments.years else TRAINED)
        for cells in years(arguments) if arguments.years else trained(arguments):
            line(*cells)
        return
    later = []
    header(HOLDS)
    for name, tail, pairs, study in studies(arguments):
        line(name, tail, f"{pairs:,}", *holds(study))
        later.append((name, tail, f"{pairs:,}", *power(study, tail, pairs)))
    header(POWER)
    for cells in later:
        line(*cells)


if __name__ == "__main__":
    main()
