"""How far a training is: plain events that any process can send and anyone can show."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

from flywheel.errors import FlywheelError


@dataclass(frozen=True)
class Encoded:
    """So many texts are encoded, `done` of `of`."""

    done: int
    of: int


@dataclass(frozen=True)
class Trained:
    """So many training steps are done; `loss` is the mean since the last event, `seconds_left` an estimate."""

    done: int
    of: int
    loss: float
    seconds_left: float


Progress = Encoded | Trained
Listener = Callable[[Progress], None]

_KINDS: dict[str, type[Encoded] | type[Trained]] = {"encoded": Encoded, "trained": Trained}


def to_line(event: Progress) -> str:
    """An event as one line of JSON."""
    return json.dumps({"event": type(event).__name__.lower(), **asdict(event)})


def from_line(line: str) -> Progress:
    """Read what `to_line` wrote. Raises FlywheelError for anything else."""
    try:
        fields = json.loads(line)
        return _KINDS[fields.pop("event")](**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FlywheelError(f"{line[:200]!r} is not a progress event.") from error


def unheard(event: Progress) -> None:
    """A listener for work that nobody watches."""


def to_text(event: Progress) -> str:
    """An event as people read it in a log."""
    if isinstance(event, Encoded):
        return f"encoded {event.done:,} of {event.of:,} texts"
    return f"step {event.done:,} of {event.of:,}, loss {event.loss:.4f}, about {event.seconds_left:.0f} s left"
