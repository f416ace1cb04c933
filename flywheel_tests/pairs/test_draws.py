"""Whatever is frozen carries a verdict, and so do folds: over graphs of many shapes, by evaluation's own rule."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.evaluation.statistics import reason_no_verdict
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.options import SplitOptions
from flywheel.pairs.snapshots.enough import Components, Offer, SplitRules
from flywheel.pairs.snapshots.folds import small_enough, spread
from flywheel.pairs.snapshots.plan import Goal, Plan, make_plan, what_is_missing
from flywheel.pipeline.ingest import take_snapshot
from flywheel.scoring.power import detectable_in
from flywheel_tests.conftest import examples, verb
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.shapes import Edges, check_folds, check_frozen, fill, heavy_tailed, of_sizes, side_by_side, star
from flywheel_tests.pairs.test_ingest import line

RULES = SplitRules.of(SplitOptions(), 40)
Shape = Callable[[np.random.Generator], Edges]

SHAPES: dict[str, Shape] = {
    "a hundred pairs on their own": lambda rng: of_sizes([1] * 100, rng),
    "few pairs, most in one component": lambda rng: of_sizes([1] * 120 + [80], rng),
    "a large component among nine thousand": lambda rng: of_sizes([50] + [1] * 2_450, rng),
    "one giant": lambda rng: of_sizes([900], rng),
    "one giant star and few others": lambda rng: side_by_side([star(400), *(star(1) for _ in range(60))]),
    "a giant among small ones": lambda rng: of_sizes([1_500, *rng.integers(1, 6, 500)], rng),
    "none above five": lambda rng: of_sizes(rng.integers(1, 6, 600), rng),
    "all of thirty": lambda rng: of_sizes([30] * 40, rng),
    "a heavy tail": lambda rng: heavy_tailed(1_500, 2.0, 300, rng),
    "a heavier tail": lambda rng: heavy_tailed(2_500, 1.6, 1_000, rng),
    "forty stars": lambda rng: side_by_side(star(int(size)) for size in rng.integers(1, 60, 40)),
}
LARGE: dict[str, Shape] = {
    "a heavy tail": lambda rng: heavy_tailed(100_000, 2.0, 20_000, rng),
    "a giant of half": lambda rng: of_sizes([100_000, *rng.integers(1, 6, 33_000)], rng),
    "a million": lambda rng: np.stack(
        [np.arange(1_000_000) * 2, np.arange(1_000_000) * 2 + rng.integers(1, 4, 1_000_000)], axis=1
    ),
}


@pytest.mark.parametrize("frozen_from", [0, 2_000])
@pytest.mark.parametrize("name", SHAPES)
def test_whatever_is_frozen_or_folded_carries_a_verdict(name: str, frozen_from: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(name))
    workspace = make_workspace(tmp_path / "home", splits={"frozen_from": frozen_from})
    edges = SHAPES[name](rng)
    fill(workspace, edges, rng)
    snapshot = take_snapshot(workspace)
    check_frozen(snapshot)
    assert not (snapshot.is_drawn and len(edges) < frozen_from)
    if snapshot.is_cross_fitted:
        check_folds(snapshot)
        assert snapshot.train.pairs == len(edges)
    if not snapshot.can_judge:
        assert snapshot.train.pairs == 0
        assert re.search(r"Ingest about .*, then run `flywheel snapshot`", snapshot.lack)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_large_graph_is_drawn_so_that_it_carries_a_verdict(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(len(name))
    workspace = make_workspace(tmp_path / "home")
    fill(workspace, LARGE[name](rng), rng)
    snapshot = take_snapshot(workspace)
    check_frozen(snapshot)
    assert snapshot.is_drawn
    assert snapshot.judging.detectable is not None
    assert snapshot.judging.detectable < 0.02


@pytest.mark.parametrize("frozen_from", [0, 2_000])
def test_equal_pairs_are_drawn_and_folded_alike_whatever_their_order(frozen_from: int, tmp_path: Path) -> None:
    taken = []
    edges = SHAPES["a heavy tail"](np.random.default_rng(0))
    for name in ("one", "two"):
        workspace = make_workspace(tmp_path / name, splits={"frozen_from": frozen_from})
        for part in (edges,) if name == "one" else (edges[700:], edges[:700]):
            same = (part.sum(1) % 3 == 0).astype(float)
            for label in (0.0, 1.0):
                fill(workspace, part[same == label], np.random.default_rng(0), same=label)
        taken.append(take_snapshot(workspace))
    assert taken[0] == replace(taken[1], folder=taken[0].folder)
    assert taken[0].can_judge


sizes = st.lists(st.integers(1, 50), min_size=1, max_size=400)


@hypothesis_settings(max_examples=examples(150), deadline=None)
@given(sizes=sizes, singles=st.integers(0, 2_000), same=st.floats(0.02, 0.98), seed=st.integers(0, 1_000))
def test_a_plan_carries_a_verdict_and_what_is_missing_leads_to_one(
    sizes: list[int], singles: int, same: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    every = rng.permutation([*sizes, *[1] * singles])
    ones = rng.binomial(every, same)
    labels = np.stack([every - ones, ones], axis=1)
    plan = _plan(labels)
    if plan is None:
        lack = what_is_missing(Offer("interaction", len(labels), int(labels.sum()), labels), RULES.interaction, RULES)
        asked = {kind: int(n.replace(",", "")) for n, kind in re.findall(r"([\d,]+) more pairs labelled (\w+)", lack.remedy)}
        added = [[0, 1]] * asked.get("same", 0) + [[1, 0]] * asked.get("different", 0)
        plan = _plan(rng.permutation(np.concatenate([labels, added])))
    assert plan is not None
    for split in (plan.test, plan.calibration):
        assert reason_no_verdict(np.repeat(split.names, split.sizes("explicit"))) is None
        assert split.explicit.sum(0).min() >= 10
    assert not set(plan.test.names) & set(plan.calibration.names)


def _plan(labels: np.ndarray) -> Plan | None:
    return make_plan(
        Components(np.arange(len(labels)), labels, labels), Goal.of(RULES.interaction, int(labels.sum()), RULES), RULES
    )


@pytest.mark.parametrize(
    ("pairs", "test", "calibration"), [(400, 120, 100), (5_000, 1_500, 1_250), (20_000, 6_000, 5_000), (60_000, 8_111, 6_759)]
)
def test_shares_fall_once_the_test_pairs_show_a_difference_of_one_point(pairs: int, test: int, calibration: int) -> None:
    labels = np.tile([[1, 0], [0, 1]], (pairs // 2, 1))
    plan = _plan(labels)
    assert (len(plan.test), len(plan.calibration)) == (test, calibration)
    shown = detectable_in(plan.test.sizes("fresh"))
    assert shown is not None
    assert (shown <= 0.01) == (pairs == 60_000)


def test_the_smallest_splits_that_may_be_set_can_be_drawn() -> None:
    rules = replace(RULES, max_split_pairs=41)
    labels = np.tile([[1, 0], [0, 1]], (260, 1))
    plan = make_plan(Components(np.arange(520), labels, labels), Goal.of(rules.interaction, 520, rules), rules)
    assert plan is not None
    assert (len(plan.test), len(plan.calibration)) == (41, 41)


def test_a_set_share_is_obeyed_and_the_other_goes_with_it() -> None:
    for options, shares in (
        ({"interaction_test_share": 0.1}, (0.1, 0.1 * 5 / 6)),
        ({"interaction_test_share": 0.8}, (0.8, 0.1)),
    ):
        found = SplitRules.of(SplitOptions(**options), 40).interaction
        assert (found.test, found.calibration, found.by_power) == (*(pytest.approx(each) for each in shares), False)
    found = SplitRules.of(SplitOptions(interaction_calibration_share=0.1), 40).interaction
    assert (found.test, found.calibration, found.by_power) == (0.3, 0.1, True)


def test_the_largest_components_are_left_out_where_a_smaller_cap_shows_much_more() -> None:
    """A few components of fifty would make the test split hardly better than its components are many."""
    even = np.tile([[1, 0], [0, 1]], (3_000, 1))
    heavy = np.tile([[25, 25]], (60, 1))
    plan = _plan(np.random.default_rng(0).permutation(np.concatenate([even, heavy])))
    assert plan.test.sizes("explicit").max() == 1
    alike = _plan(np.random.default_rng(0).permutation(np.concatenate([even, heavy[:3]])))
    assert 50 in {*alike.test.sizes("explicit"), *alike.calibration.sizes("explicit")}


@hypothesis_settings(max_examples=examples(100), deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=200))
def test_the_components_that_judge_are_the_most_of_which_none_is_too_large(sizes: list[int]) -> None:
    given_sizes = np.array(sizes)
    judging = given_sizes[small_enough(given_sizes, 0.05)]
    assert not len(judging) or judging.max() <= 0.05 * judging.sum()
    rest = sorted(given_sizes[(given_sizes > 0) & ~small_enough(given_sizes, 0.05)])
    for taken in range(1, len(rest) + 1):
        assert rest[taken - 1] > 0.05 * (judging.sum() + sum(rest[:taken]))


def test_folds_hold_alike_many_pairs_of_either_label_even_where_one_is_rare() -> None:
    labels = np.concatenate([np.tile([[1, 0]], (270, 1)), np.tile([[0, 1]], (30, 1))])
    taken = spread(labels, 10)
    held = np.array([labels[taken == fold].sum(0) for fold in range(10)])
    assert (held == [27, 3]).all()


def test_the_verb_says_who_judges_and_what_can_be_found_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "flywheel.toml").write_text('pairs.seed_pairs = "none"\n')
    fill(make_workspace(tmp_path / "home"), of_sizes([1] * 150, np.random.default_rng(0)), np.random.default_rng(0))
    said = verb("snapshot", "--home", tmp_path / "home").stdout
    assert "All pairs train. 150 labelled pairs in 150 components judge too, in 10 folds: each judges only" in said
    assert (
        "models that have not seen its component. Test pairs are set aside from 2,000 labelled pairs on (splits.frozen_from)."
        in said
    )
    assert "With 150 pairs only a difference of about 12 points would show.\nNext: flywheel grid" in said
    found = json.loads(verb("snapshot", "--home", tmp_path / "home", "--json").stdout)
    assert (found["train"], found["calibration"], found["test"], found["folds"]) == (150, 0, 0, 10)
    assert (found["judging"]["pairs"], found["judging"]["components"], found["frozen_from"]) == (150, 150, 2_000)
    assert found["judging"]["detectable"] == pytest.approx(0.115, abs=0.005)


def test_a_home_becomes_drawn_once_it_has_labels_enough_and_all_that_waited_may_be_drawn(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home")
    rng = np.random.default_rng(0)
    fill(workspace, of_sizes([1] * 1_500, rng), rng)
    first = take_snapshot(workspace)
    fill(workspace, of_sizes([1] * 2_000, rng), rng)
    drawn = take_snapshot(workspace)
    assert (first.is_cross_fitted, drawn.is_drawn, drawn.is_cross_fitted) == (True, True, False)
    assert (drawn.test.pairs, drawn.calibration.pairs, drawn.train.pairs) == (600, 500, 900)
    assert set(first.pairs("train")["pair_id"]) & set(drawn.pairs("test")["pair_id"])
    check_frozen(drawn)


def test_clicks_alone_make_a_first_draw_due_and_one_that_cannot_judge_leaves_the_home_cross_fitted(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home", splits={"frozen_from": 300})
    rng = np.random.default_rng(0)
    fill(workspace, of_sizes([1] * 120, rng), rng)
    clicks = [line(f"query {i}", f"shown {i}", kind="implied") for i in range(2_880)]
    ingest(workspace.store, json_batch("clicks", "interaction", "test", clicks))
    due = take_snapshot(workspace)
    assert (due.folds, due.train.pairs, due.judging.pairs) == (10, 3_000, 120), "36 test pairs cannot judge"
    assert "need 40 components" in due.lack
    assert set(due.pairs("train").loc[lambda pairs: pairs["kind"] == "implied", "fold"]) == {-1}
    check_folds(due)
    more = [line(f"{i} more", f"more {i}", i % 2) for i in range(100)]
    ingest(workspace.store, json_batch("more", "interaction", "test", more))
    drawn = take_snapshot(workspace)
    assert drawn.is_drawn
    check_frozen(drawn)


def test_a_window_leaves_old_pairs_out_of_folds_too(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home", splits={"interaction_window_days": 30})
    days = ["2026-01-01"] * 50 + ["2026-06-01"] * 120
    lines = [line(f"a{i}", f"b{i}", i % 2, time=day) for i, day in enumerate(days)]
    ingest(workspace.store, json_batch("two seasons", "interaction", "test", lines))
    snapshot = take_snapshot(workspace)
    assert (snapshot.train.pairs, snapshot.judging.pairs) == (120, 120)


def test_more_than_five_thousand_pairs_are_spread_over_five_folds(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home", splits={"frozen_from": 10_000})
    rng = np.random.default_rng(0)
    fill(workspace, of_sizes([1] * 5_001, rng), rng)
    snapshot = take_snapshot(workspace)
    assert (snapshot.folds, snapshot.judging.pairs) == (5, 5_001)
    check_folds(snapshot)


def test_who_judges_names_the_folds_and_what_only_trains_does_not(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home")
    rng = np.random.default_rng(0)
    fill(workspace, of_sizes([1] * 150, rng), rng)
    first = take_snapshot(workspace)
    ingest(workspace.store, json_batch("click", "interaction", "test", [line("query", "shown", kind="implied")]))
    clicked = take_snapshot(workspace)
    assert clicked.snapshot_id != first.snapshot_id
    assert clicked.test_id == first.test_id
    ingest(workspace.store, json_batch("label", "interaction", "test", [line("one more", "and another", 1)]))
    assert take_snapshot(workspace).test_id != first.test_id
