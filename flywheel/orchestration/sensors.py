"""Sensors, the schedule and the two jobs they launch: they look, decide in a pure function, and ask for a run."""

from pathlib import Path
from typing import Any

import dagster as dg

from flywheel.files import digest
from flywheel.orchestration.assets import run_config
from flywheel.orchestration.instance import reap_dead_runs
from flywheel.orchestration.launching import LAUNCHED_FOR_TAG, Launch, Wait, decide_from_runs, in_flight
from flywheel.orchestration.partitions import cell_key, in_grid
from flywheel.pairs.inbox import waiting_files
from flywheel.pairs.store.new_pairs import NewPairs, new_pairs
from flywheel.pipeline.training import next_retraining
from flywheel.pipeline.workspace import Workspace

INGEST = dg.define_asset_job(
    "ingest", selection=dg.AssetSelection.assets("interaction_pairs", "pairs"), description="Take in the inbox."
)
RETRAINED = (
    "snapshot", "baseline_scores", "finetuned_model", "evaluation", "api_heads", "leaderboard", "champion", "evidence",
)  # fmt: skip
RETRAIN = dg.define_asset_job(
    "retrain",
    selection=dg.AssetSelection.assets(*RETRAINED),
    description="Export the pairs, train the champion's variant on all of them, evaluate, and promote it if it is better.",
)
RUNNING_SENSOR, RUNNING_SCHEDULE = dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING


@dg.sensor(job=INGEST, minimum_interval_seconds=10, default_status=RUNNING_SENSOR)
def inbox_sensor(context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]) -> dg.RunRequest | dg.SkipReason:
    """Ingest the inbox when it holds finished files; every look also reaps dead runs, so that none blocks the next."""
    reap_dead_runs(context.instance)
    files = waiting_files(workspace.home.inbox)
    if not files:
        return dg.SkipReason(f"no finished files in {workspace.home.inbox}")
    if in_flight(context.instance, INGEST.name):
        return dg.SkipReason("an ingest run is in flight")
    state = digest("|".join(_fingerprint(path) for path in files))[:16]
    return _request(decide_from_runs(context.instance, INGEST.name, state), state, None)


def _fingerprint(path: Path) -> str:
    stat = path.stat()
    return f"{path.name}:{stat.st_size}:{stat.st_mtime_ns}"


@dg.sensor(job=RETRAIN, minimum_interval_seconds=15, default_status=RUNNING_SENSOR)
def retrain_sensor(
    context: dg.SensorEvaluationContext, workspace: dg.ResourceParam[Workspace]
) -> dg.RunRequest | dg.SkipReason:
    """Retrain when enough training pairs have landed since a model was last trained on all of them."""
    pairs, enough = new_pairs(workspace.store), workspace.settings.retraining.after
    if pairs.new < enough:
        return dg.SkipReason(f"{pairs.new:,} of {enough:,} new training pairs")
    return _retrain(context.instance, workspace, pairs)


def weekly_schedule(cron: str) -> dg.ScheduleDefinition:
    """The weekly retraining; a week without new pairs needs none."""

    @dg.schedule(
        name="weekly_retrain", job=RETRAIN, cron_schedule=cron, default_status=RUNNING_SCHEDULE, execution_timezone="UTC"
    )
    def weekly_retrain(
        context: dg.ScheduleEvaluationContext, workspace: dg.ResourceParam[Workspace]
    ) -> dg.RunRequest | dg.SkipReason:
        pairs = new_pairs(workspace.store)
        if not pairs.new:
            return dg.SkipReason("no new training pairs since the last training")
        return _retrain(context.instance, workspace, pairs)

    return weekly_retrain


def _retrain(instance: dg.DagsterInstance, workspace: Workspace, pairs: NewPairs) -> dg.RunRequest | dg.SkipReason:
    reap_dead_runs(instance)
    if in_flight(instance, RETRAIN.name):
        return dg.SkipReason("a retraining run is in flight")
    cell, recipe = next_retraining(workspace)
    if not in_grid(cell):
        return dg.SkipReason(f"the champion's variant {cell.variant} is not in the grid; train it by hand")
    config = run_config(RETRAINED, recipe)
    return _request(decide_from_runs(instance, RETRAIN.name, pairs.state), pairs.state, cell_key(cell), config)


def _request(
    decision: Launch | Wait, state: str, partition: str | None, config: dict[str, Any] | None = None
) -> dg.RunRequest | dg.SkipReason:
    if isinstance(decision, Wait):
        return dg.SkipReason(decision.reason)
    tags = {LAUNCHED_FOR_TAG: state}
    return dg.RunRequest(run_key=decision.run_key, partition_key=partition, tags=tags, run_config=config)
