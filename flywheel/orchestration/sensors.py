"""Sensors, the schedule and the two jobs they launch: they look, decide in a pure function, and ask for a run."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.files import digest
from flywheel.home import Home
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.instance import reap_dead_runs
from flywheel.orchestration.launching import (
    LAUNCHED_FOR_TAG,
    Launch,
    Wait,
    asked_once,
    decide_from_runs,
    failed_last,
    in_flight,
)
from flywheel.pairs.inbox import waiting_files
from flywheel.pipeline.retraining import retraining_due
from flywheel.pipeline.workspace import Workspace

INGESTED = ("interaction_pairs", "pairs")
RETRAINED = (
    "snapshot",
    "baseline_scores",
    "retrained_model",
    "challengers",
    "api_heads",
    "leaderboard",
    "champion",
    "evidence",
)
Request = dg.RunRequest | dg.SkipReason


def build_jobs(flywheel: Flywheel) -> list[Any]:
    """The jobs: taking in the inbox, and retraining."""
    described = {
        "ingest": (INGESTED, "Take in the inbox."),
        "retrain": (
            RETRAINED,
            "Export the pairs, train the champion's variant and the challengers on all of them, evaluate, and promote the best "
            "if it is better.",
        ),
    }
    return [
        dg.define_asset_job(
            flywheel.name(name), selection=dg.AssetSelection.assets(*flywheel.keys(*assets)), description=description
        )
        for name, (assets, description) in described.items()
    ]


def build_sensors(flywheel: Flywheel, running: bool) -> list[dg.SensorDefinition]:
    """The sensors, which run from the start if `running`, else wait to be switched on.

    One reports dead runs, but only where every step of a run executes in the run's own process: elsewhere a run's process may
    end while its steps go on.
    """
    status = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    makers = [_inbox_sensor, _retrain_sensor, _automation_sensor, *([_dead_runs_sensor] if flywheel.in_one_process else [])]
    return [make(flywheel, status) for make in makers]


def _dead_runs_sensor(flywheel: Flywheel, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name=flywheel.name("dead_runs_sensor"), minimum_interval_seconds=60, default_status=status,
        description="Reports runs whose process has ended as failed, and frees the slots that they held in the pools.",
    )  # fmt: skip
    def dead_runs_sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        dead = reap_dead_runs(context.instance, [pool for pool in vars(flywheel.pools).values() if pool])
        return dg.SkipReason(f"reported as failed: {', '.join(dead)}" if dead else "no run is dead")

    return dead_runs_sensor


def _inbox_sensor(flywheel: Flywheel, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    job = flywheel.name("ingest")

    @dg.sensor(
        name=flywheel.name("inbox_sensor"), job_name=job, minimum_interval_seconds=15, default_status=status,
        required_resource_keys={flywheel.resource}, description="Ingests the inbox when it holds finished files.",
    )  # fmt: skip
    def inbox_sensor(context: dg.SensorEvaluationContext) -> Request:
        home = flywheel.workspace(context).home
        if not home.inbox.is_dir():
            return dg.SkipReason(f"{home.inbox} is not there; files that lie in it are taken in once it is back")
        files = waiting_files(home.inbox)
        if not files:
            return dg.SkipReason(f"no finished files in {home.inbox}")
        if in_flight(context.instance, job):
            return dg.SkipReason("an ingest run is in flight")
        try:
            state = digest("|".join(_fingerprint(path) for path in files))[:16]
        except FileNotFoundError:
            return dg.SkipReason("files of the inbox are being taken away")
        return _request(context.instance, home, job, state)

    return inbox_sensor


def _fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"


def _retrain_sensor(flywheel: Flywheel, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name=flywheel.name("retrain_sensor"), job_name=flywheel.name("retrain"), minimum_interval_seconds=60,
        default_status=status, required_resource_keys={flywheel.resource},
        description="Retrains when enough interaction pairs have come in since a model was last trained on all of them.",
    )  # fmt: skip
    def retrain_sensor(context: dg.SensorEvaluationContext) -> Request:
        return _retrain(flywheel, context.instance, flywheel.workspace(context))

    return retrain_sensor


def weekly_schedule(flywheel: Flywheel, cron: str, running: bool) -> dg.ScheduleDefinition:
    """The weekly retraining; a week with few new pairs needs none.

    Raises FlywheelError for a text that is no cron schedule.
    """

    def weekly_retrain(context: dg.ScheduleEvaluationContext) -> Request:
        return _retrain(flywheel, context.instance, flywheel.workspace(context), scheduled=True)

    try:
        return dg.ScheduleDefinition(
            name=flywheel.name("weekly_retrain"), job_name=flywheel.name("retrain"), cron_schedule=cron,
            default_status=dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED,
            execution_timezone="UTC", required_resource_keys={flywheel.resource}, execution_fn=weekly_retrain,
            description="Retrains when a tenth of retraining.after has come in.",
        )  # fmt: skip
    except dg.DagsterInvalidDefinitionError as error:
        raise FlywheelError(f"retraining.cron is not a cron schedule: {cron!r}. Write one such as '0 3 * * 1'.") from error


def _automation_sensor(flywheel: Flywheel, status: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    """What keeps the leaderboard up with cells that somebody materialises by hand."""
    return dg.AutomationConditionSensorDefinition(
        flywheel.name("leaderboard_sensor"), target=dg.AssetSelection.assets(flywheel.key("leaderboard")),
        default_status=status, minimum_interval_seconds=60,
        description="Makes the leaderboard again when cells have landed, once for all of them.",
    )  # fmt: skip


def _retrain(flywheel: Flywheel, instance: dg.DagsterInstance, workspace: Workspace, scheduled: bool = False) -> Request:
    job = flywheel.name("retrain")
    ingesting = in_flight(instance, flywheel.name("ingest"))
    found, state = retraining_due(workspace, ingesting, scheduled)
    if not found.due:
        # A turn that failed after its training has no new pairs left, and was not judged.
        unfinished = None if ingesting else failed_last(instance, job)
        request = _request(instance, workspace.home, job, unfinished) if unfinished else None
        return request if isinstance(request, dg.RunRequest) else dg.SkipReason(found.reason)
    if in_flight(instance, job):
        return dg.SkipReason("a retraining run is in flight")
    return _request(instance, workspace.home, job, state)


def _request(instance: dg.DagsterInstance, home: Home, job: str, state: str) -> Request:
    decision: Launch | Wait = decide_from_runs(instance, job, state)
    if isinstance(decision, Launch):
        decision = asked_once(home.requested, job, decision, datetime.now(UTC))
    if isinstance(decision, Wait):
        return dg.SkipReason(decision.reason)
    return dg.RunRequest(run_key=decision.run_key, tags={LAUNCHED_FOR_TAG: state})
