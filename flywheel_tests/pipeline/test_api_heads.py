"""The API's vectors get the head that ours gets, on the same pairs, as soon as the vectors are there and never by asking."""

from pathlib import Path

import pytest

from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.subjects import tuned_subject, untuned_subject
from flywheel.models.api.set_aside import SetAside
from flywheel.models.api.vectors import ApiVectors
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pipeline.api_heads import evaluate_head_on_api
from flywheel.training.job import HeadRecipe
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import World, clump_world, embed

MINIMUM = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=300, evaluation={"min_components": MINIMUM})


def api(folder: Path) -> ApiVectors:
    """An endpoint that nobody listens on, without a key."""
    return ApiVectors("text-embedding-3-small", 384, "http://127.0.0.1:9/v1", None, folder)


def paid(world: World, folder: Path, *splits: str) -> ApiVectors:
    """The same with the vectors of some splits cached."""
    vectors = api(folder)
    vectors.cache.get(unique_texts(*(world.snapshot.pairs(split) for split in splits)), embed)
    return vectors


def head_on(vectors: ApiVectors, world: World, size: str, recipe: HeadRecipe | None = None) -> Evaluation | None:
    job = world.job(size=size, head=recipe or HeadRecipe())
    return evaluate_head_on_api(world.workspace, vectors, job, world.snapshot)


@pytest.mark.parametrize("size", ["400", "1700"])
def test_a_head_on_the_apis_vectors_gains_what_ours_gains_on_the_same_vectors(world: World, tmp_path: Path, size: str) -> None:
    vectors = paid(world, tmp_path, "train", "calibration", "test")
    untuned = untuned_subject(Variant.parse("all-MiniLM-L6-v2@32"), world.snapshot, world.vectors)
    start = world.workspace.evaluate(untuned, world.snapshot)
    model = train(world.job(size=size), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)
    ours = world.workspace.evaluate(tuned_subject(model, world.vectors), world.snapshot)
    head = head_on(vectors, world, size)
    assert head is not None
    assert head.error < start.error
    assert head.error == pytest.approx(ours.error, abs=0.05)
    assert (head.kind, head.variant, head.size, head.recipe) == ("baseline", "text-embedding-3-small@32", size, "head")
    assert head.train_pairs == int(size)
    assert (head.own_labels is None) == (int(size) > 1600)
    assert head.name == f"text-embedding-3-small@32 baseline + head | {size}"


def test_without_the_vectors_of_its_pairs_there_is_none_and_nothing_is_asked(world: World, tmp_path: Path) -> None:
    assert head_on(paid(world, tmp_path, "calibration", "test"), world, "100") is None


def test_texts_that_the_api_could_not_embed_train_nothing_and_count_as_errors(world: World, tmp_path: Path) -> None:
    vectors = paid(world, tmp_path, "train", "calibration", "test")
    training = world.snapshot.training_pairs("100", 0, world.job(size="100").interaction_share)
    lost = [training["text_a"].iloc[0], *(world.snapshot.pairs(split)["text_a"].iloc[0] for split in ("calibration", "test"))]
    vectors.cache.drop(lost)
    assert head_on(vectors, world, "100") is None
    for text in lost:
        SetAside(vectors.cache.folder).add(text, "No")
    head = head_on(vectors, world, "100")
    assert head is not None
    assert head.train_pairs == 100 - training["text_a"].eq(lost[0]).sum() - training["text_b"].eq(lost[0]).sum()
    assert head.failures is not None
    assert (head.failures.test, head.failures.calibration) == (5, 5)
    assert head.retrieval.mrr_at_10 < 1
    vectors.cache.get(lost, embed)
    again = head_on(vectors, world, "100")
    assert again is not None
    assert again.failures is None


def test_a_second_time_it_is_found_without_the_vectors(world: World, tmp_path: Path) -> None:
    first = head_on(paid(world, tmp_path, "train", "calibration", "test"), world, "100")
    assert first is not None
    assert head_on(api(tmp_path / "empty"), world, "100") == first
    other = HeadRecipe(epochs=1, min_steps=1)
    assert head_on(api(tmp_path / "empty"), world, "100", other) is None
