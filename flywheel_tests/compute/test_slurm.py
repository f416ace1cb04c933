"""Trainings on a real Slurm: the same model, live progress, cancelled, requeued, adopted, refused in a sentence."""

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from flywheel.compute import remote_job
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Progress, Trained
from flywheel_tests.helpers.clumps import World
from flywheel_tests.helpers.clusters import Heard, cluster_options, cluster_world, here, launcher, processes_of, stop_at
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.helpers.slurm import slurm, tool, wait_until
from flywheel_tests.training.test_training import contents
from flywheel_tests.training.test_tune import Command, job_of
from flywheel_tests.training.test_tune import world as starter

__all__ = ["slurm", "starter"]  # fixtures
pytestmark = pytest.mark.slow


@pytest.fixture
def world(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as cluster_options sets it for jobs
    return cluster_world(tmp_path, tmp_path / "disk", engine="slurm", slurm={"folder": str(tmp_path / "logs of jobs")})


def train(world: World, heard: Heard, job: TrainingJob | None = None, **compute: object) -> Path:
    workspace = with_options(world.workspace, compute=compute).with_listener(heard)
    return workspace.train(job or world.job(), world.snapshot).folder


def states() -> dict[str, str]:
    """The state of each job that the controller remembers, by its name."""
    said = subprocess.run(["scontrol", "-o", "show", "job"], capture_output=True, text=True, check=True).stdout
    jobs = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in said.splitlines()]
    return {job["JobName"]: job["JobState"] for job in jobs if "JobName" in job}


def test_a_job_makes_there_what_it_makes_here_and_says_how_far_it_is(world: World) -> None:
    heard = Heard()
    folder = train(world, heard)
    away = contents(folder)
    assert heard.notices[0].startswith("Started Slurm job ")
    assert heard.steps[-1] == 80
    shutil.rmtree(folder)
    assert contents(here(world).train(world.job(), world.snapshot).folder) == away
    shutil.rmtree(folder)
    again = Heard()
    assert contents(train(world, again)) == away
    assert again.events == [], "it is at the root, so that nothing is to be started"
    assert states()[f"flywheel-{world.job().job_id}-0"] == "COMPLETED"
    assert not list(Path(world.workspace.root.uri.removeprefix("file://")).glob("jobs/*"))


def test_nothing_of_the_launchers_environment_goes_there(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("FLYWHEEL_BASELINE__MODEL", "sk-secret")
    seen: list[dict[str, str]] = []

    def look(event: Progress) -> None:
        seen.extend(each.info["environ"] for each in processes_of(world, world.job()))

    train(world, Heard(look))
    assert seen
    assert "sk-secret" not in str(seen)
    assert seen[0]["OMP_NUM_THREADS"] == "1"
    assert seen[0]["CUDA_VISIBLE_DEVICES"] in ("0", "1"), "the device is the engine's to give"


def test_who_stops_leaves_no_job_behind(world: World) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(world, Heard(stop_at(Trained)), world.job(head=replace(world.job().head, min_steps=3_000)))
    wait_until(lambda: not tool("squeue", "-h", "-o", "%i").split(), "the job's end")


def test_two_train_at_once_each_on_a_gpu_of_its_own(world: World) -> None:
    cards, both = {}, threading.Barrier(2, timeout=120)

    def on(seed: int) -> None:
        def look(event: Progress) -> None:
            if isinstance(event, Trained) and seed not in cards:
                job = tool("squeue", "-h", "--states=R", "-o", "%i", "-n", f"flywheel-{job_of(seed).job_id}-0").strip()
                cards[seed] = tool("scontrol", "-d", "-o", "show", "job", job).partition("GRES=gpu:1(IDX:")[2][0]
                both.wait()

        train(world, Heard(look), job_of(seed))

    def job_of(seed: int) -> TrainingJob:
        return world.job(random_seed=seed, head=replace(world.job().head, min_steps=3_000))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(on, (1, 2)))
    assert sorted(cards.values()) == ["0", "1"]


def test_a_launcher_that_was_killed_finds_its_job_again(world: World, tmp_path: Path) -> None:
    job = world.job(head=replace(world.job().head, min_steps=3_000))
    with launcher(world, job, tmp_path) as process:
        wait_until(lambda: states().get(f"flywheel-{job.job_id}-0") == "RUNNING", "the job")
        process.kill()
    heard = Heard()
    train(world, heard, job)
    assert heard.notices[0].startswith("Following Slurm job ")
    assert heard.steps[-1] == 3_000
    assert [name for name in states() if job.job_id in name] == [f"flywheel-{job.job_id}-0"]


