"""Pairs with a text that a model could not embed: counted as its errors, shown, and nothing to win by."""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.comparison import compare
from flywheel.evaluation.evaluate import _failed_too_often, evaluate
from flywheel.evaluation.failures import MAX_FAILED_SHARE, Failures, reason_no_verdict, way_on
from flywheel.evaluation.leaderboard import build_leaderboard
from flywheel.evaluation.records import Evaluation, evaluation_folder, load_evaluation
from flywheel.evaluation.scores import decisions
from flywheel.evaluation.subjects import Subject
from flywheel.evidence.sections import board_section
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.registry.decisions import judge
from flywheel.registry.options import PromotionOptions
from flywheel.scoring.retrieval import retrieval
from flywheel_tests.helpers.clumps import World, clump_world, embed

MINIMUM = 20


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return clump_world(tmp_path_factory.mktemp("world"), clumps=300, evaluation={"min_components": MINIMUM})


def subject(name: str, lost: Collection[str] = (), noise: float = 0.0) -> Subject:
    """An API that has no vector for some texts."""

    def vectors(texts: list[str]) -> np.ndarray:
        found = embed(texts).copy()
        rng = np.random.default_rng(0)
        if noise:
            directions = {text: rng.normal(size=found.shape[1]) for text in sorted(set(texts))}
            found += noise * np.stack([directions[text] for text in texts]) / np.sqrt(found.shape[1])
            found /= np.linalg.norm(found, axis=1, keepdims=True)
        found[[text in lost for text in texts]] = np.nan
        return found.astype(np.float32)

    return Subject(name, "baseline", "api@384", vectors, failed=lambda texts: set(texts) & set(lost))


def lose(world: World, split: str, count: int) -> set[str]:
    """A text of each of some components of a split: five pairs hold each."""
    return set(world.snapshot.pairs(split).groupby("component")["text_a"].first().head(count))


def measure(world: World, folder: Path, subject: Subject) -> Evaluation:
    return evaluate(subject, world.snapshot, folder, world.workspace.terms)


def test_failed_pairs_are_errors_and_the_others_decide_as_they_would(world: World, tmp_path: Path) -> None:
    whole = measure(world, tmp_path, subject("whole"))
    lost = lose(world, "test", 2)
    record = measure(world, tmp_path, subject("lost", lost))
    n = whole.metrics.n
    assert record.failures is not None
    assert (record.failures.test, record.failures.calibration) == (10, 0)
    assert record.rule == whole.rule
    table = decisions(tmp_path, record)
    assert table["failed"].sum() == 10
    assert table.loc[table["failed"], "wrong"].all()
    assert (table.loc[table["failed"], "probability"] == 0.5).all()
    pd.testing.assert_frame_equal(table[~table["failed"]], decisions(tmp_path, whole)[~table["failed"]])
    assert record.error == pytest.approx(table["wrong"].mean())
    assert record.failures.error_without == pytest.approx(table.loc[~table["failed"], "wrong"].mean())
    assert sum((record.parts.ranking, record.parts.threshold, record.parts.prior)) == pytest.approx(record.error)
    assert record.interval is not None
    assert record.interval.low < record.error < record.interval.high
    assert record.metrics.n == n
    assert sum(each.n for each in record.slices if each.name in ("seed", "interaction")) in (0, n)
    folder = evaluation_folder(tmp_path, record.test_id, record.record_id)
    assert load_evaluation(folder, world.workspace.terms) == record


def test_failed_pairs_of_calibration_choose_nothing(world: World, tmp_path: Path) -> None:
    whole = measure(world, tmp_path, subject("whole"))
    record = measure(world, tmp_path, subject("lost", lose(world, "calibration", 2)))
    assert record.failures is not None
    assert (record.failures.test, record.failures.calibration) == (0, 10)
    assert record.rule != whole.rule
    assert record.no_verdict is None
    assert len(pd.read_parquet(evaluation_folder(tmp_path, record.test_id, "lost") / "scores.parquet")) == (
        len(world.snapshot.pairs("calibration")) + len(world.snapshot.pairs("test")) - 10
    )


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_above_a_hundredth_of_the_pairs_there_is_no_verdict(world: World, tmp_path: Path, split: str) -> None:
    pairs = len(world.snapshot.pairs(split))
    few = pairs // 100 // 5
    assert few
    assert measure(world, tmp_path, subject("few", lose(world, split, few))).no_verdict is None
    reason = measure(world, tmp_path, subject("many", lose(world, split, few + 1))).no_verdict
    share = f"{5 * (few + 1) / pairs:.1%}"
    assert reason == f"the API could not embed a text of {share} of the {split} pairs, more than the 1% a verdict allows"


def test_where_the_other_pairs_carry_none_there_is_none_either_and_another_try_leads_on() -> None:
    fewer = "39 components are fewer than the 40 a verdict needs"
    assert reason_no_verdict(0, 200, "test", fewer) is None  # said of all pairs then
    assert reason_no_verdict(1, 200, "test", None) is None
    reason = reason_no_verdict(1, 200, "test", fewer)
    assert reason == f"the API could not embed a text of 0.5% of the test pairs, and of the others {fewer}"
    assert "`flywheel baseline embed --retry`" in way_on(reason, "draw anew")


