"""`python -m flywheel.training` takes everything from its arguments: no setting of the machine that it runs on counts."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import TUNING, TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Event, Failure, Result, Trained, from_line, ignore_progress
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.training.test_training import contents


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=30, evaluation={"min_components": 5})


@pytest.fixture(scope="module")
def model(world: World) -> TrainedModel:
    return train(world.job(), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)


def run_job(
    job: TrainingJob, world: World, output: Path | str, *options: str | Path, **process: Any
) -> subprocess.CompletedProcess[str]:
    """Run the training command on the world's snapshot and cache, with no device unless `options` name one."""
    spec = world.workspace.home.root / f"{job.job_id}.json"
    spec.write_text(job.to_json())
    where = [spec, world.snapshot.folder, output, world.workspace.home.cache]
    command = [sys.executable, "-m", "flywheel.training", *map(str, where), "--device", "gone", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **process)


def events_of(done: subprocess.CompletedProcess[str]) -> list[Event]:
    return [from_line(line) for line in done.stdout.splitlines()]


def test_the_command_line_makes_the_same_folder(world: World, model: TrainedModel, tmp_path: Path) -> None:
    done = run_job(world.job(), world, tmp_path / "models")
    assert done.returncode == 0, done.stderr
    *progress, result = events_of(done)
    assert isinstance(result, Result)
    assert all(isinstance(event, Trained) for event in progress)
    assert [event.of for event in progress] == [80] * 80
    assert result.model == str(tmp_path / "models" / world.job().job_id)
    assert (result.threshold, result.calibration_set_error) == (model.rule.threshold, model.calibration_set_error)
    assert not result.reused
    assert contents(Path(result.model)) == contents(model.folder)


def test_an_output_at_a_uri_is_whole_or_no_model_and_a_finished_one_is_reused(
    world: World, model: TrainedModel, tmp_path: Path
) -> None:
    output, job = f"file://{tmp_path}/shared", world.job()
    there = tmp_path / "shared" / job.job_id
    (there / "modules.json").mkdir(parents=True)  # so that the upload stops half way
    failed = run_job(job, world, output)
    assert failed.returncode == 1
    assert (there / "README.md").exists()
    assert not (there / "flywheel.json").exists()
    (there / "modules.json").rmdir()
    done, again = run_job(job, world, output), run_job(job, elsewhere(world, tmp_path), output)
    assert (done.returncode, again.returncode) == (0, 0), done.stderr + again.stderr
    made = contents(there)
    assert made.pop("checksums.json")
    assert made == contents(model.folder)
    (first,), (second,) = ([event for event in events_of(run) if isinstance(event, Result)] for run in (done, again))
    assert first.model == second.model == f"{output}/{job.job_id}"
    assert replace(first, reused=True) == second
    assert len(events_of(again)) == 1


def elsewhere(world: World, empty: Path) -> World:
    """The world on a machine that has neither its models nor its cache."""
    return replace(world, workspace=make_workspace(empty, encoding={"device": "gone"}))


def test_the_command_line_refuses_another_snapshot_in_one_sentence(world: World, tmp_path: Path) -> None:
    done = run_job(world.job(snapshot_id="other"), world, tmp_path / "models")
    here = world.snapshot
    sentence = f"The job is for snapshot other, but {here.folder} is {here.snapshot_id}. Give the one that it is for."
    assert (done.returncode, events_of(done), done.stderr) == (1, [Failure(sentence)], f"{sentence}\n")
    assert not (tmp_path / "models").exists()


