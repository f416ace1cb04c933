"""Whether new pairs are worth a retraining: what the learning curve expects of them, against what a run costs."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from flywheel.errors import FlywheelError
from flywheel.evaluation.curve import LearningCurve, learning_curve_of
from flywheel.evaluation.records import Evaluation, Terms
from flywheel.pairs.snapshots.snapshot import ALL
from flywheel.pipeline.evaluation import leaderboard
from flywheel.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Worth:
    """By how many `points` the error rate is expected to fall, what that is worth, and what a run costs (US dollars)."""

    points: float
    dollars: float
    cost: float

    @property
    def pays(self) -> bool:
        """Whether it is worth its cost."""
        return self.points > 0 and self.dollars >= self.cost

    def __str__(self) -> str:
        """`0.31 points expected, worth 12.40 dollars, for a run of 0.85`."""
        return f"{self.points:.2f} points expected, worth {self.dollars:.2f} dollars, for a run of {self.cost:.2f}"


def expected_worth(workspace: Workspace, new: int) -> Worth | str:
    """What `new` pairs more would bring to the champion's line, or in words why that is unknown."""
    options, hour = workspace.settings.retraining, workspace.settings.compute.price_per_hour
    if options.point_dollars is None or hour is None:
        return "retraining.point_dollars needs compute.price_per_hour beside it"
    champion, snapshot = workspace.registry.champion(), workspace.snapshots.latest()
    if champion is None or snapshot is None:
        return "there is no champion yet"
    try:
        seconds = workspace.trained.load(champion.model).seconds
        board = leaderboard(workspace, snapshot)
    except FlywheelError as error:
        return str(error)
    line = [row for row in board.trained if (row.variant, row.recipe) == (champion.variant, champion.recipe)]
    rows = tuple(row for row in line if row.size != ALL or not snapshot.mixed)
    known = tuple((row.record_id, row.terms, row.error) for row in rows)
    curve = _curve(_Line(snapshot.test_id, known, workspace.home.evaluations, rows))
    if isinstance(curve, str):
        return curve
    now = max(row.train_pairs or 0 for row in line)
    points = 100 * (_error(curve, now) - _error(curve, now + new))
    return Worth(points, points * options.point_dollars, hour * seconds / 3600)


@dataclass(frozen=True)
class _Line:
    """The records of a line; two are equal when the same models were evaluated on the same terms with the same outcome."""

    test_id: str
    known: tuple[tuple[str, Terms, float], ...]
    evaluations: Path = field(compare=False)
    rows: tuple[Evaluation, ...] = field(compare=False)


@lru_cache(1)
def _curve(line: _Line) -> LearningCurve | str:
    """The line's curve, fitted once: a sensor asks every few seconds."""
    return learning_curve_of(line.evaluations, line.rows)


def _error(curve: LearningCurve, pairs: int) -> float:
    return curve.floor + curve.scale * float(pairs) ** -curve.exponent
