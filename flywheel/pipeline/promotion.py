"""Who is champion: the next match, the decision, and the way back."""

from pathlib import Path
from typing import NamedTuple

from flywheel.errors import FlywheelError, NoVerdictError
from flywheel.evaluation.comparison import unsound
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.pipeline.evaluation import leaderboard, read_baseline, read_champion
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.champions import Champion, Entry, Turn
from flywheel.registry.decisions import choose_challenger, decide
from flywheel.training.model import TrainedModel


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
    there = set(workspace.trained.names())
    candidates = [row for row in board.tuned if row.record_id in there]
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

    A snapshot on which nothing can be judged, or nothing is to be judged any more, leaves one entry that says why. Raises
    FlywheelError when there is nothing to judge, one of the two is not sane, or the baseline or the champion is not measured on
    this snapshot.
    """
    reigning = workspace.registry.champion()
    champion = read_champion(workspace, snapshot)
    baseline = read_baseline(workspace, snapshot).evaluation
    board = leaderboard(workspace, snapshot)
    match = next_match(workspace, board, baseline, champion)
    if match is None:
        return _note(workspace, board, champion, "It has the lower error on calibration pairs: nothing was judged.")
    reigned = reigning.model if reigning else None
    rules, evaluations = workspace.settings.promotion, decided_pairs(workspace)
    try:
        entry, new = decide(workspace.registry, *match[:2], evaluations, rules, reigned, snapshot.snapshot_id, match.candidates)
    except NoVerdictError as error:
        _note(workspace, board, champion, str(error))
        raise
    if new:
        return entry, True
    reason = f"{match.challenger.name} was judged against {match.reference.name} before: nothing was judged again."
    noted, new = _note(workspace, board, champion, reason)
    return (noted, True) if new else (entry, False)


def decided_pairs(workspace: Workspace) -> Path:
    """The folder of evaluation records, with those of every test set that decisions were made on."""
    return workspace.records.pull(*(entry.verdict.test_id for entry in workspace.registry.history() if entry.verdict))


def _note(workspace: Workspace, board: Leaderboard, champion: Evaluation | None, reason: str) -> tuple[Entry, bool]:
    """Say in the history why a snapshot brought no decision, once a snapshot.

    Returns the entry and whether it is new. Where the snapshot has one already, or brought no model but the champion, it is the
    newest of the snapshot's entries and the champion's.
    """
    registry, snapshot_id = workspace.registry, board.snapshot.snapshot_id
    new_models = [row for row in board.tuned if champion is None or row.record_id != champion.record_id]
    with registry.locked():
        history = registry.history()
        known = [entry for entry in history if entry.snapshot_id == snapshot_id]
        if known or not new_models:
            present = registry.current() or history[-1]
            return max([present, *known], key=lambda entry: entry.number), False
        best = choose_challenger(new_models)
        turn = Turn(
            candidate=best.record_id,
            candidate_name=best.name,
            error=best.error,
            train_pairs=best.train_pairs,
            champion=champion.record_id if champion else None,
            champion_error=champion.error if champion else None,
            test_id=board.snapshot.test_id,
            reason=reason,
        )
        return registry.note(turn, snapshot_id), True


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
    folder = workspace.trained.find(target.champion.model)
    if not folder.exists():
        raise FlywheelError(
            f"The model folder {folder} of entry {target.number} is gone. Put a copy of it back, or name another entry: "
            "`flywheel champion history` lists them."
        )
    TrainedModel.load(folder)
    return workspace.registry.rollback(target.number)
