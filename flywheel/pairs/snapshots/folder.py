"""The snapshots of a home and of shared storage: the newest, one by its address, those that hold some pairs."""

import json
import shutil
from pathlib import Path

import pyarrow as pa

from flywheel.errors import FlywheelError
from flywheel.files import publish, scratch_folder
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.sql import connect
from flywheel.settings import Settings
from flywheel.storage import LATEST, download, latest_id, remove


def latest_snapshot(settings: Settings) -> Snapshot | None:
    """The snapshot taken last, or None when there is none yet. One that only `snapshot_store` has is fetched."""
    if settings.snapshot_store is not None and (newest := latest_id(settings.snapshot_store)) is not None:
        return fetch_snapshot(f"{settings.snapshot_store}/{newest}", settings.snapshots)
    pointer = settings.snapshots / LATEST
    if not pointer.exists():
        return None
    try:
        folder = settings.snapshots / json.loads(pointer.read_text())
        return Snapshot.load(folder) if folder.exists() else None  # a forgotten one
    except (ValueError, TypeError) as error:
        raise FlywheelError(f"{pointer} is damaged; run `flywheel snapshot`, which writes it anew.") from error


def fetch_snapshot(uri: str, into: Path) -> Snapshot:
    """A snapshot by its URI (fsspec) or folder; one that lies elsewhere is copied into the folder `into` first, once."""
    if "://" not in uri:
        return Snapshot.load(Path(uri))
    target = into / uri.rstrip("/").rpartition("/")[2]
    if not target.exists():
        with scratch_folder(into) as folder:
            download(uri, folder)
            Snapshot.load(folder)
            publish(folder, target)
    return Snapshot.load(target)


def snapshots_with(settings: Settings, pair_ids: frozenset[str]) -> dict[str, Snapshot]:
    """The home's snapshots that hold one of these pairs, by id."""
    found = {}
    for manifest in sorted(settings.snapshots.glob("*/manifest.json")):
        files = [f"{manifest.parent / name}.parquet" for name in ("train", *FROZEN)]
        with connect(memory_limit=settings.memory_limit) as db:
            db.register("wanted", pa.table({"pair_id": sorted(pair_ids)}))
            held = db.execute(
                "SELECT 1 FROM read_parquet(?, union_by_name = true) JOIN wanted USING (pair_id) LIMIT 1", [files]
            )
            if held.fetchone():
                found[manifest.parent.name] = Snapshot.load(manifest.parent)
    return found


def remove_snapshot(settings: Settings, snapshot_id: str) -> None:
    """Delete a snapshot here and on `snapshot_store`."""
    if settings.snapshot_store is not None:
        remove(settings.snapshot_store, snapshot_id)
    shutil.rmtree(settings.snapshots / snapshot_id)
