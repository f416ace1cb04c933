"""Killed at any moment, or run twice at once, an ingest loses nothing, doubles nothing and leaves nothing behind."""

import json
import multiprocessing
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pairs.store.accounts import unaccounted
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import count_pairs
from flywheel_tests.helpers.kills import (
    KILLS,
    SPLITS,
    TABLES,
    Tally,
    _campaign,
    _in_opposite_orders,
    _kill_before_a_time_comes,
    _kill_creators,
    _kill_who_spills,
    _kill_who_unpacks,
    _settle_in,
)

pytestmark = [pytest.mark.slow, pytest.mark.long]

# The tests.


@pytest.fixture(scope="module")
def nursery() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_settle_in) as executor:
        yield executor


@pytest.fixture(scope="module")
def tally(nursery: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory) -> Tally:
    found = nursery.submit(_campaign, tmp_path_factory.mktemp("kills")).result()
    print(found)
    return found


def contents(home: Path, tables: dict[str, str]) -> dict[str, Counter[Any]]:
    """Every row of the store, as often as it is there, and what is counted of them."""
    store = Store(home / "flywheel.duckdb")
    with store.transaction() as db:
        found = {table: Counter(db.execute(f"SELECT {columns} FROM {table}").fetchall()) for table, columns in tables.items()}
    return {**found, "counts": Counter([count_pairs(store)])}


def differences(home: Path, expected: dict[str, Counter[Any]], tables: dict[str, str]) -> list[str]:
    """What a home holds too little or too much of, with the first rows."""
    found = contents(home, tables)
    return [
        f"{home.name}: {len(lacks)} rows of {table} are missing, {len(extra)} too many: {list(lacks)[:2]}, {list(extra)[:2]}"
        for table, rows in expected.items()
        if (lacks := rows - found[table]) + (extra := found[table] - rows)
    ]


def exported(home: Path) -> dict[str, Any]:
    """The rows of every snapshot, and which is the latest."""
    folders = [path for path in (home / "snapshots").iterdir() if path.is_dir()]
    rows = {path.name: {split: Snapshot.load(path).pairs(split).to_dict("records") for split in SPLITS} for path in folders}
    return {**rows, "latest": json.loads((home / "snapshots" / "latest.json").read_text())}


def names(home: Path) -> list[str]:
    """Every file and folder of a home; a rejected file bears the name of its claim, which is random."""
    found = [path.relative_to(home).as_posix() for path in home.rglob("*")]
    return sorted(re.sub(r"^inbox/rejected/[0-9a-f]+", "inbox/rejected/claim", name) for name in found)


def test_a_hundred_kills_at_random_moments_hit_living_processes_and_every_stage_is_hit(tally: Tally) -> None:
    assert tally.random.total() >= KILLS, str(tally)
    assert tally.missed() == [], str(tally)


def test_every_killed_home_holds_row_by_row_what_one_left_in_peace_holds(tally: Tally) -> None:
    expected = contents(tally.homes[0], TABLES)
    assert {"train", "calibration", "test", "embargoed"} == {pair[-1] for pair in expected["pairs"]}
    assert max(batch[3] for batch in expected["batches"]) > 2
    assert sum(batch[10] for batch in expected["batches"]) > 100
    found = [each for home in tally.homes[1:] for each in differences(home, expected, TABLES)]
    assert found == [], str(tally)


def test_every_killed_home_has_exported_the_same_snapshots(tally: Tally) -> None:
    expected = exported(tally.homes[0])
    assert len(expected) == 3
    assert [home.name for home in tally.homes[1:] if exported(home) != expected] == [], str(tally)


def test_nothing_is_left_lying_about_once_a_run_is_left_in_peace(tally: Tally) -> None:
    expected = names(tally.homes[0])
    assert not [name for name in expected if ".tmp" in name or ".wal" in name or ".aside" in name or "work/" in name]
    left = {home.name: sorted(set(names(home)) ^ set(expected)) for home in tally.homes[1:]}
    assert {home: files for home, files in left.items() if files} == {}, str(tally)


def test_two_processes_that_take_the_same_files_in_opposite_orders_agree(nursery: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert nursery.submit(_in_opposite_orders, tmp_path).result() > 0
    whatever_came_first = {
        "observations": "* EXCLUDE (batch_id, line)",
        "pairs": "*",
        "assignments": "*",
        "quarantine": "*",
        "batches": "batch_id, file, source, slices, complete, lines, accepted + duplicates, quarantined, redacted",
    }
    expected = contents(tmp_path / "home-0", whatever_came_first)
    homes = [tmp_path / f"home-{number}" for number in range(1, 4)]
    assert [each for home in homes for each in differences(home, expected, whatever_came_first)] == []


def test_a_new_store_is_there_whole_or_not_at_all(nursery: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert nursery.submit(_kill_creators, tmp_path).result() > 0


def test_what_a_killed_process_had_no_memory_for_is_cleared_away(nursery: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert nursery.submit(_kill_who_spills, tmp_path).result()
    assert [name for name in names(tmp_path) if ".tmp" in name] == []


def test_a_killed_ingest_of_a_packed_parquet_file_leaves_no_copy_of_it(nursery: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert nursery.submit(_kill_who_unpacks, tmp_path).result()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_line_is_accounted_for_whose_time_comes_between_a_kill_and_the_next_run(
    nursery: ProcessPoolExecutor, tmp_path: Path
) -> None:
    batch_id = nursery.submit(_kill_before_a_time_comes, tmp_path).result()
    assert unaccounted(Store(tmp_path / "home" / "flywheel.duckdb"), [batch_id]) == []
