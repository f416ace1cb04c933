"""What is forgotten is gone: from the store, its file, the snapshots, the deliveries; and what still knows it is named."""

import json
import os
from pathlib import Path

import pytest

from flywheel.errors import FlywheelError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.forget import Selection, find, forget
from flywheel.pairs.inbox import take_inbox
from flywheel.pairs.snapshots.export import take_snapshot
from flywheel.pairs.snapshots.leak_probe import probe_leaks
from flywheel.pairs.store.accounts import unaccounted
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import count_pairs
from flywheel.pipeline.forgetting import forget as forget_everywhere
from flywheel.pipeline.workspace import Workspace
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train
from flywheel_tests.conftest import flywheel
from flywheel_tests.helpers.clumps import clump_lines, clump_world
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.pairs.test_ingest import line, rows, write


def home_with(workspace: Workspace, lines: list[bytes], name: str = "batch.jsonl") -> Store:
    store = Store(workspace.home.database)
    ingest_files(store, [write(workspace.home.root / "given", lines, name)], workspace.settings.pairs)
    return store


def test_a_pair_that_others_spoke_of_stays_as_they_left_it(workspace: Workspace) -> None:
    store = home_with(workspace, [
        line("shared question", "other", 1, user="u1", time="2026-01-02"),
        line("Shared Question", "other", 0, user="u2", time="2026-01-01"),
        line("only of u1", "something", user="u1"),
    ])  # fmt: skip
    assert find(store, Selection(user="u1")).pairs == 2
    gone = forget(store, Selection(user="u1"))
    assert (gone.observations, len(gone.pair_ids)) == (2, 2)
    assert rows(store, "SELECT label, same, different FROM pairs") == [(0, 0, 1)]
    assert rows(store, "SELECT text_a, text_b FROM observations WHERE text_a = 'Shared Question' OR text_b = 'Shared Question'")
    assert rows(store, "SELECT count(*) FROM assignments") == [(2,)]


def test_the_file_itself_holds_nothing_of_it_any_more(workspace: Workspace) -> None:
    store = home_with(
        workspace, [*clump_lines(range(3)), line("my secret garden", "behind the old wall", user="u1"), b'{"user": "u1"}']
    )
    assert b"secret garden" in workspace.home.database.read_bytes()
    assert forget(store, Selection(user="u1")).quarantined == 1
    held = b"".join(path.read_bytes() for path in workspace.home.root.glob("flywheel.duckdb*"))
    assert b"secret garden" not in held
    assert count_pairs(store).pairs == 45


def test_all_of_it_works_in_a_home_of_any_name(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "it's mine")
    store = home_with(workspace, [*clump_lines(range(450)), line("my secret garden", "behind the old wall", user="u1")])
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert (snapshot.shared_questions(), probe_leaks(snapshot, workspace.settings.storage.memory_limit).why_not) == (0, None)
    assert forget_everywhere(workspace, Selection(user="u1")).snapshots == (snapshot.snapshot_id,)


def test_a_second_delivery_of_forgotten_events_brings_nothing_back(workspace: Workspace) -> None:
    lines = [line(f"a{i}", f"b{i}", event_id=f"e{i}", user="u1") for i in range(5)]
    store = home_with(workspace, lines)
    forget(store, Selection(user="u1"))
    again = ingest_files(store, [write(workspace.home.root, lines[1:], "again.jsonl")], workspace.settings.pairs)[0]
    assert (again.accepted, again.duplicates) == (0, 4)
    assert unaccounted(store, [row[0] for row in rows(store, "SELECT batch_id FROM batches")]) == []


def test_a_batch_goes_by_the_beginning_of_its_id_and_with_it_its_delivery(workspace: Workspace) -> None:
    store = home_with(workspace, [line("stays", "stays too")])
    write(workspace.home.inbox, [line("goes", "goes too"), b"bad line"], "wrong.jsonl")
    os.utime(workspace.home.inbox / "wrong.jsonl", (0, 0))
    report = take_inbox(store, workspace.home.inbox, workspace.settings.pairs)[0][0]
    forgotten = forget_everywhere(workspace, Selection(batch=report.batch_id[:8]))
    assert (forgotten.observations, forgotten.quarantined) == (1, 1)
    assert forgotten.deliveries == (f"{report.batch_id[:12]}-wrong.jsonl",)
    assert not list((workspace.home.inbox / "done").iterdir())
    assert count_pairs(store).pairs == 1


def test_words_are_found_whatever_their_case_in_texts_and_unknown_fields(workspace: Workspace) -> None:
    store = home_with(workspace, [line("Where is ACME's bill", "b"), line("c", "d", note="for acme"), line("e", "f")])
    assert forget(store, Selection(text="acme")).observations == 2
    assert count_pairs(store).pairs == 1


