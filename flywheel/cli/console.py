"""What verbs show while they work and when they are done: bars, counters, spinners, tables."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

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

from flywheel.training.progress import Encoded, Event, Listener, Notice, Trained

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


def training_listener(shown: Bars) -> Listener:
    """Shows how far a training is, and above the bars what somebody who waits should know: what it waits for, and where."""

    def on_event(event: Event) -> None:
        if isinstance(event, Notice):
            shown.console.print(event.text, style="dim", markup=False)
        if isinstance(event, Encoded | Trained):
            shown.report(ENCODING if isinstance(event, Encoded) else "training steps", event.done, event.of)

    return on_event


@contextmanager
def counter(text: str, to_stderr: bool) -> Iterator[Callable[[int], None]]:
    """A running count of something whose end is unknown; it appears with the first call."""
    columns = SpinnerColumn(), TextColumn("{task.completed:,} {task.description}"), TimeElapsedColumn()
    out = console(to_stderr)
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as shown:
        task = None

        def update(done: int) -> None:
            nonlocal task
            if task is None:
                task = shown.add_task(text, total=None)
            shown.update(task, completed=done)

        yield update


@contextmanager
def waiting(text: str, to_stderr: bool) -> Iterator[None]:
    """A spinner beside what is being done."""
    with console(to_stderr).status(text):
        yield


def new_table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table: texts in the columns `left`, numbers in `right`."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
