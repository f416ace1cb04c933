"""Whether to launch a run for a state of the world, from what became of the runs launched for it: a pure decision."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from filelock import FileLock

from flywheel.files import write_json
from flywheel.orchestration.instance import ENDED

LAUNCHED_FOR_TAG = "flywheel/launched_for"
MAX_ATTEMPTS = 3
# From a tick to the run that it asks for it takes a moment. Where its daemon is killed in between, the next daemon launches
# that run, maybe while another one looks.
_ASKING = timedelta(minutes=5)
# Two machines never show the same time. What seems to be in a future further away is of a clock that was set back.
_CLOCKS_DIFFER = timedelta(minutes=5)
_PAUSES = (timedelta(minutes=1), timedelta(minutes=10))  # after the first failure, and after the second


@dataclass(frozen=True)
class Launch:
    """Launch a run; `run_key` is new for each attempt, so that a failed one does not block the next."""

    run_key: str


@dataclass(frozen=True)
class Wait:
    """Launch nothing, and why."""

    reason: str


@dataclass(frozen=True)
class Attempt:
    """A run that was launched for a state: its status, and when it ended, if it has."""

    status: dg.DagsterRunStatus
    ended: datetime | None = None


def decide_launch(state: str, past: Sequence[Attempt], now: datetime) -> Launch | Wait:
    """What to do about `state`, given the runs launched for it, in any order.

    One in flight or a success means wait; failures are tried again, three times in all, each after a longer pause.
    """
    if any(attempt.status not in ENDED for attempt in past):
        return Wait("a run for this is in flight")
    if any(attempt.status == dg.DagsterRunStatus.SUCCESS for attempt in past):
        return Wait("a run for this has succeeded")
    if len(past) >= MAX_ATTEMPTS:
        return Wait(
            f"{len(past)} runs for this have failed; look at the last one, then launch it by hand, or wait for new data"
        )
    last = max((attempt.ended for attempt in past if attempt.ended), default=None)
    if last and last - _CLOCKS_DIFFER <= now < (again := last + _PAUSES[len(past) - 1]):
        return Wait(
            f"the last run for this has failed; attempt {len(past) + 1} of {MAX_ATTEMPTS} comes at {again:%H:%M:%S} UTC"
        )
    return Launch(f"{state}__attempt{len(past) + 1}")


def decide_from_runs(instance: dg.DagsterInstance, job: str, state: str) -> Launch | Wait:
    """The same, with the runs looked up by job and tag."""
    return decide_launch(state, _attempts(instance, job, state), datetime.now(UTC))


def asked_once(file: Path, job: str, launch: Launch, now: datetime) -> Launch | Wait:
    """The launch, unless another daemon on the same home has asked for it within five minutes: its run may not be there yet.

    `file` holds what was asked for last, by job. A daemon that dies between asking and launching holds nobody up for longer,
    or, where the clock is then set back, for ten minutes.
    """
    with FileLock(file.with_suffix(".lock")):
        asked = json.loads(file.read_text()) if file.exists() else {}
        run_key, at = asked.get(job, ("", 0.0))
        if run_key == launch.run_key and -_CLOCKS_DIFFER <= now - datetime.fromtimestamp(at, UTC) < _ASKING:
            return Wait("another look has just asked for this run")
        write_json(file, {**asked, job: [launch.run_key, now.timestamp()]})
    return launch


def attempts_left(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int:
    """How often a sensor or schedule will still launch what it launched this failed run for; none for one launched by hand."""
    state = run.tags.get(LAUNCHED_FOR_TAG)
    return max(0, MAX_ATTEMPTS - len(_attempts(instance, run.job_name, state))) if state else 0


def failed_last(instance: dg.DagsterInstance, job: str) -> str | None:
    """What the newest run of a job was launched for, if that run has failed; cancelled ones are a person's decision."""
    newest = instance.get_runs(dg.RunsFilter(job_name=job), limit=1)
    return newest[0].tags.get(LAUNCHED_FOR_TAG) if newest and newest[0].status == dg.DagsterRunStatus.FAILURE else None


def _attempts(instance: dg.DagsterInstance, job: str, state: str) -> list[Attempt]:
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags={LAUNCHED_FOR_TAG: state}))
    ends = ((record.dagster_run.status, record.end_time) for record in records)
    return [Attempt(status, datetime.fromtimestamp(end, UTC) if end else None) for status, end in ends]


def in_flight(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of `job` has not ended yet."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in ENDED]
    return bool(instance.get_runs(dg.RunsFilter(job_name=job, statuses=unfinished), limit=1))
