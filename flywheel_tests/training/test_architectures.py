"""Every recipe on every architecture: what was trained is what a user's folder serves, and a stopped training ends the same."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.subjects import tuned_subject
from flywheel.models.catalogue import Variant
from flywheel.models.folder import ALLOWED_DIFFERENCE, served_difference
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener, Progress, Trained, ignore_progress
from flywheel.training.shrink import Choice
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import clump_lines
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.tiny_models import ARCHITECTURES, write_tiny

pytestmark = pytest.mark.slow

PROMPTED = {"prompts": {"query": "query : "}, "default_prompt_name": "query"}
SMALL = {"epochs": 1, "min_steps": 6, "batch_size": 16, "learning_rate": 1e-4}


@dataclass(frozen=True)
class World:
    workspace: Workspace
    snapshot: Snapshot

    def train(self, base: str, recipe: str, place: Path, listener: Listener = ignore_progress) -> TrainedModel:
        name, _, adapters = recipe.partition("+")
        fields = {"top": {**SMALL, "layers": 1}, "full": {**SMALL, "lora_rank": 2 if adapters else 0}}
        workspace = self.workspace.with_options("training", recipes=fields)
        job = training_job(workspace, self.snapshot, Cell(Variant(base, 8), "48"), name)
        return train(job, self.snapshot, workspace.vectors_of(job), place, listener)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home whose settings name a tiny model of each architecture, one with Dense modules and some with a prompt."""
    place = tmp_path_factory.mktemp("architectures")
    for name in ARCHITECTURES:
        dense = ["Identity", "Identity"] if name == "gemma3" else []
        write_tiny(place / name, name, dense, PROMPTED if name in ("roberta", "qwen3") else None)
    write_tiny(place / "static", "static")
    workspace = make_workspace(
        place / "home",
        models={name: {"path": str(place / name)} for name in (*ARCHITECTURES, "static")},
        encoding={"device": "cpu"},
        splits={"frozen_from": 0},
        evaluation={"min_components": 2},
    )
    lines = clump_lines(range(30))
    ingest(workspace.store, json_batch("batch", "seed", "test", lines))
    return World(workspace, take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules))


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """All the way to what was trained: so few pairs choose nothing."""
    for room in ("layers", "train"):
        monkeypatch.setattr(f"flywheel.training.{room}.choose_place", lambda *scores: Choice(1.0))


def check_served(world: World, model: TrainedModel) -> None:
    """A user's SentenceTransformer gives the vectors by which the model is judged, and these are not the start's."""
    texts = list(world.snapshot.pairs("calibration")["text_a"])[:12]
    vectors = world.workspace.vectors_of(model.job)
    expected = tuned_subject(model, vectors).embed(texts)
    assert expected.shape == (len(texts), 8)
    allowed = ALLOWED_DIFFERENCE["bfloat16"] if vectors.dtype == "bfloat16" else 5e-3
    assert served_difference(model.folder, texts, expected) < allowed


STOPPED = [
    *((architecture, "top") for architecture in ARCHITECTURES if architecture != "t5"),
    *(
        pytest.param(architecture, "full", marks=[] if architecture in ("bert", "qwen3", "t5") else pytest.mark.long)
        for architecture in ARCHITECTURES
    ),
    ("t5", "full+lora"),
]
CASES = [
    *((architecture, recipe) for architecture in ARCHITECTURES for recipe in ("head", "full")),
    *((architecture, "top") for architecture in ARCHITECTURES if architecture != "t5"),
    *((architecture, "full+lora") for architecture in ARCHITECTURES),
    ("static", "head"),
]


@pytest.mark.parametrize(("architecture", "recipe"), CASES)
@pytest.mark.usefixtures("far")
def test_what_was_trained_is_what_the_folder_serves(world: World, tmp_path: Path, architecture: str, recipe: str) -> None:
    model = world.train(architecture, recipe, tmp_path)
    assert model.place == 1
    check_served(world, model)
    if recipe != "head":
        from flywheel.models.weights import hash_weights

        assert hash_weights(model.folder) != hash_weights(world.workspace.vectors(architecture).weights)


@pytest.mark.parametrize(("architecture", "recipe"), STOPPED)
@pytest.mark.usefixtures("far")
def test_a_stopped_training_goes_on_and_ends_with_the_same_bytes(
    world: World, tmp_path: Path, architecture: str, recipe: str
) -> None:
    heard: list[Progress] = []
    whole = world.train(architecture, recipe, tmp_path / "whole", heard.append)
    assert [event.done for event in heard if isinstance(event, Trained)][-6:] == [1, 2, 3, 4, 5, 6]

    def stop_late(event: Progress) -> None:
        if isinstance(event, Trained) and (event.of, event.done) == (6, 5):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.train(architecture, recipe, tmp_path / "stopped", stop_late)
    again: list[Progress] = []
    resumed = world.train(architecture, recipe, tmp_path / "stopped", again.append)
    assert 1 not in [event.done for event in again if isinstance(event, Trained) and event.of == 6]
    for file in ("model.safetensors", "2_Dense/model.safetensors"):
        assert (whole.folder / file).read_bytes() == (resumed.folder / file).read_bytes()


def test_recipes_that_an_architecture_cannot_have_are_refused_in_a_sentence(world: World, tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match="those of T5EncoderModel need more of the lower ones"):
        world.train("t5", "top", tmp_path)
    for recipe in ("top", "full"):
        with pytest.raises(FlywheelError, match="static is a table of static embeddings and has no layers to train"):
            world.train("static", recipe, tmp_path)


@pytest.mark.usefixtures("far")
def test_all_poolings_are_trained_and_served_where_they_are_asked_for(world: World, tmp_path: Path) -> None:
    asked = World(world.workspace.with_options("training", poolings="all"), world.snapshot)
    model = asked.train("qwen3", "top", tmp_path)
    assert model.job.poolings == "all"
    check_served(asked, model)
    check_served(world, model)  # whatever the settings say by now


def test_a_model_folder_stands_in_for_a_base_model_whose_name_now_means_another(world: World, tmp_path: Path) -> None:
    model = world.train("bert", "head", tmp_path)
    moved = make_workspace(
        world.workspace.home.root,
        models={"bert": {"path": str(world.workspace.models.find("mpnet").path)}},
        encoding={"device": "cpu"},
    )
    texts = list(world.snapshot.pairs("calibration")["text_a"])[:12]
    before = tuned_subject(model, world.workspace.vectors_of(model.job)).embed(texts)
    np.testing.assert_allclose(tuned_subject(model, moved.vectors_of(model.job)).embed(texts), before, atol=2e-3)
