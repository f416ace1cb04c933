"""The place of trained layers is moved towards the start as far as search would fall there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from flywheel.models.encoder import save_encoder
from flywheel.models.head import Head
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.training.layers import Layers
from flywheel.training.progress import ignore_progress
from flywheel.training.shrink import PLACES, Choice
from flywheel_tests.helpers.clumps import World, take_world
from flywheel_tests.helpers.homes import make_workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    workspace = make_workspace(
        tmp_path_factory.mktemp("layers"), encoding={"device": "cpu"}, splits={"max_component_pairs": 100},
        evaluation={"min_components": 2},
    )  # fmt: skip
    return take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-12 * 48 :])


def layers_to(world: World, target: Path, trained: Head) -> Layers:
    """Layers that have not moved, and a head that goes from the model's own vectors to `trained`."""
    save_encoder(world.vectors.load(), target / WEIGHTS_FILE)
    return Layers(world.vectors, target, world.vectors.own, trained)


def choose(world: World, layers: Layers, monkeypatch: pytest.MonkeyPatch) -> Choice:
    """The place where the loss is lowest at 1."""
    monkeypatch.setattr("flywheel.training.layers.choose_place", lambda *scores: Choice(1.0))
    calibration = world.snapshot.pairs("calibration")
    return layers.choose(calibration, calibration, (32,), ignore_progress)


def test_where_search_keeps_up_the_place_is_that_of_the_loss(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = layers_to(world, tmp_path, world.vectors.own)
    assert choose(world, layers, monkeypatch) == Choice(1.0)
    assert json.loads((tmp_path / "place.json").read_text()) == {"place": 1.0, "reason": None}


def test_where_search_is_ruined_the_place_is_one_where_it_is_not(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant that outweighs everything draws all vectors to one point: a part of it leaves most of the order."""
    own = world.vectors.own
    one_point = Head(own.weight * 0.0, own.bias + np.float32(0.05))
    layers = layers_to(world, tmp_path, one_point)
    choice = choose(world, layers, monkeypatch)
    assert 0 < choice.place < 1
    pairs = world.snapshot.pairs("calibration")
    mrr = {place: layers._search(place, pairs, (32,), ignore_progress)[0].mean() for place in (0.0, choice.place)}
    shutil.rmtree(tmp_path / "encoder")
    beyond = layers._search(PLACES[choice.row + 1], pairs, (32,), ignore_progress)[0].mean()
    assert beyond < mrr[choice.place] <= mrr[0.0] + 0.005
    assert beyond < mrr[0.0] - 0.005
    head, vectors = layers.at(choice.place)
    assert vectors.tuned == tmp_path / "encoder"
    assert np.allclose(head.bias, choice.place * one_point.bias, atol=1e-6)


def test_where_search_is_ruined_on_the_whole_way_the_start_ships_and_says_why(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = world.vectors.own
    layers = layers_to(world, tmp_path, Head(own.weight * 0.0, own.bias + np.float32(1e4)))
    choice = choose(world, layers, monkeypatch)
    assert choice.place == 0
    assert "of MRR@10 a quarter of the way" in str(choice.reason)
