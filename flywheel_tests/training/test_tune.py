"""Layers that are trained: only they move, the best of them ship with their head, and a killed training ends the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.records import Terms
from flywheel.evaluation.subjects import tuned_subject
from flywheel.models.folder import open_model, read_head, served_difference
from flywheel.models.head import Head
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.training.checkpoints import KeptLayers
from flywheel.training.job import TUNING, TrainingJob
from flywheel.training.layers import Layers
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Encoded, Event, Notice, Progress, Trained, from_line, ignore_progress
from flywheel.training.shrink import Choice
from flywheel.training.starts import start_from_features
from flywheel.training.train import pair_features, train
from flywheel_tests.helpers.clumps import World, take_world
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.leftovers import EVERY_LEFTOVER
from flywheel_tests.training.test_readable import said_settings

DIMS = (32, 16)
QUICK = {"epochs": 1, "min_steps": 6, "batch_size": 16, "learning_rate": 2e-4}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A few questions of the starter set, encoded by MiniLM itself."""
    workspace = make_workspace(
        tmp_path_factory.mktemp("tuning"),
        encoding={"device": "cpu"},
        splits={"max_component_pairs": 100},
        evaluation={"min_components": 2},
    )
    return take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-12 * 48 :])


def job_of(world: World, recipe: str, **fields: Any) -> TrainingJob:
    usual = TUNING[recipe]
    assert usual is not None
    return world.job(recipe=recipe, size="48", dims=DIMS, tuning=replace(usual, **{**QUICK, **fields}))


def tuned(world: World, job: TrainingJob, target: Path, heard: list[Progress] | None = None, **inputs: Any) -> Head:
    from flywheel.training.tune import TuningTask, tune

    start = start_from_features(world.snapshot, world.vectors, max(DIMS))
    pairs = world.snapshot.training_pairs(job.size, 0, 0.0)
    training = pair_features(pairs, world.vectors, start.scale)
    task = TuningTask(job, start.head, start.scale, pairs, training, world.snapshot.pairs("calibration"), world.vectors)
    listener = heard.append if heard is not None else ignore_progress
    return tune(replace(task, **inputs), KeptLayers(target, None, listener), listener)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def changed(world: World, folder: Path) -> set[str]:
    before, after = tensors(world.vectors.weights), tensors(folder)
    assert before.keys() - after.keys() <= {"embeddings.position_ids"}  # numbers that a model counts itself
    return {name for name in after if not np.array_equal(before[name], after[name])}


@pytest.fixture(scope="module")
def top(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Head, list[Progress]]:
    heard: list[Progress] = []
    target = tmp_path_factory.mktemp("top")
    return target, tuned(world, job_of(world, "top"), target, heard), heard


def test_only_the_uppermost_layers_move(world: World, top: tuple[Path, Head, list[Progress]]) -> None:
    moved = changed(world, top[0])
    assert moved
    assert {name.split(".")[2] for name in moved} == {"3", "4", "5"}
    assert all(name.startswith("encoder.layer.") for name in moved)
    trained = [event for event in top[2] if isinstance(event, Trained)]
    assert trained[-1].done == trained[-1].of == 6
    assert any(isinstance(event, Encoded) for event in top[2])


def test_the_saved_encoder_gives_the_vectors_that_were_trained(
    world: World, top: tuple[Path, Head, list[Progress]], tmp_path: Path
) -> None:
    """What was trained on cached lower states must come out of the whole model, from texts."""
    head, vectors = Layers(world.vectors, top[0], top[1], top[1]).at(1.0)
    texts = list(world.snapshot.pairs("calibration")["text_a"])[:20]
    expected = head.apply(vectors.features(texts))
    (tmp_path / "model").mkdir()
    world.vectors.write_folder(tmp_path / "model", top[1], top[0] / "model.safetensors")
    served = open_model(tmp_path / "model", "cpu").encode(texts, show_progress_bar=False)
    assert np.abs(served @ served.T - expected @ expected.T).max() < 0.01
    untouched = top[1].apply(world.vectors.features(texts))
    assert np.abs(served @ served.T - untouched @ untouched.T).max() > 0.01


