"""Made-up texts, and a procedure that learns from pairs of them as cross-fitting does: for `cross_fitting.py`.

Texts are vectors of a topic (shared in a component), a meaning (shared where the label is "same") and a style of their own.
Each component is a question with its neighbours. A base model sees texts with noise. Training weighs the dimensions of the
cosine by ridge regression; how far it goes is chosen out of fold, and so is one of four base models that are equally good.
"""

from dataclasses import dataclass

import numpy as np
from interval_coverage import component_sizes

from flywheel.scoring.thresholds import fit_scores, thresholds_by_source
from flywheel.scoring.verdicts import MAX_COMPONENT_SHARE

WIDTH, INFORMED = 48, np.arange(48) < 12
CANDIDATES, NOISE, RIDGE = 4, 0.5, 30.0
SHRINKS = np.array([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
POPULATION = 200_000


@dataclass(frozen=True)
class World:
    """By dimension (WIDTH,): how strong `meaning` and `style` are in a text, and what a rival from elsewhere weighs it by."""

    meaning: np.ndarray
    style: np.ndarray
    rival: np.ndarray


ONES = np.ones(WIDTH, np.float32)
WORLDS = {
    "nothing to learn": World(ONES, ONES, ONES),
    "much to learn": World(*(np.where(INFORMED, *each).astype(np.float32) for each in ((1.6, 0.15), (0.5, 1.2), (1.0, 0.4)))),
}


@dataclass(frozen=True)
class Texts:
    """Pairs (n,) of a component's question, `hubs` (components, WIDTH), with one of its neighbours, `others` (n, WIDTH)."""

    components: np.ndarray
    labels: np.ndarray
    hubs: np.ndarray
    others: np.ndarray

    @classmethod
    def draw(cls, world: World, sizes: np.ndarray, rng: np.random.Generator) -> "Texts":
        """Components of these sizes; each has a share of label 1 and a strength of its topic of its own."""
        ids = np.repeat(np.arange(len(sizes)), sizes)
        shape, whole = (len(ids), WIDTH), (len(sizes), WIDTH)
        labels = (rng.random(len(ids)) < rng.beta(1.2, 1.8, len(sizes))[ids]).astype(np.int64)

        def draw(shape: tuple[int, ...]) -> np.ndarray:
            return rng.standard_normal(shape, np.float32)

        topics = draw(whole) * 0.8 * np.exp(0.25 * draw((len(sizes), 1)))
        meanings = draw(whole)
        near = np.where(labels == 1, 0.95, 0.4).astype(np.float32)[:, None]
        other = near * meanings[ids] + np.sqrt(1 - near**2) * draw(shape)
        hubs = topics + meanings * world.meaning + draw(whole) * world.style
        return cls(ids, labels, hubs, topics[ids] + other * world.meaning + draw(shape) * world.style)

    def noise(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What blurs the texts for one model, of unit size."""
        return rng.standard_normal(self.hubs.shape, np.float32), rng.standard_normal(self.others.shape, np.float32)

    def products(self, size: float, noise: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """What the dimensions add to each pair's cosine (n, WIDTH), as a model sees the texts with noise of this size."""
        hubs, others = (side + size * blur for side, blur in zip((self.hubs, self.others), noise, strict=True))
        hubs, others = (side / np.sqrt(np.einsum("ij,ij->i", side, side))[:, None] for side in (hubs, others))
        return hubs[self.components] * others


def sizes_of(tail: str, pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Component sizes that carry a verdict: all 2, or a tail whose largest is just below 5 % of the pairs."""
    sizes = np.full(pairs // 2, 2)
    while tail != "even":
        sizes = component_sizes(rng, tail, int(0.6 * pairs), pairs)
        if sizes.max() <= MAX_COMPONENT_SHARE * sizes.sum():
            break
    return sizes


def deal(components: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each pair (n,): components whole, the largest first, each into the fold with the fewest pairs."""
    sizes = np.bincount(components)
    fold_of, load = np.zeros(len(sizes), int), rng.random(folds) * 1e-6
    for component in np.argsort(-sizes - rng.random(len(sizes))):
        fold_of[component] = load.argmin()
        load[fold_of[component]] += sizes[component]
    return fold_of[components]


def draw(
    world: World, tail: str, pairs: int, folds: int, rng: np.random.Generator
) -> tuple[Texts, np.ndarray, list[np.ndarray]]:
    """Pairs, their folds, and what the base models see of them."""
    texts = Texts.draw(world, sizes_of(tail, pairs, rng), rng)
    return texts, deal(texts.components, folds, rng), [texts.products(NOISE, texts.noise(rng)) for _ in range(CANDIDATES)]


def train(products: np.ndarray, labels: np.ndarray, folds: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What training adds to the cosine (n, count), of pair i by a model without its fold and fold k; weights (count, WIDTH).

    Row k of the weights is of the model without fold k. One ridge regression of the label for any two folds left out.
    """
    scale = WIDTH / 4
    features = np.column_stack([np.ones(len(labels)), products.sum(1), scale * products])
    inside = [folds == k for k in range(count)]
    grams = np.stack([features[mine].T @ features[mine] for mine in inside])
    sums = np.stack([features[mine].T @ labels[mine] for mine in inside])
    a, b = np.triu_indices(count)
    twice = (a != b).astype(float)
    penalty = np.diag(np.append([1e-6, 1e-6], np.full(WIDTH, RIDGE)))
    left = grams.sum(0) - grams[a] - twice[:, None, None] * grams[b] + penalty
    found = np.linalg.solve(left, (sums.sum(0) - sums[a] - twice[:, None] * sums[b])[..., None])[..., 0]
    weights = np.empty((count, count, WIDTH))
    weights[a, b] = weights[b, a] = found[:, 2:] * scale / np.maximum(found[:, 1:2], 0.3)
    added = np.empty((len(labels), count))
    for k, mine in enumerate(inside):
        added[mine] = products[mine] @ weights[k].T
    return added, weights[np.arange(count), np.arange(count)]


def logistic(scores: np.ndarray, labels: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threshold and mean log loss (rows,) of linear logistic fits to `scores` (rows, n), each on the pairs `used` (rows, n)."""
    count = used.sum(1, keepdims=True)
    centre = (scores * used).sum(1, keepdims=True) / count
    spread = np.sqrt((used * (scores - centre) ** 2).sum(1, keepdims=True) / count) + 1e-12
    z, a, b = (scores - centre) / spread, np.zeros((len(scores), 1)), np.zeros((len(scores), 1))
    for _ in range(7):
        p = 1 / (1 + np.exp(-np.clip(a + b * z, -30, 30)))
        rest, curve = used * (labels - p), used * p * (1 - p)
        pull_a, pull_b = rest.sum(1, keepdims=True) - 1e-3 * a, (rest * z).sum(1, keepdims=True) - 1e-3 * b
        aa, ab, bb = (
            curve.sum(1, keepdims=True) + 1e-3,
            *((curve * z**k).sum(1, keepdims=True) + 1e-3 * (k - 1) for k in (1, 2)),
        )
        determinant = aa * bb - ab**2
        a += np.clip((bb * pull_a - ab * pull_b) / determinant, -4, 4)
        b += np.clip((aa * pull_b - ab * pull_a) / determinant, -4, 4)
    loss = (used * np.logaddexp(0, (1 - 2 * labels) * (a + b * z))).sum(1) / count[:, 0]
    crossing = np.clip(-a / np.where(b > 0, b, 1e-9), -1e6, 1e6)
    return (centre + spread * crossing)[:, 0], loss


@dataclass(frozen=True)
class Fitted:
    """A procedure's cross-fitted decisions, right or `wrong` (n,), and for each fold the base model, weights and threshold.

    `best_by_itself` (n,) are the decisions of the base model that has the fewest errors by these decisions themselves.
    """

    wrong: np.ndarray
    models: list[tuple[int, np.ndarray, float]]
    best_by_itself: np.ndarray


def procedure(seen: list[np.ndarray], labels: np.ndarray, folds: np.ndarray, count: int) -> Fitted:
    """Train each base model on what it has `seen`; choose how far to go, the threshold and the base model out of fold."""
    rest = np.stack([folds != k for k in range(count)])
    every, n = np.arange(count), len(labels)
    weights, scores, inner, wrong = [], [], [], []
    for products in seen:
        added, trained = train(products, labels, folds, count)
        options = products.sum(1) + SHRINKS[:, None, None] * added.T
        fits = logistic(options.reshape(-1, n), labels, np.tile(rest, (len(SHRINKS), 1)))
        thresholds, losses = (each.reshape(len(SHRINKS), count) for each in fits)
        best = losses.argmin(0)
        score = options[best, every]
        mistaken = (score >= thresholds[best, every][:, None]) != labels
        weights.append(1 + SHRINKS[best][:, None] * trained)
        scores.append(score)
        inner.append((mistaken & rest).sum(1) / rest.sum(1))
        wrong.append(mistaken[folds, np.arange(n)])
    decided, models = np.empty(n, bool), []
    for k, candidate in enumerate(np.argmin(inner, axis=0)):
        score, mine = scores[candidate][k], ~rest[k]
        threshold = fit_scores(score[rest[k]], labels[rest[k]]).threshold
        decided[mine] = (score[mine] >= threshold) != labels[mine]
        models.append((int(candidate), weights[candidate][k], threshold))
    return Fitted(decided, models, wrong[np.mean(wrong, axis=1).argmin()])


def untrained(scores: np.ndarray, labels: np.ndarray, folds: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Wrong decisions (n,) of a side that takes its threshold alone from the other folds; the thresholds (count,)."""
    rest = np.stack([folds != k for k in range(count)]).astype(np.int64)
    cuts = thresholds_by_source(scores, labels, np.full(len(labels), "seed"), rest, None)["seed"]
    return (scores >= cuts[folds]) != labels, cuts


class Population:
    """So many pairs, each a component, that errors on them count as true."""

    def __init__(self, world: World) -> None:
        rng = np.random.default_rng(5)
        self.world = world
        self._texts = Texts.draw(world, np.ones(POPULATION, int), rng)
        self._seen = [self._texts.products(NOISE, self._texts.noise(rng)) for _ in range(CANDIDATES)]
        self._noise = self._texts.noise(rng)

    def error(self, fitted: Fitted) -> float:
        """True error rate of the models of a procedure, the mean over folds."""
        said = [self._seen[base] @ weights.astype(np.float32) >= threshold for base, weights, threshold in fitted.models]
        return float(np.mean([each != self._texts.labels for each in said]))

    def errors(self, noise: float | None, thresholds: np.ndarray) -> float:
        """True error rate, the mean over thresholds (k,), of a rival with so much noise; None for the untrained first model."""
        seen = self._seen[0] if noise is None else self._texts.products(noise, self._noise) * self.world.rival
        different, same = (np.sort(seen.sum(1)[self._texts.labels == label]) for label in (0, 1))
        wrong = np.searchsorted(same, thresholds) + len(different) - np.searchsorted(different, thresholds)
        return float(wrong.mean() / POPULATION)
