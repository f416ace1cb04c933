"""Files and folders at a URI: what was written is read, and a folder counts only when its last file is there."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from flywheel import storage
from flywheel.errors import FlywheelError

LAST = "a-record.json"  # comes first by name, so that only an upload that minds it puts it last
FILES = {LAST: b"{}", "model.bin": bytes(range(256)) * 300, "1_Pooling/config.json": b"pooling", "2_Dense/deep/er.txt": b""}


@pytest.fixture(params=["file", "memory"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared/place" if request.param == "file" else f"memory://{uuid.uuid4()}/place"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "here", FILES)


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def held(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetched(uri: str, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    storage.download(uri, folder, LAST)
    return held(folder)


def test_a_file_is_read_as_it_was_written_last_and_may_be_deleted_twice(uri: str) -> None:
    place = f"{uri}/deeper/latest.json"
    assert storage.read(place) is None
    storage.write(place, b"a longer first")
    storage.write(place, b"second\0")
    assert storage.read(place) == b"second\0"
    storage.delete_file(place)
    storage.delete_file(place)
    assert storage.read(place) is None


def test_a_path_of_this_machine_is_read_and_written_like_a_uri(tmp_path: Path) -> None:
    place = str(tmp_path / "new" / "job.json")
    assert (storage.is_uri(place), storage.is_uri(f"file://{place}")) == (False, True)
    storage.write(place, b"job")
    assert storage.read(place) == storage.read(f"file://{place}") == Path(place).read_bytes() == b"job"


def test_a_folder_comes_back_as_it_went_with_all_below_it(uri: str, folder: Path, tmp_path: Path) -> None:
    storage.upload(folder, uri, LAST)
    storage.write(f"{uri}-beside/other.txt", b"of another folder, whose name begins alike")
    assert fetched(uri, tmp_path / "there") == FILES


def test_a_folder_without_its_last_file_is_refused_and_the_next_upload_completes_it(
    uri: str, folder: Path, tmp_path: Path
) -> None:
    storage.write(f"{uri}/model.bin", FILES["model.bin"][:100])  # as an upload that was killed leaves it
    (tmp_path / "there").mkdir()
    with pytest.raises(FlywheelError) as refused:
        storage.download(uri, tmp_path / "there", LAST)
    assert str(refused.value).startswith(f"{uri} is not complete: it has no {LAST}. Upload it again")
    assert held(tmp_path / "there") == {}
    storage.upload(folder, uri, LAST)
    assert fetched(uri, tmp_path / "complete") == FILES


def test_an_upload_that_fails_half_way_has_not_put_the_last_file(folder: Path, tmp_path: Path) -> None:
    uri, obstacle = f"file://{tmp_path}/shared", tmp_path / "shared" / "model.bin"
    obstacle.mkdir(parents=True)  # where a file should go
    with pytest.raises(FlywheelError, match=r"shared cannot be written \(.*nothing is lost, run the same command again"):
        storage.upload(folder, uri, LAST)
    assert storage.read(f"{uri}/1_Pooling/config.json") == b"pooling"
    assert storage.read(f"{uri}/{LAST}") is None
    obstacle.rmdir()
    storage.upload(folder, uri, LAST)
    assert fetched(uri, tmp_path / "there") == FILES


def test_a_complete_folder_is_not_uploaded_again(uri: str, folder: Path, tmp_path: Path) -> None:
    storage.upload(folder, uri, LAST)
    written(folder, {"model.bin": b"something else", "more.txt": b"more"})
    storage.upload(folder, uri, LAST)
    assert fetched(uri, tmp_path / "there") == FILES


def test_of_several_that_create_a_file_one_has_done_so(uri: str) -> None:
    place, contents = f"{uri}/history/1.json", [bytes([number]) for number in range(40)]
    with ThreadPoolExecutor(8) as several:
        created = list(several.map(lambda content: storage.create(place, content), contents))
    assert created.count(True) == 1 or uri.startswith("memory")  # which looks before it writes
    winner = storage.read(place)
    assert storage.create(place, winner or b""), "as when only the answer was lost"
    assert not storage.create(place, b"another")
    assert storage.read(place) == winner
    assert list(storage.files(uri)) == ["history/1.json"]


def test_files_are_listed_with_a_version_that_changes_with_their_content(uri: str) -> None:
    assert storage.files(uri) == {}
    first = storage.write(f"{uri}/a/b.json", b"first")
    storage.write(f"{uri}/c", b"c")
    before = storage.files(uri)
    assert before.keys() == {"a/b.json", "c"}
    assert before["a/b.json"] == first
    second = storage.write(f"{uri}/a/b.json", b"later")
    assert storage.files(uri) == {**before, "a/b.json": second}
    assert second != first


def test_a_mixture_of_two_uploads_is_not_taken(uri: str, folder: Path, tmp_path: Path) -> None:
    storage.upload(folder, uri, LAST)
    storage.write(f"{uri}/model.bin", FILES["model.bin"][::-1])  # as another machine that had begun before wrote it
    (tmp_path / "there").mkdir()
    with pytest.raises(FlywheelError, match=r"is damaged: model.bin is not the file that was uploaded with the others"):
        storage.fetch(uri, tmp_path / "there" / "model", LAST, lambda _: None)
    assert held(tmp_path / "there") == {}
    storage.delete_folder(uri, LAST)
    storage.upload(folder, uri, LAST)
    storage.fetch(uri, tmp_path / "there" / "model", LAST, lambda _: None)
    assert held(tmp_path / "there" / "model") == FILES


def test_a_large_file_that_another_folder_has_is_copied_by_the_storage_itself(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, large, sent = f"memory://{uuid.uuid4()}", bytes(2**20), []
    put = MemoryFileSystem.put_file
    monkeypatch.setattr(
        MemoryFileSystem, "put_file", lambda self, file, *more, **named: sent.append(file) or put(self, file, *more, **named)
    )
    written(folder, {"weights": large})
    for name in ("a", "b"):
        storage.upload(folder, f"{uri}/{name}", LAST, alike=f"{uri}/.files")
    assert sent.count(str(folder / "weights")) == 1
    storage.write(f"{uri}/a/weights", b"damaged")
    storage.upload(folder, f"{uri}/c", LAST, alike=f"{uri}/.files")
    storage.delete_folder(f"{uri}/c", LAST)
    storage.upload(folder, f"{uri}/d", LAST, alike=f"{uri}/.files")
    assert sent.count(str(folder / "weights")) == 3, "a source that changed or is gone is none"
    for name in ("b", "d"):
        assert fetched(f"{uri}/{name}", tmp_path / name) == {**FILES, "weights": large}


def test_a_deleted_folder_is_nowhere_and_its_neighbour_stays(uri: str, folder: Path, tmp_path: Path) -> None:
    storage.upload(folder, uri, LAST)
    storage.upload(folder, f"{uri}-beside", LAST)
    storage.delete_folder(uri, LAST)
    storage.delete_folder(uri, LAST)
    assert [storage.read(f"{uri}/{name}") for name in FILES] == [None] * len(FILES)
    assert fetched(f"{uri}-beside", tmp_path / "there") == FILES


def test_a_folder_whose_deletion_was_cut_off_is_not_complete(folder: Path, tmp_path: Path) -> None:
    class CutOff(MemoryFileSystem):
        """Storage that goes down before it deletes a folder."""

        protocol = "cutoff"

        def rm(self, *_: Any, **__: Any) -> None:
            raise OSError("the connection was reset")

    fsspec.register_implementation("cutoff", CutOff, clobber=True)
    uri = f"cutoff://{uuid.uuid4()}"
    storage.upload(folder, uri, LAST)
    with pytest.raises(FlywheelError, match=r"cannot be written \(OSError: the connection was reset\)"):
        storage.delete_folder(uri, LAST)
    assert storage.read(f"{uri}/model.bin") == FILES["model.bin"]
    with pytest.raises(FlywheelError, match="is not complete"):
        fetched(uri, tmp_path / "there")


@pytest.mark.parametrize(
    ("act", "done"),
    [
        (lambda uri, folder: storage.read(uri), "read"),
        (lambda uri, folder: storage.download(uri, folder, LAST), "read"),
        (lambda uri, folder: storage.write(uri, b""), "written"),
        (lambda uri, folder: storage.upload(folder, uri, LAST), "written"),
        (lambda uri, folder: storage.delete_file(uri), "written"),
        (lambda uri, folder: storage.delete_folder(uri, LAST), "written"),
    ],
)
def test_storage_that_cannot_be_reached_is_one_sentence(act: Callable[[str, Path], object], done: str, tmp_path: Path) -> None:
    with pytest.raises(FlywheelError) as failed:
        act("nonsense://bucket/place", tmp_path)
    sentence = str(failed.value)
    assert sentence.startswith("nonsense://bucket/place")
    assert f" cannot be {done} (ValueError: Protocol not known: nonsense" in sentence
    assert sentence.endswith("the credentials and the network; nothing is lost, run the same command again.")
    assert sentence.isprintable()
