"""Evaluation records that several machines have: whole, the newest of each, in the order in which they were made."""

import uuid
from pathlib import Path

import pytest

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.evaluation.records import RECORD
from flywheel.evaluation.scores import SCORES
from flywheel.evaluation.shared import SharedRecords
from flywheel.files import replace_folder, scratch_folder


@pytest.fixture
def uri() -> str:
    return f"memory://{uuid.uuid4()}/evaluations"


def make(folder: Path, name: str, content: str) -> None:
    """A record as an evaluation writes it, in place of an older one."""
    with scratch_folder(folder / "t") as scratch:
        (scratch / RECORD).write_text(content)
        (scratch / SCORES).write_text(f"scores of {content}")
        replace_folder(scratch, folder / "t" / name)


def held(folder: Path) -> dict[str, tuple[str, str]]:
    records = sorted((folder / "t").glob(f"[!.]*/{RECORD}"), key=lambda file: file.stat().st_mtime_ns)
    return {file.parent.name: (file.read_text(), (file.parent / SCORES).read_text()) for file in records}


def test_a_record_comes_with_its_scores_and_a_newer_one_takes_its_place_everywhere(uri: str, tmp_path: Path) -> None:
    here, there = (SharedRecords(tmp_path / name, uri) for name in ("here", "there"))
    for name in ("z", "a"):
        make(here.folder, name, f"first {name}")
        here.push("t", name)
    there.pull("t", "of which there is none")
    assert held(there.folder) == {name: (f"first {name}", f"scores of first {name}") for name in ("z", "a")}
    assert list(held(there.folder)) == ["z", "a"], "oldest first, as they were made"
    make(there.folder, "z", "second z")
    there.push("t", "z")
    assert held(here.pull("t"))["z"] == ("second z", "scores of second z")
    assert held(here.folder)["a"][0] == "first a"


def test_what_is_in_step_is_neither_sent_nor_fetched_again(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (SharedRecords(tmp_path / name, uri) for name in ("here", "there"))
    make(here.folder, "a", "first")
    here.push("t", "a")
    there.pull("t")
    for name in ("read", "write"):
        monkeypatch.setattr(storage, name, lambda *_: pytest.fail("it is there already"))
    for records in (here, there):
        records.pull("t")
        records.push("t", "a")


def test_a_record_that_was_made_here_and_could_not_be_sent_is_kept_and_sent_later(uri: str, tmp_path: Path) -> None:
    here, there = (SharedRecords(tmp_path / name, uri) for name in ("here", "there"))
    make(there.folder, "a", "older")
    there.push("t", "a")
    make(here.folder, "a", "newer")
    assert held(here.pull("t")) == {"a": ("newer", "scores of newer")}
    here.push("t", "a")
    assert held(there.pull("t"))["a"][0] == "newer"


def test_a_removed_record_does_not_come_back(uri: str, tmp_path: Path) -> None:
    here = SharedRecords(tmp_path / "here", uri)
    make(here.folder, "a", "first")
    here.push("t", "a")
    here.remove("t", "a")
    here.remove("t", "a")
    assert held(SharedRecords(tmp_path / "there", uri).pull("t")) == {}


def test_a_damaged_file_is_named_with_what_to_do_and_deleting_it_helps(uri: str, tmp_path: Path) -> None:
    storage.write(f"{uri}/t/a.zip", b"no archive")
    here = SharedRecords(tmp_path / "here", uri)
    with pytest.raises(FlywheelError, match=r"/t/a\.zip is damaged .* Delete it; `flywheel grid` evaluates again"):
        here.pull("t")
    storage.delete_file(f"{uri}/t/a.zip")
    make(here.folder, "a", "again")
    here.push("t", "a")
    assert held(here.pull("t"))["a"][0] == "again"
