"""How many sentences the whole grid sends through encoders by the plan, counted without running it."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

from original import EPOCHS
from quora import row

from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.training.job import SIZES
from flywheel.training.starts import DIRECTION_PAIRS

GRID_SIZES = tuple(int(size) for size in SIZES if size.isdecimal())
BASES, DIMENSIONS = 3, 2
# Pairs that the original evaluated on.
EVALUATION_PAIRS = 10_000


@dataclass(frozen=True)
class Forwards:
    """Sentences encoded: in training, for the evaluation after every epoch, and for the threshold and the last figures."""

    training: int
    evaluation: int
    threshold: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


def original_forwards(sizes: Sequence[int], distinct: Callable[[int], int], evaluation: int, cells_per_size: int) -> Forwards:
    """What the original encodes, cell by cell.

    Both sentences of each of N pairs in each epoch; `evaluation` distinct texts after each epoch; then, for the threshold, the
    `distinct(N)` texts of the training pairs and those of the evaluation once more.
    """
    training = sum(EPOCHS * 2 * size for size in sizes)
    threshold = sum(distinct(size) + evaluation for size in sizes)
    return Forwards(*(cells_per_size * n for n in (training, EPOCHS * evaluation * len(sizes), threshold)))


def flywheel_forwards(sizes: Sequence[int], distinct: Callable[[int], int], evaluation: int, bases: int) -> Forwards:
    """What flywheel encodes: every text once a base model; sizes nest, so the largest holds all the training texts.

    `evaluation` counts the distinct texts of calibration and test.
    """
    return Forwards(bases * distinct(max(sizes)), bases * evaluation, 0)


def growth(counts: dict[int, int]) -> Callable[[int], int]:
    """Distinct texts of the first N training pairs, from `counts` of some N.

    Beyond the largest N counted they go on as between the last two: too many rather than too few, for texts recur ever
    more often.
    """
    *_, (before, less), (last, most) = sorted(counts.items())
    return lambda size: counts[size] if size <= last else most + round((size - last) * (most - less) / (last - before))


def plan_table(snapshot: Snapshot, random_seed: int, interaction_share: float) -> str:
    """The counts over the experiment's 66 cells, in Markdown, and how they were come by."""
    train = snapshot.training_pairs("all", random_seed, interaction_share)
    sizes = [*(size for size in GRID_SIZES if size < len(train)), len(train) // 2, len(train)]
    distinct = growth({size: len(unique_texts(train.head(size))) for size in sizes})
    calibration, test = snapshot.pairs("calibration"), snapshot.pairs("test")
    sample = test.head(EVALUATION_PAIRS)
    tested = round(len(unique_texts(sample)) * EVALUATION_PAIRS / len(sample))
    ours = flywheel_forwards(GRID_SIZES, distinct, len(unique_texts(calibration, test)), BASES)
    theirs = original_forwards(GRID_SIZES, distinct, tested, BASES * DIMENSIONS)
    directions = BASES * len(unique_texts(snapshot.pairs("train").head(DIRECTION_PAIRS)))
    cells = len(GRID_SIZES) * BASES * DIMENSIONS
    lines = [
        f"Sentences encoded for {cells} cells ({BASES} base models, {DIMENSIONS} dimensions, {GRID_SIZES[0]} to "
        f"{GRID_SIZES[-1]:,} pairs) by the plan; the {tested:,} distinct texts of {EVALUATION_PAIRS:,} evaluation pairs are "
        f"counted once an evaluation. Texts of more than {len(train):,} training pairs are extrapolated from the growth over "
        "the second half of those.",
        "",
        row("", "training", "evaluation", "threshold", "total"),
        row("---", "---:", "---:", "---:", "---:"),
        row("original", *(f"{n:,}" for n in (*astuple(theirs), theirs.total))),
        row("flywheel", *(f"{n:,}" for n in (*astuple(ours), ours.total))),
        "",
        f"{theirs.total / ours.total:.1f} times fewer. The untuned start's {DIRECTION_PAIRS:,} pairs are among the largest "
        f"size's here; were `train` so much larger that none is, it would be {theirs.total / (ours.total + directions):.1f}.",
    ]
    return "\n".join(lines)
