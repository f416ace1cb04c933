"""Where heads start: own pooling, unless calibration pairs clearly prefer all poolings, and each by its own name."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.leaderboard import build_leaderboard
from flywheel.evaluation.records import Terms
from flywheel.evaluation.subjects import tuned_subject, untuned_subject
from flywheel.evidence.page import Text
from flywheel.evidence.sections import board_section
from flywheel.evidence.words import pairs_text
from flywheel.models.catalogue import Variant
from flywheel.models.features import PARTS
from flywheel.training import starts
from flywheel.training.progress import ignore_progress
from flywheel.training.starts import UNTUNED, choose_start, start_from_features, start_from_pooling
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import MINILM, World, clump_lines, embed, six_texts, take_world
from flywheel_tests.helpers.homes import make_workspace, with_options

CLUMPS = 30


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Starts are kept by the names of snapshot and weights, which the worlds here share."""
    starts._chosen_start.cache_clear()
    yield
    starts._chosen_start.cache_clear()


def world_whose_other_poolings(home: Path, know: bool) -> World:
    """Clumps whose own pooling is as ever, and whose other poolings hold the intent alone, or nothing but noise."""
    workspace = with_options(
        make_workspace(home, evaluation={"min_components": 5}), encoding={"device": "gone"}, training={"poolings": "all"}
    )
    world = take_world(workspace, clump_lines(range(CLUMPS)))
    texts = [text for clump in range(CLUMPS) for text in six_texts(clump)]

    def features(some: list[str]) -> np.ndarray:
        clumps = [text.split() for text in some]
        other = embed([f"{c} {i} same" if know else f"{c}-{i}-{w} noise alone" for c, i, w in clumps])
        return np.concatenate([embed(some) if part == "mean" else other for part in PARTS], axis=1)

    world.vectors.cache.get(texts, features)
    return world


@pytest.mark.parametrize(("know", "name"), [(True, "mean, max and CLS"), (False, UNTUNED)])
def test_calibration_pairs_choose_the_start_by_what_its_poolings_know(tmp_path: Path, know: bool, name: str) -> None:
    world = world_whose_other_poolings(tmp_path, know)
    start = choose_start(world.snapshot, world.vectors, 32)
    assert start.name == name
    make = start_from_features if know else start_from_pooling
    assert np.array_equal(start.raw.weight, make(world.snapshot, world.vectors, 32).raw.weight)


@pytest.mark.parametrize(("margin", "beyond"), [("_SURE", 1e6), ("_WORTHWHILE", 0.999)])
def test_a_gain_within_the_margin_leaves_the_untuned_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, margin: str, beyond: float
) -> None:
    world = world_whose_other_poolings(tmp_path, True)
    monkeypatch.setattr(starts, margin, beyond)
    assert choose_start(world.snapshot, world.vectors, 32).name == UNTUNED


def test_the_untuned_start_is_the_model_of_the_row_untuned(tmp_path: Path) -> None:
    world = world_whose_other_poolings(tmp_path, False)
    texts = [text for clump in range(CLUMPS) for text in six_texts(clump)]
    untuned = untuned_subject(Variant(MINILM.name, 32), world.snapshot, world.vectors).embed(texts)
    start = choose_start(world.snapshot, world.vectors, 32).raw.apply(world.vectors.features(texts))
    np.testing.assert_allclose(start, untuned, atol=1e-5)


@pytest.mark.parametrize(
    ("know", "card", "row", "about"),
    [
        (False, "at 32 dimensions, not trained: 19 pairs", "19, start kept", "and the untuned model is used."),
        (
            True,
            "at 32 dimensions, on mean, max and CLS of its token states, not trained: 19 pairs",
            "19, start on mean, max and CLS kept",
            "and the untrained start on mean, max and CLS is used.",
        ),
    ],
)
def test_a_kept_start_is_called_untuned_only_where_it_is(tmp_path: Path, know: bool, card: str, row: str, about: str) -> None:
    world = world_whose_other_poolings(tmp_path, know)
    model = train(world.job(size="19"), world.snapshot, world.vectors, tmp_path / "models", ignore_progress)
    assert (model.place, model.start) == (0, "mean, max and CLS" if know else UNTUNED)
    assert card in (model.folder / "README.md").read_text()
    assert ("untuned" in model.ships) is not know
    terms = Terms(5)
    record = evaluate(tuned_subject(model, world.vectors), world.snapshot, tmp_path / "evaluations", terms)
    assert (record.place, record.start) == (model.place, model.start)
    assert pairs_text(record) == row
    assert pairs_text(replace(record, kept_start=None)) == "19"
    board = board_section(build_leaderboard(world.snapshot, tmp_path / "evaluations", terms), None)
    assert any(about in block.text for block in board.blocks if isinstance(block, Text))
