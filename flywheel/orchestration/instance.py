"""The Dagster instance of a home, and runs whose process has ended. The one file that uses Dagster's private modules."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.dagster_run import FINISHED_STATUSES, IN_PROGRESS_RUN_STATUSES
from dagster._utils.schedules import is_valid_cron_string

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.home import Home
from flywheel.orchestration.dagster_file import is_ours, unusable, what_theirs_says, write_ours
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import Settings
from flywheel.training.progress import Listener

log = logging.getLogger(__name__)

PROCESS_TAG = "flywheel/process"
POOL = "gpu"
UP = "_FLYWHEEL_UP"  # set for what `flywheel up` starts
ENDED = frozenset(FINISHED_STATUSES)
DAEMON_MODULE = "dagster._daemon"
_CLOCK_STEP_SECONDS = 60.0
_set_here: dict[str, str] = {}  # the variables that this process has set itself
_OUTPUT_STAYS_HERE = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}


def prepare_home(home: Home) -> None:
    """Give the home a `dagster.yaml` unless it has one, and make Dagster in this process and its children use it.

    Says so when that is not the Dagster, or the file is not the one, that somebody may expect. Raises FlywheelError when the
    folder holds somebody else's files under names that flywheel would write to.
    """
    home.refuse_others_files()
    with explain_disk_errors(home.root):
        for folder in (home.dagster, home.inbox):
            folder.mkdir(parents=True, exist_ok=True)
    write_ours(home)
    if not is_ours(home.dagster_file):
        log.warning("%s", what_theirs_says(home.dagster_file))
    elsewhere = os.environ.get("DAGSTER_HOME")
    if (
        elsewhere
        and elsewhere not in (_set_here.get("DAGSTER_HOME"), str(home.root))
        and Path(elsewhere).resolve() != home.root
    ):
        log.warning(
            "DAGSTER_HOME is %s, but this command keeps its runs in %s. To have them there, set FLYWHEEL_HOME to it too.",
            elsewhere,
            home.root,
        )
    _set_here.update(DAGSTER_HOME=str(home.root), FLYWHEEL_HOME=str(home.root))
    os.environ.update(_set_here)


@dataclass(frozen=True)
class Session:
    """A home at work: the workspace that runs of this process use, and its Dagster instance."""

    workspace: Workspace
    instance: dg.DagsterInstance

    def with_listener(self, listener: Listener) -> "Session":
        """The same, with one more who hears of progress."""
        return replace(self, workspace=self.workspace.with_listener(listener))


@contextmanager
def open_session(settings: Settings) -> Iterator[Session]:
    """The home's instance, with dead runs reaped and the pool's slots set.

    What a verb materialises trains in its own process, cell after cell, unless someone has set `compute.run_in`. What that
    process prints goes to its terminal and to no run's log: Dagster would write it to files with four processes a run.
    """
    workspace = Workspace(settings)
    prepare_home(workspace.home)
    with _open_instance(workspace.home) as instance:
        reap_dead_runs(instance)
        instance.event_log_storage.set_concurrency_slots(POOL, settings.compute.gpu_slots)
        chosen = "run_in" in settings.compute.model_fields_set
        yield Session(workspace if chosen else workspace.with_options("compute", run_in="inline"), instance)


def _open_instance(home: Home) -> dg.DagsterInstance:
    try:
        instance = dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home.root), overrides=_OUTPUT_STAYS_HERE))
        instance.get_runs(limit=1)
    except Exception as error:  # a storage that is not installed or does not answer, a key that is unknown, ...
        if is_ours(home.dagster_file):
            raise
        raise unusable(home.dagster_file, error) from error
    return instance


def is_valid_cron(text: str) -> bool:
    """Whether Dagster's scheduler understands a cron schedule."""
    return is_valid_cron_string(text)


def check_home(home: Home) -> None:
    """Refuse a Dagster that keeps its state elsewhere than flywheel does.

    Raises FlywheelError when `DAGSTER_HOME` (or, without it, the working directory's `dagster.yaml`) and the home differ.
    """
    dagster_home = os.environ.get("DAGSTER_HOME")
    if not dagster_home and not Path("dagster.yaml").exists():
        raise FlywheelError(
            "DAGSTER_HOME is not set and there is no dagster.yaml here, so Dagster would forget everything. "
            "Start with `flywheel up`, or run `dagster dev` in flywheel's own folder."
        )
    used = Path(dagster_home).resolve() if dagster_home else Path("data").resolve()
    if used != home.root:
        raise FlywheelError(
            f"Dagster keeps its state in {used}, but flywheel's home is {home.root}: one would not see what the other "
            "did. Start with `flywheel up`, or set DAGSTER_HOME and FLYWHEEL_HOME to the same folder."
        )


def process_tag() -> str:
    """This process's identity, which no other process has had: host, boot, pid and start time."""
    process = psutil.Process()
    return f"{socket.gethostname()}|{_boot_id()}|{process.pid}|{process.create_time():.0f}"


def _boot_id() -> str:
    kernel = Path("/proc/sys/kernel/random/boot_id")
    return kernel.read_text().strip() if kernel.exists() else f"{psutil.boot_time():.0f}"


def reap_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Report runs whose process has ended as failed and free the pool slots of dead runs; returns whom it reported.

    Dagster notices a killed process only while the code server that launched it lives: any other run would stay started for
    ever. And the slots of a dead run, reported or not, it frees late or never.
    """
    dead = []
    for run in instance.get_runs(dg.RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES))):
        tag = run.tags.get(PROCESS_TAG)
        if tag and not _alive(tag):
            log.warning("run %s: its process has ended; it is reported as failed", run.run_id)
            instance.report_run_failed(
                run, message="The run's process has ended: killed, out of memory, or the machine restarted. Launch it again."
            )
            dead.append(run.run_id)
    for run_id in _slot_holders(instance):
        holder = instance.get_run_by_id(run_id)
        if holder is None or (holder.is_finished and not _alive(holder.tags.get(PROCESS_TAG))):
            instance.event_log_storage.free_concurrency_slots_for_run(run_id)
    return dead


def _slot_holders(instance: dg.DagsterInstance) -> set[str]:
    """The runs that have a slot of the pool, or were given one and have not taken it."""
    if not instance.event_log_storage.supports_global_concurrency_limits:
        return set()
    pool = instance.event_log_storage.get_concurrency_info(POOL)
    return pool.active_run_ids | pool.assigned_run_ids


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
