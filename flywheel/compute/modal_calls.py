"""Trainings as calls of a function at Modal, which `deploy/modal_app.py` has put there.

The function runs the training's command in a process of its own and gives its ending back as a value, so that an error at
Modal means a lost container and nothing else. Modal starts those again itself, and the training goes on from its checkpoint.
Calls have no names there: a note below the root says which call a name has.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from flywheel import storage
from flywheel.compute.engine import Command, State, Tail
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError, TryAgainError, needs_extra, one_line
from flywheel.training.progress import LESS_MEMORY

_LATE = timedelta(seconds=30)  # how long after its time a line of a log may come to be seen
_TO_EXIT = 60


@dataclass
class _Heard:
    """What was read of a call's log, and how its command ended."""

    since: datetime | None = None
    lines: set[tuple[datetime, str, str]] = field(default_factory=set)
    tails: dict[str, Tail] = field(default_factory=dict)
    last_event: str = ""


class ModalCalls:
    """The function that the settings name (see `Engine`)."""

    title = "Modal call"

    def __init__(self, options: ComputeOptions, notes: str | None) -> None:
        """By the settings; asks nothing yet. `notes` is the folder of notes, which is there where anything is to be started."""
        with needs_extra("modal", "compute.engine modal"):
            import modal
            from grpclib.exceptions import StreamTerminatedError
        self._broken_off = StreamTerminatedError
        self._modal, self._options, self._folder = modal, options, notes
        self._heard: dict[str, _Heard] = {}
        self._notes: dict[str, str] = {}

    def find(self, name: str) -> str | None:
        """See `Engine`."""
        note = storage.read(self._note(name))
        if note is None:
            return None
        call = note.decode().strip()
        self._notes[call] = self._note(name)
        return None if self.look(call).phase == "ended" else call

    def start(self, command: Command) -> str:
        """See `Engine`. A launcher that is killed before its note is written leaves a call that nobody follows."""
        where = self._options.modal
        seconds = str(max(1, round(self._options.job_hours * 3600)))
        words = ["timeout", f"--kill-after={_TO_EXIT}", seconds, *command.words]
        with self._explained():
            function = self._modal.Function.from_name(where.app, where.function, environment_name=where.environment_name)
            call: str = function.spawn(words, dict(command.environment)).object_id
        self._notes[call] = self._note(command.name)
        storage.write(self._notes[call], call.encode())
        return call

    def look(self, job: str) -> State:
        """See `Engine`. Modal does not say whether a container has begun; the function's first line does."""
        with self._explained():
            try:
                ending: Any = self._modal.FunctionCall.from_id(job).get(timeout=0)
            except TimeoutError:
                begun = job in self._heard and self._heard[job].lines
                return State("running") if begun else State("queued", "no container has begun with it")
            except Exception as error:
                state = self._lost_or_refused(error)
            else:
                self._heard.setdefault(job, _Heard()).last_event = ending["last_event"]
                state = _state(ending["exit_code"])
        if note := self._notes.pop(job, None):
            storage.delete_file(note)
        return state

    def read(self, job: str) -> list[str]:
        """See `Engine`. Lines may come a little late, so that the last event is taken from how the command ended."""
        heard = self._heard.setdefault(job, _Heard())
        with self._explained():
            try:
                entries = list(self._modal.FunctionCall.from_id(job).logs.fetch(since=heard.since))
            except self._modal.exception.NotFoundError:
                entries = []
        lines = []
        for entry in entries:
            key = (entry.timestamp, entry.source, entry.message)
            if key not in heard.lines:
                heard.lines.add(key)
                lines += heard.tails.setdefault(entry.source, Tail()).feed(entry.message.encode())
        if heard.lines:
            heard.since = max(key[0] for key in heard.lines) - _LATE
            heard.lines = {key for key in heard.lines if key[0] >= heard.since}
        if heard.last_event and heard.last_event not in lines:
            lines.append(heard.last_event)
        return lines

    def stop(self, job: str) -> None:
        """See `Engine`."""
        with self._explained():
            self._modal.FunctionCall.from_id(job).cancel(terminate_containers=True)
        if note := self._notes.pop(job, None):
            storage.delete_file(note)

    def _note(self, name: str) -> str:
        return f"{self._folder}/{name}.modal"

    def _lost_or_refused(self, error: Exception) -> State:
        """How a call ended that has no value. Raises what is no end of a call."""
        known = self._modal.exception
        if isinstance(error, known.OutputExpiredError | known.NotFoundError):
            return State("ended", "Modal does not know it any more; results are kept for some days")
        if isinstance(error, known.FunctionTimeoutError):
            return State("ended", "its time was over (the timeout in deploy/modal_app.py)")
        if isinstance(error, known.InternalFailure):
            return State("ended", one_line(f"Modal lost it: {error}"), lost=True)
        if isinstance(error, known.Error | OSError | self._broken_off) and not isinstance(error, known.RemoteError):
            raise error
        return State("ended", one_line(f"Modal says: {error}", 300))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        known, where = self._modal.exception, self._options.modal
        try:
            yield
        except FlywheelError:
            raise
        except known.AuthError as error:
            raise FlywheelError(
                f"Modal does not let us in: {one_line(error)}. Set MODAL_TOKEN_ID and MODAL_TOKEN_SECRET, or run modal token "
                "new."
            ) from error
        except known.NotFoundError as error:
            raise FlywheelError(
                f"Modal has no function {where.function} in an app {where.app}: {one_line(error)}. Put it there with modal "
                "deploy deploy/modal_app.py, or set compute.modal."
            ) from error
        except (known.ConnectionError, OSError, self._broken_off) as error:
            raise TryAgainError(f"Modal cannot be reached: {one_line(error)}. Check the network.") from error
        except (known.ServiceError, known.InternalError, known.ResourceExhaustedError, known.TimeoutError) as error:
            raise TryAgainError(f"Modal has trouble ({type(error).__name__}): {one_line(error)}.") from error
        except known.Error as error:
            raise FlywheelError(f"Modal refuses: {one_line(error, 300)}. See the settings compute.modal.") from error


def _state(code: int) -> State:
    """What the exit code of the command means."""
    if code == 0:
        return State("ended")
    if code == 124:
        return State("ended", "its time was over (compute.job_hours)")
    if code in (-9, 137):
        return State("ended", f"it was killed, most likely since memory ran out: {LESS_MEMORY}, by deploy/modal_app.py")
    return State("ended", f"exit code {code}")
