"""Training in a process of its own: the same model, its secrets, its ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest
from filelock import FileLock

from flywheel.compute import inline, process
from flywheel.compute.launch import compute_of
from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.orchestration import steps
from flywheel.orchestration.instance import open_session
from flywheel.orchestration.materialise import materialise
from flywheel.settings import Settings, load_settings
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Progress, Trained, ignore_progress
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.training.test_training import contents

CELL = (Variant("all-MiniLM-L6-v2", 256), "100")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=30, min_components=5)


@contextmanager
def held(models: Path, job: TrainingJob) -> Iterator[None]:
    """Nobody else gets on with the job until the block ends."""
    (models / ".locks").mkdir(parents=True, exist_ok=True)
    with FileLock(models / ".locks" / job.job_id):
        yield


def training_child(pid: int) -> psutil.Process:
    """The training process that the process `pid` has, or soon has."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if "flywheel.training" in child.cmdline():
                return child
        time.sleep(0.05)
    pytest.fail("no training process within 60 s")


def is_gone(child: psutil.Process) -> bool:
    """Whether the process ends, within a time that only a stuck one takes."""
    return not psutil.wait_procs([child], timeout=60)[1]


def test_a_process_makes_the_model_that_inline_makes_and_both_tell_how_far_they_are(world: World, tmp_path: Path) -> None:
    heard: dict[str, list[Progress]] = {"inline": [], "process": []}
    folders = {}
    for name, listener in heard.items():
        apart = world.settings.model_copy(update={"compute": name, "home": tmp_path / name})
        apart.home.mkdir()
        for shared in ("snapshots", "cache"):
            (apart.home / shared).symlink_to(world.settings.home / shared)
        model = compute_of(apart)(world.job(), apart, listener.append)
        assert not model.reused
        assert compute_of(apart)(world.job(), apart, ignore_progress).reused
        folders[name] = contents(model.folder)
    assert folders["inline"] == folders["process"]
    steps_of = {name: [(e.done, e.of, e.loss) for e in events if isinstance(e, Trained)] for name, events in heard.items()}
    assert steps_of["inline"] == steps_of["process"]
    assert [of for _, of, _ in steps_of["inline"]] == [200] * 100


def test_a_job_that_fails_says_the_same_sentence_from_a_process(world: World) -> None:
    said = []
    for run in (inline.run, process.run):
        with pytest.raises(FlywheelError, match=r"Size 9999 needs 9999 seed pairs") as caught:
            run(world.job(size="9999"), world.settings, ignore_progress)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_process_is_told_what_it_needs_and_no_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "AWS_REGION": "us-east-1"}
    secret = ("OPENAI_API_KEY", "DAGSTER_HOME", "DAGSTER_CLOUD_API_TOKEN", "DATABASE_PASSWORD", "GITHUB_TOKEN")
    for name, value in {**needed, **dict.fromkeys(secret, "secret")}.items():
        monkeypatch.setenv(name, value)
    settings = world.settings.model_copy(update={"model_paths": {"all-mpnet-base-v2": Path("/models/mpnet")}})
    job = world.job(random_seed=1)
    with ThreadPoolExecutor(1) as beside, held(settings.models, job):
        running = beside.submit(process.run, job, settings, ignore_progress)
        child = training_child(os.getpid())
        told = child.environ()
        child.kill()
        with pytest.raises(FlywheelError):
            running.result()
    assert needed.items() <= told.items()
    assert not set(secret) & set(told)
    assert "secret" not in told.values()
    assert (told["FLYWHEEL_HOME"], told["FLYWHEEL_DEVICE"]) == (str(settings.home), "gone")
    assert told["FLYWHEEL_MODEL_PATHS"] == '{"all-mpnet-base-v2": "/models/mpnet"}'
    assert told["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGKILL, r"killed, most likely because memory ran out: choose a smaller batch"),
        (signal.SIGSEGV, r"crashed \(SIGSEGV\)"),
    ],
)
def test_a_run_whose_training_process_is_killed_fails_and_says_why(world: World, number: int, sentence: str) -> None:
    settings = load_settings(world.settings.home)
    job = steps.training_job(settings, world.snapshot, *CELL, "head")
    with open_session(settings) as session, held(settings.models, job), ThreadPoolExecutor(1) as beside:
        killed = beside.submit(lambda: training_child(os.getpid()).send_signal(number))
        with pytest.raises(FlywheelError, match=sentence):
            materialise(session.with_settings(compute="process"), ["finetuned_model"], CELL)
        killed.result()
        (run,) = session.instance.get_runs(limit=1)
        assert run.status == dg.DagsterRunStatus.FAILURE


def test_one_who_stops_listening_leaves_no_process_behind(world: World) -> None:
    def stop(event: Progress) -> None:
        children.extend(psutil.Process().children())
        raise KeyboardInterrupt

    children: list[psutil.Process] = []
    with pytest.raises(KeyboardInterrupt):
        process.run(world.job(random_seed=2), world.settings, stop)
    assert children
    assert not [child for child in children if child.is_running()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_training_process_ends_with_the_verb_that_started_it(world: World, number: int, code: int) -> None:
    settings = load_settings(world.settings.home)
    job = steps.training_job(settings, world.snapshot, *CELL, "head")
    command = ["train", str(CELL[0]), CELL[1], "--home", str(settings.home)]
    with held(settings.models, job):
        verb = subprocess.Popen(
            [sys.executable, "-m", "flywheel.cli", *command], env={**os.environ, "FLYWHEEL_COMPUTE": "process"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        child = training_child(verb.pid)
        verb.send_signal(number)
        assert is_gone(child)
        assert verb.wait(60) == code


def test_verbs_train_inline_unless_someone_says_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def used() -> tuple[str, dict[str, str]]:
        with open_session(load_settings(tmp_path)) as session:
            return session.settings.compute, session.overrides

    assert Settings().compute == "process"
    assert used() == ("inline", {"compute": "inline"})
    monkeypatch.setenv("FLYWHEEL_COMPUTE", "process")
    assert used() == ("process", {})