@pytest.mark.long
def test_a_preempted_training_goes_on_from_its_checkpoint_on_another_disk(
    slurm: Path, starter: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as cluster_options sets it for jobs
    job, alone = job_of(starter, "top", layers=1, batch_size=2, min_steps=60), Command(starter, tmp_path / "alone")
    alone.run(job)
    options = cluster_options(tmp_path / "disk", engine="slurm", slurm={"folder": str(tmp_path / "logs")})
    workspace = with_options(
        starter.workspace, storage={"root": f"file://{tmp_path}/root"}, compute={**options, "work": str(tmp_path / "work")}
    )
    checkpoints = tmp_path / "root" / "models" / ".tuned" / job.tuning_id / "checkpoints"
    requeued: list[str] = []

    def preempt(event: Progress) -> None:
        if not requeued and list(checkpoints.glob("*/trainer_state.json")):
            number = tool("squeue", "-h", "-n", f"flywheel-{job.job_id}-0", "-o", "%i").strip()
            requeued.append(number)
            tool("scontrol", "requeue", number)
            wait_until(lambda: tool("squeue", "-h", "-j", number, "-o", "%T").strip() == "PENDING", "the requeue")
            shutil.rmtree(tmp_path / "work")
            tool("scontrol", "update", f"JobId={number}", "StartTime=now")

    heard = Heard(preempt)
    model = workspace.with_listener(heard).train(job, starter.snapshot)
    assert requeued
    assert "Going on from a checkpoint of another machine." in heard.notices
    away = Command(starter, tmp_path / "away")
    away.models = tmp_path / "work" / "models"
    assert away.layers(job) == alone.layers(job)
    assert model.folder.parent == workspace.home.models


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        ({"slurm": {"options": ["--partition=elsewhere"]}}, r"^Slurm refuses: .*invalid partition specified: elsewhere"),
        ({"gpus": 9}, r"^Slurm refuses: .*Requested node configuration is not available.*compute\.gpus\.$"),
        ({"python": "pyhton"}, r"ended: Slurm says FAILED, exit code 127:0\. Its last words: .*pyhton"),
        ({"slurm": {"login": ["no-such-command"]}}, r"^compute\.slurm\.login cannot be started .*no-such-command"),
        ({"slurm": {"login": ["env", "PATH=/nowhere", "/bin/sh", "-c", "exec /bin/sh"]}}, r"^Slurm's commands are not here: "),
        ({"slurm": {"options": ["--hold"]}, "queue_hours": 1e-4}, r"waited in the queue for 0\.0001 hours .*JobHeldUser"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(world: World, compute: dict[str, object], sentence: str) -> None:
    with pytest.raises(FlywheelError, match=sentence):
        train(world, Heard(), **compute)
    assert not tool("squeue", "-h", "-o", "%i").split()


def test_a_job_that_its_administrator_cancels_fails_and_can_be_started_again(world: World) -> None:
    job = world.job(head=replace(world.job().head, min_steps=3_000))

    def cancel(event: Progress) -> None:
        if isinstance(event, Trained):
            tool("scancel", "-n", f"flywheel-{job.job_id}-0")

    with pytest.raises(FlywheelError, match=r"^Slurm job \d+ ended: it was cancelled in Slurm\. Its last words:"):
        train(world, Heard(cancel), job)
    heard = Heard()
    train(world, heard, job)
    assert heard.notices[0].startswith("Started Slurm job ")


def test_a_controller_that_is_away_is_waited_for_and_the_job_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_job, "_PATIENCE_SECONDS", 1)
    job = world.job(head=replace(world.job().head, min_steps=3_000))
    configuration = os.environ["SLURM_CONF"]

    def go_away(event: Progress) -> None:
        if isinstance(event, Trained):
            wrong = Path(configuration).read_text().replace("SlurmctldPort=", "SlurmctldPort=1 #")
            other = Path(configuration).with_name("wrong.conf")
            other.write_text(wrong)
            monkeypatch.setenv("SLURM_CONF", str(other))

    with pytest.raises(TryAgainError, match=r"cannot be followed: Slurm does not answer: .*It may go on\. Run the same again"):
        train(world, Heard(go_away), job)
    monkeypatch.setenv("SLURM_CONF", configuration)
    assert states()[f"flywheel-{job.job_id}-0"] in ("RUNNING", "COMPLETED", "COMPLETING")
    train(world, Heard(), job)
    assert [name for name in states() if job.job_id in name] == [f"flywheel-{job.job_id}-0"]
