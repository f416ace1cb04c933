"""What people see of the store: what came in, where pairs came from, what contradicts itself, what leaks."""

from pathlib import Path

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.leak_probe import LeakProbe, probe_leaks
from flywheel.pairs.store.contradictions import find_contradictions
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.overview import origins, overview
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.clumps import clump_lines
from flywheel_tests.pairs.test_ingest import line, rows, write


def test_what_came_in_stands_by_source_and_day(store: Store, tmp_path: Path) -> None:
    ingest_files(store, [write(tmp_path, [line("a", "b"), line("a", "b", 0), b"bad", line("c", "d", event_id="e"),
                                          line("c", "d", event_id="e")])])  # fmt: skip
    found = overview(store)
    (day,) = found.days
    assert (day.source, day.lines, day.accepted, day.duplicates, day.quarantined, day.conflicts) == (
        "interaction",
        5,
        3,
        1,
        1,
        2,
    )
    assert [(split.split, split.pairs) for split in found.splits] == [("waiting", 2)]
    assert found.reasons[0][1] == 1
    assert found.embargo is None


def test_the_embargo_grows_and_says_when_to_draw_anew(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    ingest_files(store, [write(tmp_path, clump_lines(range(450)))])
    tested = take_snapshot(store, workspace.snapshots, workspace.split_rules).pairs("test")["text_a"].unique()
    quiet = [line(f"new {i}", f"other {i}") for i in range(95)] + [line(f"hang {i}", tested[i]) for i in range(5)]
    ingest_files(store, [write(tmp_path, quiet, "quiet.jsonl")])
    embargo = overview(store).embargo
    assert embargo is not None
    assert (embargo.newest, embargo.advice) == (0.05, None)
    ingest_files(store, [write(tmp_path, [line(f"more {i}", tested[i % 40]) for i in range(100)], "loud.jsonl")])
    embargo = overview(store).embargo
    assert embargo is not None
    assert (embargo.batches, embargo.newest) == (2, 105 / 200)
    assert "--new-test" in (embargo.advice or "")


def test_a_pair_can_be_asked_where_it_came_from(store: Store, tmp_path: Path) -> None:
    lines = [line("a", "b"), line("A ", "B", 0, user="u1", time="2026-02-01", kind="implied", model="m1", position=3)]
    ingest_files(store, [write(tmp_path, lines, "said.jsonl")])
    newest, oldest = origins(store, "b")
    assert (newest.file, newest.line, newest.user, newest.label, newest.model, newest.position) == (
        "said.jsonl",
        2,
        "u1",
        0,
        "m1",
        3,
    )
    assert (oldest.line, oldest.user, oldest.label) == (1, None, 1)
    assert origins(store, newest.pair_id) == [newest, oldest]
    with pytest.raises(FlywheelError, match="No pair has"):
        origins(store, "nobody asked this")


def test_contradictory_triangles_are_found_and_ranked_by_the_pairs_they_touch(store: Store, tmp_path: Path) -> None:
    lines = [line("a", "b"), line("b", "c"), line("a", "d"), line("d", "c"), line("a", "c", 0), line("x", "y"), line("y", "z"),
             line("x", "z", 0), line("p", "q"), line("q", "r", 0), line("x", "p", 0)]  # fmt: skip
    ingest_files(store, [write(tmp_path, lines)])
    found = find_contradictions(store)
    assert [({worst.text_a, worst.text_b}, worst.bridges, worst.pairs) for worst in found.worst] == [
        ({"a", "c"}, 2, 5), ({"x", "z"}, 1, 3)
    ]  # fmt: skip
    assert found.worst[1].through == "y"
    assert (found.pairs, found.share) == (8, 8 / 11)


def test_one_question_that_everything_is_a_duplicate_of_costs_little(store: Store, tmp_path: Path) -> None:
    lines = [line("hub", f"q{i}") for i in range(20_000)] + [line("hub", f"r{i}", 0) for i in range(20_000)]
    lines += [line("q1", "r1")]
    ingest_files(store, [write(tmp_path, lines)])
    assert find_contradictions(store).pairs == 3


def probe_of(workspace: Workspace, folder: Path, lines: list[bytes]) -> LeakProbe:
    ingest_files(workspace.store, [write(folder, lines)])
    snapshot = take_snapshot(workspace.store, workspace.snapshots, workspace.split_rules)
    return probe_leaks(snapshot, workspace.settings.storage.memory_limit)


def probed(workspace: Workspace, folder: Path, lines: list[bytes]) -> float:
    probe = probe_of(workspace, folder, lines)
    assert probe.why_not is None
    assert probe.advantage is not None
    return probe.advantage


def test_the_probe_sees_labels_that_follow_the_lengths(workspace: Workspace, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [line(f"{i} " + "x" * (30 if label else 5), f"{i} y", int(label)) for i, label in enumerate(rng.random(3000) < 0.5)]
    assert probed(workspace, tmp_path, lines) > 0.4


def test_the_probe_sees_labels_that_follow_the_graph(workspace: Workspace, tmp_path: Path) -> None:
    lines = []
    for i in range(600):
        if i % 2:
            lines += [line(f"{i} a", f"{i} b"), line(f"{i} b", f"{i} c"), line(f"{i} a", f"{i} c")]
        else:
            lines += [line(f"{i} a", f"{i} b", 0), line(f"{i} c", f"{i} d", 0)]
    assert probed(workspace, tmp_path, lines) > 0.3


def test_the_probe_finds_nothing_where_labels_are_drawn_by_lot(workspace: Workspace, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lines = [line(f"{i} a", f"{i} b", int(label)) for i, label in enumerate(rng.random(6000) < 0.5)]
    assert abs(probed(workspace, tmp_path, lines)) < 0.06


def test_the_probe_says_why_it_has_no_figure(workspace: Workspace, tmp_path: Path) -> None:
    probe = probe_of(workspace, tmp_path, [line(f"{i} a", f"{i} b") for i in range(500)])
    assert "both labels" in (probe.why_not or "")


def test_priors_are_kept_apart_by_source(store: Store, workspace: Workspace, tmp_path: Path) -> None:
    ingest_files(store, [write(tmp_path, clump_lines(range(120)))])
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert snapshot.train.prior_seed is None
    assert snapshot.train.prior_interaction == snapshot.train.prior
    assert rows(store, "SELECT count(*) FROM pairs WHERE seed") == [(0,)]