def test_a_second_call_trains_nothing(world: World, top: tuple[Path, Head, list[Progress]]) -> None:
    heard: list[Progress] = []
    again = tuned(world, job_of(world, "top"), top[0], heard)
    assert heard == []
    assert np.array_equal(again.weight, top[1].weight)


def test_full_moves_every_layer_that_is_read(world: World, tmp_path: Path) -> None:
    tuned(world, job_of(world, "full"), tmp_path)
    moved = changed(world, tmp_path)
    assert {name.split(".")[2] for name in moved if name.startswith("encoder.layer.")} == set("012345")
    assert "embeddings.word_embeddings.weight" in moved
    assert not [name for name in moved if name.startswith("pooler.")]


@pytest.mark.parametrize(("steps", "dropout"), [(3, False), (4, True)])
def test_dropout_is_on_where_pairs_are_seen_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, dropout: bool
) -> None:
    from flywheel.training.trainer import BatchLoss

    modes: list[bool] = []

    class Watched(BatchLoss):
        def project(self, inputs: dict[str, Any]) -> Any:
            modes.extend(each.training for each in self.model.modules() if self.training)
            return super().project(inputs)

    monkeypatch.setattr("flywheel.training.tune.BatchLoss", Watched)
    tuned(world, job_of(world, "top", min_steps=steps), tmp_path)  # 48 pairs, 16 a step
    assert set(modes) == {dropout}


def test_adapters_are_added_to_the_weights(world: World, tmp_path: Path) -> None:
    tuned(world, job_of(world, "full", lora_rank=4, learning_rate=1e-3), tmp_path)
    moved = changed(world, tmp_path)
    assert "encoder.layer.0.attention.self.query.weight" in moved
    assert all(name.endswith(".weight") and "LayerNorm" not in name and "embeddings" not in name for name in moved)


