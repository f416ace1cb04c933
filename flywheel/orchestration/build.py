"""One function that puts the definitions of a flywheel together."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import dagster as dg

from flywheel.errors import FlywheelError
from flywheel.orchestration.alarms import build_alarms
from flywheel.orchestration.assets import drift, evaluate, ingest, promote, train
from flywheel.orchestration.flywheel import Flywheel, Pools, prefixed
from flywheel.orchestration.housekeeping import build_housekeeping
from flywheel.orchestration.operators import build_operator_jobs
from flywheel.orchestration.partitions import Grid
from flywheel.orchestration.resources import WorkspaceResource
from flywheel.orchestration.sensors import build_jobs, build_sensors, weekly_schedule
from flywheel.settings import Settings, settings_in_file

FRESH_DAYS = 14.0


def build_defs(
    home: Settings | Path | str,
    *,
    key_prefix: Sequence[str] = (),
    group_prefix: str = "",
    owners: Sequence[str] = (),
    executor: dg.ExecutorDefinition | None = None,
    pools: Mapping[str, str | None] | None = None,
    sensors: bool = True,
    schedule: bool = True,
    alarms: bool = True,
    fresh_days: float | None = FRESH_DAYS,
    resource: str | None = None,
    workspace: Any = None,
) -> dg.Definitions:
    """The definitions of one flywheel, for a code location of its own or to merge with others.

    `home` is its folder, an absolute path whose `flywheel.toml` is read now and by every run, or settings that are read
    already. `key_prefix` comes before the keys of its assets and the names of its jobs, sensors, schedule, store pool and
    resource, `group_prefix` before its groups. Without an `executor` the code location's own is used. `pools` gives the pools
    `gpu`, `api` and `store` other names, or None for no pool. Sensors and schedule run from the start, or else wait to be
    switched on. Without `alarms` there is neither the job that tells people of events nor its sensors. Users may leave nothing
    for `fresh_days` before `interaction_pairs` counts as stale. `resource` is the key of the workspace among the location's
    resources, and `workspace` what is found there: any resource that gives a `Workspace`, by default one that opens the home.

    Raises FlywheelError for settings that are invalid.
    """
    settings = home if isinstance(home, Settings) else settings_in_file(_absolute(Path(home)))
    prefix = tuple(key_prefix)
    flywheel = Flywheel(
        grid=Grid.of(settings.grid),
        key_prefix=prefix,
        group_prefix=group_prefix,
        owners=tuple(owners),
        pools=_pools(prefix, pools or {}),
        resource=resource or prefixed(prefix, "workspace"),
        in_one_process=executor is dg.in_process_executor,
    )
    assets, checks, jobs = build_assets(flywheel, fresh_days), build_checks(flywheel), build_jobs(flywheel)
    tidy_job, nightly = build_housekeeping(flywheel, assets, settings.housekeeping.cron, schedule)
    alarm_jobs, alarm_sensors = build_alarms(flywheel, [*assets, *checks], [*jobs, tidy_job], sensors) if alarms else ([], [])
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[*jobs, *build_operator_jobs(flywheel), tidy_job, *alarm_jobs],
        sensors=[*build_sensors(flywheel, sensors), *alarm_sensors],
        schedules=[weekly_schedule(flywheel, settings.retraining.cron, schedule), nightly],
        resources={flywheel.resource: workspace or WorkspaceResource.at(settings.home)},
        executor=executor,
    )


def build_assets(flywheel: Flywheel, fresh_days: float | None = FRESH_DAYS) -> list[dg.AssetsDefinition]:
    """All assets of a flywheel."""
    others = (
        train.finetuned_model, train.retrained_model, train.challengers, evaluate.baseline_scores, evaluate.evaluation,
        evaluate.api_heads, evaluate.leaderboard, promote.champion, promote.evidence,
    )  # fmt: skip
    return [*ingest.ingest_assets(flywheel, fresh_days), *(make(flywheel) for make in others)]


def build_checks(flywheel: Flywheel) -> list[dg.AssetChecksDefinition]:
    """The checks that can be run without their asset."""
    of_models = (train.served_vectors, train.folder_portability)
    alone = (ingest.rejected_files, ingest.quarantine_share, ingest.leak_probe, drift.budget_left)
    return [
        *(make(flywheel) for make in alone),
        *drift.drift_checks(flywheel),
        *(make(flywheel, asset) for make in of_models for asset in train.TRAINED),
    ]


def _pools(prefix: tuple[str, ...], named: Mapping[str, str | None]) -> Pools:
    """One machine and one paid API for all flywheels of a Dagster, a store for each."""
    if unknown := set(named) - {field.name for field in fields(Pools)}:
        raise FlywheelError(f"There is no pool {', '.join(sorted(unknown))}. Name gpu, api or store.")
    return Pools(**{"store": prefixed(prefix, "store"), **named})


def _absolute(home: Path) -> Path:
    if not home.is_absolute():
        raise FlywheelError(f"The home {str(home)!r} is no absolute path: give its whole path, from / on.")
    return home
