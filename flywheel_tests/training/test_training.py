"""A training job is a pure function: its spec names its output, and the output is a whole folder or nothing."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from flywheel.errors import FlywheelError
from flywheel.files import digest
from flywheel.models.catalogue import Variant
from flywheel.models.folder import ALLOWED_DIFFERENCE, read_head, served_difference
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.training import training_job
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.training.job import Cell, HeadRecipe, TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Encoded, Progress, Trained, ignore_progress
from flywheel.training.starts import pair_scores
from flywheel.training.train import stopping_pairs, train
from flywheel_tests.helpers.clumps import MINILM, World, clump_world, take_world
from flywheel_tests.helpers.homes import make_workspace


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=30, evaluation={"min_components": 5})


@pytest.fixture(scope="module")
def model(world: World) -> TrainedModel:
    return train(world.job(), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a model folder by its hash, but the seconds that the training took."""
    files = {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}
    record = {k: v for k, v in json.loads(files.pop("flywheel.json").read_text()).items() if k != "seconds"}
    return record | {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def visible(folder: Path) -> list[str]:
    return [each.name for each in folder.iterdir() if not each.name.startswith(".")]


def test_equal_jobs_give_equal_folders_without_ever_opening_test(world: World, model: TrainedModel, tmp_path: Path) -> None:
    copied = shutil.copytree(world.snapshot.folder, tmp_path / "snapshot")
    (copied / "test.parquet").unlink()
    again = train(world.job(), Snapshot.load(copied), world.vectors, tmp_path / "models", ignore_progress)
    assert again.folder.name == model.folder.name == world.job().job_id
    assert contents(again.folder) == contents(model.folder)
    for mine, theirs in zip(read_head(again.folder, ("mean",)), read_head(model.folder, ("mean",)), strict=True):
        assert np.array_equal(mine, theirs)


def test_the_folder_says_what_it_is_and_holds_no_pickle(world: World, model: TrainedModel) -> None:
    record = json.loads((model.folder / "flywheel.json").read_text())
    assert TrainingJob.from_json(json.dumps(record["job"])) == world.job()
    assert DecisionRule.from_json(record["decision_rule"]) == model.rule
    assert {"torch", "sentence-transformers", "transformers", "numpy"} <= record["versions"].keys()
    assert (model.train_pairs, record["calibration_pairs"]) == (100, world.snapshot.calibration.pairs)
    modules = json.loads((model.folder / "modules.json").read_text())
    assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Dense", "3_Normalize"]
    assert all((model.folder / module["path"]).is_dir() for module in modules)
    card = (model.folder / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "base_model": "sentence-transformers/all-MiniLM-L6-v2", "library_name": "sentence-transformers",
        "license": "apache-2.0", "pipeline_tag": "sentence-similarity",
    }  # fmt: skip
    assert f"{model.rule.threshold:.4f}" in card
    weights = {str(f.relative_to(model.folder)) for f in model.folder.rglob("*") if f.stat().st_size > 1_000_000}
    assert weights == {"model.safetensors"}
    assert {f.suffix for f in model.folder.rglob("*") if f.is_file()} <= {".safetensors", ".json", ".txt", ".md", ".parquet"}


def test_a_share_of_duplicates_moves_the_rule_that_folder_and_card_carry_and_no_weight(
    world: World, model: TrainedModel, tmp_path: Path
) -> None:
    moved = train(world.job(target_prior=0.1), world.snapshot, world.vectors, tmp_path, ignore_progress)
    for mine, theirs in zip(read_head(moved.folder, ("mean",)), read_head(model.folder, ("mean",)), strict=True):
        assert np.array_equal(mine, theirs)
    assert moved.rule.seed == model.rule.seed == model.rule.interaction
    assert moved.rule.threshold > model.rule.threshold + 0.01  # a tenth of duplicates, where calibration has two fifths
    assert TrainedModel.load(moved.folder).rule == moved.rule
    calibration = world.snapshot.pairs("calibration")
    scores, sources = (
        pair_scores(Head(*read_head(moved.folder, ("mean",))), world.vectors, calibration),
        calibration["source"].to_numpy(),
    )
    wrong = moved.rule.decide(scores, sources) != calibration["label"].to_numpy()
    assert moved.calibration_set_error == wrong.mean()
    card, usual = ((each.folder / "README.md").read_text() for each in (moved, model))
    assert f"at least **{moved.rule.threshold:.4f}**. For seed pairs the threshold is {moved.rule.seed.threshold:.4f}." in card
    assert "moved to 10.0 % of duplicates" in card
    assert "For seed pairs" not in usual
    assert "moved to" not in usual


def test_own_scores_are_out_of_fold(model: TrainedModel, world: World) -> None:
    out_of_fold = model.out_of_fold()
    assert out_of_fold is not None
    own = out_of_fold.pairs
    assert out_of_fold.fit == model.out_of_fold_fit
    pairs = world.snapshot.training_pairs("100", 0, 0.0)
    head = Head(*read_head(model.folder, ("mean",)))
    left, right = (head.apply(world.vectors.features(list(pairs[text]))) for text in ("text_a", "text_b"))
    assert list(own["label"]) == list(pairs["label"])
    seen = (left * right).sum(1)
    same = (pairs["label"] == 1).to_numpy()
    assert seen[same].mean() - seen[~same].mean() > own["score"][same].mean() - own["score"][~same].mean()


def test_base_weights_lie_on_disk_once(model: TrainedModel, world: World) -> None:
    other = train(world.job(random_seed=1), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)
    both = [folder / "model.safetensors" for folder in (model.folder, other.folder)]
    assert os.path.samefile(*both)
    assert (model.folder / "2_Dense" / "model.safetensors").stat().st_nlink == 1


def test_pickles_beside_the_base_weights_stay_behind(world: World, model: TrainedModel, tmp_path: Path) -> None:
    base = shutil.copytree(world.vectors.weights, tmp_path / "base")
    (base / "pytorch_model.bin").write_bytes(b"a pickle")
    (base / "onnx").mkdir()
    (base / "onnx" / "model.onnx").write_bytes(b"a graph")
    vectors = replace(world.vectors, model=replace(MINILM, path=base))
    again = train(world.job(), world.snapshot, vectors, tmp_path / "models", ignore_progress)
    assert contents(again.folder) == contents(model.folder)


def test_a_finished_job_is_reused_and_nothing_is_encoded(world: World, model: TrainedModel, tmp_path: Path) -> None:
    empty = Vectors(MINILM, tmp_path, "gone")
    again = train(world.job(), world.snapshot, empty, world.workspace.home.models, ignore_progress)
    assert again == replace(model, reused=True)
    assert not model.reused
    with pytest.raises(FlywheelError, match="no device 'gone'"):
        train(world.job(random_seed=7), world.snapshot, empty, world.workspace.home.models, ignore_progress)


def test_of_two_at_once_one_trains_and_the_other_finds_its_model(world: World, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as both:
        runs = [both.submit(train, world.job(), world.snapshot, world.vectors, tmp_path, ignore_progress) for _ in range(2)]
    assert sorted(run.result().reused for run in runs) == [False, True]


def test_a_training_that_breaks_off_leaves_no_model_and_the_next_one_succeeds(world: World, tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if isinstance(event, Trained):
            raise KeyboardInterrupt

    models, cache = tmp_path / "models", shutil.copytree(world.workspace.home.cache, tmp_path / "cache")
    shared = cache / "weights" / world.vectors.weights_id / "model.safetensors"
    shared.unlink()
    shared.mkdir()  # the weights can be neither linked nor copied, so that writing the folder fails half way
    vectors = replace(world.vectors, cache_folder=cache)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        train(world.job(), world.snapshot, vectors, models, ignore_progress)
    with pytest.raises(KeyboardInterrupt):
        train(world.job(), world.snapshot, vectors, models, stop)
    wild = world.job(head=HeadRecipe(learning_rate=1e30))
    with pytest.raises(FlywheelError, match="lower the learning rate"), np.errstate(over="ignore"):
        train(wild, world.snapshot, vectors, models, ignore_progress)
    assert visible(models) == []
    shared.rmdir()
    assert not train(world.job(), world.snapshot, vectors, models, ignore_progress).reused
    assert visible(models) == [world.job().job_id]


def test_a_size_beyond_the_data_is_refused_with_both_numbers(world: World, tmp_path: Path) -> None:
    held = world.snapshot.train.seed
    with pytest.raises(FlywheelError, match=rf"Size {held + 1} needs {held + 1} seed pairs, but `train` holds {held}\."):
        train(world.job(size=str(held + 1)), world.snapshot, world.vectors, tmp_path, ignore_progress)


def test_a_few_pairs_train_without_a_threshold_of_their_own(world: World, tmp_path: Path) -> None:
    small = train(world.job(size="3"), world.snapshot, world.vectors, tmp_path, ignore_progress)
    assert (small.train_pairs, small.out_of_fold_fit, small.out_of_fold()) == (3, None, None)


@pytest.mark.parametrize(("recipe", "jobs"), [("head", 2), ("top", 1), ("full", 1)])
def test_fields_of_the_head_count_for_heads_alone(world: World, recipe: str, jobs: int) -> None:
    changed = world.workspace.with_options("training", recipes={"head": {"epochs": 9}})
    cell = Cell(Variant(MINILM.name, 32), "48")
    assert len({training_job(each, world.snapshot, cell, recipe).job_id for each in (world.workspace, changed)}) == jobs


def test_pairs_that_choose_among_weights_are_like_those_that_judge() -> None:
    """A component's id is the least of its questions' ids, so that by their ids large components would come first."""
    random = np.random.default_rng(0)
    sizes = random.choice([1, 2, 30], 4_000, p=[0.8, 0.15, 0.05])
    component = np.repeat([min(digest(str(random.random())) for _ in range(size + 1)) for size in sizes], sizes)
    pairs = pd.DataFrame({"component": component, "size": np.repeat(sizes, sizes)})
    choosing, judging = stopping_pairs(pairs)
    assert 900 <= len(choosing) <= 1_000
    assert not set(choosing["component"]) & set(judging["component"])
    large = [float((part["size"] == 30).mean()) for part in (choosing, judging)]
    assert large[1] > 0.5
    assert abs(large[0] - large[1]) < 0.12


def test_no_calibration_split_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    few = clump_world(tmp_path, clumps=3)
    with pytest.raises(FlywheelError, match=r"no calibration and test pairs, .* Ingest about \d+ more pairs labelled same"):
        train(few.job(), few.snapshot, few.vectors, few.workspace.home.models, ignore_progress)


def test_a_folder_without_a_record_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(FlywheelError, match=rf"{tmp_path} is not a model folder of flywheel\. Train the model"):
        TrainedModel.load(tmp_path)


@pytest.mark.parametrize("change", ["{", "{}", "[]", '{"job": {}}', '{"decision_rule": {}}', '{"out_of_fold_fit": 1}'])
def test_a_damaged_record_is_named_with_what_to_do(model: TrainedModel, tmp_path: Path, change: str) -> None:
    record = json.loads((model.folder / "flywheel.json").read_text())
    changed = json.dumps(record | json.loads(change)) if ":" in change else change
    (tmp_path / "flywheel.json").write_text(changed)
    with pytest.raises(FlywheelError, match=rf"{tmp_path}/flywheel\.json is damaged, or .* Delete the folder and train"):
        TrainedModel.load(tmp_path)


@pytest.mark.parametrize("content", [None, b"PAR1"])
def test_damaged_scores_are_named_with_what_to_do(model: TrainedModel, tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "flywheel.json").write_bytes((model.folder / "flywheel.json").read_bytes())
    if content is not None:
        (tmp_path / "own_scores.parquet").write_bytes(content)
    with pytest.raises(FlywheelError, match=rf"{tmp_path}/own_scores\.parquet is damaged .* Delete its folder and train"):
        TrainedModel.load(tmp_path).out_of_fold()


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A few of the starter set's clumps, with the real encoder and nothing cached."""
    workspace = make_workspace(tmp_path_factory.mktemp("starter"), encoding={"device": "cpu"}, evaluation={"min_components": 2})
    return take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-6 * 48 :])


SERVE = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
vectors = model.encode(sys.stdin.read().splitlines())
assert not [name for name in sys.modules if name.split(".")[0] == "flywheel"]
json.dump([model.get_embedding_dimension(), vectors.tolist()], open(sys.argv[2], "w"))
"""


def test_the_folder_serves_the_evaluated_vectors_without_flywheel(starter: World, tmp_path: Path) -> None:
    heard: list[Progress] = []
    model = train(starter.job(size="20"), starter.snapshot, starter.vectors, starter.workspace.home.models, heard.append)
    needed = len(unique_texts(starter.snapshot.pairs("train"), starter.snapshot.pairs("calibration")))
    assert [event for event in heard if isinstance(event, Encoded)][-1] == Encoded(needed, needed)

    texts = unique_texts(starter.snapshot.pairs("calibration"))[:40]
    expected = Head(*read_head(model.folder, ("mean",))).apply(starter.vectors.features(texts))
    done = subprocess.run(
        [sys.executable, "-I", "-c", SERVE, str(model.folder), str(tmp_path / "vectors.json")],
        input="\n".join(texts), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    width, served = json.loads((tmp_path / "vectors.json").read_text())
    assert width == 32
    allowed = ALLOWED_DIFFERENCE[starter.vectors.dtype] / 2
    assert np.abs(np.array(served) @ np.array(served).T - expected @ expected.T).max() < allowed
    np.testing.assert_allclose(np.linalg.norm(served, axis=1), 1, atol=1e-5)
    assert served_difference(model.folder, texts, expected) < allowed
    assert served_difference(model.folder, texts, np.concatenate([-expected[:1], expected[1:]])) > 0.1
    assert served_difference(model.folder, texts, expected[:, :16]) == np.inf


class QuickVectors(Vectors):
    """Vectors whose encoder is quick and knows nothing."""

    @property
    def loaded(self) -> Any:
        return None


def quick(
    encoder: None, texts: list[str], poolings: tuple[str, ...], progress: Callable[[int, int], None] | None
) -> np.ndarray:
    for done in range(0, len(texts), 100):
        if progress is not None:
            progress(min(done + 100, len(texts)), len(texts))
    return np.ones((len(texts), 384))


def test_progress_counts_on_over_the_chunks_in_which_texts_are_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.models.vectors.pooled", quick)
    heard: list[tuple[int, int]] = []
    vectors, texts = QuickVectors(MINILM, tmp_path, "gone"), [str(number) for number in range(5000)]
    vectors.get(texts[:10])
    assert vectors.missing(texts) == 4990
    vectors.get(texts, lambda done, total: heard.append((done, total)))
    assert heard == sorted(set(heard))
    assert heard[-1] == (4990, 4990)
    assert {total for _, total in heard} == {4990}
