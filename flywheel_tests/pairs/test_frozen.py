"""Frozen splits that carry no verdict: drawn again where nothing was decided on them, else kept, with new labels waiting."""

from pathlib import Path

import pandas as pd
import pytest

from flywheel.evaluation.statistics import reason_no_verdict
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.forget import Selection
from flywheel.pairs.snapshots.export import Judged, take_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.labels import count_pairs
from flywheel.pipeline.forgetting import forget
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import line, rows, write

MORE = 110  # components that a verdict takes from now on, more than calibration has


@pytest.fixture
def strict(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A home with 120 test and 100 calibration pairs, in which a verdict now takes more."""
    bring(workspace, tmp_path, 400)
    first = take(workspace)
    assert (first.test.components, first.calibration.components) == (120, 100)
    return with_options(workspace, evaluation={"min_components": MORE})


def bring(workspace: Workspace, tmp_path: Path, pairs: int, name: str = "a") -> None:
    ingest_files(
        workspace.store, [write(tmp_path, [line(f"{name}{i}", f"{i}{name}", i % 2) for i in range(pairs)], f"{name}.jsonl")]
    )


def take(workspace: Workspace, judged: Judged = lambda _: False, new_test: bool = False) -> Snapshot:
    return take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules, new_test, judged)


def check(snapshot: Snapshot, trained: set[str]) -> None:
    """The splits carry a verdict, and nothing that has trained is in them."""
    for split in FROZEN:
        assert reason_no_verdict(snapshot.pairs(split)["component"].to_numpy(), MORE) is None
    assert snapshot.shared_questions() == 0
    assert not trained & set(unique_texts(*(snapshot.pairs(split) for split in FROZEN)))
    assert trained <= set(unique_texts(snapshot.pairs("train")))


def ids(snapshot: Snapshot, *splits: str) -> set[str]:
    return set(pd.concat([snapshot.pairs(split) for split in splits])["pair_id"])


def test_splits_on_which_nothing_was_decided_are_drawn_again_by_themselves(strict: Workspace, tmp_path: Path) -> None:
    first = strict.snapshots.latest()
    assert first is not None
    trained = set(unique_texts(first.pairs("train")))
    kept = take(strict)
    assert kept.snapshot_id == first.snapshot_id
    assert f"in calibration, 100 components are fewer than the {MORE} a verdict needs. The interaction pairs give" in kept.lack
    bring(strict, tmp_path, 100, "b")
    assert count_pairs(strict.store).train == 280
    again = take(strict)
    check(again, trained)
    assert again.note.endswith("Nothing was decided on them, so they were drawn again.")
    assert again.lack == ""
    assert ids(first, "test") & ids(again, "test"), "what never trained is free again"
    assert not ids(first, "train") & ids(again, *FROZEN)
    assert take(strict).test_id == again.test_id
    assert take(strict).note == ""


def test_splits_that_were_judged_stay_and_new_labels_wait_in_whatever_order_the_commands_come(
    strict: Workspace, tmp_path: Path
) -> None:
    first = strict.snapshots.latest()
    assert first is not None
    trained = set(unique_texts(first.pairs("train")))
    seen: list[frozenset[str]] = []

    def judged(pairs: frozenset[str]) -> bool:
        seen.append(pairs)
        return True

    bring(strict, tmp_path, 500, "b")
    linked = [line(first.pairs("train")["text_a"][i], f"new {i}", i % 2) for i in range(10)]
    clicks = [line(f"c{i}", f"{i}c", kind="implied") for i in range(20)]
    ingest_files(strict.store, [write(tmp_path, [*linked, *clicks], "c.jsonl")])
    for _ in range(2):
        kept = take(strict, judged)
        assert kept.test_id == first.test_id
        assert "Decisions were made on them, so they stay; new labelled pairs wait. Ingest labelled pairs" in kept.lack
        assert "before any other snapshot" not in kept.lack
        assert kept.train.pairs == first.train.pairs + 30, "what could not be tested anyway trains"
        assert count_pairs(strict.store).waiting == 500
        bring(strict, tmp_path, 1, "b")  # known already
    assert seen[0] == ids(first, *FROZEN)
    more = [line("b0", "more of b0", 1), line("later", "later still", 0)]
    ingest_files(strict.store, [write(tmp_path, more, "d.jsonl")])
    take(strict, judged)
    assert count_pairs(strict.store).waiting == 502
    new = take(strict, judged, new_test=True)
    check(new, trained)
    assert not ids(new, "test") & ids(first, *FROZEN)


def test_splits_whose_pairs_are_all_forgotten_are_drawn_again(workspace: Workspace, tmp_path: Path) -> None:
    bring(workspace, tmp_path, 400)
    take(workspace)
    forget(workspace, Selection(text="a"))
    bring(workspace, tmp_path, 400, "b")
    again = take(workspace)
    assert again.is_drawn
    assert all("b" in text for text in unique_texts(*(again.pairs(split) for split in FROZEN)))


def test_what_waits_is_what_the_store_says(strict: Workspace, tmp_path: Path) -> None:
    """States of questions and splits of pairs agree, so that a later batch finds them as it should."""
    bring(strict, tmp_path, 300, "b")
    take(strict, lambda _: True)
    assert rows(strict.store, "SELECT state, count(*) FROM assignments WHERE component IS NOT NULL GROUP BY 1") == [
        ("free", 600)
    ]
    other = make_workspace(tmp_path / "other", splits={"frozen_from": 0})
    bring(other, tmp_path, 400)
    take(other)
    bring(other, tmp_path, 300, "b")
    assert rows(other.store, "SELECT DISTINCT state FROM assignments WHERE component IS NOT NULL") == [("bound",)]
    assert count_pairs(other.store).waiting == 0
    assert count_pairs(other.store).train == 480
