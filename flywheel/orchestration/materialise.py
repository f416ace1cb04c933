"""Materialising assets in this very process, recorded in the home's Dagster instance like any other run."""

import logging
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.build import build_assets, build_checks
from flywheel.orchestration.failures import sentence_of
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.instance import PROCESS_TAG, Session, process_tag
from flywheel.orchestration.partitions import Grid
from flywheel.processes import stoppable
from flywheel.training.job import Cell

_WORKSPACE = "workspace"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def materialise(
    session: Session, assets: Sequence[str], cell: Cell | None = None, recipe: str = "head"
) -> dict[str, dict[str, Any]]:
    """Materialise `assets`, of one cell if they are partitioned, in one run; returns the metadata of each by name.

    Nothing is paid for: only the asset in the UI and `flywheel baseline embed` may do that. Raises FlywheelError with the one
    sentence of the step that failed, or of a blocking check.
    """
    configs = {"finetuned_model": {"recipe": recipe}, "baseline_scores": {"pay": False}}
    with stoppable(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = _job(session, assets).execute_in_process(
            instance=session.instance,
            asset_selection=[dg.AssetKey(name) for name in assets],
            partition_key=session.grid.key(cell) if cell else None,
            run_config={**_QUIET, "ops": {name: {"config": config} for name, config in configs.items() if name in assets}},
            tags={PROCESS_TAG: process_tag()},
            raise_on_error=False,
        )
    if not result.success:
        raise FlywheelError(_reason(result))
    materialised = ((name, event) for name in assets for event in result.asset_materializations_for_node(name))
    return {name: {key: each.value for key, each in event.metadata.items()} for name, event in materialised}


def _job(session: Session, assets: Sequence[str]) -> dg.JobDefinition:
    """The job that makes some assets, named after the last of them in the list of runs."""
    name = f"{assets[-1]}_by_verb"
    made, checks = _definitions(session.grid)
    return dg.Definitions(
        assets=made, asset_checks=checks, resources={_WORKSPACE: session.workspace}, executor=dg.in_process_executor,
        jobs=[dg.define_asset_job(name, selection=dg.AssetSelection.assets(*assets))],
    ).resolve_job_def(name)  # fmt: skip


@cache
def _definitions(grid: Grid) -> tuple[list[dg.AssetsDefinition], list[dg.AssetChecksDefinition]]:
    flywheel = Flywheel(grid, resource=_WORKSPACE, tries_again=0)  # who waits at a terminal is told at once
    return build_assets(flywheel), build_checks(flywheel)


def _reason(result: dg.ExecuteInProcessResult) -> str:
    for check in result.get_asset_check_evaluations():
        if check.blocking and not check.passed and check.description:
            return check.description
    said = (sentence_of(event) for event in result.all_events)
    if sentence := next(filter(None, said), None):
        return sentence
    return f"Run {result.run_id} failed; its log is in the UI (`flywheel up`)."


def silence_dagster() -> None:
    """Keep Dagster's own lines off the terminal; they stay in the runs' logs."""
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
