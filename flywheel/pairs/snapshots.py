"""Snapshots: immutable, content-addressed exports of all splits. Training and evaluation read these, never the store."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError
from flywheel.files import publish, scratch_folder, write_json
from flywheel.pairs.derive import refresh_pairs
from flywheel.pairs.splits import FROZEN
from flywheel.pairs.store import Store
from flywheel.pairs.text import digest
from flywheel.settings import Settings

ALL = "all"
_LATEST = "latest.json"
_TRAIN_COLUMNS = "pair_id, question_a, question_b, text_a, text_b, label, weight, kind, source"
_FROZEN_COLUMNS = _TRAIN_COLUMNS + ", component"


@dataclass(frozen=True)
class SplitSummary:
    """What one split of a snapshot holds: pairs by source, the share of duplicates, and components (frozen splits)."""

    pairs: int
    seed: int
    interaction: int
    prior: float | None
    components: int | None


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's folder and identity. `test_id` names its calibration and test pairs together."""

    folder: Path
    snapshot_id: str
    test_id: str
    train: SplitSummary
    calibration: SplitSummary
    test: SplitSummary

    @classmethod
    def load(cls, folder: Path) -> "Snapshot":
        """Read a snapshot's manifest. Raises FlywheelError when the folder holds none."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            splits = {name: SplitSummary(**manifest[name]) for name in ("train", *FROZEN)}
            return cls(folder, manifest["snapshot_id"], manifest["test_id"], **splits)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlywheelError(f"{folder} holds no whole snapshot; run `flywheel snapshot`, which makes it anew.") from error

    def pairs(self, split: str) -> pd.DataFrame:
        """The pairs of `train`, `calibration` or `test`, ordered by pair id. Raises FlywheelError for a damaged file."""
        file = self.folder / f"{split}.parquet"
        try:
            return pd.read_parquet(file)
        except (OSError, pa.ArrowException) as error:
            raise FlywheelError(f"{file} is damaged ({error}). Remove {self.folder} and run `flywheel snapshot`.") from error

    def shared_questions(self) -> int:
        """How many questions stand in more than one split: 0, or the snapshot leaks."""
        train, calibration, test = (
            set(frame["question_a"]) | set(frame["question_b"]) for frame in (self.pairs(name) for name in ("train", *FROZEN))
        )
        return len((train & calibration) | (train & test) | (calibration & test))

    def training_pairs(self, size: str, random_seed: int, interaction_share: float) -> pd.DataFrame:
        """The first `size` training pairs; a smaller size is always a prefix of a larger one.

        Order is hash order within each source, redrawn by `random_seed`; in a numbered size every prefix holds
        `interaction_share` of interaction pairs, `all` holds everything. Raises FlywheelError when `train` holds too few.
        """
        pairs = self.pairs("train")
        pairs = pairs.assign(order=[digest(f"{random_seed}|{pair}") for pair in pairs["pair_id"]]).sort_values("order")
        pairs = pairs.drop(columns="order").reset_index(drop=True)
        if size == ALL:
            if pairs.empty:
                raise FlywheelError("`train` holds no pairs; ingest some and run `flywheel snapshot`.")
            return pairs
        return pairs.iloc[_interleaved(pairs["source"], int(size), interaction_share)].reset_index(drop=True)

    def largest_size(self, interaction_share: float) -> int:
        """How many pairs a numbered size can have at most."""
        if interaction_share == 0:
            return self.train.seed
        by_interaction = int(self.train.interaction / interaction_share)
        return max(0, min(by_interaction, int(self.train.seed / (1 - interaction_share))))


def _interleaved(source: "pd.Series[str]", size: int, interaction_share: float) -> np.ndarray:
    """Row numbers of the first `size` pairs, seed and interaction in the set proportion."""
    wanted = {"interaction": int(size * interaction_share + 1e-9)}
    wanted["seed"] = size - wanted["interaction"]
    held = {name: np.flatnonzero((source == name).to_numpy()) for name in wanted}
    for name, pairs in wanted.items():
        if len(held[name]) < pairs:
            raise FlywheelError(
                f"Size {size} needs {pairs} {name} pairs, but `train` holds {len(held[name])}. Choose a smaller size, or `all`."
            )
    due = np.floor(np.arange(size + 1) * interaction_share + 1e-9).astype(int)
    take_interaction = np.diff(due) > 0
    rows = np.empty(size, dtype=int)
    rows[take_interaction] = held["interaction"][: wanted["interaction"]]
    rows[~take_interaction] = held["seed"][: wanted["seed"]]
    return rows


def take_snapshot(store: Store, settings: Settings) -> Snapshot:
    """Derive the pairs, draw what is due, freeze it, and export all splits; equal content gives the same snapshot.

    The draw is stored in the same transaction that reads the rows, so a kill leaves either no draw or one that the next
    call exports.
    """
    with scratch_folder(settings.snapshots) as folder:
        with store.transaction() as db:
            splits = refresh_pairs(db, settings)
            _freeze(db, splits)
            _export(db, folder, settings)
        hashes = {name: _content_hash(folder / f"{name}.parquet") for name in ("train", *FROZEN)}
        test_id = digest("|".join(hashes[name] for name in FROZEN))
        snapshot_id = digest(f"{hashes['train']}|{test_id}")
        summaries = {name: asdict(_summary(folder / f"{name}.parquet")) for name in hashes}
        write_json(folder / "manifest.json", {"snapshot_id": snapshot_id, "test_id": test_id, **summaries})
        if shared := Snapshot.load(folder).shared_questions():
            raise FlywheelError(f"{shared} questions stand in two splits, so no snapshot was made; the store is damaged.")
        target = settings.snapshots / snapshot_id
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        publish(folder, target)
    with store.transaction() as db:
        train_pairs = int((splits["split"] == "train").sum())
        db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?)", [snapshot_id, train_pairs])
    write_json(settings.snapshots / _LATEST, snapshot_id)
    return Snapshot.load(target)


def _is_whole(folder: Path) -> bool:
    try:
        return Snapshot.load(folder).shared_questions() == 0
    except FlywheelError:
        return False


def _freeze(db: duckdb.DuckDBPyConnection, splits: pd.DataFrame) -> None:
    db.register("splits_frame", splits.astype("object"))
    db.execute(
        f"""INSERT INTO frozen_pairs SELECT {_TRAIN_COLUMNS}, split, component
            FROM pairs JOIN (SELECT pair_id, component FROM splits_frame) USING (pair_id)
            WHERE split IN ('calibration', 'test') ON CONFLICT DO NOTHING"""
    )
    db.unregister("splits_frame")
    db.execute(
        """INSERT INTO assignments
           SELECT question_id, any_value(split) FROM (
               SELECT question_a AS question_id, split FROM pairs UNION ALL SELECT question_b, split FROM pairs)
           WHERE split IN ('train', 'calibration', 'test') GROUP BY question_id ON CONFLICT DO NOTHING"""
    )


def _export(db: duckdb.DuckDBPyConnection, folder: Path, settings: Settings) -> None:
    window = settings.interaction_window_days
    recent = "" if window is None else (
        f"""AND (source = 'seed' OR last_observed IS NULL OR last_observed >=
            (SELECT max(last_observed) FROM pairs) - INTERVAL {window} DAY)"""
    )  # fmt: skip
    queries = {
        "train": f"SELECT {_TRAIN_COLUMNS} FROM pairs WHERE split = 'train' {recent}",
        **{name: f"SELECT {_FROZEN_COLUMNS} FROM frozen_pairs WHERE split = '{name}'" for name in FROZEN},
    }
    for name, query in queries.items():
        db.execute(f"COPY ({query} ORDER BY pair_id) TO '{folder / name}.parquet' (COMPRESSION zstd)")


def _content_hash(file: Path) -> str:
    content = hashlib.blake2b(digest_size=16)
    for batch in pq.ParquetFile(file).iter_batches():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            content.update(name.encode() + "\x1f".join(map(str, column.to_pylist())).encode())
    return content.hexdigest()


def _summary(file: Path) -> SplitSummary:
    pairs = pd.read_parquet(file)
    by_source = pairs["source"].value_counts()
    return SplitSummary(
        pairs=len(pairs),
        seed=int(by_source.get("seed", 0)),
        interaction=int(by_source.get("interaction", 0)),
        prior=float(pairs["label"].mean()) if len(pairs) else None,
        components=int(pairs["component"].nunique()) if "component" in pairs else None,
    )


def latest_snapshot(settings: Settings) -> Snapshot | None:
    """The snapshot taken last, or None when there is none yet."""
    pointer = settings.snapshots / _LATEST
    if not pointer.exists():
        return None
    try:
        return Snapshot.load(settings.snapshots / json.loads(pointer.read_text()))
    except (ValueError, TypeError) as error:
        raise FlywheelError(f"{pointer} is damaged; run `flywheel snapshot`, which writes it anew.") from error


def questions_of(*frames: pd.DataFrame) -> list[str]:
    """The distinct texts of some pairs, sorted."""
    columns: Iterable[Any] = (frame[column] for frame in frames for column in ("text_a", "text_b"))
    return sorted(set().union(*columns))
