"""Verbs for the verdict: leaderboard, evidence, and the champion."""

from typing import TYPE_CHECKING, Annotated

import typer

from flywheel.cli.common import Home, Json, open_home, print_json, read_settings
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from flywheel.orchestration.instance import Session
    from flywheel.registry.champions import Entry
    from flywheel.settings import Settings

app = typer.Typer()
champion_app = typer.Typer(no_args_is_help=False, help="The promoted model: show, history, promote, rollback.")
app.add_typer(champion_app, name="champion")


@app.command()
def leaderboard(home: Home = None, as_json: Json = False) -> None:
    """Every evaluated model of the current snapshot beside the baseline."""
    from flywheel.evidence.render.terminal import print_section
    from flywheel.evidence.sections import board_section
    from flywheel.orchestration import steps
    from flywheel.report import bars, console, training_listener

    with open_home(home) as session:
        settings = session.settings
        _ensure_baseline(session)
        with bars(as_json) as shown, steps.watched(training_listener(shown)):
            steps.evaluate_opponents(settings)
        board = steps.leaderboard(settings)
    if as_json:
        return print_json(board.to_json())
    print_section(board_section(board, steps.champion_id(settings)), console(False))
    print("Next: flywheel evidence")


@app.command()
def evidence(home: Home = None, as_json: Json = False) -> None:
    """The page for a sceptic: which model, how much better, how sure, at what cost, what breaks, what to do next."""
    from flywheel.evidence.page import as_plain
    from flywheel.evidence.render.terminal import print_page
    from flywheel.orchestration import findings
    from flywheel.report import console, waiting

    with open_home(home) as session:
        settings = session.settings
        _ensure_baseline(session)
        with waiting("comparing, drawing, timing", as_json):
            page, file = findings.save_page(settings)
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
    """The champion: where its model lies, its threshold and its figures."""
    from flywheel.orchestration import steps

    settings = read_settings(home)
    present = steps.registry(settings).current()
    if present is None or present.champion is None:
        raise FlywheelError("There is no champion yet; run `flywheel champion promote` once cells are evaluated.")
    _print_entry(settings, present, as_json)


@champion_app.command()
def history(home: Home = None, as_json: Json = False) -> None:
    """Every decision and rollback, oldest first."""
    from dataclasses import asdict

    from flywheel.orchestration import steps

    entries = steps.registry(read_settings(home)).history()
    if as_json:
        return print_json([asdict(entry) for entry in entries])
    for entry in entries:
        who = entry.verdict.challenger_name if entry.verdict else entry.champion and entry.champion.variant
        print(f"{entry.number:>4}  {entry.time}  {entry.action:<11}  {who}  {entry.verdict.reason if entry.verdict else ''}")
    if not entries:
        print("No decision yet.")


@champion_app.command()
def promote(home: Home = None, as_json: Json = False) -> None:
    """Judge the best challenger now; it is promoted only if it is provably better."""
    from flywheel.orchestration import steps
    from flywheel.orchestration.materialise import materialise

    with open_home(home) as session:
        settings = session.settings
        _ensure_baseline(session)
        found = materialise(session, ["leaderboard", "champion"])["champion"]
    history = steps.registry(settings).history()
    entry = next(entry for entry in history if entry.number == found["entry"])
    if not found["judged"] and not as_json:
        print(_why_unjudged(settings, entry))
    if entry.verdict is None:  # a rollback: what is shown is the decision that once made this champion
        entry = next(each for each in reversed(history) if each.verdict and each.champion == entry.champion)
    _print_entry(settings, entry, as_json, judged=found["judged"])


@champion_app.command()
def rollback(to: Annotated[int | None, typer.Argument(help="Entry of the history; default: the one before.")] = None,
             home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Restore an earlier champion."""
    from flywheel.orchestration import steps

    settings = read_settings(home)
    _print_entry(settings, steps.rollback(settings, to), as_json)


def _ensure_baseline(session: "Session") -> None:
    """Measure the baseline; where that takes paying the API, say first about how much."""
    from flywheel.orchestration import baseline, grid
    from flywheel.report import console, cost_text

    grid.ensure_snapshot(session)
    settings = session.settings
    if settings.baseline != "local" and settings.openai_api_key:
        expected, counted_by = baseline.estimate(settings, baseline.texts_to_embed(settings, train=False))
        if expected.missing:
            said = f"{settings.baseline_model} is paid for {expected.missing:,} texts: {cost_text(expected, counted_by)}"
            console(True).print(said)
    grid.ensure_baseline(session)


def _why_unjudged(settings: "Settings", entry: "Entry") -> str:
    """Why nothing was judged, where asking for a decision gave this entry of before; the other test set if it was on one."""
    from flywheel.orchestration import steps

    present, verdict = steps.registry(settings).current(), entry.verdict
    said = "The champion is already the best candidate of this snapshot: nothing was judged."
    if verdict and entry != present:
        said = f"{verdict.challenger_name} was judged against {verdict.reference_name} before: nothing was judged anew."
    made = verdict or entry.champion
    if made and made.test_id != steps.current_snapshot(settings).test_id:
        said += f" The decision below was made on the test set {made.test_id}, which is not the present one."
    return said


def _print_entry(settings: "Settings", entry: "Entry", as_json: bool, **said: bool) -> None:
    """Show an entry of the history and who is champion now; programs get what else is `said` of it."""
    from dataclasses import asdict

    from flywheel.evidence.render.terminal import print_section
    from flywheel.evidence.sections import decision_section
    from flywheel.orchestration import steps
    from flywheel.pairs.snapshots.folder import latest_snapshot
    from flywheel.report import console

    present = steps.registry(settings).current()
    champion = present.champion if present else None
    folder = str(settings.models / champion.model) if champion else None
    if as_json:
        fields = {**asdict(champion), "model": folder} if champion else {"model": None}
        verdict = asdict(entry.verdict) if entry.verdict else None
        return print_json({**fields, "entry": entry.number, "action": entry.action, "verdict": verdict, **said})
    on = latest_snapshot(settings)
    print_section(decision_section(entry, present, on is not None and on.on_quora), console(False))
    if folder:
        print(f"Model folder: {folder}")
    return None