def test_one_training_serves_every_dimension_and_each_is_evaluated_as_it_is_served(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flywheel.training.layers.choose_place", lambda *scores: Choice(0.5))  # so few pairs choose nothing
    jobs = {dim: replace(job_of(world, "top"), variant=f"all-MiniLM-L6-v2@{dim}") for dim in DIMS}
    heard: dict[int, list[Progress]] = {dim: [] for dim in DIMS}

    def run(dim: int) -> TrainedModel:
        return train(jobs[dim], world.snapshot, world.vectors, tmp_path, heard[dim].append)

    with ThreadPoolExecutor(2) as both:  # at once: layers that are shared are trained by one of them
        models = dict(zip(DIMS, both.map(run, DIMS), strict=True))
    layers = [dim for dim in DIMS if any(isinstance(event, Trained) and event.of == 6 for event in heard[dim])]
    assert len(layers) == 1
    assert os.path.samefile(*(models[dim].folder / "model.safetensors" for dim in DIMS))
    wide, narrow = (read_head(models[dim].folder, ("mean",)) for dim in DIMS)
    np.testing.assert_array_equal(wide[0][:16], narrow[0])
    texts = list(world.snapshot.pairs("calibration")["text_a"])[:20]
    for model in models.values():
        assert model.tuned_encoder
        subject = tuned_subject(model, world.vectors)
        assert served_difference(model.folder, texts, subject.embed(texts)) < 0.01
        record = evaluate(subject, world.snapshot, tmp_path / "evaluations", Terms(2))
        assert record.recipe == "top"
        # layers are not trained fold by fold, so there is no threshold from the cell's own pairs
        assert (record.rule, record.own_labels) == (model.rule, None)
        card = (model.folder / "README.md").read_text()
        assert "its uppermost layers and a linear head" in card
        assert "It lies 0.5 times the way from its start to the trained weights" in card
        assert TrainedModel.load(model.folder).place == 0.5
    at, trained, base = (
        tensors(folder) for folder in (models[32].folder, tmp_path / ".tuned" / jobs[32].tuning_id, world.vectors.weights)
    )
    for name, tensor in at.items():
        np.testing.assert_allclose(tensor, (trained[name] + base[name]) / 2, atol=1e-7)


def test_a_training_at_one_dimension_alone_writes_checkpoints_too(world: World, tmp_path: Path) -> None:
    head = tuned(world, replace(job_of(world, "top"), dims=(max(DIMS),)), tmp_path)
    assert len(head.bias) == max(DIMS)


def test_the_best_checkpoint_comes_back_whole(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that drops the head, or keeps the last state, would leave the head where training ended."""
    import torch
    from safetensors.torch import load_file

    from flywheel.training.trainer import METRIC, CalibrationLossEvaluator, Trainer

    kept: dict[str, Any] = {}
    original, judge = Trainer._load_best_model, CalibrationLossEvaluator.__call__

    def first_is_best(*told: Any, steps: int = -1, **more: Any) -> dict[str, float]:
        """The loss as it is, and worse from the second look on."""
        return {METRIC: judge(*told, steps=steps, **more)[METRIC] + max(0, steps - 3)}

    def spy(trainer: Any) -> None:
        kept["ended"] = trainer.model[2].linear.weight.detach().clone()
        best = Path(trainer.state.best_model_checkpoint)
        kept["best"] = load_file(best / "state.safetensors")["model.2.linear.weight"]
        original(trainer)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_load_best_model", spy)
        patched.setattr(CalibrationLossEvaluator, "__call__", first_is_best)
        head = tuned(world, job_of(world, "top", layers=2, min_steps=12), tmp_path)
    assert not torch.equal(kept["ended"], kept["best"])
    np.testing.assert_array_equal(head.weight, kept["best"].numpy())


def test_a_loss_that_is_no_number_is_an_error_and_leaves_no_model(world: World, tmp_path: Path) -> None:
    job = job_of(world, "top", learning_rate=1.0, head_learning_rate=1.0)
    with pytest.raises(
        FlywheelError, match=r"The loss is nan: lower the learning rate, now 1 and 1: .* The last good checkpoint stays"
    ):
        tuned(world, job, tmp_path, scale=np.float32(np.nan))
    assert not (tmp_path / "model.safetensors").exists()


def test_a_rate_at_which_vectors_collapse_stops_the_training_and_the_one_that_is_named_trains(
    world: World, tmp_path: Path
) -> None:
    job = job_of(world, "top", learning_rate=0.5, head_learning_rate=0.5)
    with pytest.raises(
        FlywheelError, match=r"the vectors have collapsed: lower the learning rate, now .* No model was saved"
    ) as told:
        tuned(world, job, tmp_path / "wild")
    tuned(world, job_of(world, "top", **said_settings(str(told.value), "top")), tmp_path / "tame")
    assert (tmp_path / "tame" / "model.safetensors").exists()


def test_vectors_that_are_one_point_before_the_training_are_not_blamed_on_the_rate(world: World, tmp_path: Path) -> None:
    constant = Head(np.zeros((max(DIMS), 384), np.float32), np.ones(max(DIMS), np.float32))
    with pytest.raises(FlywheelError, match="practically the same vector before any training") as told:
        tuned(world, job_of(world, "top"), tmp_path, start=constant)
    assert "rate" not in str(told.value)


def test_more_layers_than_the_model_has_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match=r"Set training\.recipes\.top\.layers to 5 at most, or choose recipe full"):
        tuned(world, job_of(world, "top", layers=6), tmp_path)


class Command:
    """The training command on a disk of its own: with a root it reads and writes there, else in a folder of models."""

    def __init__(self, world: World, disk: Path, root: Path | None = None) -> None:
        self.models = disk / "models"
        where = [world.snapshot.folder, self.models, world.workspace.home.cache]
        more = ["--device", "cpu"]
        if root is not None:
            where[1], more = f"file://{root}", [*more, "--work", str(disk)]
        self._disk, self._words = disk, [*map(str, where), *more]

    def start(self, job: TrainingJob) -> "subprocess.Popen[str]":
        self._disk.mkdir(exist_ok=True)
        spec = self._disk / "job.json"
        spec.write_text(job.to_json())
        words = [sys.executable, "-m", "flywheel.training", str(spec), *self._words]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def run(self, job: TrainingJob) -> list[Event]:
        process = self.start(job)
        said, _ = process.communicate()
        assert process.returncode == 0
        return [from_line(line) for line in said.splitlines()]

    def kill_after_a_checkpoint(self, job: TrainingJob, checkpoints: Path) -> None:
        process = self.start(job)
        deadline = time.monotonic() + 120
        while not list(checkpoints.glob("*/trainer_state.json")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (self.models / job.job_id).exists()

    def layers(self, job: TrainingJob) -> list[bytes]:
        folder = self.models / ".tuned" / job.tuning_id
        assert not (folder / "checkpoints").exists()
        return [(folder / name).read_bytes() for name in ("model.safetensors", "head.safetensors")]


def steps(events: list[Event]) -> list[int]:
    """Those of the layers, 15 in these tests; the head's are others."""
    return [event.done for event in events if isinstance(event, Trained) and event.of == 15]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["top", "full"])
def test_a_killed_training_goes_on_and_ends_with_the_weights_of_an_undisturbed_one(
    world: World, recipe: str, tmp_path: Path
) -> None:
    job = job_of(world, recipe, min_steps=15)
    undisturbed, killed = Command(world, tmp_path / "undisturbed"), Command(world, tmp_path / "killed")
    assert steps(undisturbed.run(job)) == list(range(1, 16))
    killed.kill_after_a_checkpoint(job, killed.models / ".tuned" / job.tuning_id / "checkpoints")
    killed.run(job)
    assert undisturbed.layers(job) == killed.layers(job)


@pytest.mark.slow
def test_another_machine_goes_on_from_the_last_checkpoint_at_the_root(world: World, tmp_path: Path) -> None:
    job, root = job_of(world, "full", min_steps=15), tmp_path / "root"
    there = root / ".tuned" / job.tuning_id
    alone = Command(world, tmp_path / "alone")
    alone.run(job)
    Command(world, tmp_path / "lost", root).kill_after_a_checkpoint(job, there / "checkpoints")
    shutil.rmtree(tmp_path / "lost")
    other = Command(world, tmp_path / "other", root)
    events = other.run(job)
    assert Notice("Going on from a checkpoint of another machine.") in events
    assert steps(events) == list(range(steps(events)[0], 16))
    assert steps(events)[0] > 1, "it began at the beginning"
    assert other.layers(job) == alone.layers(job)
    assert not list((there / "checkpoints").glob("*"))
    assert TrainingJob.from_json((there / "job.json").read_text()).tuning_id == job.tuning_id
    sibling = replace(job, variant=f"all-MiniLM-L6-v2@{min(DIMS)}")
    assert sibling.tuning_id == job.tuning_id
    assert TrainedModel.load(root / sibling.job_id).job == sibling, "it is not made along with the other"
    shutil.rmtree(root / sibling.job_id)
    third = Command(world, tmp_path / "third", root)
    assert steps(third.run(sibling)) == [], "the layers were trained again"
    assert third.layers(sibling) == alone.layers(job)


def test_the_training_command_waits_for_no_other_process_of_a_launcher(world: World, tmp_path: Path) -> None:
    job = job_of(world, "top", min_steps=1)
    (tmp_path / "job.json").write_text(job.to_json())
    where = [tmp_path / "job.json", world.snapshot.folder, tmp_path / "models", world.workspace.home.cache]
    command = [sys.executable, "-m", "flywheel.training", *map(str, where), "--device", "cpu"]
    environment = {**os.environ, **EVERY_LEFTOVER}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert TrainedModel.load(tmp_path / "models" / job.job_id).job == job


def test_a_checkpoint_that_was_being_written_is_not_taken(tmp_path: Path) -> None:
    kept = KeptLayers(tmp_path, None, ignore_progress)
    for step, state in ((5, '{"global_step": 5}'), (10, '{"global'), (15, None)):
        (kept.checkpoints / f"checkpoint-{step}").mkdir(parents=True)
        if state:
            (kept.checkpoints / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert kept.last_checkpoint() == kept.checkpoints / "checkpoint-5"
    assert [path.name for path in kept.checkpoints.iterdir()] == ["checkpoint-5"]


def test_recipes_name_their_layers() -> None:
    assert TUNING["head"] is None
    assert (full := TUNING["full"]) is not None
    assert full.layers is None
