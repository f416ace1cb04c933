"""What the command line shows: progress bars, the grid's plan, the leaderboard as a table."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from flywheel.evidence.words import duration, percent
from flywheel.pairs.store.contradictions import Contradictions
from flywheel.pairs.store.overview import Overview, PairEvent
from flywheel.training.progress import Encoded, Trained

if TYPE_CHECKING:
    from flywheel.models.api.ledger import Paid
    from flywheel.models.catalogue import Variant
    from flywheel.orchestration.baseline import BaselineStatus, Coverage
    from flywheel.orchestration.costs import GridCost
    from flywheel.orchestration.instance import Session
    from flywheel.orchestration.tidying import Kept
    from flywheel.training.progress import Event, Listener

ENCODING = "encoding questions"


def console(to_stderr: bool) -> Console:
    """Where people read: stdout, or stderr while a program reads stdout. A file or pipe is as wide as tables need."""
    out = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
    return out if out.is_terminal else Console(stderr=to_stderr, highlight=False, soft_wrap=True, width=120)


class Bars(Progress):
    """Bars by their name, each of which appears with its first report of (done, of)."""

    def report(self, name: str, done: int, of: int) -> None:
        """Bring a bar up to date."""
        for task in self.tasks:
            if task.description == name:
                return self.update(task.id, completed=done, total=of)
        self.add_task(name, total=of, completed=done)
        return None


@contextmanager
def bars(to_stderr: bool) -> Iterator[Bars]:
    """An empty set of bars."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Bars(*columns, console=console(to_stderr)) as shown:
        yield shown


def training_listener(shown: Bars) -> "Listener":
    """Shows how far a training is."""

    def hear(event: "Event") -> None:
        if isinstance(event, Encoded | Trained):
            what = ENCODING if isinstance(event, Encoded) else "training steps"
            shown.report(what, event.done, event.of)

    return hear


@contextmanager
def counter(text: str, to_stderr: bool) -> Iterator[Callable[[int], None]]:
    """A running count of something whose end nobody knows; it appears with the first call."""
    columns = SpinnerColumn(), TextColumn("{task.completed:,} {task.description}"), TimeElapsedColumn()
    out = console(to_stderr)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bars:
        task = None

        def update(done: int) -> None:
            nonlocal task
            if task is None:
                task = bars.add_task(text, total=None)
            bars.update(task, completed=done)

        yield update


@contextmanager
def waiting(text: str, to_stderr: bool) -> Iterator[None]:
    """A spinner beside what is being done."""
    with console(to_stderr).status(text):
        yield


def run_grid(
    session: "Session", variants: Sequence["Variant"], sizes: Sequence[str], recipe: str, as_json: bool
) -> list[dict[str, Any]]:
    """Show the plan, encode what is missing, run the cells with a bar; returns one dict a cell with its outcome."""
    from flywheel.orchestration import grid, steps
    from flywheel.orchestration.costs import estimate_grid

    out = console(as_json)
    plan = grid.plan_cells(session, variants, sizes, recipe)
    to_do = [cell for cell in plan if cell.state == "to do"]
    done = sum(cell.state == "done" for cell in plan)
    impossible = [cell for cell in plan if cell.state == "impossible"]
    out.print(f"{len(to_do)} cells to train, {done} already finished, {len(impossible)} that cannot be filled")
    for reason in dict.fromkeys(cell.reason for cell in impossible):
        out.print(f"  {reason}", style="dim")
    if to_do:
        cost = estimate_grid(session.settings, [(cell.variant, cell.size) for cell in to_do], recipe)
        out.print(_cost_text(cost))
        with bars(as_json) as shown:
            todo_sizes = list(dict.fromkeys(cell.size for cell in to_do))
            variants_to_do = list(dict.fromkeys(cell.variant for cell in to_do))
            new, failures = steps.encode_ahead(session.settings, variants_to_do, todo_sizes, partial(shown.report, ENCODING))
        for reason in failures.values():
            out.print(f"  {reason}", style="dim")
        out.print(f"{new:,} questions encoded, every other one was cached" if new else "every question was cached already")
    outcomes: dict[tuple[Variant, str], tuple[str, str]] = {
        (cell.variant, cell.size): (cell.state, cell.reason) for cell in plan
    }
    if to_do:
        with bars(as_json) as shown, steps.watched(training_listener(shown)):
            progress = partial(shown.report, "training and evaluating cells")
            progress(0, len(to_do))
            for i, cell in enumerate(grid.run_cells(session, to_do, recipe), start=1):
                outcomes[cell.variant, cell.size] = ("failed", cell.failure) if cell.failure else ("trained", "")
                progress(i, len(to_do))
    for (variant, size), (outcome, reason) in outcomes.items():
        if outcome == "failed":
            print(f"  failed: {variant} | {size}: {reason}", file=sys.stderr)
    return [
        {"variant": str(variant), "size": size, "outcome": outcome, "reason": reason}
        for (variant, size), (outcome, reason) in outcomes.items()
    ]


