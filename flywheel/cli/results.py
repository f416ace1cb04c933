"""Verbs for results: leaderboard, evidence, and the champion. All but `champion promote` and `rollback` only read."""

from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, open_workspace, print_json
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from flywheel.evaluation.records import Evaluation
    from flywheel.pairs.snapshots.snapshot import Snapshot
    from flywheel.pipeline.workspace import Workspace
    from flywheel.registry.champions import Entry

app = typer.Typer()
champion_app = typer.Typer(no_args_is_help=False, help="The promoted model: show, history, promote, rollback.")
app.add_typer(champion_app, name="champion")


@app.command()
def leaderboard(home: Home = None, as_json: Json = False) -> None:
    """Every evaluated model of the current snapshot beside the baseline."""
    from flywheel.cli.console import console
    from flywheel.evidence.render.terminal import print_section
    from flywheel.evidence.sections import board_section
    from flywheel.pipeline import evaluation

    workspace = open_workspace(home)
    board = evaluation.leaderboard(workspace, workspace.current_snapshot())
    if as_json:
        return print_json(board.to_json())
    if not board.rows:
        following = "Next: flywheel grid" if board.snapshot.can_judge else board.snapshot.way_to_a_draw
        print(f"No model has been evaluated on snapshot {board.snapshot.snapshot_id[:12]} yet. {following}")
        return
    champion = workspace.registry.champion()
    print_section(board_section(board, champion.model if champion else None), console(False))
    print("Next: flywheel evidence" if board.tuned else "Next: flywheel grid")


@app.command()
def evidence(home: Home = None, as_json: Json = False) -> None:
    """The page for a sceptic: which model, how much better, how sure, at what cost, what breaks, what to do next."""
    from flywheel.cli.console import console, waiting
    from flywheel.evidence.page import as_plain
    from flywheel.evidence.render.terminal import print_page
    from flywheel.pipeline.publish import save_page

    workspace = open_workspace(home)
    with waiting("comparing and drawing", as_json):
        page, file = save_page(workspace, workspace.current_snapshot())
    if as_json:
        return print_json({**as_plain(page), "file": str(file)})
    print_page(page, console(False))
    print(f"The same as one file for a browser: {file}")


@champion_app.callback(invoke_without_command=True)
def champion(context: typer.Context, home: Home = None, as_json: Json = False) -> None:
    """Show the champion when no other verb is given."""
    if context.invoked_subcommand is None:
        show(home, as_json)


@champion_app.command()
def show(home: Home = None, as_json: Json = False) -> None:
    """The champion: its model folder, its threshold and its figures."""
    workspace = open_workspace(home)
    present = workspace.registry.current()
    if present is None or present.champion is None:
        if workspace.registry.history():
            raise FlywheelError(
                "No model was proven better, so there is no champion yet. Run `flywheel evidence`, which says what next."
            )
        raise FlywheelError("There is no champion yet. Run `flywheel grid`, then `flywheel champion promote`.")
    _print_entry(workspace, present, as_json)


@champion_app.command()
def history(home: Home = None, as_json: Json = False) -> None:
    """What became of every turn, and every rollback, oldest first."""
    from dataclasses import asdict

    from flywheel.registry.decisions import in_words

    entries = open_workspace(home).registry.history()
    if as_json:
        return print_json([asdict(entry) for entry in entries])
    for entry in entries:
        print(f"{entry.number:>4}  {entry.time}  {entry.action:<11}  {in_words(entry)}")
    if not entries:
        print("No decision yet.")


@champion_app.command()
def promote(home: Home = None, as_json: Json = False) -> None:
    """Judge the best challenger now; it is promoted only if it is provably better."""
    from flywheel.orchestration import grid
    from flywheel.orchestration.assets.promote import NO_NEW_DECISION
    from flywheel.orchestration.materialise import materialise

    with open_home(home) as session:
        snapshot = grid.ensure_snapshot(session)
        grid.measure_references(session)
        decision = materialise(session, ["leaderboard", "champion"])["champion"]
    workspace = session.workspace
    history = workspace.registry.history()
    entry = next(entry for entry in history if entry.number == decision["entry"])
    if decision["outcome"] == NO_NEW_DECISION and not as_json:
        print(_reason_unjudged(workspace, entry, snapshot.test_id))
    if entry.verdict is None and entry.turn is None:  # a rollback: what is shown is the decision that once made this champion
        entry = next(former for former in reversed(history) if former.verdict and former.champion == entry.champion)
    _print_entry(workspace, entry, as_json, judged=decision["judged"])


@champion_app.command()
def rollback(to: Annotated[int | None, typer.Argument(help="Entry of the history; default: the one before.")] = None,
             home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Restore an earlier champion."""
    from flywheel.pipeline.promotion import rollback as restore

    workspace = open_workspace(home)
    _print_entry(workspace, restore(workspace, to), as_json)


def _reason_unjudged(workspace: "Workspace", entry: "Entry", test_id: str) -> str:
    """Why nothing was judged, where asking for a decision gave this earlier entry; the other test set if it was on one."""
    present, verdict = workspace.registry.current(), entry.verdict
    reason = "The champion is already the best candidate of this snapshot: nothing was judged."
    if verdict and entry != present:
        reason = f"{verdict.challenger_name} was judged against {verdict.reference_name} before: nothing was judged again."
    made = verdict or entry.champion
    if made and made.test_id != test_id:
        reason += f" The decision below was made on the test set {made.test_id}, which is not the present one."
    return reason


def _print_entry(workspace: "Workspace", entry: "Entry", as_json: bool, **more: bool) -> None:
    """Show an entry of the history and who is champion now; JSON also gets `more`."""
    from dataclasses import asdict

    from flywheel.cli.console import console
    from flywheel.evaluation.comparison import unsound_text
    from flywheel.evidence.render.terminal import print_section
    from flywheel.evidence.sections import decision_section

    present = workspace.registry.current()
    champion = present.champion if present else None
    folder = str(workspace.trained.find(champion.model)) if champion else None
    snapshot = workspace.snapshots.latest()
    now = _now(workspace, snapshot, champion.model) if champion and snapshot else None
    alarm = unsound_text(now) if now and now.alarm else None
    if as_json:
        fields = {**asdict(champion), "model": folder, "alarm": alarm} if champion else {"model": None}
        if now:
            fields |= {"present_error": now.error, "present_test_id": now.test_id, "present_n": now.metrics.n}
        parts = {name: asdict(part) if part else None for name, part in (("verdict", entry.verdict), ("turn", entry.turn))}
        return print_json({**fields, "entry": entry.number, "action": entry.action, **parts, **more})
    print_section(decision_section(entry, present, snapshot is not None and snapshot.on_quora, now), console(False))
    if folder:
        print(f"Model folder: {folder}")
    if alarm:
        print(f"On the present test pairs {alarm}")
    return None


def _now(workspace: "Workspace", snapshot: "Snapshot", model: str) -> "Evaluation | None":
    """The champion's `model` on the present test pairs, where it was evaluated on them."""
    from flywheel.pipeline.evaluation import read_record

    return read_record(workspace, snapshot, model)
