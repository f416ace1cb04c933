"""Two models side by side: what flips is shown word for word, and only what was scored on the same pairs is compared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.comparison import Comparison, compare
from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.records import Evaluation, Terms
from flywheel.evaluation.scores import decisions
from flywheel.evaluation.subjects import Subject, tuned_subject, untuned_subject
from flywheel.models.catalogue import Variant
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import World, clump_world

MINIMUM = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=120, evaluation={"min_components": MINIMUM})


def measure(world: World, subject: Subject) -> Evaluation:
    return evaluate(subject, world.snapshot, world.workspace.home.evaluations, Terms(MINIMUM))


@pytest.fixture(scope="module")
def before(world: World) -> Evaluation:
    return measure(world, untuned_subject(Variant.parse("all-MiniLM-L6-v2@32"), world.snapshot, world.vectors))


@pytest.fixture(scope="module")
def after(world: World) -> Evaluation:
    model = train(world.job(size="400"), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)
    return measure(world, tuned_subject(model, world.vectors))


def compared(world: World, ours: Evaluation, theirs: Evaluation) -> Comparison:
    return compare(ours, theirs, world.snapshot, world.workspace.home.evaluations, 5)


def test_broken_and_fixed_pairs_are_counted_and_the_surest_shown_word_for_word(
    world: World, before: Evaluation, after: Evaluation
) -> None:
    found = compared(world, after, before)
    ours, theirs = decisions(world.workspace.home.evaluations, after), decisions(world.workspace.home.evaluations, before)
    broken, fixed = ours["wrong"] & ~theirs["wrong"], ~ours["wrong"] & theirs["wrong"]
    assert (found.broken, found.fixed) == (broken.sum(), fixed.sum())
    assert found.fixed > found.broken > 0
    assert found.broken_share == broken.sum() / (~theirs["wrong"]).sum()
    assert found.difference == pytest.approx(after.error - before.error)
    texts = world.snapshot.pairs("test").set_index("pair_id").loc[ours.index]
    for flipped, shown in ((broken, found.worst_broken), (fixed, found.best_fixed)):
        sureness = (ours["probability"][flipped] - 0.5).abs().sort_values(ascending=False)
        assert [abs(pair.ours - 0.5) for pair in shown] == pytest.approx(list(sureness[:5]))
        rows = texts[flipped]
        known = set(zip(rows["text_a"], rows["text_b"], rows["label"], strict=True))
        assert {(pair.text_a, pair.text_b, pair.label) for pair in shown} <= known


def test_a_model_against_itself_breaks_and_fixes_nothing(world: World, after: Evaluation) -> None:
    found = compared(world, after, after)
    assert (found.broken, found.fixed, found.difference) == (0, 0, 0)
    assert found.test is not None
    assert found.test.p_value == 1


def test_kinds_of_pairs_have_their_own_difference_and_interval(world: World, before: Evaluation, after: Evaluation) -> None:
    found = compared(world, after, before)
    assert [each.name for each in found.slices] == [each.name for each in after.slices]
    for each, ours, theirs in zip(found.slices, after.slices, before.slices, strict=True):
        assert (each.ours, each.theirs, each.n) == (ours.error, theirs.error, ours.n)
        assert each.test is not None
        assert each.test.interval.low < each.difference < each.test.interval.high


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_without_a_verdict_of_both_there_is_a_difference_and_no_test(
    world: World, before: Evaluation, after: Evaluation, side: str
) -> None:
    withheld = {"ours": after, "theirs": before}
    withheld[side] = replace(withheld[side], no_verdict="12 components in calibration are too few")
    found = compared(world, **withheld)
    assert found.test is None
    assert found.difference == pytest.approx(after.error - before.error)


def test_kinds_of_too_few_components_have_no_test(world: World, before: Evaluation, after: Evaluation) -> None:
    few = Terms(10_000)
    found = compared(world, replace(after, terms=few), replace(before, terms=few))
    assert all(each.test is None for each in found.slices)


@pytest.mark.parametrize("field", ["test_id", "terms"])
def test_evaluations_of_different_tests_are_not_compared(
    world: World, before: Evaluation, after: Evaluation, field: str
) -> None:
    other = replace(before, **{field: Terms(MINIMUM, 0.3) if field == "terms" else "other"})
    with pytest.raises(
        FlywheelError, match="was scored on test" if field == "test_id" else "target_prior None .* target_prior 0.3"
    ):
        compared(world, after, other)
    with pytest.raises(FlywheelError, match="not that of snapshot"):
        compare(after, before, replace(world.snapshot, test_id="new"), world.workspace.home.evaluations, 5)


def test_the_order_in_which_scores_lie_on_disk_means_nothing(
    world: World, before: Evaluation, after: Evaluation, tmp_path: Path
) -> None:
    for record in (before, after):
        scores = pd.read_parquet(world.workspace.home.evaluations / record.test_id / record.record_id / "scores.parquet")
        folder = tmp_path / record.test_id / record.record_id
        folder.mkdir(parents=True)
        order = np.random.default_rng(len(record.name)).permutation(len(scores))
        scores.iloc[order].to_parquet(folder / "scores.parquet")
    assert compare(after, before, world.snapshot, tmp_path, 5) == compared(world, after, before)
