"""Evaluation records that several machines have: one file each at the root, so that a record and its scores stay together."""

import io
import json
import os
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.evaluation.records import RECORD, evaluation_folder
from flywheel.evaluation.scores import SCORES
from flywheel.files import replace_folder, scratch_folder, write_bytes

_SUFFIX = ".zip"
# Which version of which root's file a folder holds. A record that is made again has none, and is uploaded.
_VERSION = ".root"


@dataclass(frozen=True)
class SharedRecords:
    """The records in `folder`, one folder a test set, and the same at `uri` if there is one."""

    folder: Path
    uri: str | None = None

    def pull(self, *test_ids: str) -> Path:
        """Fetch what the root has newer of some test sets; returns the folder. What was made here and not uploaded stays."""
        for test_id in dict.fromkeys(test_ids) if self.uri is not None else ():
            for name, version in storage.files(f"{self.uri}/{test_id}").items():
                if name.endswith(_SUFFIX):
                    self._fetch(test_id, name.removesuffix(_SUFFIX), version)
        return self.folder

    def push(self, test_id: str, record_id: str) -> None:
        """Upload a record that the root does not have as it is here."""
        folder = evaluation_folder(self.folder, test_id, record_id)
        if self.uri is None or self._version(folder) is not None:
            return
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.comment = str((folder / RECORD).stat().st_mtime_ns).encode()  # records are listed oldest first
            for name in (RECORD, SCORES):
                archive.write(folder / name, name)
        version = storage.write(self._place(test_id, record_id), packed.getvalue())
        write_bytes(folder / _VERSION, self._note(version))

    def push_all(self) -> None:
        """Upload every record that was made here and not uploaded."""
        for file in sorted(self.folder.glob(f"*/[!.]*/{RECORD}")):
            self.push(file.parent.parent.name, file.parent.name)

    def remove(self, test_id: str, record_id: str) -> None:
        """Delete a record at the root."""
        if self.uri is not None:
            storage.delete_file(self._place(test_id, record_id))

    def _fetch(self, test_id: str, record_id: str, version: str) -> None:
        target = evaluation_folder(self.folder, test_id, record_id)
        known = self._version(target)
        if known == version or (known is None and (target / RECORD).exists()):
            return
        place = self._place(test_id, record_id)
        if (content := storage.read(place)) is None:  # deleted meanwhile
            return
        with scratch_folder(target.parent) as folder:
            try:
                with zipfile.ZipFile(io.BytesIO(content)) as archive:
                    for name in (RECORD, SCORES):
                        (folder / name).write_bytes(archive.read(name))
                    made = int(archive.comment)
            except (zipfile.BadZipFile, KeyError, ValueError) as error:
                raise FlywheelError(
                    f"{place} is damaged ({error}). Delete it; `flywheel grid` evaluates again, and `flywheel train` a cell "
                    "outside the grid."
                ) from error
            os.utime(folder / RECORD, ns=(made, made))
            (folder / _VERSION).write_bytes(self._note(version))
            replace_folder(folder, target)

    def _version(self, folder: Path) -> str | None:
        with suppress(OSError, ValueError):
            uri, version = json.loads((folder / _VERSION).read_bytes())
            if uri == self.uri:
                return str(version)
        return None

    def _note(self, version: str) -> bytes:
        return json.dumps([self.uri, version]).encode()

    def _place(self, test_id: str, record_id: str) -> str:
        return f"{self.uri}/{test_id}/{record_id}{_SUFFIX}"
