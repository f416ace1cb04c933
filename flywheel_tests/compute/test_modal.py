"""Trainings as calls of Modal's function, to the wire: the real client against a stand-in that runs `deploy/modal_app.py`."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flywheel.compute.engine import Command as StartedCommand
from flywheel.compute.modal_calls import ModalCalls
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Progress, Trained
from flywheel_tests.helpers.clumps import World
from flywheel_tests.helpers.clusters import Heard, cluster_options, cluster_world, here, launcher, processes_of, stop_at
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.helpers.modal_cloud import Cloud, forget_client, modal_cloud
from flywheel_tests.helpers.s3 import free_port
from flywheel_tests.helpers.slurm import wait_until
from flywheel_tests.training.test_training import contents
from flywheel_tests.training.test_tune import Command, job_of
from flywheel_tests.training.test_tune import world as starter

__all__ = ["starter"]  # a fixture
pytestmark = pytest.mark.slow
SECRET = "sk-of-the-storage"


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as cluster_options sets it for jobs
    with modal_cloud(tmp_path / "cloud") as cloud:
        yield cloud


@pytest.fixture
def world(cloud: Cloud, tmp_path: Path) -> World:
    return cluster_world(tmp_path, tmp_path / "disk", engine="modal")


def train(world: World, heard: Heard, job: TrainingJob | None = None, **compute: Any) -> Path:
    workspace = with_options(world.workspace, compute=compute).with_listener(heard)
    return workspace.train(job or world.job(), world.snapshot).folder


def long(world: World) -> TrainingJob:
    return world.job(head=replace(world.job().head, min_steps=3_000))


def test_a_job_makes_there_what_it_makes_here_and_says_how_far_it_is(
    world: World, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    cloud.secret["AWS_SECRET_ACCESS_KEY"] = "of Modal"
    variables: list[dict[str, str]] = []
    heard = Heard(lambda event: variables.extend(each.info["environ"] for each in processes_of(world, world.job())))
    folder = train(world, heard)
    away = contents(folder)
    [(call, made)] = cloud.calls.items()
    assert heard.notices[0] == f"Started Modal call {call}."
    assert heard.steps == sorted(set(heard.steps)), "no line is heard twice"
    assert heard.steps[-1] == 80
    shutil.rmtree(folder)
    assert contents(here(world).train(world.job(), world.snapshot).folder) == away
    assert not list(Path(str(world.workspace.root.uri).removeprefix("file://")).glob("jobs/*"))
    assert {"of Modal"} == {each["AWS_SECRET_ACCESS_KEY"] for each in variables if "AWS_SECRET_ACCESS_KEY" in each}
    assert SECRET not in str((made.words, made.variables))


def test_who_stops_leaves_no_call_behind(world: World, cloud: Cloud) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(world, Heard(stop_at(Trained)), long(world))
    [call] = cloud.calls.values()
    assert call.done.is_set()
    wait_until(lambda: not processes_of(world, long(world)), "the container's end")
    assert not list(Path(str(world.workspace.root.uri).removeprefix("file://")).glob("jobs/*.modal"))


def test_a_launcher_that_was_killed_finds_its_call_again(world: World, cloud: Cloud, tmp_path: Path) -> None:
    job = long(world)
    with launcher(world, job, tmp_path) as process:
        wait_until(lambda: list((tmp_path / "root" / "jobs").glob("*.modal")) and processes_of(world, job), "the call")
        process.kill()
    heard = Heard()
    train(world, heard, job)
    [call] = cloud.calls
    assert heard.notices[0] == f"Following Modal call {call}."
    assert heard.steps == sorted(set(heard.steps))
    assert heard.steps[-1] == 3_000


@pytest.mark.long
def test_a_training_whose_container_was_lost_goes_on_from_its_checkpoint_in_another(
    starter: World, cloud: Cloud, tmp_path: Path
) -> None:
    job, alone = job_of(starter, "top", layers=1, batch_size=2, min_steps=60), Command(starter, tmp_path / "alone")
    alone.run(job)
    options = cluster_options(tmp_path / "disk", engine="modal", work=str(tmp_path / "work"))
    workspace = with_options(starter.workspace, storage={"root": f"file://{tmp_path}/root"}, compute=options)
    checkpoints = tmp_path / "root" / "models" / ".tuned" / job.tuning_id / "checkpoints"

    def lose(event: Progress) -> None:
        [(name, call)] = cloud.calls.items()
        if call.containers == 1 and list(checkpoints.glob("*/trainer_state.json")):
            cloud.lose(name)
            wait_until(lambda: call.containers == 2, "another container")
            shutil.rmtree(tmp_path / "work", ignore_errors=True)

    heard = Heard(lose)
    workspace.with_listener(heard).train(job, starter.snapshot)
    assert [call.containers for call in cloud.calls.values()] == [2]
    assert "Going on from a checkpoint of another machine." in heard.notices
    away = Command(starter, tmp_path / "away")
    away.models = tmp_path / "work" / "models"
    assert away.layers(job) == alone.layers(job)


@pytest.mark.parametrize(
    ("compute", "size", "sentence"),
    [
        ({}, "102400", r"102,?400"),  # the job's own sentence
        ({"python": "false"}, "100", r"ended: exit code 1\. Its last words: The container has begun"),
        ({"python": "pyhton"}, "100", r"ended: exit code 127\. Its last words: .*pyhton"),
        ({"job_hours": 1 / 3600}, "100", r"ended: its time was over \(compute\.job_hours\)"),
        ({"modal": {"app": "typo"}}, "100", r"^Modal has no function train in an app typo: .*Put it there with modal deploy"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(
    world: World, cloud: Cloud, compute: dict[str, Any], size: str, sentence: str
) -> None:
    with pytest.raises(FlywheelError, match=sentence):
        train(world, Heard(), world.job(size=size), **compute)
    assert len(cloud.calls) == ("modal" not in compute)
    assert not list(Path(str(world.workspace.root.uri).removeprefix("file://")).glob("jobs/*.modal"))


def test_memory_that_ran_out_is_the_likely_reason_of_a_kill(world: World) -> None:
    def kill(event: Progress) -> None:
        if isinstance(event, Trained):
            for each in processes_of(world, long(world)):
                if each.name() != "timeout":
                    each.kill()

    with pytest.raises(
        FlywheelError, match=r"ended: it was killed, most likely since memory ran out: choose a recipe that trains less"
    ):
        train(world, Heard(kill), long(world))


def test_a_call_that_no_container_takes_is_taken_back(world: World, cloud: Cloud) -> None:
    cloud.starts = False
    with pytest.raises(FlywheelError, match=r"waited in the queue for .*no container has begun with it\. It was taken back"):
        train(world, Heard(), queue_hours=5e-4)
    assert all(call.done.is_set() for call in cloud.calls.values())


def test_a_note_of_a_call_that_modal_does_not_know_holds_nothing_up(world: World, tmp_path: Path) -> None:
    (tmp_path / "root" / "jobs").mkdir(parents=True, exist_ok=True)
    (tmp_path / "root" / "jobs" / f"flywheel-{world.job().job_id}-0.modal").write_text("fc-of-last-year")
    heard = Heard()
    train(world, heard)
    assert heard.notices[0].startswith("Started Modal call ")


def test_a_result_that_modal_keeps_no_longer_is_an_end(cloud: Cloud, tmp_path: Path) -> None:
    cloud.forgets, cloud.starts = True, False
    engine = ModalCalls(ComputeOptions(engine="modal"), f"file://{tmp_path}/jobs")
    call = engine.start(StartedCommand("flywheel-0", ["true"], {}))
    assert engine.look(call).reason == "Modal does not know it any more; results are kept for some days"
    assert engine.find("flywheel-0") is None


def test_a_wrong_token_and_none_are_said_in_a_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_TOKEN_ID", "ak-typo")
    forget_client()
    with pytest.raises(FlywheelError, match=r"^Modal does not let us in: .*MODAL_TOKEN_ID"):
        train(world, Heard())
    for name in ("MODAL_TOKEN_ID", "MODAL_TOKEN_SECRET"):
        monkeypatch.delenv(name)
    forget_client()
    with pytest.raises(FlywheelError, match=r"^Modal does not let us in: Token missing.*MODAL_TOKEN_ID"):
        train(world, Heard())


def test_no_server_is_said_within_two_minutes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODAL_SERVER_URL", f"http://127.0.0.1:{free_port()}")
    forget_client()
    with pytest.raises(TryAgainError, match=r"^Modal cannot be reached: .*Check the network\."):
        train(world, Heard())
