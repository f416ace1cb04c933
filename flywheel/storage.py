"""Files at a path or a URI, through fsspec: read one, copy a folder there or back.

A folder counts as whole only when the one file that is written last is there, so an upload that was killed leaves
nothing that is taken for a snapshot or a model; the next upload completes it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError


def is_uri(place: str) -> bool:
    """Whether a place is a URI (s3://bucket/path) and not a local path."""
    return "://" in place


def read(place: str) -> bytes | None:
    """The content of the file at a URI or path, or None when there is none. Raises FlywheelError when it cannot be read."""
    with _explained(place, "read"):
        storage, path = _open(place)
        return bytes(storage.cat_file(path)) if storage.exists(path) else None


def write(place: str, content: bytes) -> None:
    """Write a file. Raises FlywheelError when the storage cannot be written."""
    with _explained(place, "written"):
        storage, path = _open(place)
        storage.makedirs(path.rpartition("/")[0], exist_ok=True)
        storage.pipe_file(path, content)


def upload(folder: Path, uri: str, last: str) -> None:
    """Copy a folder to `uri`, its file `last` last, unless that is there already.

    Raises FlywheelError when the storage cannot be written.
    """
    with _explained(uri, "written"):
        storage, root = _open(uri)
        if storage.exists(f"{root}/{last}"):
            return
        files = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        for name in sorted(files, key=lambda name: name == last):
            target = f"{root}/{name}"
            storage.makedirs(target.rpartition("/")[0], exist_ok=True)
            storage.put_file(str(folder / name), target)


def download(uri: str, folder: Path, last: str) -> None:
    """Copy the folder at `uri` into an empty folder.

    Raises FlywheelError when its file `last` is not there, or it cannot be read.
    """
    with _explained(uri, "read"):
        storage, root = _open(uri)
        if not storage.exists(f"{root}/{last}"):
            raise FlywheelError(
                f"{uri} is not complete: it has no {last}. Upload it again: a snapshot by `flywheel snapshot` on a machine "
                "that has the pairs."
            )
        for path in storage.find(root):
            target = folder / path.removeprefix(f"{root}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.get_file(path, str(target))


def delete_file(place: str) -> None:
    """Delete a file, if it is there. Raises FlywheelError when the storage cannot be written."""
    with _explained(place, "written"):
        storage, path = _open(place)
        if storage.exists(path):
            storage.rm_file(path)


def delete_folder(uri: str, last: str) -> None:
    """Delete a folder, if it is there, its file `last` first. Raises FlywheelError when the storage cannot be written."""
    delete_file(f"{uri}/{last}")
    with _explained(uri, "written"):
        storage, root = _open(uri)
        if storage.exists(root):
            storage.rm(root, recursive=True)


def _open(place: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    storage, root = url_to_fs(place)
    storage.invalidate_cache()  # other machines write there too
    return storage, root.rstrip("/")


@contextmanager
def _explained(place: str, done: str) -> Iterator[None]:
    try:
        yield
    except FlywheelError:
        raise
    except Exception as error:  # every storage library raises kinds of its own
        raise FlywheelError(
            f"{place} cannot be {done} ({type(error).__name__}: {error}). Check the address (of snapshots: the setting "
            "storage.snapshot_uri), the credentials and the network; nothing is lost, run the same command again."
        ) from error
