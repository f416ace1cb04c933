"""Snapshots and model folders on shared storage, through fsspec: a folder of files, one of which is written last.

A snapshot's folder without a manifest is no snapshot, nor is a model's without its record a model: an upload that was
killed leaves one, and the next upload completes it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError

LATEST = "latest.json"


_MANIFEST = "manifest.json"


def upload(folder: Path, uri: str, last: str = _MANIFEST) -> None:
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


def read(uri: str) -> bytes | None:
    """The content of the file at `uri`, a URI or a path, or None when there is none."""
    with _explained(uri, "read"):
        storage, path = _open(uri)
        return bytes(storage.cat_file(path)) if storage.exists(path) else None


def download(uri: str, folder: Path) -> None:
    """Copy the snapshot at `uri` into an empty folder. Raises FlywheelError when there is none, or it cannot be read."""
    with _explained(uri, "read"):
        storage, root = _open(uri)
        if not storage.exists(f"{root}/{_MANIFEST}"):
            raise FlywheelError(f"{uri} holds no whole snapshot.")
        for path in storage.ls(root, detail=False):
            storage.get_file(path, str(folder / path.rpartition("/")[2]))


def remove(store: str, snapshot_id: str) -> None:
    """Delete a snapshot from the storage `store`, if it is there; its manifest first."""
    newest, uri = latest_id(store), f"{store}/{snapshot_id}"
    with _explained(uri, "written"):
        storage, root = _open(uri)
        if newest == snapshot_id:
            storage.rm_file(f"{root.rpartition('/')[0]}/{LATEST}")
        if storage.exists(f"{root}/{_MANIFEST}"):
            storage.rm_file(f"{root}/{_MANIFEST}")
        if storage.exists(root):
            storage.rm(root, recursive=True)


def latest_id(store: str) -> str | None:
    """The id of the snapshot written last to the storage `store`, or None."""
    with _explained(store, "read"):
        found = read(f"{store}/{LATEST}")
        return None if found is None else str(json.loads(found))


def write_latest(store: str, snapshot_id: str) -> None:
    """Let `latest_id` answer `snapshot_id` from now on."""
    with _explained(store, "written"):
        storage, root = _open(store)
        storage.pipe_file(f"{root}/{LATEST}", json.dumps(snapshot_id).encode())


def _open(uri: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    storage, root = url_to_fs(uri)
    storage.invalidate_cache()  # other machines write there too
    return storage, root.rstrip("/")


@contextmanager
def _explained(uri: str, done: str) -> Iterator[None]:
    try:
        yield
    except FlywheelError:
        raise
    except Exception as error:  # every storage library raises kinds of its own
        raise FlywheelError(
            f"{uri} cannot be {done} ({type(error).__name__}: {error}). Look at the address (of snapshots: the setting "
            "snapshot_store), at the credentials and at the network; nothing is lost, run the same command again."
        ) from error
