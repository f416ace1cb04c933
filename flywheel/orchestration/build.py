"""One function that puts the definitions together."""

import dagster as dg
from dagster._utils.schedules import is_valid_cron_string

from flywheel.errors import FlywheelError
from flywheel.orchestration.assets import ALL_ASSETS
from flywheel.orchestration.jobs import INGEST, RETRAIN
from flywheel.orchestration.resources import Workbench
from flywheel.orchestration.sensors import inbox_sensor, retrain_sensor, weekly_schedule
from flywheel.settings import Settings


def build_defs(settings: Settings) -> dg.Definitions:
    """The definitions for one home. Runs execute in their own process, steps inside it one after the other."""
    if not is_valid_cron_string(settings.retrain_cron):
        raise FlywheelError(
            f"retrain_cron is {settings.retrain_cron!r}, which is no cron schedule; write one such as '0 3 * * 1'."
        )
    return dg.Definitions(
        assets=ALL_ASSETS,
        jobs=[INGEST, RETRAIN],
        sensors=[inbox_sensor, retrain_sensor],
        schedules=[weekly_schedule(settings.retrain_cron)],
        resources={"workbench": Workbench(home=str(settings.home), overrides={})},
        executor=dg.in_process_executor,
    )
