"""The snapshots of a home and of the root: the newest, one by its id or address, those that hold some pairs."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.files import write_json
from flywheel.pairs.snapshots.snapshot import MANIFEST, SPLITS, Snapshot
from flywheel.pairs.store.sql import connect

LATEST = "latest.json"
# At the root, beside the folder of a snapshot that was deleted: no machine brings it back.
_DELETED = ".deleted"


@dataclass(frozen=True)
class Snapshots:
    """A home's snapshots in `folder`, one folder each, and the same at the root, `uri`, if there is one.

    `memory_limit` bounds what the database may keep in memory while it reads them.
    """

    folder: Path
    uri: str | None = None
    memory_limit: str = "512MB"

    def latest(self) -> Snapshot | None:
        """The snapshot taken last, or None when there is none yet. One that only the root has is fetched."""
        if self.uri is not None and (newest := _newest_at(self.uri)) is not None:
            return fetch_snapshot(f"{self.uri}/{newest}", self.folder)
        pointer = self.folder / LATEST
        if not pointer.exists():
            return None
        try:
            snapshot_id = _named(pointer.read_bytes())
        except ValueError as error:
            raise FlywheelError(f"{pointer} is damaged: {error}. Run `flywheel snapshot`, which writes it again.") from error
        folder = self.folder / snapshot_id
        return Snapshot.load(folder) if folder.exists() and not self._is_deleted(snapshot_id) else None  # a forgotten one

    def load(self, snapshot_id: str) -> Snapshot:
        """A snapshot by its id, fetched where only the root has it. Raises FlywheelError when it is deleted."""
        folder = self.folder / snapshot_id
        if self._is_deleted(snapshot_id):
            shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            return Snapshot.load(folder)
        if self.uri is not None and storage.read(f"{self.uri}/{snapshot_id}/{MANIFEST}") is not None:
            return fetch_snapshot(f"{self.uri}/{snapshot_id}", self.folder)
        raise FlywheelError(
            f"Snapshot {snapshot_id[:12]} is deleted. Run `flywheel snapshot`, then train again on the new one with "
            "`flywheel train` or `flywheel grid`."
        )

    def all(self) -> list[Snapshot]:
        """Every whole snapshot; those that only the root has are fetched, those that were deleted there are deleted here."""
        self._fetch_all()
        return [Snapshot.load(manifest.parent) for manifest in sorted(self.folder.glob(f"*/{MANIFEST}"))]

    def holding(self, pair_ids: frozenset[str]) -> dict[str, Snapshot]:
        """The snapshots that hold one of these pairs, by id; those that only the root has are fetched."""
        import pyarrow as pa

        found = {}
        self._fetch_all()
        for manifest in sorted(self.folder.glob(f"*/{MANIFEST}")):
            files = [f"{manifest.parent / name}.parquet" for name in SPLITS]
            with connect(memory_limit=self.memory_limit) as db:
                db.register("wanted", pa.table({"pair_id": sorted(pair_ids)}))
                rows = db.execute(
                    "SELECT 1 FROM read_parquet(?, union_by_name = true) JOIN wanted USING (pair_id) LIMIT 1", [files]
                )
                if rows.fetchone():
                    found[manifest.parent.name] = Snapshot.load(manifest.parent)
        return found

    def remove(self, snapshot_id: str) -> None:
        """Delete a snapshot here and at the root."""
        if self.uri is not None:
            storage.write(f"{self.uri}/{snapshot_id}{_DELETED}", b"")
            if _newest_at(self.uri) == snapshot_id:
                storage.delete_file(f"{self.uri}/{LATEST}")
            storage.delete_folder(f"{self.uri}/{snapshot_id}", MANIFEST)
        shutil.rmtree(self.folder / snapshot_id)

    def make_latest(self, snapshot: Snapshot) -> None:
        """Let `latest` answer `snapshot` from now on, here and at the root, where it is uploaded first."""
        if self.uri is not None:
            storage.delete_file(f"{self.uri}/{snapshot.snapshot_id}{_DELETED}")
            self.share(snapshot)
            storage.write(f"{self.uri}/{LATEST}", json.dumps(snapshot.snapshot_id).encode())
        write_json(self.folder / LATEST, snapshot.snapshot_id)

    def share(self, snapshot: Snapshot) -> None:
        """Upload a snapshot, unless the root has it. Raises FlywheelError when it was deleted there."""
        if self.uri is not None:
            if self._is_deleted(snapshot.snapshot_id):
                self.load(snapshot.snapshot_id)
            storage.upload(snapshot.folder, f"{self.uri}/{snapshot.snapshot_id}", MANIFEST)

    def _is_deleted(self, snapshot_id: str) -> bool:
        return self.uri is not None and storage.read(f"{self.uri}/{snapshot_id}{_DELETED}") is not None

    def _fetch_all(self) -> None:
        if self.uri is None:
            return
        there = storage.files(self.uri)
        deleted = {name.removesuffix(_DELETED) for name in there if name.endswith(_DELETED)}
        whole = {name.removesuffix(f"/{MANIFEST}") for name in there if name.endswith(f"/{MANIFEST}")}
        for snapshot_id in sorted(deleted):
            shutil.rmtree(self.folder / snapshot_id, ignore_errors=True)
        for snapshot_id in sorted(whole - deleted):
            fetch_snapshot(f"{self.uri}/{snapshot_id}", self.folder)


def fetch_snapshot(place: str, into: Path) -> Snapshot:
    """A snapshot by its URI (fsspec) or folder; one at a URI is copied into the folder `into` first, once."""
    if not storage.is_uri(place):
        return Snapshot.load(Path(place))
    target = into / place.rstrip("/").rpartition("/")[2]
    storage.fetch(place.rstrip("/"), target, MANIFEST, Snapshot.load)
    return Snapshot.load(target)


def _newest_at(uri: str) -> str | None:
    content = storage.read(f"{uri}/{LATEST}")
    try:
        return None if content is None else _named(content)
    except ValueError as error:
        raise FlywheelError(
            f"{uri}/{LATEST} is damaged: {error}. Delete it, then run `flywheel snapshot`, which writes it again."
        ) from error


def _named(pointer: bytes) -> str:
    """The snapshot's id that a pointer holds. Raises ValueError when it holds none."""
    name = json.loads(pointer)
    if not isinstance(name, str) or not name:
        raise ValueError(f"it holds {name!r} instead of a snapshot's id")
    return name
