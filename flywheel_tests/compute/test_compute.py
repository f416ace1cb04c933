"""Training in a process of its own: the same model, its secrets, its ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
from filelock import FileLock

from flywheel.compute.launch import choose_compute
from flywheel.compute.options import ComputeOptions
from flywheel.compute.places import Places
from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.orchestration.instance import open_session
from flywheel.orchestration.materialise import materialise
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.settings import load_settings
from flywheel.training.job import Cell, TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener, Progress, Trained, ignore_progress
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.training.test_training import contents

CELL = Cell(Variant("all-MiniLM-L6-v2", 256), "100")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=30, evaluation={"min_components": 5})


def run_in(name: str, world: World, job: TrainingJob, listener: Listener, workspace: Workspace | None = None) -> TrainedModel:
    """Run a job as the compute `name` does, in the world's home or in another that has its snapshot."""
    workspace = workspace or world.workspace
    home, weights = workspace.home, workspace.models.find(job.base.name).path
    places = Places(world.snapshot.folder, home.models, home.cache, weights)
    return choose_compute(ComputeOptions(run_in=name))(job, places, workspace.settings.encoding, listener)


@contextmanager
def held(models: Path, job: TrainingJob) -> Iterator[None]:
    """Nobody else gets on with the job until the block ends."""
    (models / ".locks").mkdir(parents=True, exist_ok=True)
    with FileLock(models / ".locks" / job.job_id):
        yield


def training_child(pid: int) -> psutil.Process:
    """The training process that the process `pid` has, or soon has."""
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            with suppress(psutil.Error):  # a child of another kind that ends just now
                if "flywheel.training" in child.cmdline():
                    return child
        time.sleep(0.05)
    pytest.fail("no training process within 180 s")


def is_gone(child: psutil.Process) -> bool:
    """Whether the process ends, within a time that only a stuck one takes."""
    return not psutil.wait_procs([child], timeout=60)[1]


def test_a_process_makes_the_model_that_inline_makes_and_both_tell_how_far_they_are(world: World, tmp_path: Path) -> None:
    heard: dict[str, list[Progress]] = {"inline": [], "process": []}
    folders = {}
    for name, listener in heard.items():
        apart = Places(world.snapshot.folder, tmp_path / name, world.workspace.home.cache)
        compute, options = choose_compute(ComputeOptions(run_in=name)), world.workspace.settings.encoding
        model = compute(world.job(), apart, options, listener.append)
        assert model.folder == tmp_path / name / world.job().job_id
        assert not model.reused
        assert compute(world.job(), apart, options, ignore_progress).reused
        folders[name] = contents(model.folder)
    assert folders["inline"] == folders["process"]
    steps_of = {name: [(e.done, e.of, e.loss) for e in events if isinstance(e, Trained)] for name, events in heard.items()}
    assert steps_of["inline"] == steps_of["process"]
    assert [of for _, of, _ in steps_of["inline"]] == [80] * 80


def test_a_job_that_fails_says_the_same_sentence_from_a_process(world: World) -> None:
    sentences = []
    for name in ("inline", "process"):
        with pytest.raises(FlywheelError, match=r"Size 9999 needs 9999 seed pairs") as caught:
            run_in(name, world, world.job(size="9999"), ignore_progress)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]


def test_a_process_gets_what_it_needs_and_no_secret(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {"LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "AWS_REGION": "us-east-1"}
    secret = ("OPENAI_API_KEY", "DAGSTER_HOME", "DAGSTER_CLOUD_API_TOKEN", "DATABASE_PASSWORD", "GITHUB_TOKEN")
    for name, value in {**needed, **dict.fromkeys(secret, "secret")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FLYWHEEL_BASELINE__MODEL", "secret")  # settings go by argument, those of a model alone
    tables = {"all-MiniLM-L6-v2": {"path": "/models/minilm"}, "all-mpnet-base-v2": {"path": "/models/mpnet"}}
    workspace = with_options(world.workspace, models=tables, encoding={"state_cache_gb": 3.5})
    job = world.job(random_seed=1)
    with ThreadPoolExecutor(1) as beside, held(workspace.home.models, job):
        running = beside.submit(run_in, "process", world, job, ignore_progress, workspace)
        child = training_child(os.getpid())
        environment, command = child.environ(), child.cmdline()
        child.kill()
        with pytest.raises(FlywheelError):
            running.result()
    assert needed.items() <= environment.items()
    assert not set(secret) & set(environment)
    assert not [name for name in environment if name.startswith("FLYWHEEL_")]
    assert "secret" not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]
    home = workspace.home
    assert command[command.index("flywheel.training") + 2 :] == [
        *(str(world.snapshot.folder), str(home.models), str(home.cache), "--device", "gone", "--state-cache-gb", "3.5"),
        *("--weights", "/models/minilm", "--until-eof"),
    ]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (signal.SIGKILL, r"killed, most likely because memory ran out: choose a recipe that trains less"),
        (signal.SIGSEGV, r"crashed \(SIGSEGV\)"),
    ],
)
def test_a_run_whose_training_process_is_killed_fails_and_says_why(world: World, number: int, sentence: str) -> None:
    workspace = make_workspace(world.workspace.home.root, compute={"run_in": "process"})
    job = training_job(workspace, world.snapshot, CELL, "head")
    with open_session(workspace.settings) as session, held(workspace.home.models, job), ThreadPoolExecutor(1) as beside:
        killed = beside.submit(lambda: training_child(os.getpid()).send_signal(number))
        with pytest.raises(FlywheelError, match=sentence):
            materialise(session, ["finetuned_model"], CELL)
        killed.result()
        (run,) = session.instance.get_runs(limit=1)
        assert run.status == dg.DagsterRunStatus.FAILURE


def test_one_who_stops_listening_leaves_no_process_behind(world: World) -> None:
    def stop(event: Progress) -> None:
        children.update(set(psutil.Process().children()) - others)
        raise KeyboardInterrupt

    children: set[psutil.Process] = set()
    others = set(psutil.Process().children())
    with pytest.raises(KeyboardInterrupt):
        run_in("process", world, world.job(random_seed=2), stop)
    assert children
    assert not [child for child in children if child.is_running()]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_training_process_ends_with_the_verb_that_started_it(world: World, number: int, code: int) -> None:
    workspace = make_workspace(world.workspace.home.root)
    job = training_job(workspace, world.snapshot, CELL, "head")
    command = ["train", str(CELL.variant), CELL.size, "--home", str(workspace.home.root)]
    with held(workspace.home.models, job):
        verb = subprocess.Popen(
            [sys.executable, "-m", "flywheel.cli", *command], env={**os.environ, "FLYWHEEL_COMPUTE__RUN_IN": "process"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        child = training_child(verb.pid)
        verb.send_signal(number)
        assert is_gone(child)
        assert verb.wait(60) == code


def test_runs_and_verbs_train_in_their_own_process_unless_someone_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def used() -> str:
        with open_session(load_settings(tmp_path)) as session:
            return session.workspace.settings.compute.run_in

    assert used() == "inline"
    (tmp_path / "flywheel.toml").write_text('[compute]\nrun_in = "process"\n')
    assert used() == "process"
    (tmp_path / "flywheel.toml").unlink()
    monkeypatch.setenv("FLYWHEEL_COMPUTE__RUN_IN", "process")
    assert used() == "process"
