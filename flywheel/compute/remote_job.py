"""A training job on a cluster: the command that any machine runs, followed from here until its model is here.

Everything travels through the root: the spec, the snapshot and the vectors there, checkpoints and the model back. What is the
same for all engines is here: which job is followed, what its lines mean, which ends are tried again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from flywheel import storage
from flywheel.compute.command import training_command, write_spec
from flywheel.compute.engine import Command, Engine, State
from flywheel.compute.options import ComputeOptions
from flywheel.compute.places import Places
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.files import locked
from flywheel.models.options import EncodingOptions
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Event, Failure, Listener, Notice, Result, from_line
from flywheel.training.shared import TrainedModels

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Done = TypeVar("Done")
_PATIENCE_SECONDS = 300
_EVENT = '{"event"'
# Set when this process is to end: whoever follows a job in a thread stops it then.
_ending = threading.Event()


class _OutOfSightError(TryAgainError):
    """The engine no longer answers; the job may go on."""


@dataclass(frozen=True)
class RemoteJob:
    """A job for an engine: `name` is the same for equal specs, `words` what runs."""

    engine: Engine
    options: ComputeOptions
    name: str
    words: tuple[str, ...]
    listener: Listener


def run(
    job: TrainingJob, places: Places, encoding: EncodingOptions, listener: Listener, options: ComputeOptions, engine: Engine
) -> TrainedModel:
    """Run `job` on `engine` (see `Compute`), or follow it where another launcher has started it.

    Jobs that share trained layers go one after the other: most likely the first has made the second's model along with its own.
    """
    trained = TrainedModels(places.models, places.root.models)
    with locked(places.models, f"away-{job.job_id if job.tuning is None else job.tuning_id}"):
        if model := trained.finished(job):
            return model
        spec = write_spec(job, places)
        work = ["--work", options.work] if options.work else []
        words = (options.python, *training_command(spec, places, None, encoding), *work)
        reused = _attempts(RemoteJob(engine, options, f"flywheel-{job.job_id}", words, listener))
        if not trained.find(job.job_id).exists():
            raise FlywheelError(
                f"The training ended, but {places.root.models} has no model of it. See that storage.root is the same place on "
                "the cluster's machines as here."
            )
    storage.delete_file(spec)
    model = trained.load(job.job_id)
    return model.as_reused() if reused else model


def at_once(run_one: Callable[[Item], Done], items: Sequence[Item], most: int) -> Iterator[Done]:
    """Run a function that follows a job for each item in threads, `most` at a time; yields what it returns as each ends.

    When the caller is interrupted or no longer asks, the jobs that run are stopped, and no other is started.
    """
    with ThreadPoolExecutor(most, "follows a job") as pool:
        try:
            for done in as_completed([pool.submit(run_one, item) for item in items]):
                yield done.result()
        except BaseException:
            _ending.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            _ending.clear()


def _attempts(job: RemoteJob) -> bool:
    """Start the job, or follow it, until it ends well; whether its model was there already. Only lost machines are retried."""
    attempt, running = _running(job)
    began, why = time.monotonic(), ""
    while attempt < job.options.attempts:
        if _ending.is_set():
            raise KeyboardInterrupt
        started = running or job.engine.start(Command(f"{job.name}-{attempt}", job.words, job.options.environment))
        job.listener(Notice(f"{'Following' if running else 'Started'} {job.engine.title} {started}."))
        end, state, last_words = _follow(job, started)
        if isinstance(end, Result) or not state.reason:
            return isinstance(end, Result) and end.reused
        if isinstance(end, Failure) and not state.lost:
            raise TryAgainError(end.reason) if end.passing else FlywheelError(end.reason)
        why = f"{job.engine.title} {started} ended: {state.reason}"
        if state.never_ran and time.monotonic() - began < job.options.queue_hours * 3600:
            running = None
            job.listener(Notice(f"{why.rstrip('.')}. It is put into the queue again."))
            continue
        if not state.lost:
            raise FlywheelError(f"{why.rstrip('.')}. Its last words: {last_words or 'none'}")
        attempt, running = attempt + 1, None
        job.listener(Notice(f"{why.rstrip('.')}. A lost machine is no fault of the training: it is started again."))
    raise TryAgainError(
        f"{why.rstrip('.')}. The training was started {job.options.attempts} times (compute.attempts). Run it again: it goes "
        "on from its last checkpoint."
    )


def _running(job: RemoteJob) -> tuple[int, str | None]:
    """The newest attempt that is in the queue or runs, with the engine's id; the first one and None where there is none."""
    for attempt in reversed(range(job.options.attempts)):
        if found := job.engine.find(f"{job.name}-{attempt}"):
            return attempt, found
    return 0, None


def _follow(job: RemoteJob, started: str) -> tuple[Result | Failure | None, State, str]:
    """Pass on what a job prints until it ends: its last result or failure, how it ended, and its last other words."""
    end: Result | Failure | None = None
    foreign: deque[str] = deque(maxlen=5)
    began = answered = time.monotonic()
    waits_for = None
    try:
        while True:
            try:
                state = job.engine.look(started)
                lines = job.engine.read(started)
                answered = time.monotonic()
            except TryAgainError as error:
                if time.monotonic() - answered > _PATIENCE_SECONDS:
                    raise _OutOfSightError(
                        f"{job.engine.title} {started} cannot be followed: {error} It may go on. Run the same again to "
                        "follow it."
                    ) from error
                state, lines = State("running"), []
            for line in lines:
                event = _event(line)
                if event is None:
                    foreign.extend([line.strip()] if line.strip() else [])
                elif isinstance(event, Result | Failure):
                    end = event  # of several attempts in one log, the last one counts
                else:
                    job.listener(event)
            if state.phase == "ended":
                return end, state, " | ".join(foreign)
            if state.phase == "queued":
                if state.reason != waits_for:
                    waits_for = state.reason
                    job.listener(
                        Notice(f"{job.engine.title} {started} waits in the queue: {state.reason or 'no reason given'}.")
                    )
                if time.monotonic() - began > job.options.queue_hours * 3600:
                    raise FlywheelError(
                        f"{job.engine.title} {started} waited in the queue for {job.options.queue_hours:g} hours "
                        f"(compute.queue_hours): {state.reason or 'no reason given'}. It was taken back."
                    )
            else:
                began = time.monotonic()
            if _ending.wait(job.options.poll_seconds):
                raise KeyboardInterrupt
    except _OutOfSightError:
        raise
    except BaseException:
        _stop(job.engine, started)
        raise


def _event(line: str) -> Event | None:
    """The event in a line; None for what anybody else prints."""
    if line.startswith(_EVENT):
        with suppress(FlywheelError):
            return from_line(line)
    return None


def _stop(engine: Engine, started: str) -> None:
    try:
        engine.stop(started)
    except FlywheelError as error:
        log.warning("%s %s may go on, since it could not be stopped: %s", engine.title, started, error)
