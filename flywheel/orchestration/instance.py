"""The Dagster instance of a home, and runs whose process has ended.

The file that uses what Dagster does not promise to keep, for want of a public way:

- `InstanceRef.from_dir(..., overrides=...)` opens an instance without the files for what its runs print;
- `event_log_storage` sets how many slots a pool has, takes them from dead runs, and says where SQLite keeps a run's events;
- its table `asset_check_executions` keeps what checks found in runs that were deleted.

`server.py` also starts `dagster._daemon`, the daemon as a module, so that it runs in this very environment.
"""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

from flywheel.errors import explain_disk_errors
from flywheel.home import Home
from flywheel.orchestration.dagster_file import is_ours, unusable, what_theirs_says, write_ours
from flywheel.orchestration.partitions import Grid
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import Settings
from flywheel.training.progress import Listener

log = logging.getLogger(__name__)

PROCESS_TAG = ".dagster/flywheel_process"  # the prefix keeps it off the pages
POOL = "gpu"  # of the home's own Dagster
ENDED = frozenset({dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
_AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_CLOCK_STEP_SECONDS = 60.0
_IDS_AT_ONCE = 500  # a statement takes so many ids on any database
_set_here: dict[str, str] = {}  # the variables that this process has set itself
_OUTPUT_STAYS_HERE = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


def prepare_home(home: Home, trainings: int = 1) -> None:
    """Give the home a `dagster/dagster.yaml` unless it has one, and make Dagster in this process and its children use it.

    Says so when that is not the Dagster, or the file is not the one, that somebody may expect. Raises FlywheelError when the
    folder holds somebody else's files under names that flywheel would write to.
    """
    home.refuse_others_files()
    with explain_disk_errors(home.root):
        for folder in (home.dagster, home.inbox):
            folder.mkdir(parents=True, exist_ok=True)
    write_ours(home, trainings)
    if not is_ours(home.dagster_file):
        log.warning("%s", what_theirs_says(home.dagster_file))
    elsewhere = os.environ.get("DAGSTER_HOME")
    if elsewhere and elsewhere != _set_here.get("DAGSTER_HOME") and Path(elsewhere).resolve() != home.dagster:
        log.warning(
            "DAGSTER_HOME is %s, but this command keeps its runs in %s, which `flywheel up` shows.", elsewhere, home.dagster
        )
    _set_here.update(DAGSTER_HOME=str(home.dagster), FLYWHEEL_HOME=str(home.root))
    os.environ.update(_set_here)


@dataclass(frozen=True)
class Session:
    """A home at work: the workspace that runs of this process use, and its Dagster instance."""

    workspace: Workspace
    instance: dg.DagsterInstance

    @property
    def grid(self) -> Grid:
        """The cells that have a partition."""
        return Grid.of(self.workspace.settings.grid)

    def with_listener(self, listener: Listener) -> "Session":
        """The same, with one more who hears of progress."""
        return replace(self, workspace=self.workspace.with_listener(listener))


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """The home's instance, with dead runs reaped and the pool's slots set.

    What this process prints goes to its terminal and to no run's log: Dagster would write it to files with four processes a
    run.
    """
    workspace = Workspace(settings)
    prepare_home(workspace.home, settings.compute.gpu_slots)
    with _open_instance(workspace.home) as instance:
        pools = instance.event_log_storage
        reap_dead_runs(instance, sorted(pools.get_concurrency_keys()))
        pools.set_concurrency_slots(POOL, settings.compute.gpu_slots)
        yield Session(workspace, instance)


def _open_instance(home: Home) -> dg.DagsterInstance:
    try:
        instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home.dagster), overrides=_OUTPUT_STAYS_HERE))
        instance.get_runs(limit=1)
    except Exception as error:  # a storage that is not installed or does not answer, a key that is unknown, ...
        if is_ours(home.dagster_file):
            raise
        raise unusable(home.dagster_file, error) from error
    return instance


def process_tag() -> str:
    """This process's identity, which no other process has had: host, boot, pid and start time."""
    process = psutil.Process()
    return f"{socket.gethostname()}|{_boot_id()}|{process.pid}|{process.create_time():.0f}"


def _boot_id() -> str:
    kernel = Path("/proc/sys/kernel/random/boot_id")
    return kernel.read_text().strip() if kernel.exists() else f"{psutil.boot_time():.0f}"


