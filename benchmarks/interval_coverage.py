"""How often the 95 % intervals of error rates hold what they claim to hold, by simulation from a population that is known.

    python benchmarks/interval_coverage.py [--simulations 1000] [--population ordinary] [--components 40 100 400]

Each simulation draws calibration and test, both of so many components, and asks whether the interval holds the error rate of
the procedure: the mean, over calibration draws, of the true error rate at the thresholds fitted. Beside it: how often it holds
the true error at the very threshold that was fitted, and what an interval does that resamples test and calibration
components together and reads off percentiles, as flywheel's did before.
"""

import argparse
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import norm

from flywheel.evaluation.statistics import LabelledScores, component_weights, error_interval
from flywheel.scoring.thresholds import fit_scores, thresholds_by_source

TAILS = ("even", "pareto", "zipf")
# Pairs for a fit that is linear (below 500) and for one that is cubic, by number of components.
PAIRS = {"linear": {40: 200, 100: 300, 400: 480}, "cubic": {40: 700, 100: 1000, 400: 2400}}
LARGEST_SHARE = 0.048
REPLICATES = 200
DIFFERENT = 0.6


@dataclass(frozen=True)
class Population:
    """Scores are normal: `gap` apart by label, with a deviation by component and one by pair.

    A component's share of label 1 is Beta(`ones`, 1.5) in calibration and Beta(1.5, 1.5), half on average, in test.
    """

    gap: float
    by_component: float
    by_pair: float
    ones: float = 1.5

    def error(self, threshold: np.ndarray | float) -> np.ndarray:
        """True error rate on test pairs at a threshold."""
        spread = np.hypot(self.by_component, self.by_pair)
        return np.asarray(
            0.5 * norm.cdf((threshold - DIFFERENT - self.gap) / spread) + 0.5 * norm.sf((threshold - DIFFERENT) / spread)
        )

    def draw(self, rng: np.random.Generator, sizes: np.ndarray, ones: float = 1.5) -> LabelledScores:
        """Pairs of components of these sizes."""
        ids = np.repeat(np.arange(len(sizes)), sizes)
        labels = (rng.random(len(ids)) < rng.beta(ones, 1.5, len(sizes))[ids]).astype(np.int64)
        noise = rng.normal(0, self.by_component, len(sizes))[ids] + rng.normal(0, self.by_pair, len(ids))
        return LabelledScores(DIFFERENT + self.gap * labels + noise, labels, ids)


POPULATIONS = {
    "ordinary": Population(0.12, 0.04, 0.07),
    "clustered": Population(0.12, 0.09, 0.02),
    "few errors": Population(0.30, 0.04, 0.07),
    "shifted": Population(0.12, 0.04, 0.07, ones=0.6),
}


@dataclass(frozen=True)
class Coverage:
    """Shares of `simulations` whose interval held the error of the procedure, and that at the threshold fitted."""

    simulations: int
    procedure: float
    at_threshold: float
    width: float
    both_procedure: float
    both_width: float

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of a share that is 95 % in truth."""
        return float(np.sqrt(0.95 * 0.05 / self.simulations))


def component_sizes(rng: np.random.Generator, tail: str, components: int, pairs: int) -> np.ndarray:
    """Sizes (components,) that add up to about `pairs`, none above what carries a verdict."""
    raw = {
        "even": np.ones(components),
        "pareto": rng.pareto(1.2, components) + 0.1,
        "zipf": 1.0 / np.arange(1, components + 1),
    }[tail]
    largest = max(1, int(LARGEST_SHARE * pairs))
    low, high = 0.0, float(pairs) * components
    for _ in range(30):
        middle = 0.5 * (low + high)
        sizes = np.clip(np.round(raw / raw.max() * middle), 1, largest).astype(np.int64)
        low, high = (middle, high) if sizes.sum() <= pairs else (low, middle)
    return np.clip(np.round(raw / raw.max() * low), 1, largest).astype(np.int64)


def simulate(
    population: Population,
    tail: str,
    components: int,
    pairs: int,
    simulations: int,
    *,
    both: bool,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Coverage:
    """Coverage of the intervals where calibration and test have so many components and pairs each."""
    rng = np.random.default_rng(seed)
    thresholds, ours, resampled = [], [], []
    for number in range(simulations):
        calibration, test = (
            population.draw(rng, component_sizes(rng, tail, components, pairs), ones) for ones in (population.ones, 1.5)
        )
        interval = error_interval(calibration, test, replicates=replicates, seed=number)
        if interval is None:
            continue
        ours.append((interval.low, interval.high))
        thresholds.append(fit_scores(calibration.scores, calibration.labels).threshold)
        resampled.append(both_resampled(calibration, test, rng) if both else (np.nan, np.nan))
    true = population.error(np.array(thresholds))
    [low, high], [both_low, both_high] = np.array(ours).T, np.array(resampled).T
    return Coverage(
        simulations=len(ours),
        procedure=float(np.mean((low <= true.mean()) & (true.mean() <= high))),
        at_threshold=float(np.mean((low <= true) & (true <= high))),
        width=float(np.mean(high - low)),
        both_procedure=float(np.mean((both_low <= true.mean()) & (true.mean() <= both_high))),
        both_width=float(np.mean(both_high - both_low)),
    )


def both_resampled(calibration: LabelledScores, test: LabelledScores, rng: np.random.Generator) -> np.ndarray:
    """The percentile interval that draws calibration and test components anew in every replicate."""
    drawn = component_weights(calibration.components, REPLICATES, rng)
    thresholds = thresholds_by_source(calibration.scores, calibration.labels, calibration.source_of_each, drawn, None)["seed"]
    weights = component_weights(test.components, REPLICATES, rng)
    wrong = (test.scores >= thresholds[:, None]) != test.labels
    return np.percentile((wrong * weights).sum(axis=1) / weights.sum(axis=1), [2.5, 97.5])


def main() -> None:
    """Simulate and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=1_000)
    parser.add_argument("--population", nargs="+", choices=POPULATIONS, default=list(POPULATIONS))
    parser.add_argument("--components", type=int, nargs="+", choices=PAIRS["linear"], default=list(PAIRS["linear"]))
    arguments = parser.parse_args()
    print("| population | components | tail | fit | coverage | at the threshold | width | both resampled | width |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, fit, components, tail in product(arguments.population, PAIRS, arguments.components, TAILS):
        found = simulate(POPULATIONS[name], tail, components, PAIRS[fit][components], arguments.simulations, both=True)
        print(
            f"| {name} | {components} | {tail} | {fit} | {found.procedure:.1%} ± {found.monte_carlo_error:.1%} "
            f"| {found.at_threshold:.1%} | {found.width:.2%} | {found.both_procedure:.1%} | {found.both_width:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
