"""A draw that could not judge freezes nothing, and what it is missing leads on."""

import re
from pathlib import Path
from typing import Any

import pytest

from flywheel.evaluation.statistics import reason_no_verdict
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.seeds import seed_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import count_pairs
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.pairs.test_ingest import line, write


def test_pairs_wait_while_they_are_too_few_to_be_drawn(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}", i % 2) for i in range(90)])])
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert (snapshot.train.pairs, snapshot.test.pairs, snapshot.calibration.pairs) == (0, 0, 0)
    assert count_pairs(store).waiting == 90


@pytest.mark.parametrize("first", [0, 1])
def test_one_label_alone_is_never_drawn_and_the_pairs_that_are_named_lead_on(
    store: Store, workspace: Workspace, tmp_path: Path, first: int
) -> None:
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}", first) for i in range(2_000)])])
    waiting = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert not waiting.is_drawn
    held = ("0 explicit labels that say same and 2,000", "2,000 explicit labels that say same and 0")[first]
    assert f"give {held} that say different" in waiting.lack
    assert not waiting.can_judge
    folded = _ingest_named(store, workspace, tmp_path, waiting)
    assert folded.is_cross_fitted
    drawn = _ingest_named(store, workspace, tmp_path, folded)
    assert drawn.is_drawn
    assert drawn.lack == ""
    for split in FROZEN:
        labels, pairs = drawn.pairs(split)["label"], drawn.pairs(split)
        assert min(labels.sum(), (1 - labels).sum()) >= 10
        assert reason_no_verdict(pairs["component"].to_numpy()) is None
    ingest_files(store, [write(tmp_path, [line(f"e{i}", f"f{i}", first) for i in range(500)], "later.jsonl")])
    assert take_snapshot(store, workspace.snapshots, workspace.split_rules).test_id == drawn.test_id


def _ingest_named(store: Store, workspace: Workspace, tmp_path: Path, snapshot: Snapshot) -> Snapshot:
    """The snapshot after the pairs have come that one says are missing."""
    asked = {label: int(n.replace(",", "")) for n, label in re.findall(r"([\d,]+) more pairs labelled (\w+)", snapshot.lack)}
    assert asked
    name = snapshot.snapshot_id[:9]
    new = [
        line(f"{name} {label} {i}", f"{label} {i} {name}", int(label == "same")) for label, n in asked.items() for i in range(n)
    ]
    ingest_files(store, [write(tmp_path, new, f"{name}.jsonl")])
    return take_snapshot(store, workspace.snapshots, workspace.split_rules)


def test_a_rare_label_waits_beside_seed_pairs_until_it_can_be_judged(
    store: Store, workspace: Workspace, tmp_path: Path
) -> None:
    batch = seed_batch(workspace.settings.pairs)
    assert batch is not None
    ingest(store, batch)
    starter = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}", int(i >= 30)) for i in range(1_000)])])
    first = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert first.test_id == starter.test_id
    assert "give 970 explicit labels that say same and 30 that say different" in first.lack
    kept = first.pairs("train")
    assert kept[kept["source"] == "interaction"]["label"].eq(1).all(), "a rare label is not given to train"
    drawn = _ingest_named(store, workspace, tmp_path, first)
    assert drawn.lack == ""
    assert min(drawn.test.interaction, drawn.calibration.interaction) >= 40


def test_a_component_that_no_verdict_could_bear_is_not_drawn(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    """Forty pairs of one question beside a thousand of their own: three tenths are drawn, and the forty would be an eighth."""
    star = [line("hub", f"spoke {i}", i % 2) for i in range(40)]
    ingest_files(store, [write(tmp_path, [*star, *(line(f"a{i}", f"b{i}", i % 2) for i in range(1_000))])])
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert "hub" in unique_texts(snapshot.pairs("train"))
    for split in FROZEN:
        assert reason_no_verdict(snapshot.pairs(split)["component"].to_numpy()) is None


def test_labels_of_questions_that_were_only_searched_before_can_still_be_drawn(
    store: Store, workspace: Workspace, tmp_path: Path
) -> None:
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}", kind="implied") for i in range(1_000)])])
    searched = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert "none of the 1,000 interaction pairs has one" in searched.lack
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}", i % 2) for i in range(500)], "labels.jsonl")])
    drawn = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert drawn.is_drawn
    assert drawn.train.pairs == 1_000 - drawn.test.pairs - drawn.calibration.pairs


@pytest.mark.parametrize(
    ("splits", "name", "value"),
    [
        ({"interaction_test_share": 0.0}, "splits.interaction_test_share", 0.1),
        ({"max_split_pairs": 20}, "splits.max_split_pairs", None),
    ],
)
def test_a_setting_that_keeps_a_draw_from_judging_is_named(
    store: Store, workspace: Workspace, tmp_path: Path, splits: dict[str, Any], name: str, value: float | None
) -> None:
    ingest_files(store, [write(tmp_path, [line(f"a{i}", f"b{i}", i % 2) for i in range(1_000)])])
    kept = with_options(workspace, splits=splits)
    lack = take_snapshot(store, kept.snapshots, kept.split_rules).lack
    assert f"Set {name} to " in lack
    value = value or int(re.findall(r"at least (\d+)", lack)[0])
    set_right = with_options(workspace, splits={name.partition(".")[2]: value})
    assert take_snapshot(store, set_right.snapshots, set_right.split_rules).is_drawn
