"""One function that puts the definitions together."""

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.assets import ALL_ASSETS
from flywheel.orchestration.instance import is_valid_cron
from flywheel.orchestration.resources import WorkspaceResource
from flywheel.orchestration.sensors import INGEST, RETRAIN, inbox_sensor, retrain_sensor, weekly_schedule
from flywheel.settings import Settings


def build_defs(settings: Settings) -> dg.Definitions:
    """The definitions for one home. Runs execute in their own process, steps inside it one after the other."""
    cron = settings.retraining.cron
    if not is_valid_cron(cron):
        raise FlywheelError(f"retraining.cron is not a cron schedule: {cron!r}. Write one such as '0 3 * * 1'.")
    return dg.Definitions(
        assets=ALL_ASSETS,
        jobs=[INGEST, RETRAIN],
        sensors=[inbox_sensor, retrain_sensor],
        schedules=[weekly_schedule(cron)],
        resources={"workspace": WorkspaceResource(home=str(settings.home))},
        executor=dg.in_process_executor,
    )
