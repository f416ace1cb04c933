"""When a retraining starts by itself: for enough that users left, never for less, and never while something comes in."""

import os
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flywheel.errors import FlywheelError
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.store.aside import new_pairs_aside
from flywheel.pairs.store.new_pairs import NewPairs, new_pairs, record_training
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.retraining import decide_retraining, retraining_due
from flywheel.pipeline.worth import Worth
from flywheel.training.options import RetrainingOptions
from flywheel_tests.helpers.clumps import clump_lines, clump_world

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def counted(new: int, trained: int = 5_000, days: float | None = 3) -> NewPairs:
    last = None if days is None else (NOW - timedelta(days=days)).replace(tzinfo=None)
    return NewPairs(new, trained, last, "state")


@pytest.mark.parametrize(
    ("new", "options", "scheduled", "due", "reason"),
    [
        (1_999, {}, False, False, "1,999 of 2,000 new interaction pairs"),
        (2_000, {}, False, True, "2,000 new interaction pairs, and retraining.after is 2,000"),
        (199, {}, True, False, "199 of 200 new interaction pairs"),
        (200, {}, True, True, "200 new interaction pairs, by schedule"),
        (1, {"after": 5}, True, True, "1 new interaction pairs, by schedule"),
        (0, {"after": 5}, True, False, "0 of 1 new interaction pairs"),
        (500, {"share": 0.1}, False, True, "500 new interaction pairs beside 5,000, and retraining.share is 0.1"),
        (499, {"share": 0.1}, False, False, "499 of 2,000 new interaction pairs"),
        (200, {"max_age_days": 3}, False, True, "200 new interaction pairs, the last training is over 3 days old"),
        (199, {"max_age_days": 3}, False, False, "199 of 200 new interaction pairs"),
        (200, {"max_age_days": 4}, False, False, "200 of 2,000 new interaction pairs"),
    ],
)
def test_count_share_age_and_schedule(new: int, options: dict[str, object], scheduled: bool, due: bool, reason: str) -> None:
    found = decide_retraining(counted(new), RetrainingOptions.model_validate(options), True, False, NOW, scheduled)
    assert (found.due, found.reason) == (due, reason)


def test_a_share_of_nothing_is_at_least_one_pair() -> None:
    options = RetrainingOptions(share=0.5)
    assert not decide_retraining(counted(0, trained=0), options, True, False, NOW).due
    assert decide_retraining(counted(1, trained=0), options, True, False, NOW).due


def test_a_home_without_a_model_waits_for_somebody_unless_told_not_to() -> None:
    many = counted(9_000, trained=0, days=None)
    waits = decide_retraining(many, RetrainingOptions(), False, False, NOW)
    assert (waits.due, "set retraining.first" in waits.reason) == (False, True)
    assert decide_retraining(many, RetrainingOptions(first=True), False, False, NOW).due


def test_nothing_is_retrained_while_a_delivery_is_taken_in(tmp_path: Path) -> None:
    assert not decide_retraining(counted(9_000), RetrainingOptions(), True, True, NOW).due
    workspace = clump_world(tmp_path, clumps=60, retraining={"after": 10, "first": True}).workspace
    ingest(workspace.store, json_batch("news", "interaction", "test", clump_lines(range(60, 70))))
    assert retraining_due(workspace, ingesting=False)[0].due
    claimed = workspace.home.inbox / "work" / "1-later.jsonl"
    claimed.parent.mkdir(parents=True)
    claimed.touch()
    assert retraining_due(workspace, ingesting=False)[0].reason == "a delivery is being taken in"


def test_seed_pairs_are_no_news_and_what_was_trained_on_is_none_any_more(tmp_path: Path) -> None:
    workspace = clump_world(tmp_path, clumps=60).workspace
    assert new_pairs(workspace.store).new == 0
    ingest(workspace.store, json_batch("news", "interaction", "test", clump_lines(range(60, 64))))
    assert new_pairs(workspace.store).new == 60
    record_training(workspace.store, take_snapshot(workspace).snapshot_id)
    after = new_pairs(workspace.store)
    assert after.new == 0
    assert after.trained > 0
    assert after.last is not None


def test_a_process_of_its_own_counts_the_same_and_says_the_same_where_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = clump_world(tmp_path, clumps=60).workspace
    home, options = workspace.home, workspace.settings.storage
    ingest(workspace.store, json_batch("news", "interaction", "test", clump_lines(range(60, 64))))
    assert new_pairs_aside(home, options) == new_pairs(workspace.store) == NewPairs(60, 0, None, "none")
    record_training(workspace.store, take_snapshot(workspace).snapshot_id)
    os.utime(home.database, (time.time() - 60,) * 2)
    assert new_pairs_aside(home, options) == new_pairs(workspace.store)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "nothing")  # nobody needs to be asked: nothing was written since
        assert new_pairs_aside(home, options).last is not None
    home.database.write_bytes(b"no database" * 1_000)
    with pytest.raises(FlywheelError) as in_process:
        new_pairs(workspace.store)
    with pytest.raises(FlywheelError, match=re.escape(str(in_process.value))):
        new_pairs_aside(home, options)
    with pytest.raises(FlywheelError, match=r"^The process that counts new pairs ended with 1; its last words are in"):
        new_pairs_aside(home, options.model_copy(update={"database": "nonsense"}))


@pytest.mark.parametrize(
    ("worth", "new", "due", "said"),
    [
        (Worth(0.3, 30.0, 2.0), 400, True, "400 new .* 0.30 points expected, worth 30.00 dollars, for a run of 2.00"),
        (Worth(0.3, 30.0, 2.0), 100, False, "100 of 2,000"),
        (Worth(0.01, 1.0, 2.0), 400, False, r"400 of 2,000 new interaction pairs \(0.01 points expected, worth 1.00"),
        (Worth(0.0, 0.0, 0.0), 400, False, "400 of 2,000"),
        ("there is no champion yet", 400, False, r"400 of 2,000 new interaction pairs \(there is no champion yet\)"),
    ],
)  # fmt: skip
def test_a_retraining_starts_early_where_it_pays(worth: Worth | str, new: int, due: bool, said: str) -> None:
    found = decide_retraining(counted(new), RetrainingOptions(), True, False, NOW, worth=worth)
    assert found.due is due
    assert re.search(said, found.reason)
