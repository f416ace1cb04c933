"""Everything the page says, from records of evaluations and decisions; nothing is trained or decided here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flywheel.evaluation.comparison import Baseline, Comparison, compare
from flywheel.evaluation.curve import Advice, LearningCurve, advice, learning_curve_of
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.paired import alpha_for, holm, quick_p_value
from flywheel.evaluation.records import Evaluation, Terms, evaluation_folder, load_evaluation
from flywheel.evaluation.scores import decisions
from flywheel.evidence.cost import ModelCost, Prices
from flywheel.evidence.options import EvidenceOptions
from flywheel.evidence.words import marked_name
from flywheel.pairs.snapshots.snapshot import ALL
from flywheel.registry.champions import Entry, Registry
from flywheel.registry.decisions import count_decisions
from flywheel.registry.options import PromotionOptions
from flywheel.scoring.power import SHARED_TRAINING


@dataclass(frozen=True)
class Evidence:
    """What is known of the present champion, or of the best candidate while there is none (`model`).

    `challenger` is to be judged next. `versus_baseline` compares the model with the baseline; `decided` are the decisions on
    this test set, `decisions` how many were made on pairs of it, under whatever `test_id`, and `versus_reference` is the latest
    one's challenger against whom it met. `better` are the Holm-adjusted p-values of trained rows against the baseline, by
    record. `unjudged` is the latest turn where it ended without a decision on this test set. `curves` are power laws of the
    lines that have enough sizes, `curve` that of the model's own line or the reason why there is none, `advice` what follows
    from it. `cut` is the share of each source's texts that is longer than what the model reads.
    """

    board: Leaderboard
    present: Entry | None
    model: Evaluation
    challenger: Evaluation | None
    baseline: Baseline
    versus_baseline: Comparison
    decided: tuple[Entry, ...]
    decisions: int
    unjudged: Entry | None
    versus_reference: Comparison | None
    better: dict[str, float]
    curves: tuple[LearningCurve, ...]
    curve: LearningCurve | str
    advice: Advice | None
    costs: tuple[ModelCost, ...]
    prices: Prices
    api_model: str
    max_broken_share: float
    grid_sizes: tuple[str, ...]
    cut: Mapping[str, float]

    def name(self, row: Evaluation) -> str:
        """What the page calls a row, with the mark of contamination."""
        return marked_name(row, self.board)

    @property
    def champion_id(self) -> str | None:
        """The champion's record, or None."""
        return self.present.champion.model if self.present and self.present.champion else None

    @property
    def level(self) -> float:
        """At what level the champion is called better than the baseline: that of the decision that made it champion, or of the
        next one. Each decision brings one champion, so that all of them on a test set are called so falsely in 5 % at most.
        """
        verdicts = [entry.verdict for entry in self.decided if entry.verdict]
        made = [each.decision for each in verdicts if each.promoted and each.challenger == self.champion_id]
        return alpha_for(made[-1] if made else self.decisions + 1)


def gather(
    registry: Registry,
    evaluations: Path,
    board: Leaderboard,
    baseline: Baseline,
    model: Evaluation,
    challenger: Evaluation | None,
    costs: Sequence[ModelCost],
    prices: Prices,
    options: EvidenceOptions,
    rules: PromotionOptions,
    api_model: str,
    grid_sizes: tuple[str, ...],
    cut: Mapping[str, float],
) -> Evidence:
    """Read and compare; every comparison is on the board's test pairs. `model` is the champion evaluated on them, or the best
    candidate while there is none; `challenger` is to be judged next; `api_model` is what the API's model is called,
    `grid_sizes` are those that `flywheel grid` trains unasked, and `cut` says how much of the texts `model` has not read.
    """
    compared = _Compared(board, evaluations, options.flipped_pairs)
    history, test_id = registry.history(), board.snapshot.test_id
    decided = [entry for entry in history if entry.verdict and entry.verdict.test_id == test_id]
    unjudged = next((entry for entry in history[-1:] if entry.turn and entry.turn.test_id == test_id), None)
    lines = _curves(evaluations, board)
    own = lines.get(_line(model), "its line has no cells on this snapshot under the present settings")
    return Evidence(
        board=board,
        present=registry.current(),
        model=model,
        challenger=challenger,
        baseline=baseline,
        versus_baseline=compared.compare(model, baseline.evaluation),
        decided=tuple(decided),
        decisions=count_decisions(registry, test_id, evaluations),
        unjudged=unjudged,
        versus_reference=compared.latest_match(decided, baseline.evaluation.terms),
        better=_better(evaluations, board, baseline.evaluation),
        curves=tuple(curve for curve in lines.values() if isinstance(curve, LearningCurve)),
        curve=own,
        advice=advice(own, options.worth_of_doubling) if isinstance(own, LearningCurve) else None,
        costs=tuple(costs),
        prices=prices,
        api_model=api_model,
        max_broken_share=rules.max_broken_share,
        grid_sizes=grid_sizes,
        cut=cut,
    )


@dataclass(frozen=True)
class _Compared:
    """Comparisons on a board's test pairs, each with so many flipped pairs shown."""

    board: Leaderboard
    evaluations: Path
    flipped_pairs: int

    def compare(self, ours: Evaluation, theirs: Evaluation) -> Comparison:
        """The two side by side."""
        return compare(ours, theirs, self.board.snapshot, self.evaluations, self.flipped_pairs)

    def latest_match(self, decided: Sequence[Entry], terms: Terms) -> Comparison | None:
        """The latest decision's challenger against whom it met, where both are evaluated on these terms."""
        if not decided or decided[-1].verdict is None:
            return None
        ours, theirs = (
            load_evaluation(evaluation_folder(self.evaluations, self.board.snapshot.test_id, record_id), terms)
            for record_id in (decided[-1].verdict.challenger, decided[-1].verdict.reference)
        )
        return self.compare(ours, theirs) if ours and theirs else None


def _line(record: Evaluation) -> tuple[str, str | None]:
    return record.variant, record.recipe


def _curves(evaluations: Path, board: Leaderboard) -> dict[tuple[str, str | None], LearningCurve | str]:
    """The power law of each line, or why it has none, cells of older snapshots among them: all are judged on the same pairs.
    Where `all` holds pairs of both sources it is left out: sizes differ in amount alone.
    """
    rows = [row for row in board.trained if row.size != ALL or not board.snapshot.mixed]
    lines = dict.fromkeys(_line(row) for row in rows)
    return {line: learning_curve_of(evaluations, [row for row in rows if _line(row) == line]) for line in lines}


def _better(evaluations: Path, board: Leaderboard, baseline: Evaluation) -> dict[str, float]:
    """Holm-adjusted p-values, by record, of the trained rows' making fewer errors than the baseline."""
    if baseline.no_verdict or baseline.alarm:
        return {}
    theirs = decisions(evaluations, baseline)
    if baseline.failures:
        theirs = theirs[~theirs["failed"]]
    components = theirs["component"].to_numpy()
    rows = [row for row in board.tuned if not row.alarm]
    ids = [row.record_id for row in rows]
    wrong = (decisions(evaluations, row).loc[theirs.index, "wrong"].to_numpy() for row in rows)
    factor = SHARED_TRAINING if baseline.is_cross_fitted else 1.0
    p_values = [quick_p_value(each, np.asarray(theirs["wrong"]), components, factor) for each in wrong]
    return dict(zip(ids, holm(p_values), strict=True))
