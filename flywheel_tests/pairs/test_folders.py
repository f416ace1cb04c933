"""Deliveries of several files: folders of part files, also in the inbox, and several paths given to one verb."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flywheel.errors import UnreadableFileError
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.forget import Selection
from flywheel.pairs.inbox import finished_files, rejected_deliveries, take_inbox
from flywheel.pairs.store.accounts import unaccounted
from flywheel.pipeline.forgetting import forget
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.deliveries import HEADER, packed
from flywheel_tests.pairs.test_ingest import line, rows


def write_parts(folder: Path, parts: dict[str, bytes]) -> Path:
    """A folder as Spark leaves it: parts, checksums, and a sign that it is finished; all of it old."""
    spark = {"_SUCCESS": b"", "._SUCCESS.crc": b"crc", **{f".{Path(name).name}.crc": b"crc" for name in parts}}
    for name, data in {**parts, **spark}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    settle(folder)
    return folder


def settle(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (0, 0))


PARTS = {
    "part-00000-a1.csv": HEADER + b"a,b,1\nc,d,0\n",
    "part-00001-a1.csv": HEADER,
    "part-00002-a1.csv": b"",
    "part-00003-a1.csv.gz": packed(HEADER + b'"e\nf",g,1\nbad,row,\n', ".gz"),
}


def test_a_folder_of_part_files_is_one_delivery(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "export", {**PARTS, "day=2026-09-01/hour=1/part-0.csv": HEADER + b"h,i,1\n"})
    reports = ingest_files(workspace.store, [folder])
    assert {report.file: report.accepted for report in reports} == {
        "export/part-00000-a1.csv": 2, "export/part-00003-a1.csv.gz": 1, "export/day=2026-09-01/hour=1/part-0.csv": 1,
    }  # fmt: skip
    assert unaccounted(workspace.store, [report.batch_id for report in reports]) == []
    assert [report.accepted for report in ingest_files(workspace.store, [folder])] == [0, 0, 0]


def test_through_the_inbox_a_folder_is_stored_put_away_and_forgotten_by_batch(workspace: Workspace) -> None:
    inbox = workspace.home.inbox
    write_parts(inbox / "export", PARTS)
    reports, rejected = take_inbox(workspace.store, inbox, workspace.settings.pairs)
    assert (sorted(report.accepted for report in reports), rejected) == ([1, 2], ())
    assert [path.name for path in inbox.iterdir() if path.name not in ("done", "work", ".lock")] == []
    names = {f"{report.batch_id[:12]}-{report.file.replace('/', '-')}" for report in reports}
    assert {path.name for path in (inbox / "done").iterdir()} == names
    gone = next(report for report in reports if report.accepted == 2)
    forgotten = forget(workspace, Selection(batch=gone.batch_id[:8]))
    assert (forgotten.observations, len(forgotten.deliveries)) == (2, 1)
    assert len(list((inbox / "done").iterdir())) == 1


@pytest.mark.parametrize("unfinished", ["_temporary/0/part-1.csv", "_started_1", "part-1.csv.tmp", "part-1.csv.part"])
def test_a_folder_is_claimed_only_when_its_writer_has_finished(workspace: Workspace, unfinished: str) -> None:
    inbox = workspace.home.inbox
    folder = write_parts(inbox / "export", PARTS)
    path = folder / unfinished
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    settle(folder)
    if unfinished == "_started_1":  # what some writers leave for good
        assert finished_files(inbox) == [folder]
        return
    assert finished_files(inbox) == []
    path.unlink()
    if path.parent != folder:
        path.parent.rmdir()
        path.parent.parent.rmdir()
    (folder / "part-00009.csv").write_bytes(HEADER)  # a moment ago
    assert finished_files(inbox) == []
    settle(folder)
    assert finished_files(inbox) == [folder]


def test_a_folder_one_part_of_which_has_other_labels_is_rejected_as_a_whole(workspace: Workspace) -> None:
    inbox = workspace.home.inbox
    grades = HEADER + b"".join(f"x{i},y{i},{i % 6}\n".encode() for i in range(12))
    write_parts(inbox / "export", {**PARTS, "part-00004.csv": grades})
    reports, rejected = take_inbox(workspace.store, inbox, workspace.settings.pairs)
    assert (reports, len(rejected)) == ([], 1)
    assert "label" in rejected[0]
    assert rows(workspace.store, "FROM batches") == []
    assert [each.path.is_dir() for each in rejected_deliveries(inbox)] == [True]


def test_a_delivery_that_was_killed_half_way_is_finished_by_the_next_run(workspace: Workspace) -> None:
    inbox, store, options = workspace.home.inbox, workspace.store, workspace.settings.pairs
    # Killed after one part was stored, and one of those put away: the claim lies in work.
    claim = write_parts(inbox / "work" / f"{time.time_ns():x}-export", PARTS)
    first = claim / "part-00000-a1.csv"
    (report,) = ingest_files(store, [first], options, ["export/part-00000-a1.csv"])
    reports, rejected = take_inbox(store, inbox, options)
    assert (sum(each.accepted for each in reports), rejected) == (1, ())
    assert rows(store, "SELECT count(*) FROM batches WHERE complete") == [(2,)]
    assert len(list((inbox / "done").iterdir())) == 2
    assert list((inbox / "work").iterdir()) == []
    assert report.batch_id[:12] in {path.name.partition("-")[0] for path in (inbox / "done").iterdir()}


def test_a_delivery_that_was_killed_when_all_of_it_was_put_away_is_not_rejected(workspace: Workspace) -> None:
    work = workspace.home.inbox / "work"
    (work / "1a-export" / "day=2026-09-01").mkdir(parents=True)
    assert take_inbox(workspace.store, workspace.home.inbox, workspace.settings.pairs) == ([], ())
    assert list(work.iterdir()) == []


def test_two_folders_of_one_name_are_two_deliveries(workspace: Workspace) -> None:
    inbox = workspace.home.inbox
    for text in (b"one", b"two"):
        write_parts(inbox / "export", {"part-0.csv": HEADER + text + b",b,1\n"})
        reports, rejected = take_inbox(workspace.store, inbox, workspace.settings.pairs)
        assert ([report.accepted for report in reports], rejected) == ([1], ())
    assert len(list((inbox / "done").iterdir())) == 2


def nothing_left(folder: Path) -> None:
    for name in PARTS:
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (nothing_left, "holds none of"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "with notes.txt, which is none of"),
        (lambda folder: [(folder / name).write_bytes(HEADER) for name in PARTS if name.endswith("csv")], ""),
    ],
    ids=["nothing", "another file", "one part"],
)
def test_a_folder_without_files_that_can_be_read_is_one_sentence(
    workspace: Workspace, tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    folder = write_parts(tmp_path / "export", PARTS)
    change(folder)
    if says:
        with pytest.raises(UnreadableFileError, match=says):
            ingest_files(workspace.store, [folder])
        assert rows(workspace.store, "FROM batches") == []
    else:
        assert [report.accepted for report in ingest_files(workspace.store, [folder])] == [1]


def test_a_folder_all_parts_of_which_are_empty_is_called_empty(workspace: Workspace, tmp_path: Path) -> None:
    folder = write_parts(tmp_path / "export", {"part-0.csv": b"", "part-1.csv": HEADER})
    with pytest.raises(UnreadableFileError, match="is empty"):
        ingest_files(workspace.store, [folder])


# ---- several paths for one verb ----


def three_files(folder: Path) -> list[Path]:
    contents = {"a.csv": HEADER + b"a,b,1\n", "bad.jsonl": b'[{"text_a": 1}]', "c.jsonl": line("c", "d") + b"\n"}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in contents]


def test_a_path_that_is_not_there_stops_the_verb_before_anything_is_stored(tmp_path: Path) -> None:
    first, _, last = three_files(tmp_path)
    done = verb("ingest", first, tmp_path / "missing.csv", last, "--home", tmp_path / "home")
    assert (done.returncode, "missing.csv is not a file" in " ".join(done.stderr.split())) == (1, True)
    assert not (tmp_path / "home" / "flywheel.duckdb").exists()


def test_a_bad_file_beside_good_ones_keeps_none_of_them_back(tmp_path: Path) -> None:
    done = verb("ingest", *three_files(tmp_path), "--home", tmp_path / "home", "--json")
    counts = json.loads(done.stdout)
    assert (done.returncode, counts["accepted"], counts["lines"]) == (1, 2, 3)
    assert len(counts["rejected"]) == 1
    assert "bad.jsonl holds one JSON array" in counts["rejected"][0]
    said = verb("ingest", *three_files(tmp_path), "--home", tmp_path / "home")
    assert (said.returncode, "0 accepted, 2 duplicates" in said.stdout) == (1, True)
    assert "bad.jsonl holds one JSON array" in " ".join(said.stderr.split())


def test_nothing_is_drawn_amid_the_json_of_a_verb(workspace: Workspace) -> None:
    assert rows(workspace.store, "SELECT current_setting('enable_progress_bar')") == [(False,)]
