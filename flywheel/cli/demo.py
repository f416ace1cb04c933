"""`flywheel demo`: the whole loop, once, on the starter set, through the same assets that the UI shows."""

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from flywheel.cli.common import Home, Json, open_home, print_json
from flywheel.cli.grid import run_grid
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from rich.console import Console

    from flywheel.orchestration.instance import Session
    from flywheel.pairs.snapshots.snapshot import Snapshot

app = typer.Typer()
_BASE = "all-MiniLM-L6-v2"


@app.command()
def demo(home: Home = None, as_json: Json = False) -> None:
    """Turn the whole loop once on the starter set: ingest, train, evaluate, promote."""
    from flywheel.cli.console import console
    from flywheel.orchestration.grid import measure_references
    from flywheel.orchestration.materialise import materialise
    from flywheel.pipeline.evaluation import how_to_measure_the_api
    from flywheel.training.options import GridOptions

    with open_home(home) as opened:
        # A demo spends no money, even where a key is set.
        workspace = opened.workspace.with_options("pairs", seed_pairs="starter").with_options("baseline", source="local")
        session = replace(opened, workspace=workspace)
        out, started = console(as_json), time.monotonic()
        out.print(f"flywheel demo: home {workspace.home.root}")
        snapshot = _bring_pairs(session, out)
        out.print(f"\n[bold]2. Train and evaluate[/bold]  {_BASE}, head on a frozen encoder, every size the data fills")
        outcomes = run_grid(session, snapshot, GridOptions().cells, "head", as_json)
        if any(outcome["outcome"] == "failed" for outcome in outcomes):
            raise FlywheelError(
                "Some cells failed; the reasons are above. Put that right and run `flywheel demo` again; finished cells stay."
            )
        measure_references(session)
        out.print("\n[bold]3. Verdict[/bold]")
        materialise(session, ["leaderboard", "champion", "evidence"])
        if as_json:
            return print_json(_results(session, snapshot, outcomes))
        _show_results(session, snapshot, how_to_measure_the_api(opened.workspace), out)
        if not any(outcome["outcome"] == "trained" for outcome in outcomes):
            out.print("\nEverything was finished already: no question was encoded and no cell trained a second time.")
        _say_what_next(session, out, time.monotonic() - started)
    return None


def _bring_pairs(session: "Session", out: "Console") -> "Snapshot":
    from flywheel.orchestration.materialise import materialise
    from flywheel.pairs.store.labels import count_pairs
    from flywheel.pipeline.ingest import deliver_starter_interactions

    workspace = session.workspace
    out.print(
        "\n[bold]1. Pairs in[/bold]  questions of a file-sharing service's help desk, labelled same or different, "
        "and what users left since"
    )
    new_files = deliver_starter_interactions(workspace)
    if not new_files or workspace.snapshots.latest() is None:
        materialise(session, ["seed_pairs", "pairs", "snapshot"])  # draws the test pairs before users speak
    made = materialise(session, ["interaction_pairs", "pairs", "snapshot"])["snapshot"]
    counts, taken = count_pairs(workspace.store), workspace.snapshots.load(made["snapshot_id"])
    out.print(
        f"{counts.seed:,} seed pairs, {counts.interaction:,} interaction pairs "
        f"({f'{len(new_files)} new files' if new_files else 'no new files, nothing ingested twice'}); "
        f"{counts.conflicting} with both labels, {counts.embargoed} embargoed because they are linked to questions set aside "
        "for calibration and test"
    )
    out.print(
        f"snapshot {taken.snapshot_id[:12]}: {taken.train.pairs:,} to train, {taken.calibration.pairs:,} to choose "
        f"thresholds, {taken.test.pairs:,} for the verdict; no question is in two of them"
    )
    return taken


def _results(session: "Session", snapshot: "Snapshot", outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    from flywheel.pipeline.evaluation import leaderboard

    champion = session.workspace.registry.champion()
    return {
        "cells": outcomes,
        "leaderboard": leaderboard(session.workspace, snapshot).to_json(),
        "champion": asdict(champion) if champion else None,
    }


def _show_results(session: "Session", snapshot: "Snapshot", advice: str, out: "Console") -> None:
    from flywheel.evidence.render.terminal import print_section
    from flywheel.evidence.sections import board_section, decision_section
    from flywheel.pipeline.evaluation import leaderboard

    workspace = session.workspace
    champion = workspace.registry.champion()
    print_section(board_section(leaderboard(workspace, snapshot), champion.model if champion else None), out)
    out.print(advice, style="cyan")
    if history := workspace.registry.history():
        print_section(decision_section(history[-1], workspace.registry.current(), False), out)


def _say_what_next(session: "Session", out: "Console", seconds: float) -> None:
    place, champion = session.workspace.home, session.workspace.registry.champion()
    out.print(f"\nPage:   {place.evidence_page}  (open it in a browser; `flywheel evidence` shows it here)")
    out.print(f"Figure: {place.figure}")
    if champion:
        out.print(f"Model:  {place.models / champion.model}  (loads with SentenceTransformer)")
    out.print(f"Done in {seconds:.0f} s. Next: [bold]flywheel up[/bold] opens the Dagster UI on this state.")
