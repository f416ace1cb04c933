"""A checkpoint that is cut short costs nothing: torn blocks are put back, a full disk loses no commit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from flywheel.pairs.store import checkpoint
from flywheel.pairs.store.duckdb_file import Store

ROWS = "SELECT count(*) FROM retired"
KILLS, SEED = 100, 20261201
WRITE = """
import sys
from pathlib import Path
from flywheel.pairs.store.duckdb_file import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    with store.transaction() as db:
        for table in ("retired", "forgotten"):
            db.execute(f"INSERT INTO {table} SELECT uuid() FROM range(200)")
    print(200, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "flywheel.duckdb")
    for _ in range(3):
        add(store)
    return store


def add(store: Store) -> None:
    with store.transaction() as db:
        db.execute("INSERT INTO retired SELECT uuid() FROM range(100)")


def rows(store: Store) -> int:
    with store.transaction() as db:
        return int(db.execute(ROWS).fetchall()[0][0])


def cut_short(store: Store) -> list[int]:
    """Commit 100 rows more, and end the checkpoint where all blocks are written and the header is not; the metadata blocks."""
    connection = store._open()
    connection.execute("INSERT INTO retired SELECT uuid() FROM range(100)")
    blocks = [block for (block,) in connection.execute("SELECT block_id FROM pragma_metadata_info()").fetchall()]
    connection.execute("SET debug_checkpoint_abort = 'BEFORE_HEADER'")
    checkpoint.close(connection, store.path)
    return blocks


def tear(path: Path, block: int) -> None:
    """Leave half of a block as it was before: zeros do as well as what was there."""
    with path.open("r+b") as file:
        file.seek(12288 + block * 262144 + 2048)
        file.write(bytes(131072))


def headers(store: Store) -> bytes:
    """Both headers, which count checkpoints."""
    return store.path.read_bytes()[4096:12288]


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.path.parent.iterdir() if path.name != "staging")


def test_a_torn_checkpoint_is_taken_back_and_its_commit_stays(store: Store) -> None:
    blocks = cut_short(store)
    for block in blocks:
        tear(store.path, block)
    assert names(store) == ["flywheel.duckdb", "flywheel.duckdb.journal", "flywheel.duckdb.wal"]
    with pytest.raises(duckdb.IOException, match="Corrupt database file"):
        duckdb.connect(str(store.path))
    assert rows(store) == 400
    assert names(store) == ["flywheel.duckdb"]
    with duckdb.connect(str(store.path), read_only=True) as plain:
        assert plain.execute(ROWS).fetchall() == [(400,)]


def test_a_torn_store_that_was_copied_elsewhere_opens_there(store: Store, tmp_path: Path) -> None:
    for block in cut_short(store):
        tear(store.path, block)
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert rows(Store(tmp_path / "copy" / "flywheel.duckdb")) == 400


def test_the_journal_of_a_checkpoint_that_came_to_its_header_changes_nothing(store: Store) -> None:
    cut_short(store)
    journal = store.path.with_name("flywheel.duckdb.journal")
    old = journal.read_bytes()
    assert rows(store) == 400
    journal.write_bytes(old)
    before = store.path.read_bytes()
    checkpoint.take_back(store.path)
    assert (store.path.read_bytes(), names(store)) == (before, ["flywheel.duckdb"])
    assert rows(store) == 400


def test_a_checkpoint_that_goes_on_in_another_process_is_left_alone(store: Store) -> None:
    cut_short(store)
    hold = "import duckdb, sys; con = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        before = store.path.read_bytes()
        checkpoint.take_back(store.path)
        assert checkpoint.is_cut_short(store.path)
        assert store.path.read_bytes() == before
        other.communicate("\n")
    assert rows(store) == 400


def test_where_no_journal_can_be_written_the_log_keeps_what_was_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        add(store)
    assert "nothing is lost" in caplog.text
    assert "flywheel.duckdb.wal" in names(store)
    assert rows(store) == 400
    assert names(store) == ["flywheel.duckdb"]


def test_a_large_commit_makes_no_checkpoint_of_its_own(store: Store) -> None:
    connection = store._open()
    before = headers(store)
    connection.execute("INSERT INTO forgotten SELECT uuid() FROM range(2_000_000)")
    assert headers(store) == before
    checkpoint.close(connection, store.path)
    assert headers(store) != before


@pytest.mark.slow
def test_a_writer_that_is_killed_again_and_again_leaves_a_store_that_opens(tmp_path: Path) -> None:
    store, chance, least, cuts = Store(tmp_path / "flywheel.duckdb"), random.Random(SEED), 0, 0
    for _ in range(KILLS):
        with subprocess.Popen([sys.executable, "-c", WRITE, str(store.path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
            least += int(writer.stdout.readline())
            time.sleep(chance.uniform(0, 0.15))
            writer.send_signal(signal.SIGKILL)
            least += sum(map(int, writer.stdout.read().split()))
        cuts += checkpoint.is_cut_short(store.path)
        with store.transaction() as db:
            counts = db.execute("SELECT (SELECT count(*) FROM retired), (SELECT count(*) FROM forgotten)").fetchall()[0]
        assert counts[0] == counts[1] >= least
        least = counts[0]
    assert cuts > 0