def reap_dead_runs(instance: dg.DagsterInstance, pools: Sequence[str]) -> list[str]:
    """Report runs whose process has ended as failed and free the slots of dead runs in `pools`; returns whom it reported.

    Dagster notices a killed process only while the code server that launched it lives: any other run would stay started for
    ever. And the slots of a dead run, reported or not, it frees late or never.
    """
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_AT_WORK)):
        tag = run.tags.get(PROCESS_TAG)
        if not _alive(tag) if tag else _died_before_its_first_step(instance, run):
            log.warning("run %s: its process has ended; it is reported as failed", run.run_id)
            instance.report_run_failed(
                run, message="The run's process has ended: killed, out of memory, or the machine restarted. Launch it again."
            )
            dead.append(run.run_id)
    for run_id in _slot_holders(instance, pools):
        holder = instance.get_run_by_id(run_id)
        if holder is None or (holder.is_finished and not _alive(holder.tags.get(PROCESS_TAG))):
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return dead


def remove_runs(instance: dg.DagsterInstance, run_ids: Sequence[str]) -> None:
    """Delete runs with their events, what they printed and what their checks found, but for the last result of each check.

    SQLite keeps the events of each run in a file, which goes too.
    """
    storage: Any = instance.event_log_storage
    if hasattr(storage, "index_connection"):
        for start in range(0, len(run_ids), _IDS_AT_ONCE):
            with storage.index_connection() as connection:
                _remove_check_results(connection, run_ids[start : start + _IDS_AT_ONCE])
    for run_id in run_ids:
        instance.delete_run(run_id)
        instance.compute_log_manager.delete_logs(prefix=[run_id])
        if hasattr(storage, "path_for_shard"):
            for ending in ("", "-wal", "-shm"):
                Path(f"{storage.path_for_shard(run_id)}{ending}").unlink(missing_ok=True)


def _remove_check_results(connection: Any, run_ids: Sequence[str]) -> None:
    """Delete what checks found in these runs, where they have found something later."""
    result, later = AssetCheckExecutionsTable.c, AssetCheckExecutionsTable.alias()
    same_check = [
        later.c.asset_key == result.asset_key,
        later.c.check_name == result.check_name,
        later.c.partition.is_not_distinct_from(result.partition),
    ]
    is_outdated = later.select().where(*same_check, later.c.id > result.id).exists()
    found = AssetCheckExecutionsTable.select().where(result.run_id.in_(run_ids), is_outdated).with_only_columns(result.id)
    outdated = [row.id for row in connection.execute(found).fetchall()]
    for start in range(0, len(outdated), _IDS_AT_ONCE):
        some = outdated[start : start + _IDS_AT_ONCE]
        connection.execute(AssetCheckExecutionsTable.delete().where(result.id.in_(some)))


def last_skip(instance: dg.DagsterInstance, schedule: str, location: str | None) -> tuple[float, str] | None:
    """When the last look of a schedule (of a code location, where one is named) skipped, and why; None where it did not."""
    for state in instance.all_instigator_state():
        origin = state.origin.repository_origin.code_location_origin
        if state.instigator_name == schedule and location in (None, origin.location_name):
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1):
                if tick.status.value == "SKIPPED":
                    return tick.timestamp, tick.skip_reason or "no reason was given"
    return None


def _died_before_its_first_step(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Whether the process of a run that has no tag yet is gone: Dagster writes down its id as it starts, but not its host.

    So only SQLite is asked, which one machine uses. A run that has not started is left to Dagster, which gives up on it.
    """
    if run.status == dg.DagsterRunStatus.STARTING or not hasattr(instance.event_log_storage, "path_for_shard"):
        return False
    for event in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        found = event.dagster_event.engine_event_data.metadata.get("pid") if event.dagster_event else None
        if found is not None:
            try:
                process = psutil.Process(int(str(found.value)))
                return "python" not in process.name() or process.status() == psutil.STATUS_ZOMBIE
            except psutil.NoSuchProcess:
                return True
    return False


def _slot_holders(instance: dg.DagsterInstance, pools: Sequence[str]) -> set[str]:
    """The runs that have a slot of a pool, or were given one and have not taken it."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return set()
    found = [storage.get_concurrency_info(pool) for pool in pools]
    return {run_id for pool in found for run_id in pool.active_run_ids | pool.assigned_run_ids}


def _alive(tag: str | None) -> bool:
    """Whether the process of a tag lives; one on another host cannot be asked and counts as alive, none is not."""
    if tag is None:
        return False
    host, boot, pid, started = tag.split("|")
    if host != socket.gethostname():
        return True
    if boot != _boot_id():
        return False
    try:
        process = psutil.Process(int(pid))
        # Start times are relative to the wall clock, which may have been set since.
        same = abs(process.create_time() - float(started)) < _CLOCK_STEP_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