def test_a_component_that_is_lost_is_missed_by_the_verdict(world: World) -> None:
    pairs = world.snapshot.pairs("test")
    terms = replace(world.workspace.terms, min_components=pairs["component"].nunique())
    one = pairs[pairs["component"] == pairs["component"].iloc[0]]
    assert len(one) > len(pairs) * MAX_FAILED_SHARE  # as many as this leave none anyway
    found = Failures(len(one), 0, 0.0)
    calibration, others = pairs, pairs.drop(one.index)
    assert "more than the 1% a verdict allows" in str(_failed_too_often(found, calibration, others, terms))
    assert "and of the others" in str(_failed_too_often(replace(found, test=1), calibration, others, terms))


def test_nobody_wins_by_what_the_other_could_not_embed(world: World, tmp_path: Path) -> None:
    ours, theirs = measure(world, tmp_path, subject("ours")), measure(world, tmp_path, subject("lost", lose(world, "test", 2)))
    versus = compare(ours, theirs, world.snapshot, tmp_path, shown=3)
    assert versus.difference < 0  # what is shown counts them
    assert versus.test is not None
    assert (versus.test.difference, versus.test.p_value) == (0.0, 1.0)
    assert versus.test.pairs == ours.metrics.n - 10
    verdict = judge(ours, theirs, tmp_path, PromotionOptions(), 1, against_champion=False)
    assert not verdict.promoted
    assert verdict.pairs == ours.metrics.n - 10
    assert theirs.failures is not None
    without = theirs.failures.retrieval_without
    assert without is not None
    assert without.queries < theirs.retrieval.queries
    assert without.mrr_at_10 > theirs.retrieval.mrr_at_10
    assert verdict.mrr_change == ours.retrieval.mrr_at_10 - without.mrr_at_10
    worse = measure(world, tmp_path, subject("noisy", noise=2.0))
    assert judge(ours, worse, tmp_path, PromotionOptions(), 1, against_champion=False).promoted  # where there is a gain


def test_a_failure_that_is_none_any_more_is_measured_again(world: World, tmp_path: Path) -> None:
    lost = lose(world, "test", 2)
    first = measure(world, tmp_path, subject("api", lost))
    assert measure(world, tmp_path, subject("api", lost)) == first
    again = measure(world, tmp_path, subject("api"))
    assert again.failures is None
    assert again == replace(measure(world, tmp_path, subject("whole")), record_id="api")


def test_an_api_without_a_vector_for_any_test_pair_is_told(world: World, tmp_path: Path) -> None:
    lost = set(unique_texts(world.snapshot.pairs("test")))
    with pytest.raises(FlywheelError, match="could not embed one text or both of every test pair"):
        measure(world, tmp_path, subject("none", lost))


def test_the_board_says_what_failed(world: World, tmp_path: Path) -> None:
    measure(world, tmp_path, subject("lost", lose(world, "test", 2)))
    board = build_leaderboard(world.snapshot, tmp_path, world.workspace.terms)
    section = repr(board_section(board, None))
    assert (
        "api@384 baseline: 10 test pairs hold a text that the API could not embed and count as its errors; without" in section
    )
    assert board.to_json()[0]["failed"] == 10


def test_the_sentence_counts() -> None:
    assert Failures(1, 0, 0.1).sentence("10.0 %").startswith("1 test pair holds a text that the API could not embed and counts")
    both = Failures(1234, 1, 0.1).sentence("10.0 %")
    assert both.startswith(
        "1,234 test pairs hold a text that the API could not embed and count as its errors; without them its"
    )
    assert both.endswith("1 calibration pair holds such a text; no rule is chosen by them.")
    alone = Failures(0, 2, 0.1).sentence("10.0 %")
    assert alone == "2 calibration pairs hold a text that the API could not embed; no rule is chosen by them."


def test_a_text_without_a_vector_finds_nothing_and_is_not_found() -> None:
    vectors = np.eye(30, dtype=np.float32)
    vectors[1] = vectors[0]  # a pair
    vectors[3] = vectors[2]  # another
    duplicates = [(0, 1), (2, 3)]
    missing: Callable[[set[int]], np.ndarray] = lambda rows: np.array([row in rows for row in range(30)])  # noqa: E731
    assert retrieval(vectors, duplicates).mrr_at_10 == 1.0
    one = retrieval(vectors, duplicates, missing({1}))
    assert (one.mrr_at_10, one.recall_at_10, one.queries) == (0.5, 0.5, 4)
    assert retrieval(vectors, duplicates, missing({29})) == retrieval(vectors, duplicates)
    assert retrieval(vectors[:4], duplicates, missing({1})[:4]).recall_at_10 == 0.5  # fewer than ten to find


def test_a_text_without_a_vector_takes_no_other_ones_place() -> None:
    vectors = np.eye(30, dtype=np.float32)
    vectors[1] = (vectors[0] + vectors[5]) / np.sqrt(2)
    vectors[2] = vectors[0]  # nearer to 0 than its duplicate
    missing = np.array([row == 2 for row in range(30)])
    assert retrieval(vectors, [(0, 1)]).mrr_at_10 == pytest.approx((1 / 2 + 1 / 3) / 2)  # 0 finds 2 first; 1 finds 5 and 2
    assert retrieval(vectors, [(0, 1)], missing).mrr_at_10 == pytest.approx((1 + 1 / 2) / 2)
