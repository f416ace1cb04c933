"""What an engine owes: it starts commands on a cluster, says how they are, what they print, and stops them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol


@dataclass(frozen=True)
class Command:
    """What is to run: a name that the same job and attempt always have, the words, and the variables to set."""

    name: str
    words: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class State:
    """How a job is: in the queue and what for, running, or ended and why; no reason means that it ended well.

    `lost` says that its machine went away: the job itself did nothing wrong. `never_ran` says that the cluster gave up
    before it began.
    """

    phase: Literal["queued", "running", "ended"]
    reason: str = ""
    lost: bool = False
    never_ran: bool = False


class Engine(Protocol):
    """A cluster that trains. Jobs are named by the engine's own ids.

    Each method ends within a minute or two. They raise TryAgainError when the cluster does not answer, and FlywheelError when
    it refuses.
    """

    @property
    def title(self) -> str:
        """What it calls a job, such as `Slurm job`."""

    def find(self, name: str) -> str | None:
        """The job of that name that is in the queue or runs; None when there is none."""

    def start(self, command: Command) -> str:
        """Start a job; of another launcher's with the same name that runs already, the id."""

    def look(self, job: str) -> State:
        """How it is. A job that is no longer known has ended."""

    def read(self, job: str) -> list[str]:
        """The lines that it has printed since the last call, the first time from its beginning."""

    def stop(self, job: str) -> None:
        """End it; nothing happens when it has ended."""


@dataclass
class Tail:
    """Whole lines out of text that grows; `seen` is how many bytes of it were fed."""

    seen: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def feed(self, more: bytes, is_all: bool = False) -> list[str]:
        """The lines that end in what is new, and with `is_all` the last one even if nothing ends it."""
        self.seen += len(more)
        *whole, self._rest = (self._rest + more).split(b"\n")
        if is_all and self._rest:
            whole, self._rest = [*whole, self._rest], b""
        return [line.decode(errors="replace") for line in whole]
