"""Everything the page says, from what evaluations, decisions and settings hold; nothing is trained or decided here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flywheel.evaluation.comparison import Comparison, compare
from flywheel.evaluation.curve import Advice, LearningCurve, advice, learning_curve_of
from flywheel.evaluation.evaluate import decisions
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.evaluation.statistics import holm, quick_p_value
from flywheel.evidence.cost import ModelCost, Prices
from flywheel.evidence.words import marked_name
from flywheel.registry.champions import Entry, Registry, choose_challenger
from flywheel.settings import Settings


@dataclass(frozen=True)
class Baseline:
    """What models are held against, whether it is the API itself, and what is to be done if it is not."""

    evaluation: Evaluation
    is_api: bool
    advice: str | None


@dataclass(frozen=True)
class Evidence:
    """What is known of the present champion, or of the best challenger while there is none (`model`).

    `versus_baseline` compares it with the baseline; `decided` is the latest decision on this test set and `versus_reference`
    its challenger against whom it met. `better` are the Holm-adjusted p-values of trained rows against the baseline, by record.
    `curves` are power laws of the lines that have enough sizes, `curve` that of the model's own line or the reason why there
    is none, and `advice` what follows from it.
    """

    board: Leaderboard
    reigning: Entry | None
    model: Evaluation | None
    next_challenger: Evaluation | None
    baseline: Baseline
    versus_baseline: Comparison | None
    decided: Entry | None
    versus_reference: Comparison | None
    better: dict[str, float]
    curves: tuple[LearningCurve, ...]
    curve: LearningCurve | str
    advice: Advice | None
    costs: tuple[ModelCost, ...]
    prices: Prices
    seed: str
    api_model: str
    max_broken_share: float

    def name(self, row: Evaluation) -> str:
        """What the page calls a row, with the mark of contamination."""
        return marked_name(row, self.board)

    @property
    def champion_id(self) -> str | None:
        """The champion's record, or None."""
        return self.reigning.champion.model if self.reigning and self.reigning.champion else None

    @property
    def decisions(self) -> int:
        """How many decisions were made on this test set."""
        return self.decided.verdict.decision if self.decided and self.decided.verdict else 0


def gather(
    settings: Settings,
    board: Leaderboard,
    baseline: Baseline,
    champion: Evaluation | None,
    costs: Sequence[ModelCost],
    prices: Prices,
) -> Evidence:
    """Read and compare; every comparison is on the board's test pairs. `champion` is evaluated on them."""
    registry = Registry(settings.registry)
    best = choose_challenger(board.tuned) if board.tuned else None
    model = champion or best
    decided = next((e for e in reversed(registry.history()) if e.verdict and e.verdict.test_id == board.snapshot.test_id), None)

    def record(record_id: str) -> Evaluation | None:
        folder = evaluation_folder(settings.evaluations, board.snapshot.test_id, record_id)
        return load_evaluation(folder, settings.target_prior)

    def versus(ours: Evaluation | None, theirs: Evaluation | None) -> Comparison | None:
        if ours is None or theirs is None:
            return None
        return compare(ours, theirs, board.snapshot, settings.evaluations, settings.min_components, settings.shown_flips)

    verdict = decided.verdict if decided else None
    lines = _curves(settings.evaluations, board)
    own = lines.get(_line(model), "its line has no cells") if model else "no cell has been evaluated"
    return Evidence(
        board=board,
        reigning=registry.current(),
        model=model,
        next_challenger=best if best and not _judged(registry.history(), best, champion) else None,
        baseline=baseline,
        versus_baseline=versus(model, baseline.evaluation),
        decided=decided,
        versus_reference=versus(record(verdict.challenger), record(verdict.reference)) if verdict else None,
        better=_better(settings.evaluations, board, baseline.evaluation),
        curves=tuple(curve for curve in lines.values() if isinstance(curve, LearningCurve)),
        curve=own,
        advice=advice(own, settings.worth_of_doubling) if isinstance(own, LearningCurve) else None,
        costs=tuple(costs),
        prices=prices,
        seed=settings.seed,
        api_model=settings.baseline_model,
        max_broken_share=settings.max_broken_share,
    )


def _judged(history: Sequence[Entry], challenger: Evaluation, champion: Evaluation | None) -> bool:
    """Whether the challenger reigns, or has met whoever reigns (or the baseline) on this test set."""
    met = {(e.verdict.challenger, e.verdict.test_id) for e in history if e.verdict}
    return challenger == champion or (challenger.record_id, challenger.test_id) in met


def _line(record: Evaluation) -> tuple[str, str | None]:
    return record.variant, record.recipe


def _curves(evaluations: Path, board: Leaderboard) -> dict[tuple[str, str | None], LearningCurve | str]:
    lines = dict.fromkeys(_line(row) for row in board.tuned)
    return {line: learning_curve_of(evaluations, [row for row in board.tuned if _line(row) == line]) for line in lines}


def _better(evaluations: Path, board: Leaderboard, baseline: Evaluation) -> dict[str, float]:
    """Holm-adjusted p-values, by record, of the trained rows' making fewer errors than the baseline."""
    if baseline.no_verdict:
        return {}
    theirs = decisions(evaluations, baseline)
    components = theirs["component"].to_numpy()
    ids = [row.record_id for row in board.tuned]
    wrong = (decisions(evaluations, row)["wrong"].to_numpy() for row in board.tuned)
    p_values = [quick_p_value(each, np.asarray(theirs["wrong"]), components) for each in wrong]
    return dict(zip(ids, holm(p_values), strict=True))
