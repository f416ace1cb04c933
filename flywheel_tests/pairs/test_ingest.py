"""Lines in, observations out: every line is accounted for, and nothing is lost or doubled."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from flywheel.errors import FlywheelError, StoreBusyError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.readers import read_batch
from flywheel.pairs.ingest import IngestReport, ingest
from flywheel.pairs.options import PairOptions, StorageOptions
from flywheel.pairs.store.accounts import quarantine_reasons, unaccounted
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import count_pairs
from flywheel.pairs.store.sql import connect
from flywheel_tests.conftest import examples
from flywheel_tests.helpers.homes import make_workspace


def line(a: object, b: object, label: object = 1, **more: object) -> bytes:
    return json.dumps({"text_a": a, "text_b": b, "label": label, **more}).encode()


def write(folder: Path, lines: list[bytes], name: str = "batch.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(b"".join(each + b"\n" for each in lines))
    return path


def rows(store: Store, query: str) -> list[tuple[Any, ...]]:
    with store.transaction() as db:
        return db.execute(query).fetchall()


def balanced(report: IngestReport) -> bool:
    records = report.accepted + report.duplicates + report.quarantined
    return records + report.header + report.continuation == report.lines


def test_a_malformed_line_is_quarantined_with_file_line_and_reason_and_stops_nothing(store: Store, tmp_path: Path) -> None:
    lines = [
        line("how to sync", "sync my files"),
        b"",
        b"\xff\xfe broken",
        b'{"text_a": "cut',
        b"[1, 2]",
        line("only one", None),
        line("a", "b", "maybe"),
        line("a", "b", float("nan")),
        line("Same  Text", "same text"),
        line("a", "b", weight=-1),
        line("a\0b", "c"),
        line(" ", "b"),
        b'{"text_a": "\\ud800", "text_b": "b", "label": 1}',
        b"[" * 100_000,
        b'{"text_a": "' + b"x" * 1_100_000 + b'", "text_b": "b", "label": 1}',
        line("ok", "fine", "different", session={"id": 7}),
    ]
    report = ingest_files(store, [write(tmp_path, lines)])[0]
    assert (report.lines, report.accepted, report.quarantined) == (len(lines), 2, len(lines) - 2)
    reasons = {number: reason for _, number, reason in quarantine_reasons(store, [report.batch_id])}
    assert reasons[2] == "the line is blank"
    assert "not UTF-8" in reasons[3]
    assert "not JSON" in reasons[4]
    assert "not an object" in reasons[5]
    assert "text_b" in reasons[6]
    assert reasons[7].startswith('label is "maybe", none of 1 or 0')
    assert "same question" in reasons[9]
    assert sorted(reasons) == list(range(2, 16))
    assert rows(store, "SELECT extra FROM observations WHERE extra IS NOT NULL") == [('{"session":{"id":7}}',)]


def test_a_line_that_no_calendar_or_encoding_holds_is_quarantined_too(store: Store, tmp_path: Path) -> None:
    lines = [
        line("a", "b", time="9999-12-31T23:59:59-05:00"),
        line("a", "b", time="0001-01-01T00:00:00+05:00"),
        line("a", "b", time="2999-01-01"),
        line("a", "b", event_id="\ud800"),
        line("\u200b", "b"),
        line("a", "b", time="2026-01-01"),
    ]
    report = ingest_files(store, [write(tmp_path, lines)], PairOptions(max_refused=0.9))[0]
    assert (report.accepted, report.quarantined) == (1, len(lines) - 1)


def test_a_first_line_that_is_nested_too_deeply_to_be_kept_is_quarantined(store: Store, tmp_path: Path) -> None:
    deep: object = 1
    for _ in range(200):
        deep = {"deeper": [deep]}
    report = ingest_files(store, [write(tmp_path, [line("a", "b", deep=deep), line("c", "d")])])[0]
    assert (report.accepted, report.quarantined) == (1, 1)


def test_lines_that_the_store_has_lost_are_noticed(store: Store, tmp_path: Path) -> None:
    report = ingest_files(store, [write(tmp_path, [line("a", "b"), line("c", "d"), b"bad"])])[0]
    assert unaccounted(store, [report.batch_id]) == []
    with store.transaction() as db:
        db.execute("DELETE FROM observations WHERE line = 2")
        db.execute("DELETE FROM quarantine")
    (said,) = unaccounted(store, [report.batch_id])
    assert "2 accepted (1 in the store)" in said
    assert "1 quarantined (0 in the store)" in said


def test_events_with_a_blank_id_are_not_taken_for_the_same(store: Store, tmp_path: Path) -> None:
    report = ingest_files(store, [write(tmp_path, [line(f"a{i}", "b", event_id=" ") for i in range(5)])])[0]
    assert (report.accepted, report.duplicates) == (5, 0)


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
some_record = st.fixed_dictionaries(
    {"text_a": any_json, "text_b": st.text(max_size=12), "label": st.sampled_from([0, 1, "same", 2, None])},
    optional={"event_id": st.sampled_from(["e1", "e2", 3]), "time": any_json, "kind": any_json, "weight": any_json},
)
some_line = st.one_of(
    st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b" ")),
    some_record.map(lambda record: json.dumps(record).encode()),
)


@hypothesis_settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=st.lists(some_line, max_size=25))
@example(lines=[b"\r", b"\r\r"])
def test_accepted_duplicates_and_quarantined_always_add_up(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("home")
    store = Store(folder / "flywheel.duckdb")
    lines = [line("always", "there"), *lines]
    said = PairOptions(max_refused=1, labels={"1": 1, "same": 1, "0": 0}, encoding="utf-8")
    first = ingest_files(store, [write(folder, lines)], said)[0]
    assert first.lines == len(lines)
    assert balanced(first)
    before = rows(store, "FROM observations ORDER BY ALL"), rows(store, "FROM quarantine ORDER BY ALL")
    again = ingest_files(store, [write(folder, lines, "other-name.jsonl")], said)[0]
    assert balanced(again)
    assert again.accepted == 0
    assert (rows(store, "FROM observations ORDER BY ALL"), rows(store, "FROM quarantine ORDER BY ALL")) == before


def test_an_event_is_known_by_its_id_in_whatever_file_it_comes(store: Store, tmp_path: Path) -> None:
    first = write(tmp_path, [line("a", "b", event_id="e1"), line("c", "d", event_id="e1")], "one.jsonl")
    second = write(tmp_path, [line("a", "b", event_id="e1"), line("a", "b", event_id="e2")], "two.jsonl")
    reports = ingest_files(store, [first, second])
    assert [(r.accepted, r.duplicates) for r in reports] == [(1, 1), (1, 1)]


def test_a_pair_is_what_its_observations_add_up_to(store: Store, tmp_path: Path) -> None:
    day = [datetime(2026, 1, n, tzinfo=UTC).isoformat() for n in range(1, 9)]
    report = ingest_files(store, [write(tmp_path, [
        line("A question", "B question", 1, time=day[1]),
        line("b  QUESTION", "a question", 0, time=day[2]),
        line("a question", "b question", 1, time=day[5], kind="implied"),
        line("c", "d", 1, time=day[1], kind="implied"),
    ])])[0]  # fmt: skip
    counts = count_pairs(store)
    assert (counts.pairs, counts.conflicting) == (2, 1)
    assert (report.conflicts, report.embargoed) == (3, 0)
    found = rows(store, "SELECT label, kind, same, different FROM pairs ORDER BY same")
    assert found == [(1, "implied", 1, 0), (0, "explicit", 2, 1)]


def test_a_file_that_cannot_be_read_is_one_sentence_and_stores_nothing(store: Store, tmp_path: Path) -> None:
    good = write(tmp_path, [line("a", "b")])
    with pytest.raises(FlywheelError, match="is not a file"):
        ingest_files(store, [good, tmp_path / "missing.jsonl"])
    assert rows(store, "FROM batches") == []


def test_a_file_that_changes_while_it_is_read_is_refused(store: Store, tmp_path: Path) -> None:
    path = write(tmp_path, [line("a", "b")])
    batch = read_batch(path, path.name)
    path.write_bytes(path.read_bytes() + line("c", "d"))
    with pytest.raises(FlywheelError, match="changed while it was read"):
        ingest(store, batch)
    assert rows(store, "FROM observations") == []


def test_a_database_that_stays_locked_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "flywheel.duckdb"
    with subprocess.Popen(
        [sys.executable, "-c", f"import duckdb; c = duckdb.connect({str(path)!r}); print('up', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        with (
            pytest.raises(StoreBusyError, match="in use by process"),
            Store(path, wait_seconds=0.3).transaction(),
        ):
            pass
        holder.communicate("\n")
    with Store(path).transaction() as db:
        assert db.execute("SELECT 1").fetchone() == (1,)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "flywheel.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(FlywheelError, match="cannot be opened"), Store(tmp_path / "flywheel.duckdb").transaction():
        pass


def test_a_store_of_another_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "flywheel.duckdb"
    with duckdb.connect(str(path)) as old:
        old.execute("CREATE TABLE pairs (pair_id VARCHAR, question_a VARCHAR)")
    with pytest.raises(FlywheelError, match=r"another version of flywheel.*ingest"), Store(path).transaction():
        pass


def test_a_transaction_that_fails_leaves_nothing_and_frees_the_file(store: Store) -> None:
    def failing() -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO assignments VALUES (uuid(), 'train', NULL)")
            db.execute("SELECT no_such_column FROM pairs")

    with pytest.raises(duckdb.Error, match="no_such_column"):
        failing()
    assert rows(store, "FROM assignments") == []


def test_a_database_that_lacks_memory_names_the_setting_that_gives_it_more(tmp_path: Path) -> None:
    def gather(memory_limit: str) -> list[tuple[Any, ...]]:
        store = make_workspace(tmp_path, storage={"memory_limit": memory_limit}).store
        return rows(store, "SELECT length(string_agg(md5(CAST(n AS VARCHAR)), '')) FROM range(1_000_000) t(n)")

    with pytest.raises(FlywheelError, match=r"needs more than 20MB of memory\. Set storage\.memory_limit higher, then"):
        gather("20MB")
    assert gather("512MB") == [(32_000_000,)]


@pytest.mark.parametrize("limit", ["4GB", "512 mib", "0.5TiB"])
def test_a_memory_limit_that_the_settings_take_is_one_to_the_database(limit: str) -> None:
    with connect(memory_limit=StorageOptions(memory_limit=limit).memory_limit) as db:
        assert db.execute("SELECT 1").fetchall() == [(1,)]
