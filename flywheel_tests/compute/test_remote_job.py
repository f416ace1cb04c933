"""What is the same on every cluster, tried on one whose jobs are processes of this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest

from flywheel import storage
from flywheel.compute import launch, remote_job
from flywheel.compute.engine import Command, State, Tail
from flywheel.compute.options import ComputeOptions
from flywheel.compute.places import Places
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.models.catalogue import Variant
from flywheel.orchestration import grid
from flywheel.orchestration.instance import open_session
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.challengers import train_challengers
from flywheel.pipeline.costs import estimate_grid
from flywheel.pipeline.training import encode_ahead, evaluated_pairs, texts_of_cells, training_job
from flywheel.training.job import Cell, TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Progress, Trained
from flywheel_tests.helpers.clumps import World
from flywheel_tests.helpers.clusters import Heard, cluster_options, cluster_world, stop_at
from flywheel_tests.helpers.homes import with_options


class Processes:
    """A cluster: a job is a process whose output is a file. `scripts` replace what the first jobs run."""

    title = "process"

    def __init__(self, folder: Path, *scripts: str) -> None:
        self._folder, self._scripts, self._numbers = folder, list(scripts), count()
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self.names: dict[str, str] = {}
        self._tails: dict[str, Tail] = {}
        self.waits, self.silent_until, self.gives_up = 0, 0.0, 0

    def find(self, name: str) -> str | None:
        running = [job for job, called in self.names.items() if called == name and self.jobs[job].poll() is None]
        return running[-1] if running else None

    def start(self, command: Command) -> str:
        job = str(next(self._numbers))
        words = [sys.executable, "-c", self._scripts.pop(0)] if self._scripts else list(command.words)
        with (self._folder / job).open("wb") as out:
            self.jobs[job] = subprocess.Popen(words, stdout=out, stderr=out, env={**os.environ, **command.environment})
        self.names[job] = command.name
        return job

    def look(self, job: str) -> State:
        if time.monotonic() < self.silent_until:
            raise TryAgainError("Nobody answers.")
        if self.gives_up:
            self.gives_up -= 1
            self.stop(job)
            return State("ended", "no room for too long", never_ran=True)
        if self.waits:
            self.waits -= 1
            return State("queued", "Priority")
        code = self.jobs[job].poll()
        if code is None:
            return State("running")
        return State("ended", "" if code == 0 else f"exit code {code}", lost=code == -signal.SIGKILL)

    def read(self, job: str) -> list[str]:
        tail = self._tails.setdefault(job, Tail())
        return tail.feed((self._folder / job).read_bytes()[tail.seen :])

    def stop(self, job: str) -> None:
        self.jobs[job].terminate()
        self.jobs[job].wait()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("away")
    world = cluster_world(folder, folder / "disk")
    world.workspace.snapshots.share(world.snapshot)
    world.vectors.cache.share()
    world.workspace.vectors_of(world.job()).cache.share()
    return world


class Away:
    """Trainings that go to `Processes`, from a home of their own."""

    def __init__(self, world: World, folder: Path, *scripts: str) -> None:
        self._world, self._folder = world, folder
        (folder / "output").mkdir()
        self.engine = Processes(folder / "output", *scripts)

    def train(self, job: TrainingJob, heard: Heard, **options: object) -> TrainedModel:
        workspace = self._world.workspace
        places = Places(self._world.snapshot.folder, self._folder / "models", workspace.home.cache, None, workspace.root)
        compute = ComputeOptions(**{**cluster_options(self._folder / "disk"), "poll_seconds": 0.05, **options})
        return remote_job.run(job, places, workspace.settings.encoding, heard, compute, self.engine)


LOST = "import os; os.kill(os.getpid(), 9)"
SPEAKS = "print('{}', flush=True); raise SystemExit({})"


def test_only_a_lost_machine_is_started_again_and_foreign_lines_are_skipped(world: World, tmp_path: Path) -> None:
    away, heard = Away(world, tmp_path, LOST), Heard()
    away.engine.waits = 3
    model = away.train(world.job(), heard)
    assert (model.reused, heard.steps[-1]) == (False, 80)
    assert list(away.engine.names.values()) == [f"flywheel-{world.job().job_id}-{attempt}" for attempt in (0, 1)]
    assert heard.notices[:3] == [
        "Started process 0.",
        "process 0 waits in the queue: Priority.",
        "process 0 ended: exit code -9. A lost machine is no fault of the training: it is started again.",
    ]
    assert not storage.files(str(world.workspace.root.jobs))
    assert away.train(world.job(), Heard()).reused
    assert len(away.engine.jobs) == 2


def test_a_job_that_the_cluster_took_out_of_its_queue_is_put_there_again_and_counts_for_no_attempt(
    world: World, tmp_path: Path
) -> None:
    away, heard = Away(world, tmp_path), Heard()
    away.engine.gives_up = 2
    assert away.train(world.job(random_seed=9), heard, attempts=1).job.random_seed == 9
    assert len(away.engine.jobs) == 3
    assert set(away.engine.names.values()) == {f"flywheel-{world.job(random_seed=9).job_id}-0"}
    assert "process 1 ended: no room for too long. It is put into the queue again." in heard.notices
    away.engine.gives_up = 1
    with pytest.raises(FlywheelError, match=r"ended: no room for too long\. Its last words:"):
        away.train(world.job(random_seed=10), Heard(), queue_hours=1e-9)


def test_machines_that_are_lost_again_and_again_end_in_a_sentence(world: World, tmp_path: Path) -> None:
    away = Away(world, tmp_path, LOST, LOST)
    with pytest.raises(TryAgainError, match=r"^process 1 ended: exit code -9\. The training was started 2 times \(compute"):
        away.train(world.job(random_seed=1), Heard(), attempts=2)
    assert len(away.engine.jobs) == 2


def event(**fields: object) -> str:
    return json.dumps(fields).replace("'", "")


@pytest.mark.parametrize(
    ("line", "kind", "sentence"),
    [
        (event(event="failure", reason="The loss is nan.", passing=False), FlywheelError, r"^The loss is nan\.$"),
        (event(event="failure", reason="s3 is away.", passing=True), TryAgainError, r"^s3 is away\.$"),
        ("ModuleNotFoundError: flywheel", FlywheelError, r"exit code 1\. Its last words: ModuleNotFoundError: flywheel$"),
        (event(event="trained", tempo=3), FlywheelError, r"Its last words: .*tempo"),
    ],
)
def test_a_training_that_fails_is_not_started_again(
    world: World, tmp_path: Path, line: str, kind: type[FlywheelError], sentence: str
) -> None:
    away = Away(world, tmp_path, SPEAKS.format(line, 1))
    with pytest.raises(FlywheelError, match=sentence) as caught:
        away.train(world.job(random_seed=2), Heard())
    assert type(caught.value) is kind
    assert len(away.engine.jobs) == 1


def test_of_several_attempts_in_one_log_the_last_ending_counts(world: World, tmp_path: Path) -> None:
    job = world.job(random_seed=3)
    failed = event(event="failure", reason="The first one failed.", passing=False)
    both = f"print('''{failed}''', flush=True); import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:] or WORDS))"
    away = Away(world, tmp_path)
    start = away.engine.start

    def after_a_failure(command: Command) -> str:
        script = both.replace("WORDS", repr(list(command.words)))
        return start(Command(command.name, [sys.executable, "-c", script], command.environment))

    away.engine.start = after_a_failure  # type: ignore[method-assign]
    assert away.train(job, Heard()).job == job


def test_who_is_interrupted_leaves_no_job_and_who_is_killed_finds_it_again(world: World, tmp_path: Path) -> None:
    job, away = world.job(random_seed=4), Away(world, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        away.train(job, Heard(stop_at(Trained)))
    assert away.engine.jobs["0"].poll() is not None
    running = away.engine.start(Command(f"flywheel-{job.job_id}-2", [sys.executable, "-c", "import time; time.sleep(1)"], {}))
    heard = Heard()
    with pytest.raises(FlywheelError, match=r"^The training ended, but .* has no model of it\. See that storage\.root"):
        away.train(job, heard)
    assert heard.notices == [f"Following process {running}."]


def test_a_cluster_that_does_not_answer_is_waited_for(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, away = world.job(random_seed=5), Away(world, tmp_path)

    def silence(seconds: float) -> Heard:
        def on_event(event: Progress) -> None:
            if isinstance(event, Trained) and not away.engine.silent_until:
                away.engine.silent_until = time.monotonic() + seconds

        return Heard(on_event)

    monkeypatch.setattr(remote_job, "_PATIENCE_SECONDS", 0.5)
    with pytest.raises(TryAgainError, match=r"^process 0 cannot be followed: Nobody answers\. It may go on\. Run the same"):
        away.train(job, silence(60))
    away.engine.silent_until = 0.0
    monkeypatch.setattr(remote_job, "_PATIENCE_SECONDS", 300)
    assert away.train(job, silence(0.5)).job == job
    assert away.engine.jobs["0"].wait() == 0, "it was stopped"


def test_many_are_followed_at_once_and_all_are_stopped_with_the_caller(world: World, tmp_path: Path) -> None:
    away = Away(world, tmp_path, *["import time; time.sleep(600)"] * 3)
    seeds = (6, 7, 8)
    for _ in remote_job.at_once(lambda seed: seed, seeds, 3):
        pass

    def follow(seed: int) -> TrainedModel:
        return away.train(world.job(random_seed=seed), Heard())

    def interrupted(seed: int) -> object:
        if seed == 0:
            while len(away.engine.jobs) < 3:
                time.sleep(0.05)
            return None
        return follow(seed)

    at_once = remote_job.at_once(interrupted, (0, *seeds), 4)
    assert next(at_once) is None
    at_once.close()
    assert [job.poll() for job in away.engine.jobs.values()] == [-signal.SIGTERM] * 3


@pytest.mark.slow
def test_a_grid_encodes_here_what_is_evaluated_and_all_else_once_on_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = cluster_world(tmp_path, tmp_path / "disk", engine="slurm", gpu_slots=2)
    workspace, snapshot = with_options(world.workspace, encoding={"device": "cpu"}), world.snapshot
    for folder in (workspace.home.cache, tmp_path / "root" / "cache"):
        shutil.rmtree(folder)
    (tmp_path / "output").mkdir()
    engine = Processes(tmp_path / "output")
    monkeypatch.setattr(launch, "_engine", lambda options, notes: engine)
    cells = [Cell(Variant("all-MiniLM-L6-v2", 32), size) for size in ("50", "all")]
    cost = estimate_grid(workspace, snapshot, cells, "head")
    encoded, failures = encode_ahead(workspace, snapshot, cells, lambda done, of: None)
    assert (encoded, failures) == (len(unique_texts(*evaluated_pairs(workspace, snapshot))), {})
    assert (cost.texts, cost.texts_away) == (encoded, len(texts_of_cells(workspace, snapshot, ["all"])) - encoded)
    with open_session(workspace.settings) as session:
        finished = list(grid.run_cells(session, snapshot, cells, "head"))
    assert [done.failure for done in finished] == [None] * 2
    encodes = {job: b'{"event": "encoded"' in (tmp_path / "output" / job).read_bytes() for job in engine.jobs}
    assert encodes == {"0": True, "1": False}
    assert engine.names["0"] == f"flywheel-{training_job(workspace, snapshot, cells[1], 'head').job_id}-0"


@pytest.mark.slow
def test_challengers_are_away_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["all-MiniLM-L6-v2@16", "gone-model@16", "all-MiniLM-L6-v2@8"]
    world = cluster_world(tmp_path, tmp_path / "disk", engine="slurm", gpu_slots=3)
    (tmp_path / "output").mkdir()
    engine, running = Processes(tmp_path / "output"), list[int]()
    monkeypatch.setattr(launch, "_engine", lambda options, notes: engine)

    def said(text: str) -> None:
        running.append(sum(job.poll() is None for job in engine.jobs.values()))

    workspace = with_options(world.workspace, retraining={"challengers": names})
    found = train_challengers(workspace, world.snapshot, said)
    assert list(found.trained) == [f"{name} head" for name in (names[0], names[2])]
    assert list(found.failed) == ["gone-model@16 head"]
    assert max(running) == 2


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "aws_secret_access_key", "HF_TOKEN", "PGPASSWORD"])
def test_a_secret_among_the_variables_of_a_job_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} looks like a secret"):
        ComputeOptions(environment={name: "x"})


def test_without_a_root_nothing_is_started(world: World, tmp_path: Path) -> None:
    places = Places(world.snapshot.folder, tmp_path / "models", tmp_path / "cache")
    with pytest.raises(FlywheelError, match=r"find nothing without storage\.root\. Set storage\.root to an address"):
        remote_job.run(world.job(), places, world.workspace.settings.encoding, Heard(), ComputeOptions(), Processes(tmp_path))
    assert Snapshot.load(world.snapshot.folder) == world.snapshot
