"""Whether to launch a run for a state of the world, from what became of the runs launched for it: a pure decision."""

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from flywheel.orchestration.instance import ENDED

LAUNCHED_FOR_TAG = "flywheel/launched_for"
MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Launch:
    """Launch a run; `run_key` is new for each attempt, so that a failed one does not block the next."""

    run_key: str


@dataclass(frozen=True)
class Wait:
    """Launch nothing, and why."""

    reason: str


def decide_launch(state: str, statuses: Sequence[dg.DagsterRunStatus]) -> Launch | Wait:
    """What to do about `state`, given the statuses of the runs launched for it, in any order.

    One in flight or a success means wait; failures are tried again, three times in all.
    """
    if any(status not in ENDED for status in statuses):
        return Wait("a run for this is in flight")
    if dg.DagsterRunStatus.SUCCESS in statuses:
        return Wait("a run for this has succeeded")
    if len(statuses) >= MAX_ATTEMPTS:
        return Wait(f"{len(statuses)} runs for this have failed; look at the last one, then launch it by hand")
    return Launch(f"{state}__attempt{len(statuses) + 1}")


def decide_from_runs(instance: dg.DagsterInstance, job: str, state: str) -> Launch | Wait:
    """The same, with the statuses looked up by job and tag."""
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags={LAUNCHED_FOR_TAG: state}))
    return decide_launch(state, [run.status for run in runs])


def in_flight(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of `job` has not ended yet."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in ENDED]
    return bool(instance.get_runs(dg.RunsFilter(job_name=job, statuses=unfinished), limit=1))
