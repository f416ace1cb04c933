"""What a grid will take is told beforehand, and what is cached can be seen and pruned."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flywheel.cli.app import app
from flywheel.cli.grid import _cost_text
from flywheel.compute.process import training_environment
from flywheel.files import locked
from flywheel.models.cache import EmbeddingCache
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pipeline.cleanup import list_cached, prune, remove_layers
from flywheel.pipeline.costs import GridCost, estimate_grid
from flywheel.pipeline.training import evaluated_pairs, texts_of_cells, train_cell
from flywheel.training.job import TUNING, Cell
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Progress, Trained, ignore_progress
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import World, clump_world
from flywheel_tests.helpers.homes import make_workspace, with_options

VARIANT = Variant("all-MiniLM-L6-v2", 32)
GROUPS = {"encoding": {"device": "gone"}, "splits": {"seed_test_share": 0.2, "seed_calibration_share": 0.2}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(
        tmp_path_factory.mktemp("cost"), clumps=200, splits={"seed_test_share": 0.2, "seed_calibration_share": 0.2}
    )


def test_a_grid_counts_each_text_once_and_takes_its_time_from_finished_cells(world: World) -> None:
    workspace = with_options(world.workspace, compute={"price_per_hour": 3600.0})
    cells = [Cell(VARIANT, "100"), Cell(VARIANT, "400"), Cell(Variant("all-MiniLM-L6-v2", 16), "100")]
    before = estimate_grid(workspace, world.snapshot, cells, "head")
    assert (before.texts, before.trainings, before.training_seconds, before.money) == (0, 3, None, None)
    model: TrainedModel = train(
        world.job(size="200"), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress
    )
    after = estimate_grid(workspace, world.snapshot, cells, "head")
    assert after.training_seconds == pytest.approx(4 * model.seconds)  # 1 + 400 / 200 + 1
    assert after.money == pytest.approx(after.training_seconds)
    layers = estimate_grid(workspace, world.snapshot, cells, "full")
    assert (layers.trainings, layers.training_seconds) == (2, None)  # one serves both dimensions
    assert layers.texts_by_trained == 2 * len(unique_texts(*evaluated_pairs(workspace, world.snapshot)))


def test_texts_that_are_missing_are_counted_once_for_each_base_model(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(world.workspace.home.root, home)
    shutil.rmtree(home / "cache")
    workspace = make_workspace(home, **GROUPS)
    texts = texts_of_cells(workspace, world.snapshot, ["100", "all"])
    assert len(texts) == len(set(texts))
    few = world.vectors.cache.get(texts[10:], lambda texts: np.zeros((len(texts), 384)))
    fresh = replace(world.vectors, cache_folder=workspace.home.cache)
    fresh.cache.get(texts[10:], lambda _: few)
    cells = [Cell(VARIANT, "100"), Cell(VARIANT, "all"), Cell(Variant("all-MiniLM-L6-v2", 16), "100")]
    cost = estimate_grid(workspace, world.snapshot, cells, "head")
    assert cost.texts == 10


def test_the_plan_says_what_is_encoded_here_and_what_on_the_cluster() -> None:
    cost = GridCost(
        texts=1_000, texts_away=50_000, texts_by_trained=0, state_bytes=0, trainings=6, at_once=3, encoding_seconds=60.0,
        away_seconds=3_000.0, training_seconds=600.0, money=1.5,
    )  # fmt: skip
    assert _cost_text(cost) == (
        "1,000 texts to encode, about 60 s; 50,000 to encode on the cluster, about 50 min at this machine's speed; "
        "6 trainings, about 10 min of machines, 3 at once: about 3 min; about 1.50 by compute.price_per_hour"
    )
    assert "cluster" not in _cost_text(replace(cost, texts_away=0))


def test_a_listener_hears_of_the_trainings_of_its_workspace_and_of_no_others(world: World) -> None:
    heard: list[Progress] = []
    inline = with_options(world.workspace, compute={"run_in": "inline"})
    train_cell(inline.with_listener(heard.append), world.snapshot, Cell(VARIANT, "50"), "head")
    assert [event for event in heard if isinstance(event, Trained)]
    heard.clear()
    train_cell(inline, world.snapshot, Cell(VARIANT, "60"), "head")
    assert heard == []


def test_pruning_keeps_the_texts_of_snapshots_and_what_was_paid_for(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(world.workspace.home.root, home)
    workspace = make_workspace(home, **GROUPS)
    vectors = replace(world.vectors, cache_folder=workspace.home.cache)
    known = vectors.cache.texts()
    vectors.cache.get(["a text of no snapshot"], lambda texts: np.ones((1, 384)))
    vectors.state_cache(4).get(["clump0 intenta wording0"], lambda texts: np.ones((1, 384)))
    gone = replace(vectors, cache_folder=workspace.home.cache)
    other = workspace.home.cache / f"all-MiniLM-L6-v2-{'0' * 12}-float32"
    EmbeddingCache(other, 3, np.float16).get(["tuned long ago"], lambda texts: np.ones((1, 3)))
    paid = workspace.home.cache / "text-embedding-3-small-1536-0123456789ab"
    EmbeddingCache(paid, 3).get(["an API's"], lambda texts: np.ones((1, 3)))
    names = {entry.name for entry in list_cached(workspace)}
    assert {other.name, paid.name, vectors.cache.folder.name} < names
    assert prune(workspace, states=False) > 0
    assert gone.cache.texts() == known
    assert EmbeddingCache.open(other) is None
    assert EmbeddingCache.open(paid) is not None
    assert vectors.state_cache(4).texts() == 1
    prune(workspace, states=True)
    assert EmbeddingCache.open(vectors.state_cache(4).folder) is None


def test_layers_go_when_no_model_holds_them_and_no_training_will_go_on(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(world.workspace.home.root, home)
    workspace = make_workspace(home, **GROUPS)
    tuning = TUNING["top"]
    job = world.job(recipe="top", tuning=tuning, dims=(32,))
    elsewhere = replace(job, snapshot_id="gone")
    for name, spec, going_on in (("ended", job, False), ("going on", job, True), ("abandoned", elsewhere, True)):
        folder = workspace.home.models / ".tuned" / name
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(spec.to_json())
        if going_on:
            (folder / "checkpoints").mkdir()
    with locked(workspace.home.models, "ended"):  # a training at work is neither waited for nor disturbed
        remove_layers(workspace, set())
    assert (workspace.home.models / ".tuned" / "ended").exists()
    remove_layers(workspace, set())
    assert [folder.name for folder in (workspace.home.models / ".tuned").iterdir()] == ["going on"]
    remove_layers(workspace, {world.snapshot.snapshot_id})
    assert not list((workspace.home.models / ".tuned").iterdir())


def test_the_verbs_show_and_prune_the_cache(world: World) -> None:
    home = ["--home", str(world.workspace.home.root)]
    shown = CliRunner().invoke(app, ["cache", *home])
    assert shown.exit_code == 0, shown.output
    assert world.vectors.cache.folder.name in shown.output
    assert "MB freed" in CliRunner().invoke(app, ["cache", "prune", *home]).output
    assert (
        "Nothing is cached yet" in CliRunner().invoke(app, ["cache", "--home", str(world.workspace.home.root / "none")]).output
    )


@pytest.mark.parametrize(
    ("device", "shown", "visible"),
    [("cuda:1", None, "1"), ("cuda:1", "5,7", "7"), ("cpu", "5,7", "5,7"), ("auto", None, None)],
)
def test_a_process_sees_its_leased_card_alone(device: str, shown: str | None, visible: str | None) -> None:
    outside = {"FLYWHEEL_BASELINE__URL": "http://x", "OPENAI_API_KEY": "secret"}
    outside |= {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    passed = training_environment(outside, device)
    assert passed.get("CUDA_VISIBLE_DEVICES") == visible
    assert not {"FLYWHEEL_BASELINE__URL", "OPENAI_API_KEY"} & passed.keys()
