"""The verb grid: plan, encode, train and evaluate many cells."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flywheel.cli.common import Home, Json, open_home, print_json
from flywheel.cli.models import Recipe
from flywheel.errors import FlywheelError

if TYPE_CHECKING:
    from flywheel.orchestration.instance import Session
    from flywheel.pairs.snapshots.snapshot import Snapshot
    from flywheel.pipeline.costs import GridCost
    from flywheel.training.job import Cell, RecipeName

app = typer.Typer()


@app.command(name="grid")
def grid_command(variant: Annotated[list[str] | None, typer.Option(help="A variant; may be given several times.")] = None,
                 size: Annotated[list[str] | None, typer.Option(help="A size; may be given several times.")] = None,
                 recipe: Recipe = "head", home: Home = None, as_json: Json = False) -> None:  # fmt: skip
    """Train and evaluate many cells: the whole grid (settings `grid`), or the variants and sizes given, in the grid or not."""
    from flywheel.models.catalogue import Variant
    from flywheel.orchestration import grid
    from flywheel.training.job import Cell, check_recipe, check_size

    named, sizes = [Variant.parse(text) for text in variant or ()], [check_size(text) for text in size or ()]
    with open_home(home) as session:
        options = session.workspace.settings.grid
        variants = named or [Variant.parse(text) for text in options.variants]
        cells = [Cell(each, number) for each in variants for number in sizes or options.sizes]
        snapshot = grid.ensure_snapshot(session)
        outcomes = run_grid(session, snapshot, cells, check_recipe(recipe), as_json)
        if all(outcome["outcome"] == "impossible" for outcome in outcomes):
            raise FlywheelError(_nothing_fits([outcome["reason"] for outcome in outcomes], variant or []))
        grid.measure_references(session)
    if as_json:
        print_json(outcomes)
    if any(outcome["outcome"] == "failed" for outcome in outcomes):
        raise FlywheelError("Some cells failed; the reasons are above. The others are finished.")
    if not as_json:
        print("Next: flywheel leaderboard")


def _nothing_fits(reasons: "Sequence[str]", variants: "Sequence[str]") -> str:
    """Why none of the cells that were asked for can be trained, and what leads on: the size all can always be filled."""
    sizes = [reason for reason in reasons if reason.startswith("sizes above")]
    named = "".join(f" --variant {variant}" for variant in variants)
    reason = f"{sizes[0]}. Run `flywheel grid{named} --size all`." if sizes else reasons[0]
    return f"None of the {len(reasons)} cells can be trained: {reason}"


def run_grid(
    session: "Session", snapshot: "Snapshot", cells: "Sequence[Cell]", recipe: "RecipeName", as_json: bool
) -> list[dict[str, Any]]:
    """Show the plan, encode what is missing, run the cells with a bar; returns one dict a cell with its outcome."""
    from flywheel.cli.console import ENCODING, bars, console, training_listener
    from flywheel.orchestration import grid
    from flywheel.pipeline.costs import estimate_grid
    from flywheel.pipeline.training import encode_ahead

    out = console(as_json)
    plan = grid.plan_cells(session, snapshot, cells, recipe)
    to_do = [planned.cell for planned in plan if planned.state == "to do"]
    done = sum(planned.state == "done" for planned in plan)
    impossible = [planned.reason for planned in plan if planned.state == "impossible"]
    out.print(f"{len(to_do)} cells to train, {done} already finished, {len(impossible)} that cannot be filled")
    for reason in dict.fromkeys(impossible):
        out.print(f"  {reason}", style="dim")
    outcomes = {planned.cell: (str(planned.state), planned.reason) for planned in plan}
    if to_do:
        out.print(_cost_text(estimate_grid(session.workspace, snapshot, to_do, recipe)))
        with bars(as_json) as shown:
            new, failures = encode_ahead(session.workspace, snapshot, to_do, partial(shown.report, ENCODING))
        for reason in failures.values():
            out.print(f"  {reason}", style="dim")
        out.print(f"{new:,} questions encoded, every other one was cached" if new else "every question was cached already")
        with bars(as_json) as shown:
            listening = session.with_listener(training_listener(shown))
            progress = partial(shown.report, "training and evaluating cells")
            progress(0, len(to_do))
            for i, finished in enumerate(grid.run_cells(listening, snapshot, to_do, recipe), start=1):
                outcomes[finished.cell] = ("failed", finished.failure) if finished.failure else ("trained", "")
                progress(i, len(to_do))
    for cell, (outcome, reason) in outcomes.items():
        if outcome == "failed":
            print(f"  failed: {cell}: {reason}", file=sys.stderr)
    return [
        {"variant": str(cell.variant), "size": cell.size, "outcome": outcome, "reason": reason}
        for cell, (outcome, reason) in outcomes.items()
    ]


def _cost_text(cost: "GridCost") -> str:
    from flywheel.evidence.words import duration

    again = f" and {cost.texts_by_trained:,} by trained layers" if cost.texts_by_trained else ""
    disk = f", {cost.state_bytes / 1e9:.1f} GB of token states" if cost.state_bytes else ""
    took = f", about {duration(cost.encoding_seconds)}" if cost.encoding_seconds else ""
    trainings = "duration unknown (no finished training to compare)"
    if cost.training_seconds is not None:
        trainings = f"about {duration(cost.training_seconds)}"
        if cost.at_once > 1:
            trainings += f" of machines, {cost.at_once} at once: about {duration(cost.training_seconds / cost.at_once)}"
    parts = [f"{cost.texts:,} texts to encode{again}{disk}{took}", f"{cost.trainings} trainings, {trainings}"]
    if cost.texts_away:
        as_here = f", about {duration(cost.away_seconds)} at this machine's speed" if cost.away_seconds else ""
        parts.insert(1, f"{cost.texts_away:,} to encode on the cluster{as_here}")
    if cost.money is not None:
        parts.append(f"about {cost.money:.2f} by compute.price_per_hour")
    return "; ".join(parts)
