"""Sensors and the schedule: they look, decide in a pure function, and ask for a run."""

from pathlib import Path
from typing import Any

import dagster as dg

from flywheel.files import digest
from flywheel.orchestration.instance import reap_dead_runs
from flywheel.orchestration.jobs import INGEST, RETRAIN, recipe_config
from flywheel.orchestration.launching import LAUNCHED_FOR_TAG, Launch, Wait, decide_from_runs, in_flight
from flywheel.orchestration.partitions import cell_key, in_grid
from flywheel.orchestration.resources import Workbench
from flywheel.orchestration.steps import retrain_recipe, retrain_variant
from flywheel.pairs.inbox import waiting_files
from flywheel.pairs.snapshots.snapshot import ALL
from flywheel.pairs.store.ducklake import open_store
from flywheel.pairs.store.new_pairs import NewPairs, new_pairs
from flywheel.settings import Settings

RUNNING_SENSOR, RUNNING_SCHEDULE = dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING


@dg.sensor(job=INGEST, minimum_interval_seconds=10, default_status=RUNNING_SENSOR)
def inbox_sensor(context: dg.SensorEvaluationContext, workbench: Workbench) -> dg.RunRequest | dg.SkipReason:
    """Ingest the inbox when it holds finished files; every look also reaps dead runs, so that none blocks the next."""
    reap_dead_runs(context.instance)
    files = waiting_files(workbench.settings().inbox)
    if not files:
        return dg.SkipReason(f"no finished files in {workbench.settings().inbox}")
    if in_flight(context.instance, INGEST.name):
        return dg.SkipReason("an ingest run is in flight")
    state = digest("|".join(_fingerprint(path) for path in files))[:16]
    return _request(decide_from_runs(context.instance, INGEST.name, state), state, None)


def _fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"


@dg.sensor(job=RETRAIN, minimum_interval_seconds=15, default_status=RUNNING_SENSOR)
def retrain_sensor(context: dg.SensorEvaluationContext, workbench: Workbench) -> dg.RunRequest | dg.SkipReason:
    """Retrain when enough training pairs have landed since a model was last trained on all of them."""
    settings = workbench.settings()
    pairs = new_pairs(open_store(settings))
    if pairs.new < settings.retrain_after:
        return dg.SkipReason(f"{pairs.new:,} of {settings.retrain_after:,} new training pairs")
    return _retrain(context.instance, settings, pairs)


def weekly_schedule(cron: str) -> dg.ScheduleDefinition:
    """The weekly retraining; a week without new pairs needs none."""

    @dg.schedule(
        name="weekly_retrain", job=RETRAIN, cron_schedule=cron, default_status=RUNNING_SCHEDULE, execution_timezone="UTC"
    )
    def weekly_retrain(context: dg.ScheduleEvaluationContext, workbench: Workbench) -> dg.RunRequest | dg.SkipReason:
        settings = workbench.settings()
        pairs = new_pairs(open_store(settings))
        if not pairs.new:
            return dg.SkipReason("no new training pairs since the last training")
        return _retrain(context.instance, settings, pairs)

    return weekly_retrain


def _retrain(instance: dg.DagsterInstance, settings: Settings, pairs: NewPairs) -> dg.RunRequest | dg.SkipReason:
    reap_dead_runs(instance)
    if in_flight(instance, RETRAIN.name):
        return dg.SkipReason("a retraining run is in flight")
    variant = retrain_variant(settings)
    if not in_grid(variant, ALL):
        return dg.SkipReason(f"the champion's variant {variant} is not in the grid; train it by hand")
    config = recipe_config(retrain_recipe(settings))
    return _request(decide_from_runs(instance, RETRAIN.name, pairs.state), pairs.state, cell_key(variant, ALL), config)


def _request(
    decision: Launch | Wait, state: str, partition: str | None, config: dict[str, Any] | None = None
) -> dg.RunRequest | dg.SkipReason:
    if isinstance(decision, Wait):
        return dg.SkipReason(decision.reason)
    tags = {LAUNCHED_FOR_TAG: state}
    return dg.RunRequest(run_key=decision.run_key, partition_key=partition, tags=tags, run_config=config)
