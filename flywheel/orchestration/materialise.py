"""Materialising assets in this very process, recorded in the home's Dagster instance like any other run."""

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.assets import ALL_ASSETS, run_config
from flywheel.orchestration.instance import PROCESS_TAG, Session, process_tag
from flywheel.orchestration.partitions import cell_key
from flywheel.processes import stoppable
from flywheel.training.job import Cell

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def materialise(
    session: Session, assets: Sequence[str], cell: Cell | None = None, recipe: str = "head"
) -> dict[str, dict[str, Any]]:
    """Materialise `assets`, of one cell if they are partitioned, in one run; returns the metadata of each by name.

    Nothing is paid for: only the asset in the UI and `flywheel baseline embed` may do that. Raises FlywheelError with the one
    sentence of the step that failed, or of a blocking check.
    """
    with stoppable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = dg.materialize(
            ALL_ASSETS,
            selection=list(assets),
            instance=session.instance,
            resources={"workspace": session.workspace},
            partition_key=cell_key(cell) if cell else None,
            run_config={**_QUIET, **run_config(assets, recipe, pay=False)},
            tags={PROCESS_TAG: process_tag()},
            raise_on_error=False,
        )
    if not result.success:
        raise FlywheelError(_reason(result))
    materialised = ((name, event) for name in assets for event in result.asset_materializations_for_node(name))
    return {name: {key: each.value for key, each in event.metadata.items()} for name, event in materialised}


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for check in result.get_asset_check_evaluations():
        if check.blocking and not check.passed and check.description:
            return check.description
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            if data.user_failure_data and data.user_failure_data.description:
                return data.user_failure_data.description
            if data.error:
                cause = data.error.cause or data.error
                return f"{event.step_key} failed: {cause.message.strip()} (run {result.run_id}; its log is in the UI)"
    return f"Run {result.run_id} failed; its log is in the UI (`flywheel up`)."


def silence_dagster() -> None:
    """Keep Dagster's own lines off the terminal; they stay in the runs' logs."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