def test_questions_that_hung_together_through_a_forgotten_pair_part(workspace: Workspace) -> None:
    store = home_with(workspace, [line("a", "b"), line("b", "c", user="u1"), line("c", "d")])
    assert rows(store, "SELECT count(DISTINCT component) FROM assignments") == [(1,)]
    forget(store, Selection(user="u1"))
    assert rows(store, "SELECT count(DISTINCT component) FROM assignments") == [(2,)]


def test_a_forgotten_test_pair_leaves_the_frozen_split(workspace: Workspace) -> None:
    store = home_with(workspace, clump_lines(range(450)))
    before = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    text = before.pairs("test")["text_a"].iloc[0]
    clump = text.split()[0]
    forgotten = forget_everywhere(workspace, Selection(text=f"{clump} "))
    assert forgotten.snapshots == (before.snapshot_id,)
    assert not before.folder.exists()
    after = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert after.test_id != before.test_id
    assert after.test.pairs == before.test.pairs - 15
    assert not after.pairs("test")["text_a"].str.startswith(f"{clump} ").any()


@pytest.mark.parametrize(("start_read", "named"), [(0, ["all"]), (4_000, ["20", "all"])])
def test_the_models_that_were_trained_on_it_or_whose_start_read_it_are_named_and_no_others(
    start_read: int, named: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = clump_world(tmp_path, 200)
    models = {
        size: train(
            world.job(size=size), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress
        ).folder.name
        for size in ("20", "all")
    }
    small = set(world.snapshot.training_pairs("20", 0, 0.0)["pair_id"])
    pairs = world.snapshot.pairs("train")
    outside = pairs[~pairs["pair_id"].isin(small)]
    clumps = outside["text_a"].str.split().str[0]
    inside = pairs[pairs["pair_id"].isin(small)]["text_a"].str.split().str[0]
    chosen = next(clump for clump in clumps if clump not in set(inside))
    known = world.vectors.cache.texts()
    monkeypatch.setattr("flywheel.training.starts.DIRECTION_PAIRS", start_read)
    report = forget_everywhere(world.workspace, Selection(text=f"{chosen} "))
    assert set(report.models) == {models[size] for size in named}
    assert world.vectors.cache.texts() == known - 6  # what the encoder made of its texts is gone
    assert not report.champion


@pytest.mark.parametrize("wrong", [{}, {"user": "a", "batch": "b"}, {"user": " "}, {"batch": "abc"}])
def test_a_selection_names_exactly_one_thing(wrong: dict[str, str]) -> None:
    with pytest.raises(FlywheelError):
        Selection(**wrong)


def test_the_command_asks_first_and_names_what_to_do_next(tmp_path: Path) -> None:
    file = write(tmp_path, [line("my secret", "garden", user="u1"), line("a", "b")])
    home = tmp_path / "home"
    assert flywheel("ingest", file, "--home", home).returncode == 0
    asked = flywheel("forget", "--user", "u1", "--home", home)
    assert asked.returncode == 1
    assert "1 observations of 1 pairs" in asked.stderr
    assert len(json.loads(flywheel("pairs", "origin", "my secret", "--home", home, "--json").stdout)) == 1
    done = flywheel("forget", "--user", "u1", "--yes", "--home", home)
    assert (done.returncode, "Next: flywheel snapshot" in done.stdout) == (0, True)
    assert "No pair has" in flywheel("pairs", "origin", "my secret", "--home", home).stderr
    assert "Nothing in the store matches" in flywheel("forget", "--user", "u1", "--yes", "--home", home).stderr


def test_a_forgotten_snapshot_counts_as_none(workspace: Workspace) -> None:
    store = home_with(workspace, clump_lines(range(450)))
    take_snapshot(store, workspace.snapshots, workspace.split_rules)
    forget_everywhere(workspace, Selection(text="clump1 "))
    assert workspace.snapshots.latest() is None


def test_what_a_kill_left_half_forgotten_is_finished_by_the_next_call(workspace: Workspace) -> None:
    store = home_with(workspace, clump_lines(range(450)))
    snapshot = take_snapshot(store, workspace.snapshots, workspace.split_rules)
    assert forget(store, Selection(text="clump1 ")).observations == 15  # killed here: the snapshot is still there
    assert find(store, Selection(text="clump1 ")).unfinished
    report = forget_everywhere(workspace, Selection(text="clump1 "))
    assert (report.observations, report.pairs, report.snapshots) == (0, 15, (snapshot.snapshot_id,))
    assert not find(store, Selection(text="clump1 ")).unfinished
