"""Trainings on a cluster in tests: a home whose trainings go there, and what is heard of them."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Encoded, Notice, Progress, Trained
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.helpers.homes import with_options

REPOSITORY = Path(__file__).parents[2]


def cluster_world(folder: Path, disk: Path, **compute: Any) -> World:
    """A world of clumps whose trainings go to a cluster with another disk; nothing between the two but a root."""
    groups: dict[str, dict[str, Any]] = {
        "storage": {"root": f"file://{folder}/root"},
        "evaluation": {"min_components": 5},
        "compute": cluster_options(disk, **compute),
    }
    return clump_world(folder / "home", clumps=40, **groups)


def cluster_options(disk: Path, **compute: Any) -> dict[str, Any]:
    """Settings `compute` for a cluster whose jobs run this repository."""
    disk.mkdir(exist_ok=True)
    variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY), "XDG_CACHE_HOME": str(disk)}
    return {"python": sys.executable, "environment": variables, "poll_seconds": 0.3, **compute}


def here(world: World) -> Workspace:
    """The same home with trainings in a process of this machine, and no root."""
    return with_options(world.workspace, storage={"root": None}, compute={"engine": None, "run_in": "process"})


@dataclass
class Heard:
    """A listener. `on_event` may raise, as a person's interrupt does."""

    on_event: Callable[[Progress], None] = lambda event: None
    events: list[Progress] = field(default_factory=list)

    def __call__(self, event: Progress) -> None:
        """Keep it."""
        self.events.append(event)
        self.on_event(event)

    @property
    def notices(self) -> list[str]:
        """What a person was told."""
        return [event.text for event in self.events if isinstance(event, Notice)]

    @property
    def steps(self) -> list[int]:
        """The training steps that were heard."""
        return [event.done for event in self.events if isinstance(event, Trained)]


def stop_at(kind: type[Trained | Encoded | Notice], text: str = "") -> Callable[[Progress], None]:
    """An `on_event` that interrupts at the first event of a kind."""

    def on_event(event: Progress) -> None:
        if isinstance(event, kind) and text in str(event):
            raise KeyboardInterrupt

    return on_event


def processes_of(world: World, job: TrainingJob) -> list[psutil.Process]:
    """The processes that train a job of this world; their `info` has words and variables.

    The root says whose: equal jobs of other tests have the same id, and may run at the same time.
    """
    spec = f"{world.workspace.root.jobs}/{job.job_id}.json"
    running = psutil.process_iter(["cmdline", "environ"])
    return [each for each in running if spec in str(each.info["cmdline"]) and each.info["environ"]]


LAUNCHER = """
import json, sys
from pathlib import Path
from flywheel.training.job import TrainingJob
from flywheel_tests.helpers.homes import make_workspace
home, folder = map(Path, sys.argv[1:])
workspace = make_workspace(home, **json.loads((folder / "settings.json").read_text()))
workspace.train(TrainingJob.from_json((folder / "job.json").read_text()), workspace.current_snapshot())
"""


@contextmanager
def launcher(world: World, job: TrainingJob, folder: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A process that trains a job as the home's settings say, and is killed at the latest with the block."""
    (folder / "settings.json").write_text(world.workspace.settings.model_dump_json(exclude_unset=True, exclude={"home"}))
    (folder / "job.json").write_text(job.to_json())
    command = [sys.executable, "-c", LAUNCHER, str(world.workspace.home.root), str(folder)]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}) as process:
        try:
            yield process
        finally:
            process.kill()
