"""Trainings on a real Ray cluster: live progress, cancelled, adopted, a node killed, a token, the demo's grid."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.compute.options import ComputeOptions
from flywheel.compute.ray_jobs import RayJobs
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Progress, Trained
from flywheel_tests.helpers.clumps import World
from flywheel_tests.helpers.clusters import Heard, cluster_world, here, stop_at
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.helpers.ray_cluster import DASHBOARD, RayCluster, own_network
from flywheel_tests.training.test_training import contents

__all__ = ["own_network"]  # a fixture
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(own_network: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head and one node with room for two trainings."""
    cluster = RayCluster(tmp_path_factory.mktemp("ray"))
    try:
        cluster.add_node(cpus=2)
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def world(cluster: RayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as cluster_options sets it for jobs
    return cluster_world(tmp_path, tmp_path / "disk", engine="ray", gpus=0, ray={"address": DASHBOARD})


def train(world: World, heard: Heard, job: TrainingJob | None = None, **compute: object) -> Path:
    workspace = with_options(world.workspace, compute=compute).with_listener(heard)
    return workspace.train(job or world.job(), world.snapshot).folder


def long_job(world: World, **fields: object) -> TrainingJob:
    return world.job(head=replace(world.job().head, min_steps=3_000), **fields)


def states(world: World) -> dict[str, str]:
    """The state of each job that the cluster remembers, by its id."""
    jobs = RayJobs(world.workspace.settings.compute)._client.list_jobs()
    return {each.submission_id: str(each.status.value) for each in jobs if each.submission_id}


def test_a_job_makes_there_what_it_makes_here_and_says_how_far_it_is(world: World) -> None:
    heard = Heard()
    folder = train(world, heard)
    away = contents(folder)
    name = f"flywheel-{world.job().job_id}-0.0"
    assert f"Started Ray job {name}." in heard.notices
    assert heard.steps[-1] == 80
    shutil.rmtree(folder)
    assert contents(here(world).train(world.job(), world.snapshot).folder) == away
    assert states(world)[name] == "SUCCEEDED"


def test_who_stops_leaves_no_job_and_the_next_one_starts_another(world: World) -> None:
    job = long_job(world)
    with pytest.raises(KeyboardInterrupt):
        train(world, Heard(stop_at(Trained)), job)
    deadline = time.monotonic() + 30
    while states(world)[f"flywheel-{job.job_id}-0.0"] != "STOPPED":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    heard = Heard()
    train(world, heard, job)
    assert heard.notices[0] == f"Started Ray job flywheel-{job.job_id}-0.1."
    assert heard.steps == sorted(heard.steps), "the log of the first one came too"


def test_a_second_launcher_follows_the_job_that_runs(world: World, tmp_path: Path) -> None:
    job, begun = long_job(world, random_seed=1), threading.Event()

    def on_event(event: Progress) -> None:
        if isinstance(event, Trained):
            begun.set()

    first = threading.Thread(target=lambda: train(world, Heard(on_event), job))
    first.start()
    assert begun.wait(120)
    groups = world.workspace.settings.model_dump(exclude_unset=True, exclude={"home"})
    other, heard = make_workspace(tmp_path / "other", **groups), Heard()
    other.with_listener(heard).train(job, world.snapshot)
    first.join()
    assert heard.notices[0] == f"Following Ray job flywheel-{job.job_id}-0.0."
    assert [name for name in states(world) if job.job_id in name] == [f"flywheel-{job.job_id}-0.0"]


def test_a_training_whose_node_is_lost_is_started_again(cluster: RayCluster, world: World) -> None:
    job, lost = long_job(world, random_seed=2), []

    def lose(event: Progress) -> None:
        if isinstance(event, Trained) and not lost:
            lost.append(cluster.nodes[-1])
            cluster.kill(cluster.nodes[-1])
            cluster.add_node(cpus=2)

    heard = Heard(lose)
    train(world, heard, job)
    assert lost
    assert {name for name in states(world) if job.job_id in name} == {f"flywheel-{job.job_id}-{k}.0" for k in (0, 1)}
    assert any("A lost machine is no fault of the training" in each for each in heard.notices)


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        ({"python": "pyhton"}, r"ended: Job entrypoint command failed with exit code 1.*Its last words: .*pyhton"),
        (
            {"ray": {"address": DASHBOARD, "cpus": 64}, "queue_hours": 1e-3},
            r"waited in the queue for 0\.001 hours .*no node has",
        ),
        ({"job_hours": 1e-3}, r"its time was over \(compute\.job_hours\)"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(world: World, compute: dict[str, object], sentence: str) -> None:
    with pytest.raises(FlywheelError, match=sentence):
        train(world, Heard(), long_job(world, random_seed=3), **compute)
    assert "RUNNING" not in states(world).values()


def test_who_has_no_token_is_told_where_it_goes(cluster: RayCluster, tmp_path: Path) -> None:
    ask = f"from flywheel.compute.ray_jobs import *; RayJobs(ComputeOptions(ray={{'address': '{DASHBOARD}'}}))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    for more in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}):
        asked = subprocess.run(
            [sys.executable, "-c", ask], env={**environment, "HOME": str(tmp_path), **more}, capture_output=True, text=True
        )
        assert "FlywheelError: Ray at http://127.0.0.1:8265 does not let us in. Put its token into ~/.ray" in asked.stderr


def test_an_address_where_no_ray_is_ends_in_a_sentence(own_network: None) -> None:
    with pytest.raises(TryAgainError, match=r"^No Ray answers at http://127\.0\.0\.1:9 .*Set compute\.ray\.address"):
        RayJobs(ComputeOptions(ray={"address": "http://127.0.0.1:9"}))
