"""Snapshots on shared storage, through fsspec: a folder of files whose manifest is written last.

A folder without a manifest is no snapshot: an upload that was killed leaves one, and the next upload completes it.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError

LATEST = "latest.json"
_MANIFEST = "manifest.json"


def upload(folder: Path, uri: str) -> None:
    """Copy a snapshot's folder to `uri`, unless it is there. Raises FlywheelError when the storage cannot be written."""
    with _explained(uri, "written"):
        storage, root = _open(uri)
        if storage.exists(f"{root}/{_MANIFEST}"):
            return
        storage.makedirs(root, exist_ok=True)
        files = sorted(folder.iterdir(), key=lambda file: file.name == _MANIFEST)
        for file in files:
            storage.put_file(str(file), f"{root}/{file.name}")


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
        storage, root = _open(store)
        path = f"{root}/{LATEST}"
        return str(json.loads(storage.cat_file(path))) if storage.exists(path) else None


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
            f"{uri} cannot be {done} ({type(error).__name__}: {error}). Look at the setting snapshot_store, at the credentials "
            "and at the network; nothing is lost, run the same command again."
        ) from error