def test_no_variable_and_no_settings_file_changes_a_thing(world: World, model: TrainedModel, tmp_path: Path) -> None:
    """Each of these would end a verb, or send its work elsewhere."""
    here, home, stray = (tmp_path / name for name in ("here", "home", "stray"))
    for folder in (here, home):
        folder.mkdir()
        (folder / "flywheel.toml").write_text('[models.all-MiniLM-L6-v2]\npath = "/nowhere"\n[nosuch]\nx = 1\n')
    (home / "cache").symlink_to(world.workspace.home.cache)
    settings = world.workspace.settings.model_copy(update={"home": home})
    variables = {
        "FLYWHEEL_HOME": str(stray), "FLYWHEEL_NOSUCH": "1", "FLYWHEEL_ENCODING__DEVICE": "cuda:99",
        "FLYWHEEL_TRAINING__RANDOM_SEED": "7",
        "FLYWHEEL_EVALUATION__TARGET_PRIOR": "0.1",
    }  # fmt: skip
    uri = f"file://{tmp_path}/shared"
    shutil.copytree(world.snapshot.folder, tmp_path / "shared" / world.snapshot.snapshot_id)
    snapshot = replace(world.snapshot, folder=f"{uri}/{world.snapshot.snapshot_id}")
    there = World(Workspace(settings), snapshot, world.vectors)
    done = run_job(world.job(), there, f"{uri}/models", cwd=here, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    made = contents(tmp_path / "shared" / "models" / world.job().job_id)
    assert made.pop("checksums.json")
    assert made == contents(model.folder)
    assert not stray.exists()
    assert [file.name for file in here.iterdir()] == ["flywheel.toml"]
    # what was fetched, and what was on its way to the URI, is beside the cache
    assert (home / "snapshots" / world.snapshot.snapshot_id / "train.parquet").exists()
    assert (home / "models" / world.job().job_id / "flywheel.json").exists()


@pytest.mark.parametrize(
    ("device", "reason"), [("gone", "There is no device 'gone'"), ("cuda:99", "Device cuda:99 is not here")]
)
def test_texts_are_encoded_on_the_device_that_is_named(world: World, tmp_path: Path, device: str, reason: str) -> None:
    done = run_job(world.job(), elsewhere(world, tmp_path), tmp_path / "models", "--device", device)
    (failure,) = events_of(done)
    assert isinstance(failure, Failure)
    assert failure.reason.startswith(reason)
    assert (done.returncode, done.stderr) == (1, f"{failure.reason}\n")
    assert "Set encoding.device to auto" in failure.reason
    assert run_job(world.job(), elsewhere(world, tmp_path), tmp_path / "models", "--device", "auto").returncode == 0


@pytest.mark.slow
def test_weights_come_from_the_folder_that_is_named(world: World, model: TrainedModel, tmp_path: Path) -> None:
    base = shutil.copytree(world.vectors.weights, tmp_path / "a = b")
    (base / "mark.json").write_text("{}")  # configuration goes along with the weights
    done = run_job(world.job(), world, tmp_path / "models", "--weights", base)
    assert done.returncode == 0, done.stderr
    made = contents(tmp_path / "models" / world.job().job_id)
    assert made.pop("mark.json")
    assert made == contents(model.folder)
    empty = run_job(world.job(), world, tmp_path / "models", "--weights", tmp_path / "nowhere")
    (failure,) = events_of(empty)
    assert isinstance(failure, Failure)
    assert f"{tmp_path / 'nowhere'}, which is not a folder" in failure.reason


def test_a_job_for_other_weights_is_refused_with_the_option_that_names_them(world: World, tmp_path: Path) -> None:
    done = run_job(world.job(weights="others"), world, tmp_path / "models")
    sentence = (
        f"The job is for the weights others, but this machine has {world.vectors.weights_id}. Give the folder of the right "
        "ones with --weights FOLDER."
    )
    assert (done.returncode, events_of(done)) == (1, [Failure(sentence)])


@pytest.mark.slow
def test_token_states_keep_within_the_disk_that_is_named(world: World, tmp_path: Path) -> None:
    job = world.job(recipe="top", size="20", dims=(32,), tuning=TUNING["top"])
    done = run_job(job, world, tmp_path / "models", "--device", "cpu", "--state-cache-gb", "0.000001")
    failure = events_of(done)[-1]
    assert isinstance(failure, Failure), done.stderr
    assert "encoding.state_cache_gb allows 1e-06" in failure.reason
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        *((("--state-cache-gb", amount), f"'{amount}' is not a number above 0") for amount in ("0", "nan", "inf", "much")),
    ],
)
def test_an_option_that_is_wrong_is_named(option: tuple[str, str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    from flywheel.training.__main__ import _parser

    with pytest.raises(SystemExit) as ended:
        _parser().parse_args(["job", "snapshot", "output", "cache", *option])
    assert ended.value.code == 2
    assert f"argument {option[0]}: {reason}" in capsys.readouterr().err


def test_a_missing_job_is_one_sentence(tmp_path: Path) -> None:
    spec = tmp_path / "job.json"
    command = [sys.executable, "-m", "flywheel.training", *map(str, (spec, tmp_path, tmp_path / "models", tmp_path / "cache"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    sentence = f"There is no file {spec}. Give the path or URI of a job's spec."
    assert (done.returncode, events_of(done), done.stderr) == (1, [Failure(sentence)], f"{sentence}\n")
