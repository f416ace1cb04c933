"""Many small files: stored together, each accounted for as if it had come alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from flywheel.pairs.deliveries import ingest_each, ingest_files
from flywheel.pairs.events import staging
from flywheel.pairs.inbox import take_inbox
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel_tests.pairs.test_ingest import line, write

KEPT = "event, item, batch_id, line, pair_id, label, weight, kind"


class Counting(Store):
    """A store that counts its transactions."""

    transactions = 0

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self.transactions += 1
        with super().transaction() as db:
            yield db


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "flywheel.duckdb")


def small_files(folder: Path, count: int) -> list[Path]:
    return [write(folder, [line(f"question {n}", f"other {n}", n % 2, event_id=n)], f"{n:04}.jsonl") for n in range(count)]


def content(store: Store) -> list[tuple[object, ...]]:
    with store.transaction() as db:
        observations = db.execute(f"SELECT {KEPT} FROM observations ORDER BY ALL").fetchall()
        pairs = db.execute("SELECT pair_id, label, same, different, split FROM pairs ORDER BY ALL").fetchall()
        batches = db.execute(
            """SELECT batch_id, lines, accepted, duplicates, quarantined, observations, redacted FROM batches
               WHERE complete ORDER BY ALL"""
        ).fetchall()
        quarantine = db.execute("SELECT batch_id, file, line, reason FROM quarantine ORDER BY ALL").fetchall()
    return [*observations, *pairs, *batches, *quarantine]


def test_small_files_share_a_transaction(store: Counting, tmp_path: Path) -> None:
    reports = ingest_files(store, small_files(tmp_path, 300))
    assert [(report.lines, report.accepted) for report in reports] == [(1, 1)] * 300
    assert store.transactions <= 3


def test_together_they_leave_the_store_as_they_would_one_by_one(store: Counting, tmp_path: Path) -> None:
    files = [
        *small_files(tmp_path, 20),
        write(tmp_path, [line("question 3", "other 3", 1, event_id=3), line("a", "b"), b"bad"], "repeats.jsonl"),
        write(tmp_path, [line("question 4", "other 4", 1), line("mail me@example.org", "b")], "contradicts.jsonl"),
        write(tmp_path, [line(" ", "b", user="u"), line("a", "b")], "blank.jsonl"),
    ]
    options = PairOptions(redact=("email",))
    together = ingest_files(store, files, options)
    alone = Store(tmp_path / "alone.duckdb")
    separate = [ingest_files(alone, [file], options)[0] for file in files]
    assert content(store) == content(alone)
    assert [(each.batch_id, each.accepted, each.duplicates) for each in together] == [
        (each.batch_id, each.accepted, each.duplicates) for each in separate
    ]
    assert sum(each.duplicates for each in together) == 1


def test_loads_of_a_few_files_each_give_the_same(store: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*small_files(tmp_path, 40), write(tmp_path, [line(f"x{n}", f"y{n}") for n in range(25)], "long.jsonl")]
    once = Store(tmp_path / "once.duckdb")
    ingest_files(once, files)
    monkeypatch.setattr(staging, "CHUNK", 7)
    ingest_files(store, files)
    assert content(store) == content(once)


def test_a_content_under_two_names_is_stored_once(store: Counting, tmp_path: Path) -> None:
    lines = [line("a", "b"), line("c", "d")]
    first, second = ingest_files(store, [write(tmp_path, lines, "first.jsonl"), write(tmp_path, lines, "second.jsonl")])
    assert (first.file, first.accepted, first.duplicates) == ("first.jsonl", 2, 0)
    assert (second.file, second.accepted, second.duplicates) == ("second.jsonl", 0, 2)


def test_one_that_is_refused_takes_no_other_along(store: Counting, tmp_path: Path) -> None:
    clashing = [line(f"t{n}", f"u{n}", event_id="session") for n in range(9)]
    files = [
        *small_files(tmp_path, 5),
        write(tmp_path, [b"no", b"event"], "garbage.jsonl"),
        write(tmp_path, clashing, "clashing.jsonl"),
        write(tmp_path, [line("last", "one")], "zz.jsonl"),
    ]
    outcomes = dict(ingest_each(store, [(file, file.name) for file in files], PairOptions()))
    refused = {path.name: str(said) for (path, _), said in outcomes.items() if not isinstance(said, list)}
    assert sorted(refused) == ["clashing.jsonl", "garbage.jsonl"]
    assert "session" in refused["clashing.jsonl"]
    assert refused["garbage.jsonl"].startswith("garbage.jsonl:1")
    with store.transaction() as db:
        assert db.execute("SELECT count(*), count(DISTINCT batch_id) FROM observations").fetchall() == [(6, 6)]
        assert db.execute("SELECT count(*) FROM quarantine").fetchall() == [(0,)]


def test_the_inbox_says_how_many_files_are_done(store: Counting, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    for file in [*small_files(inbox, 6), write(inbox, [b"bad"], "bad.jsonl")]:
        os.utime(file, (1, 1))
    heard: list[tuple[int, int]] = []
    reports, rejected = take_inbox(store, inbox, PairOptions(), lambda done, of: heard.append((done, of)))
    assert heard == [(n, 7) for n in range(1, 8)]
    assert (len(reports), len(rejected)) == (6, 1)
    assert len(list((inbox / "done").iterdir())) == 6
