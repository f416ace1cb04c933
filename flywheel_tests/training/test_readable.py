"""Pairs that are one and the same to a base model are said as that, with the real cause, and each remedy leads on."""

import json
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.head import Head, untuned_head
from flywheel.models.weights import hash_weights
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.training.head import train_head, train_with_folds
from flywheel.training.job import TUNING, HeadRecipe, head_recipe, tuning_recipe
from flywheel.training.model import TrainedModel
from flywheel.training.progress import ignore_progress
from flywheel.training.readable import lower_rate
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import MINILM, World, clump_pairs, take_world
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.hub_layout import WORDS, random_tensors, write_hub_folder
from flywheel_tests.pairs.test_ingest import line

PREAMBLE = "why is the sky blue " * 52  # 260 tokens
PLAIN = [word for word in WORDS if word.isalpha()]
JINA = CATALOGUE["jina-embeddings-v2-small-en"]


def words(number: int) -> str:
    """Some words of the small vocabulary that only this number has."""
    return " ".join(PLAIN[(number // len(PLAIN) ** place) % len(PLAIN)] for place in range(3))


def long_lines(pairs: int, cut: int, first: str = PREAMBLE, last: str = "") -> list[bytes]:
    """Pairs of which the first `cut` differ only after `first`, or only before `last`."""
    texts = [
        (
            f"{words(n)} {first if n < cut else ''} {words(2000 + n)} {last}",
            f"{words(n)} {first if n < cut else ''} plan {last}",
        )
        for n in range(pairs)
    ]
    return [line(a, b, n // 2 % 2) for n, (a, b) in enumerate(texts)]


def world_of(home: Path, lines: list[bytes]) -> World:
    workspace = make_workspace(
        home, encoding={"device": "cpu"}, evaluation={"min_components": 2}, splits={"seed_calibration_share": 0.3}
    )
    return take_world(workspace, lines)


def train_all(world: World, **fields: object) -> TrainedModel:
    """The model that comes of it."""
    job = world.job(size="all", **fields)
    return train(job, world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)


def test_pairs_that_differ_beyond_the_models_reach_are_said_as_that_and_both_remedies_lead_on(tmp_path: Path) -> None:
    world = world_of(tmp_path / "long", long_lines(72, cut=60))
    with pytest.raises(FlywheelError) as caught:
        train_all(world)
    assert re.match(
        r"\d\d % of the training pairs differ only after 256 tokens, which is all that all-MiniLM-L6-v2 reads, so that there "
        r"is too little to learn from\. Use a model that reads more: .*jina-embeddings-v2-small-en \(8,192 tokens\).*; or "
        r"shorten the texts where the pairs come from, so that what differs comes first\. No model was trained\.$",
        str(caught.value),
    )
    assert "rate" not in str(caught.value)
    assert not list(world.workspace.home.models.glob("*/flywheel.json"))

    assert train_all(world_of(tmp_path / "first", long_lines(72, cut=60, first="", last=PREAMBLE)))

    folder = write_hub_folder(tmp_path, random_tensors(0))
    reads_more = replace(JINA, weights_sha256=hash_weights(folder), published=None)
    vectors = replace(world.vectors, model=replace(reads_more, path=folder))
    assert train_all(replace(world, vectors=vectors), variant=f"{JINA.name}@32")


@pytest.mark.parametrize("cut", [0, 6])
def test_a_few_of_them_are_a_warning_and_none_is_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture, cut: int) -> None:
    world = world_of(tmp_path, long_lines(96, cut))
    with caplog.at_level(logging.WARNING):
        model = train_all(world)
    about = "of the seed texts are longer than what all-MiniLM-L6-v2 reads"
    read = unique_texts(world.snapshot.pairs("train"), world.snapshot.pairs("calibration"))
    long = [PREAMBLE.strip() in text for text in read]
    assert any(long) == bool(cut)
    assert model.cut == ({"seed": pytest.approx(sum(long) / len(long))} if cut else {})
    assert (
        any(about in each for each in caplog.messages)
        == ("longer than" in (model.folder / "README.md").read_text())
        == bool(cut)
    )
    said = [each for each in caplog.messages if "differ only after 256 tokens" in each]
    assert bool(said) == bool(cut)
    assert all("no training can tell these apart. Use a model that reads more" in each for each in said)


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        (lambda n: (f"plan {words(n)} à la carte", f"plan {words(n)} a la carte"), "reads lower-case letters without accents"),
        (
            lambda n: (f"{words(n)} \N{GRINNING FACE}", f"{words(n)} \N{POUTING FACE}"),
            "has no tokens for what differs, such as emoji",
        ),
    ],
)
def test_accents_and_emoji_that_are_not_read_are_named(tmp_path: Path, texts: object, cause: str) -> None:
    assert callable(texts)
    world = world_of(tmp_path, [line(*texts(n), n // 2 % 2) for n in range(90)])
    with pytest.raises(
        FlywheelError, match=rf"100 % of the training pairs have the same tokens .* which {cause}.* Put the diff"
    ):
        train_all(world)
    spelled = [line(f"{texts(n)[0]} {words(500 + n)}", texts(n)[1], n // 2 % 2) for n in range(90)]
    assert train_all(world_of(tmp_path / "spelled", spelled))


def test_calibration_pairs_of_one_and_the_same_text_are_no_measure(tmp_path: Path) -> None:
    world = world_of(tmp_path, long_lines(96, cut=0))
    file = world.snapshot.folder / "calibration.parquet"
    calibration = world.snapshot.pairs("calibration")
    same = calibration["text_a"] + " " + PREAMBLE
    calibration.assign(text_a=same + " one", text_b=same + " two").to_parquet(file)
    with pytest.raises(FlywheelError, match="100 % of the calibration pairs differ only after 256 tokens"):
        train_all(world)


def test_vectors_at_fault_before_any_training_are_not_blamed_on_the_rate() -> None:
    pairs = clump_pairs(range(8))
    start, constant = untuned_head(pairs.features, 16), Head(np.zeros((16, MINILM.width), np.float32), np.ones(16, np.float32))
    broken = replace(pairs, features=np.where(np.arange(len(pairs.features))[:, None] == 3, np.nan, pairs.features))
    for trains in (train_head, train_with_folds):
        with pytest.raises(
            FlywheelError, match=r"The vectors of 1 of \d+ training texts hold what is no number.* Choose another"
        ):
            trains(start, broken, HeadRecipe(), 0, ignore_progress)
        with pytest.raises(
            FlywheelError, match=r"practically the same vector before any training, .* Choose another base model"
        ):
            trains(constant, pairs, HeadRecipe(), 0, ignore_progress)


def test_a_rate_that_is_too_high_is_named_with_the_settings_that_lower_it_and_they_train() -> None:
    pairs = clump_pairs(range(8))
    start = untuned_head(pairs.features, 16)
    with pytest.raises(FlywheelError, match="The loss is nan at step 1: lower the learning rate, now 1e") as caught:
        train_head(start, pairs, HeadRecipe(learning_rate=1e30), 0, ignore_progress)
    train_head(start, pairs, head_recipe(said_settings(str(caught.value), "head")), 0, ignore_progress)


def said_settings(sentence: str, recipe: str) -> dict[str, float]:
    """The fields of a recipe that a sentence tells to set, by the environment; the file's are the same."""
    found = re.search(r"FLYWHEEL_TRAINING__RECIPES='(.*)'", sentence)
    assert found
    fields: dict[str, float] = json.loads(found[1])[recipe]
    assert (
        f"set {' and '.join(f'{name} = {value:g}' for name, value in fields.items())} under [training.recipes.{recipe}] in"
        in sentence
    )
    return fields


def test_only_rates_above_their_defaults_are_lowered_and_else_all_to_a_tenth() -> None:
    usual = TUNING["top"]
    assert usual is not None
    only_head = lower_rate(replace(usual, head_learning_rate=0.5))
    assert said_settings(only_head, "top") == {"head_learning_rate": usual.head_learning_rate}
    both = said_settings(lower_rate(usual), "top")
    assert both == {"learning_rate": usual.learning_rate / 10, "head_learning_rate": usual.head_learning_rate / 10}
    assert tuning_recipe("full", said_settings(lower_rate(replace(usual, layers=None)), "full"))
