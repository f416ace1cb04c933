"""Who is champion: the next match, the decision, and the way back."""

from typing import NamedTuple

from flywheel.errors import FlywheelError
from flywheel.evaluation.comparison import unsound
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.evaluation import leaderboard, read_baseline, read_champion
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.champions import Champion, Entry
from flywheel.registry.decisions import choose_challenger, decide
from flywheel.training.model import RECORD, TrainedModel


class Match(NamedTuple):
    """Two models to be compared: the challenger, and the champion, or the baseline while there is none that can be compared.
    `candidates` are the cross-fitted ones among which the challenger was chosen.
    """

    challenger: Evaluation
    reference: Evaluation
    candidates: tuple[Evaluation, ...] = ()


def next_match(workspace: Workspace, board: Leaderboard, baseline: Evaluation, champion: Evaluation | None) -> Match | None:
    """The candidate with the lowest error on calibration pairs against the champion, or the baseline while there is none.

    A champion with an alarm on these pairs counts as none. None where the champion itself is that candidate. Raises
    FlywheelError when there is no candidate.
    """
    candidates = [row for row in board.tuned if (workspace.home.models / row.record_id / RECORD).exists()]
    if board.snapshot.is_cross_fitted:
        return _cross_fitted_match(candidates, baseline, workspace.registry.champion())
    if champion is None or champion.alarm:
        candidates = [row for row in candidates if champion is None or row.record_id != champion.record_id]
        return Match(choose_challenger(candidates), baseline)
    challenger = choose_challenger([*candidates, champion])
    return None if challenger.record_id == champion.record_id else Match(challenger, champion)


def _cross_fitted_match(candidates: list[Evaluation], baseline: Evaluation, champion: Champion | None) -> Match | None:
    """Of the candidates that trained on everything, the one that its own folds chose.

    A champion of older pairs has trained on pairs that judge, so its successor takes its place: the same variant and recipe,
    trained on the present pairs. Where there is none, or it is the challenger, the baseline is to be beaten.
    """
    candidates = [row for row in candidates if row.size == ALL]
    challenger = choose_challenger(candidates)
    successor = next((row for row in candidates if champion and _line(row) == (champion.variant, champion.recipe)), None)
    if champion and challenger.record_id == champion.model:
        return None
    if successor is None or successor.alarm or successor.record_id == challenger.record_id:
        successor = baseline
    return Match(challenger, successor, tuple(candidates))


def _line(row: Evaluation) -> tuple[str, str | None]:
    return row.variant, row.recipe


def decide_champion(workspace: Workspace, snapshot: Snapshot) -> tuple[Entry, bool]:
    """Judge the next challenger, if there is one; returns the history's entry and whether it is new.

    Raises FlywheelError when there is nothing to judge, one of the two is not sane, or the baseline or the champion is not
    measured on this snapshot.
    """
    reigning = workspace.registry.champion()
    champion = read_champion(workspace, snapshot)
    baseline = read_baseline(workspace, snapshot).evaluation
    match = next_match(workspace, leaderboard(workspace, snapshot), baseline, champion)
    if match is None:
        entry = workspace.registry.current()
        assert entry is not None
        return entry, False
    reigned = reigning.model if reigning else None
    rules, evaluations = workspace.settings.promotion, workspace.home.evaluations
    return decide(workspace.registry, *match[:2], evaluations, rules, reigned, match.candidates)


def unsound_side(workspace: Workspace, snapshot: Snapshot) -> Evaluation | None:
    """The side of the next match that cannot be compared with anything; None where both can, or no match can be made."""
    try:
        baseline, champion = read_baseline(workspace, snapshot).evaluation, read_champion(workspace, snapshot)
        match = next_match(workspace, leaderboard(workspace, snapshot), baseline, champion)
    except FlywheelError:  # said by who decides
        return None
    return unsound(match.challenger, match.reference) if match else None


def rollback(workspace: Workspace, to: int | None) -> Entry:
    """Restore an earlier champion whose model folder is there (see `Registry.rollback`)."""
    target = workspace.registry.rollback_target(to)
    if target.champion is None:
        raise FlywheelError(f"Entry {target.number} made no champion; `flywheel champion history` lists them.")
    folder = workspace.home.models / target.champion.model
    if not folder.exists():
        raise FlywheelError(
            f"The model folder {folder} of entry {target.number} is gone. Put a copy of it back, or name another entry: "
            "`flywheel champion history` lists them."
        )
    TrainedModel.load(folder)
    return workspace.registry.rollback(target.number)
