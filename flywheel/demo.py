"""`flywheel demo`: the whole loop, once, on the starter set, through the same assets that the UI shows."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from flywheel.errors import FlywheelError
from flywheel.evidence.render.terminal import print_section
from flywheel.evidence.sections import board_section, decision_section
from flywheel.models.catalogue import Variant
from flywheel.orchestration import grid, steps
from flywheel.orchestration.materialise import materialise
from flywheel.pairs.snapshots.folder import latest_snapshot
from flywheel.report import console, run_grid
from flywheel.training.job import GRID_DIMENSIONS, SIZES

if TYPE_CHECKING:
    from flywheel.orchestration.instance import Session

_BASE = "all-MiniLM-L6-v2"


def run(session: "Session", as_json: bool) -> None:
    """Ingest, split, train MiniLM at every size the starter set fills, evaluate, promote, and show what came of it."""
    session = session.with_settings(seed="starter", baseline="local")  # a demo spends no money, whatever key lies about
    settings = session.settings
    out = console(as_json)
    started = time.monotonic()
    out.print(f"flywheel demo: home {settings.home}")
    out.print(
        "\n[bold]1. Pairs in[/bold]  questions of a file-sharing service's help desk, labelled same or different, "
        "and what users left since"
    )
    new_files = grid.starter_interactions(settings)
    if not new_files or latest_snapshot(settings) is None:
        materialise(session, ["seed_pairs", "pairs", "snapshot"])  # draws the test pairs before users speak
    materialise(session, ["interaction_pairs", "pairs", "snapshot"])
    counts, taken = steps.count(settings), steps.current_snapshot(settings)
    out.print(
        f"{counts.seed:,} seed pairs, {counts.interaction:,} interaction pairs "
        f"({f'{len(new_files)} new files' if new_files else 'no new files, nothing ingested twice'}); "
        f"{counts.conflicting} with both labels, {counts.embargoed} embargoed because they hang on questions set aside "
        "for calibration and test"
    )
    out.print(
        f"snapshot {taken.snapshot_id[:12]}: {taken.train.pairs:,} to train, {taken.calibration.pairs:,} to choose "
        f"thresholds, {taken.test.pairs:,} for the verdict; no question stands in two of them"
    )
    out.print(f"\n[bold]2. Train and evaluate[/bold]  {_BASE}, head on a frozen encoder, every size the data fills")
    variants = [Variant(_BASE, dim) for dim in GRID_DIMENSIONS[_BASE]]
    cells = run_grid(session, variants, SIZES, "head", as_json)
    if failed := [cell for cell in cells if cell["outcome"] == "failed"]:
        raise FlywheelError(f"{len(failed)} cells failed; the reasons stand above. Run the demo again when they are mended.")
    materialise(session, ["baseline_scores", "leaderboard"])
    baseline = steps.measure_baseline(settings)
    out.print("\n[bold]3. Verdict[/bold]")
    materialise(session, ["champion", "evidence"])
    board, present = steps.leaderboard(settings), steps.registry(settings).current()
    if as_json:
        champion = asdict(present.champion) if present and present.champion else None
        print(json.dumps({"cells": cells, "leaderboard": board.to_json(), "champion": champion}, indent=1))
        return
    print_section(board_section(board, steps.champion_id(settings)), out)
    if baseline.advice:
        out.print(baseline.advice, style="cyan")
    latest = steps.registry(settings).history()
    if latest:
        print_section(decision_section(latest[-1], present, False), out)
    if not any(cell["outcome"] == "trained" for cell in cells):
        out.print("\nEverything was finished already: no question was encoded and no cell trained a second time.")
    out.print(f"\nPage:   {settings.home / 'evidence.html'}  (open it in a browser; `flywheel evidence` shows it here)")
    out.print(f"Figure: {settings.home / 'error_versus_size.png'}")
    if present and present.champion:
        out.print(f"Model:  {settings.models / present.champion.model}  (loads with SentenceTransformer)")
    out.print(f"Done in {time.monotonic() - started:.0f} s. Next: [bold]flywheel up[/bold] opens the Dagster UI on this state.")
