"""Dagster's daemon on a home under stress: killed, doubled, on a full disk, while folders vanish and the clock jumps.

What evaluates sensors, takes runs from the queue and watches over them is Dagster's own code, and so is what executes a run.
Only who starts the processes is another one: a nursery that has imported everything forks them, so that one costs milliseconds.
Each lives by a clock that the nursery has set.

Of daemons that look at once all evaluate sensors, and one takes runs from the queue: Dagster allows no more than that.
"""

import ctypes
import json
import logging
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import dagster as dg
import time_machine
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._grpc.impl import _run_in_subprocess
from dagster._grpc.types import ExecuteExternalJobArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value
from dagster._utils.hosted_user_process import recon_job_from_origin

from flywheel.home import Home
from flywheel.orchestration.dagster_file import instance_config
from flywheel.orchestration.instance import ENDED

LOCATION = "flywheel.definitions"
PATIENCE = 300.0  # seconds after which a process counts as hung
_SUBREAPER = 36  # of prctl: who is orphaned below this process becomes its child
_RUNS = "FLYWHEEL_TESTS_RUNS"  # the folder that has a file for each process of a run
log = logging.getLogger("dagster.daemon")


class ForkLauncher(RunLauncher[Any], ConfigurableClass):
    """Forks the process of a run, which outlives the daemon that launched it, as one that the code server starts does."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        run, ref = context.dagster_run, self._instance.get_ref()
        pid = os.fork()
        if pid == 0:
            _end_after(lambda: _execute(run, ref))
        Path(os.environ[_RUNS], f"{pid} {run.job_name}").touch()

    def terminate(self, run_id: str) -> bool:
        return False


def _execute(run: dg.DagsterRun, ref: InstanceRef) -> None:
    assert run.job_code_origin is not None
    assert run.remote_job_origin is not None
    arguments = serialize_value(ExecuteExternalJobArgs(job_origin=run.remote_job_origin, run_id=run.run_id, instance_ref=ref))
    job = recon_job_from_origin(run.job_code_origin)
    stop = multiprocessing.get_context("fork").Event()
    _run_in_subprocess(arguments, job, stop, lambda event: log.info("%s", event), lambda event: None)


def _end_after(act: Callable[[], object]) -> None:
    """Do something in this forked process, and end it without returning."""
    try:
        act()
    except BaseException:
        logging.getLogger(__name__).exception("a process has failed")
        os._exit(1)
    os._exit(0)


class Nursery:
    """A home, its clock, and the processes that work on it. Lives in a process of its own that has one thread."""

    def __init__(self, home: Home, seed: int) -> None:
        self.home = home
        self.chance = random.Random(seed)
        self.ahead = 0.0  # seconds by which the clock is ahead of the real one
        self.counts: Counter[str] = Counter()
        self.runs = home.root.parent / "runs"
        self.runs.mkdir()
        os.environ[_RUNS] = str(self.runs)
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
        overrides = {
            "run_launcher": {"module": __name__, "class": ForkLauncher.__name__},
            "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"},
        }
        home.dagster.mkdir(parents=True, exist_ok=True)
        home.dagster_file.write_text(json.dumps(instance_config(home.dagster)))  # JSON is YAML
        self.ref = InstanceRef.from_dir(str(home.dagster), overrides=overrides)
        self._wait(self._fork(self._make_storage))

    def _make_storage(self) -> None:
        with dg.DagsterInstance.from_ref(self.ref) as instance:
            instance.all_instigator_state()

    def _fork(self, act: Callable[[], object]) -> int:
        pid = os.fork()
        if pid == 0:
            _end_after(act)
        return pid

    def now(self) -> float:
        """What the clock shows, in seconds since 1970."""
        return time.time() + self.ahead

    def start(self, leads: bool) -> int:
        """Start a daemon that looks once at everything; one that does not lead evaluates sensors alone."""
        return self._fork(lambda: self._look(leads))

    def _look(self, leads: bool) -> None:
        time_machine.travel(datetime.fromtimestamp(self.now(), UTC), tick=True).start()
        location = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(module_name=LOCATION, attribute="defs"), location_name=LOCATION
        )
        with (
            dg.DagsterInstance.from_ref(self.ref) as instance,
            create_test_daemon_workspace_context(InProcessWorkspaceLoadTarget(location), instance) as workspace,
        ):
            for error in execute_sensor_iteration(workspace, log, None, None):
                if error:
                    log.warning("%s", error)
            if leads:
                for _ in QueuedRunCoordinatorDaemon(interval_seconds=1).run_iteration(workspace):
                    pass
                for _ in execute_run_monitoring_iteration(workspace, log):
                    pass

    def look(self, daemons: int = 1, killed_after: float | None = None) -> None:
        """Let daemons look at once, and kill one of them after so many seconds if it has not ended."""
        pids = [self.start(leads=number == 0) for number in range(daemons)]
        if killed_after is not None:
            time.sleep(killed_after)
            victim = self.chance.choice(pids)
            if os.waitpid(victim, os.WNOHANG) == (0, 0):
                os.kill(victim, signal.SIGKILL)
                self.counts["daemons killed"] += 1
                os.waitpid(victim, 0)
            pids.remove(victim)
        for pid in pids:
            self._wait(pid)
        self.reap()

    def _wait(self, pid: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            assert time.monotonic() < deadline, "a daemon hangs"
            time.sleep(0.02)

    def reap(self) -> None:
        """Take note of runs whose process has ended."""
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        for file in self.runs.iterdir():
            if not Path("/proc", file.name.split()[0]).exists():
                file.unlink()

    def alive(self) -> list[tuple[int, str]]:
        """The processes of runs: their ids, and the jobs."""
        self.reap()
        named = [file.name.partition(" ") for file in self.runs.iterdir()]
        found = [(int(pid), job) for pid, _, job in named]
        for job, count in Counter(job for _, job in found).items():
            if count > 1:
                self.counts[f"{job} twice at once"] += 1
        return found

    def kill_a_run(self) -> None:
        """Kill the process of a run, if there is one."""
        if found := self.alive():
            pid, job = self.chance.choice(sorted(found))
            os.kill(pid, signal.SIGKILL)
            self.counts[f"runs of {job} killed"] += 1
            self.reap()

    def wait_for_runs(self, seconds: float = PATIENCE) -> None:
        """Wait until no process of a run is there."""
        deadline = time.monotonic() + seconds
        while self.alive():
            assert time.monotonic() < deadline, "a run hangs"
            time.sleep(0.05)


@dataclass
class Past:
    """What became of the runs of a job: for each state in the order of its first run, how its runs ended."""

    states: dict[str, list[str]] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)
    unfinished: int = 0

    @classmethod
    def of(cls, instance: dg.DagsterInstance, job: str) -> "Past":
        """Read from Dagster's storage, oldest first."""
        past = cls()
        for run in reversed(instance.get_runs(dg.RunsFilter(job_name=job))):
            past.states.setdefault(run.tags["flywheel/launched_for"], []).append(run.status.value)
            past.keys.append(run.tags["dagster/run_key"])
            past.unfinished += run.status not in ENDED
        return past
