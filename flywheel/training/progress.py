"""How far a training is, and how it ended: plain events that any process can send and anyone can show."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from flywheel.errors import FlywheelError

LESS_MEMORY = "choose a recipe that trains less (top, or head), a smaller base model or size, or a machine with more memory"


@dataclass(frozen=True)
class Encoded:
    """So many texts are encoded, `done` of `of`."""

    done: int
    of: int


@dataclass(frozen=True)
class Trained:
    """So many training steps are done; `loss` is the mean since the last event, `seconds_left` an estimate if there is one."""

    done: int
    of: int
    loss: float
    seconds_left: float | None


@dataclass(frozen=True)
class Notice:
    """Something that a person who watches should know at once."""

    text: str


@dataclass(frozen=True)
class Result:
    """The end of a job that succeeded: its model folder (a path or a URI), and its figures."""

    model: str
    calibration_set_error: float
    threshold: float
    train_pairs: int
    seconds: float
    reused: bool


@dataclass(frozen=True)
class Failure:
    """The end of a job that failed, in one sentence; `passing` says that the same again may succeed."""

    reason: str
    passing: bool = False


Progress = Encoded | Trained | Notice
Event = Progress | Result | Failure
Listener = Callable[[Progress], None]
_KINDS: dict[str, type[Event]] = {kind.__name__.lower(): kind for kind in (Encoded, Trained, Notice, Result, Failure)}


def to_line(event: Event) -> str:
    """An event as one line of JSON."""
    return json.dumps({"event": type(event).__name__.lower(), **asdict(event)})


def from_line(line: str) -> Event:
    """Read what `to_line` wrote. Raises FlywheelError for anything else."""
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("event")](**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FlywheelError(f"{line[:200]!r} is not a progress event.") from error


def ignore_progress(event: Progress) -> None:
    """A listener that does nothing."""


def paced(listener: Listener, seconds: float, clock: Callable[[], float] = time.monotonic) -> Listener:
    """A listener that passes on notices and ends at once, and of all else at most one event in so many seconds."""
    heard = float("-inf")

    def listen(event: Progress) -> None:
        nonlocal heard
        if isinstance(event, Notice) or event.done == event.of or clock() - heard >= seconds:
            heard = clock()
            listener(event)

    return listen


def to_text(event: Progress) -> str:
    """An event as people read it in a log."""
    if isinstance(event, Notice):
        return event.text
    if isinstance(event, Encoded):
        return f"encoded {event.done:,} of {event.of:,} texts"
    left = "" if event.seconds_left is None else f", about {event.seconds_left:.0f} s left"
    return f"step {event.done:,} of {event.of:,}, loss {event.loss:.4f}{left}"


def recording(listener: Listener) -> tuple[list[tuple[int, float]], Listener]:
    """A list that fills with (step, loss) of one training, and the listener that fills it and passes everything on."""
    losses: list[tuple[int, float]] = []

    def on_event(event: Progress) -> None:
        if isinstance(event, Trained):
            losses.append((event.done, event.loss))
        listener(event)

    return losses, on_event
