"""Files at a path or a URI, through fsspec: read or write one, list them, copy a folder there or back.

A folder counts as whole only when the one file that is written last is there, so an upload that was killed leaves
nothing that is taken for a snapshot or a model; the next upload completes it. What was uploaded is checked when it is
fetched: of two machines that upload one folder at once, nobody takes a mixture.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError, TryAgainError, one_line
from flywheel.files import publish, scratch_folder

CHECKSUMS = "checksums.json"
_ASIDE = ".aside"
_LARGE = 2**20
# These have no folders, and making one would make the bucket of a mistyped address.
_BUCKETS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
# What tells two contents of one file apart, by the names that the storage libraries have for it.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")
# Errors that the same again meets again; all others may pass.
_LASTING = (PermissionError, FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, TypeError, ImportError)
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
# By default a server that does not answer is waited for ten minutes; so, a minute and a half. The library tries five times.
_PATIENCE = {"connect_timeout": 5, "read_timeout": 15, "retries": {"max_attempts": 0}}


def is_uri(place: str) -> bool:
    """Whether a place is a URI (s3://bucket/path) and not a local path."""
    return "://" in place


def read(place: str) -> bytes | None:
    """The content of the file at a URI or path, or None when there is none. Raises FlywheelError when it cannot be read."""
    with _explained(place, "read"):
        storage, path = _open(place)
        try:
            return bytes(storage.cat_file(path))
        except FileNotFoundError:
            return None


def write(place: str, content: bytes) -> str:
    """Write a file; returns its version, as `files` gives it. Raises FlywheelError when the storage cannot be written."""
    with _explained(place, "written"):
        storage, path = _open(place)
        _put(storage, path, lambda target: storage.pipe_file(target, content))
        return _version(storage.info(path))


def create(place: str, content: bytes) -> bool:
    """Write a file that is not there yet; False where another one is: of several that create it at once, one has done so.

    On S3 and on file systems the storage itself sees to that. Raises FlywheelError when it cannot be written.
    """
    with _explained(place, "written"):
        storage, path = _open(place)
        try:
            if _is_local(storage):
                _put(storage, path, lambda target: storage.pipe_file(target, content), move=_link)
            else:
                _make_folder(storage, path)
                storage.pipe_file(path, content, mode="create")
        except FileExistsError:
            # Ours all the same where only the answer to the first attempt was lost.
            return bytes(storage.cat_file(path)) == content
        return True


def files(place: str) -> dict[str, str]:
    """The files below a folder, by their path in it, each with its version: another one when its content has changed."""
    with _explained(place, "read"):
        storage, root = _open(place)
        found = storage.find(root, detail=True).items()
        return {name.removeprefix(f"{root}/"): _version(info) for name, info in found if not name.endswith(_ASIDE)}


def put(file: Path, place: str) -> None:
    """Copy a file of this machine to `place`. Raises FlywheelError when the storage cannot be written."""
    with _explained(place, "written"):
        storage, path = _open(place)
        _put(storage, path, lambda target: storage.put_file(str(file), target))


def upload(folder: Path, uri: str, last: str, alike: str | None = None) -> None:
    """Copy a folder to `uri`, its file `last` last, unless that is there already.

    Where several folders hold the same large files, as models hold the weights of one base model, `alike` is where to note
    which folder has a file: the storage copies it then, instead of this machine sending it. Raises FlywheelError when the
    storage cannot be written.
    """
    with _explained(uri, "written"):
        storage, root = _open(uri)
        if storage.exists(f"{root}/{last}"):
            return
        names = [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file()]
        sums = {name: _checksum(folder / name) for name in names}
        listed = json.dumps(sums).encode()
        _put(storage, f"{root}/{CHECKSUMS}", lambda target: storage.pipe_file(target, listed))
        for name in sorted(names, key=lambda name: name == last):
            place, size = f"{uri}/{name}", (folder / name).stat().st_size
            note = f"{alike}/{sums[name]}" if alike is not None and size >= _LARGE else None
            if note is not None and _copy(note, place):
                continue
            _put(storage, f"{root}/{name}", partial(storage.put_file, str(folder / name)))
            if note is not None:
                write(note, json.dumps([place, _version(storage.info(f"{root}/{name}"))]).encode())


def download(uri: str, folder: Path, last: str) -> None:
    """Copy the folder at `uri` into an empty folder.

    Raises FlywheelError when its file `last` is not there, it cannot be read, or files are others than were uploaded together.
    """
    with _explained(uri, "read"):
        storage, root = _open(uri)
        if not storage.exists(f"{root}/{last}"):
            raise FlywheelError(
                f"{uri} is not complete: it has no {last}. Upload it again: a snapshot by `flywheel snapshot` on a machine "
                "that has the pairs."
            )
        names = [path.removeprefix(f"{root}/") for path in storage.find(root) if not path.endswith(_ASIDE)]
        sums = json.loads(storage.cat_file(f"{root}/{CHECKSUMS}")) if CHECKSUMS in names else None
        for name in names if sums is None else sums:  # a folder that was copied there by hand has none
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            storage.get_file(f"{root}/{name}", str(target))
            if sums is not None and _checksum(target) != sums[name]:
                raise FlywheelError(
                    f"{uri} is damaged: {name} is not the file that was uploaded with the others. Delete that folder there, "
                    "then run the command that made it again, which uploads it."
                )


def fetch(uri: str, target: Path, last: str, check: Callable[[Path], object]) -> None:
    """Copy the folder at `uri` to `target`, whole or not at all, unless it is there.

    Raises FlywheelError as `download` does, and as `check` does of the folder that it is handed.
    """
    if not target.exists():
        with scratch_folder(target.parent) as folder:
            download(uri, folder, last)
            check(folder)
            publish(folder, target)


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


def _copy(note: str, place: str) -> bool:
    """Let the storage copy the file that a note names to `place`; False where it is not there as it was noted."""
    if (content := read(note)) is None:
        return False
    source, version = json.loads(content)
    storage, path = _open(source)
    try:
        if _version(storage.info(path)) != version:
            return False
        _put(storage, _open(place)[1], lambda target: storage.cp_file(path, target))
    except FileNotFoundError:
        return False
    return True


def _open(place: str) -> tuple[Any, str]:
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    is_s3 = place.startswith(("s3://", "s3a://")) and "config_kwargs" not in conf.get("s3", {})
    storage, root = url_to_fs(place, **({"config_kwargs": _PATIENCE} if is_s3 else {}))
    storage.invalidate_cache()  # other machines write there too
    return storage, root.rstrip("/")


def _is_local(storage: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(storage, LocalFileSystem)


def _put(storage: Any, path: str, write_to: Callable[[str], object], move: Callable[[str, str], None] = os.replace) -> None:
    """Write a file that is whole or not there: object storage sees to that itself, a file system by writing aside."""
    _make_folder(storage, path)
    if not _is_local(storage):
        write_to(path)
        return
    aside = f"{path}.{uuid.uuid4().hex}{_ASIDE}"
    try:
        write_to(aside)
        move(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _make_folder(storage: Any, path: str) -> None:
    if _BUCKETS.isdisjoint([storage.protocol] if isinstance(storage.protocol, str) else storage.protocol):
        storage.makedirs(path.rpartition("/")[0], exist_ok=True)


def _link(source: str, target: str) -> None:
    os.link(source, target)


def _version(info: dict[str, Any]) -> str:
    mark = next((info[name] for name in _VERSIONS if info.get(name) is not None), None)
    return f"{info.get('size')}-{mark.timestamp() if isinstance(mark, datetime) else mark}"


def _checksum(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextmanager
def _explained(place: str, done: str) -> Iterator[None]:
    try:
        yield
    except FlywheelError:
        raise
    except Exception as error:  # every storage library raises kinds of its own
        lasting = isinstance(error, _LASTING) or type(error).__name__ in _CREDENTIALS
        kind = FlywheelError if lasting else TryAgainError
        raise kind(
            f"{place} cannot be {done} ({type(error).__name__}: {one_line(error, 500)}). Check the address (the setting "
            "storage.root), the credentials and the network; nothing is lost, run the same command again."
        ) from error