def _cost_text(cost: "GridCost") -> str:
    again = f" and {cost.texts_by_trained:,} by trained layers" if cost.texts_by_trained else ""
    disk = f", {cost.state_bytes / 1e9:.1f} GB of token states" if cost.state_bytes else ""
    took = f", about {duration(cost.encoding_seconds)}" if cost.encoding_seconds else ""
    said = [f"{cost.texts:,} texts to encode{again}{disk}{took}"]
    said.append(
        f"{cost.trainings} trainings, "
        + ("how long nobody knows yet" if cost.training_seconds is None else f"about {duration(cost.training_seconds)}")
    )
    if cost.money is not None:
        said.append(f"about {cost.money:.2f} by price_per_hour")
    return "; ".join(said)


def print_kept(entries: Sequence["Kept"]) -> None:
    """What is kept beside results, as a table."""
    if not entries:
        print("Nothing is cached yet. Next: flywheel grid")
        return
    table = _table("What encoders made of texts, and trained layers", ["encoder"], ("texts", "MB"))
    for entry in entries:
        table.add_row(entry.name, "" if entry.texts is None else f"{entry.texts:,}", f"{entry.bytes / 1e6:,.1f}")
    console(False).print(table)
    print(f"{sum(entry.bytes for entry in entries) / 1e6:,.1f} MB in all. Next: flywheel cache prune")


def print_baseline(found: "BaselineStatus") -> None:
    """Where the API's vectors stand."""
    print(f"{found.model} at {found.dimensions} dimensions from {found.endpoint} ({found.family})")
    print(f"cached in {found.folder}")
    table = _table(f"Texts of snapshot {found.snapshot_id}", ["split"], ("cached", "missing", "tokens", "US dollars"))
    for name, held in {"calibration and test": found.judged, "train": found.train}.items():
        table.add_row(name, f"{held.cached:,}", f"{held.missing:,}", f"{held.tokens:,}", f"{held.money:.4f}")
    console(False).print(table)
    print(f"Tokens and money are what the missing texts would take, by {found.counted_by}.")
    print(f"Paid so far: {paid_text(found.paid, found.paid_money)}.")
    print(f"OPENAI_API_KEY is {'set' if found.key_set else 'not set'}.")
    print(f"Next: {found.next}")


def cost_text(held: "Coverage", counted_by: str) -> str:
    """About what texts would cost."""
    return f"about {held.tokens:,} tokens, {held.money:.4f} US dollars (by {counted_by})"


def paid_text(paid: "Paid", money: float) -> str:
    """What was paid, as the endpoint counted it."""
    rest = f"; the endpoint did not count {paid.uncounted:,} of the texts" if paid.uncounted else ""
    return f"{paid.tokens:,} tokens of {paid.texts:,} texts, {money:.4f} US dollars{rest}"


def print_overview(found: Overview) -> None:
    """The store as tables."""
    out = console(False)
    if not found.days:
        out.print("The store is empty. Next: flywheel ingest PATH, or flywheel snapshot, which brings the seed pairs.")
        return
    counted = ["lines", "accepted", "duplicates", "quarantined", "conflicts", "embargoed"]
    counted += ["redacted"] if any(day.redacted for day in found.days) else []
    table = _table("What came in", [], ["day", *counted])
    for day in found.days:
        table.add_row(f"{day.day} {day.source}", *(f"{getattr(day, name):,}" for name in counted))
    out.print(table)
    table = _table("Where the pairs are", ["split", "source"], ("pairs", "duplicates"))
    for split in found.splits:
        table.add_row(split.split, split.source, f"{split.pairs:,}", percent(split.prior))
    out.print(table)
    if found.reasons:
        table = _table("Why lines were quarantined", ["reason"], ("lines",))
        for reason, lines in found.reasons:
            table.add_row(reason, f"{lines:,}")
        out.print(table)
    if embargo := found.embargo:
        out.print(
            f"Embargo: {percent(embargo.newest)} of the newest interactions hang on frozen questions, "
            f"{percent(embargo.first)} did at first ({embargo.batches} batches since the draw)."
        )
        if embargo.advice:
            out.print(embargo.advice)
    out.print("Next: flywheel pairs origin TEXT, flywheel pairs contradictions, flywheel snapshot", style="dim")


def print_origins(found: list[PairEvent]) -> None:
    """The events behind a pair."""
    for origin in found:
        said = "same" if origin.label else "different"
        print(f"{origin.pair_id}  {said} ({origin.kind}, weight {origin.weight:g})  {origin.text_a!r} | {origin.text_b!r}")
        more = {"user": origin.user, "time": origin.time, "position": origin.position, "model": origin.model}
        told = ", ".join(f"{name} {value}" for name, value in more.items() if value is not None)
        print(f"  {origin.type} in {origin.file}:{origin.line}, batch {origin.batch_id}" + (f", {told}" if told else ""))


def print_contradictions(found: Contradictions) -> None:
    """The worst contradictory triangles as a table."""
    print(f"{found.pairs:,} pairs ({percent(found.share)}) stand in a triangle whose labels contradict each other.")
    if not found.worst:
        return
    table = _table("Called different, though both mean the same as a third", ["a", "b", "through"], ("pairs",))
    for worst in found.worst:
        table.add_row(worst.text_a, worst.text_b, worst.through, f"{worst.pairs:,}")
    console(False).print(table)
    print("Next: flywheel pairs origin TEXT shows who said what")


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
