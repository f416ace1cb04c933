"""Housekeeping by schedule: what nothing needs any more leaves the home, and old runs leave Dagster."""

from collections.abc import Collection, Sequence
from pathlib import Path

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.instance import ENDED, remove_runs
from flywheel.orchestration.launching import in_flight
from flywheel.pipeline.housekeeping import tidy

_MOST_CELLS = 5_000
_JOBS = ("ingest", "retrain", "alarm", "housekeeping", "promote", "roll_back", "new_test_set", "forget")


def build_housekeeping(
    flywheel: Flywheel, assets: Sequence[dg.AssetsDefinition], cron: str, running: bool
) -> tuple[dg.JobDefinition, dg.ScheduleDefinition]:
    """The job and its schedule; runs that made what the `assets` are now are kept.

    Raises FlywheelError for a text that is no cron schedule.
    """
    job = _job(flywheel, [key for each in assets for key in each.keys])

    def housekeeping(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        for each in ("retrain", "ingest"):
            if in_flight(context.instance, flywheel.name(each)):
                return dg.SkipReason(f"a run of {flywheel.name(each)} is in flight")
        return dg.RunRequest()

    status = dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
    try:
        schedule = dg.ScheduleDefinition(
            name=flywheel.name("nightly_housekeeping"), job_name=job.name, cron_schedule=cron, default_status=status,
            execution_timezone="UTC", execution_fn=housekeeping, description="Deletes what nothing needs any more.",
        )  # fmt: skip
    except dg.DagsterInvalidDefinitionError as error:
        raise FlywheelError(f"housekeeping.cron is not a cron schedule: {cron!r}. Write one such as '30 4 * * *'.") from error
    return job, schedule


def _job(flywheel: Flywheel, assets: Sequence[dg.AssetKey]) -> dg.JobDefinition:
    @dg.op(name=flywheel.name("tidy"), required_resource_keys={flywheel.resource}, out=dg.Out(dg.Nothing))
    def tidy_up(context: dg.OpExecutionContext) -> None:
        with flywheel.at_work(context) as workspace:
            freed = tidy(workspace)
            context.log.info(f"{freed / 1e6:,.1f} MB of the home are free again")
            ours = Path(context.instance.root_directory).is_relative_to(workspace.home.dagster)
            jobs = None if ours else {flywheel.name(name) for name in _JOBS}
            old = old_runs(context.instance, jobs, assets, workspace.settings.housekeeping.runs)
            remove_runs(context.instance, old)
            context.log.info(f"{len(old):,} old runs are removed")

    @dg.job(name=flywheel.name("housekeeping"), description="Delete what nothing needs any more.")
    def housekeeping() -> None:
        tidy_up()

    return housekeeping


def old_runs(instance: dg.DagsterInstance, jobs: Collection[str] | None, assets: Sequence[dg.AssetKey], most: int) -> list[str]:
    """The ended runs of `jobs` (None: of all) but the newest `most` and those that made what is there now of the assets."""
    needed = {run_id for asset in assets for run_id in _made_by(instance, asset)}
    runs = instance.get_runs(dg.RunsFilter(statuses=list(ENDED)))  # the newest first
    ours = [run.run_id for run in runs if jobs is None or run.job_name in jobs]
    return [run_id for run_id in ours[most:] if run_id not in needed]


def _made_by(instance: dg.DagsterInstance, asset: dg.AssetKey) -> set[str]:
    """The runs that made an asset, or each of its partitions, last."""
    records = instance.fetch_materializations(asset, limit=_MOST_CELLS).records
    return set({record.partition_key: record.run_id for record in reversed(records)}.values())
