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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError
from flywheel.files import publish, scratch_folder, write_json
from flywheel.pairs.components import FROZEN
from flywheel.pairs.remote import LATEST, download, latest_id, remove, upload, write_latest
from flywheel.pairs.retrains import count_trainable
from flywheel.pairs.seeds import QUORA
from flywheel.pairs.splits import SplitRules, check_fresh, draw, release
from flywheel.pairs.store import Store, connect
from flywheel.pairs.text import SPELLINGS, digest, quoted
from flywheel.settings import Settings

ALL = "all"


@dataclass(frozen=True)
class SplitSummary:
    """What one split of a snapshot holds: pairs and the share of duplicates (prior), by source; components of frozen splits."""

    pairs: int
    seed: int
    interaction: int
    prior: float | None
    prior_seed: float | None
    prior_interaction: float | None
    components: int | None


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's folder and identity. `test_id` names its calibration and test pairs together; `seeds` says where its seed
    pairs came from (`starter`, `quora`).
    """

    folder: Path
    snapshot_id: str
    test_id: str
    train: SplitSummary
    calibration: SplitSummary
    test: SplitSummary
    seeds: tuple[str, ...]

    @property
    def on_quora(self) -> bool:
        """Whether Quora's pairs are among these, which some base models had seen."""
        return QUORA in self.seeds

    @classmethod
    def load(cls, folder: Path) -> "Snapshot":
        """Read a snapshot's manifest. Raises FlywheelError when the folder holds none."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text())
            splits = {name: SplitSummary(**manifest[name]) for name in ("train", *FROZEN)}
            return cls(folder, manifest["snapshot_id"], manifest["test_id"], **splits, seeds=tuple(manifest["seeds"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlywheelError(f"{folder} holds no whole snapshot; run `flywheel snapshot`, which makes it anew.") from error

    def pairs(self, split: str) -> pd.DataFrame:
        """The pairs of `train`, `calibration` or `test`, ordered by pair id. Raises FlywheelError for a damaged file."""
        file = self.folder / f"{split}.parquet"
        try:
            return pd.read_parquet(file)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(file, error) from error

    def shared_questions(self) -> int:
        """How many questions stand in more than one split: 0, or the snapshot leaks."""
        files = [(str(self.folder / f"{name}.parquet"), name) for name in ("train", *FROZEN)]
        try:
            with connect() as db:
                ends = " UNION ALL ".join(
                    f"SELECT {end} AS question, '{name}' AS split FROM read_parquet('{quoted(file)}')"
                    for file, name in files
                    for end in ("question_a", "question_b")
                )
                ((shared,),) = db.execute(
                    f"SELECT count(*) FROM (SELECT question FROM ({ends}) GROUP BY question HAVING min(split) < max(split))"
                ).fetchall()
        except duckdb.Error as error:
            raise _damaged(self.folder, error) from error
        return int(shared)

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


def _damaged(where: Path, error: Exception) -> FlywheelError:
    return FlywheelError(f"{where} is damaged ({error}). Remove the snapshot's folder and run `flywheel snapshot`.")


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


def take_snapshot(store: Store, settings: Settings, new_test: bool = False) -> Snapshot:
    """Draw what is due, freeze it, and export all splits; equal content gives the same snapshot.

    The draw is stored in the same transaction that reads the rows, so a kill leaves either no draw or one that the next
    call exports. `new_test` draws a new version of the frozen splits from everything that does not train, its test from pairs
    that no earlier version held. Raises FlywheelError, with nothing changed, when there are too few of those.
    """
    with scratch_folder(settings.snapshots) as folder:
        with store.transaction() as db:
            if new_test:
                release(db)
            rules = SplitRules.of(settings)
            draw(db, rules)
            if new_test:
                check_fresh(db, rules)
            _freeze(db)
            _export(db, folder, settings)
            seeds = db.execute(
                "SELECT DISTINCT split_part(file, ' ', 1) FROM batches WHERE source = 'seed' ORDER BY 1"
            ).fetchall()
            trainable = count_trainable(db)
        hashes = {name: _content_hash(folder / f"{name}.parquet") for name in ("train", *FROZEN)}
        test_id = digest("|".join(hashes[name] for name in FROZEN))
        snapshot_id = digest(f"{hashes['train']}|{test_id}")
        with connect(memory_limit=settings.memory_limit, temp_directory=folder.parent / f"{folder.name}.spill") as db:
            summaries = {name: asdict(_summary(db, folder / f"{name}.parquet")) for name in hashes}
        write_json(
            folder / "manifest.json",
            {"snapshot_id": snapshot_id, "test_id": test_id, "seeds": [row[0] for row in seeds], **summaries},
        )
        if shared := Snapshot.load(folder).shared_questions():
            raise FlywheelError(f"{shared} questions stand in two splits, so no snapshot was made; the store is damaged.")
        target = settings.snapshots / snapshot_id
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        publish(folder, target)
    with store.transaction() as db:
        db.execute("DELETE FROM snapshots WHERE snapshot_id = ?", [snapshot_id])
        db.execute("INSERT INTO snapshots VALUES (?, ?)", [snapshot_id, trainable])
    if settings.snapshot_store is not None:
        upload(target, f"{settings.snapshot_store}/{snapshot_id}")
        write_latest(settings.snapshot_store, snapshot_id)
    write_json(settings.snapshots / LATEST, snapshot_id)
    return Snapshot.load(target)


def _is_whole(folder: Path) -> bool:
    try:
        return Snapshot.load(folder).shared_questions() == 0
    except FlywheelError:
        return False


def _freeze(db: duckdb.DuckDBPyConnection) -> None:
    """Keep the drawn pairs as they are now. The text of a question is the least of the spellings seen."""
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE texts AS
           SELECT question, min(text) AS text FROM {SPELLINGS} GROUP BY question"""
    )
    db.execute(
        """INSERT INTO frozen_pairs BY NAME
           SELECT p.pair_id, question_a, question_b, a.text AS text_a, b.text AS text_b, label, weight, kind,
               if(seed, 'seed', 'interaction') AS source, split, component
           FROM frozen_now p JOIN texts a ON a.question = question_a JOIN texts b ON b.question = question_b"""
    )


def _export(db: duckdb.DuckDBPyConnection, folder: Path, settings: Settings) -> None:
    """Write the three files, ordered by pair id. One join or sort at a time, so that each finds memory to work in."""
    window = settings.interaction_window_days
    recent = "" if window is None else (
        f"""AND (seed OR last_observed IS NULL OR last_observed >=
            (SELECT max(last_observed) FROM pairs) - INTERVAL {window} DAY)"""
    )  # fmt: skip
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE half_spelled AS
            SELECT pairs.*, text AS text_a FROM pairs JOIN texts ON question = question_a WHERE split = 'train' {recent}"""
    )
    db.execute(
        """CREATE OR REPLACE TEMP TABLE spelled AS
           SELECT pair_id, question_a, question_b, text_a, text AS text_b, label, weight, kind,
               if(seed, 'seed', 'interaction') AS source
           FROM half_spelled JOIN texts ON question = question_b"""
    )
    db.execute("DROP TABLE half_spelled")
    ids = "hex_of(pair_id) AS pair_id, hex_of(question_a) AS question_a, hex_of(question_b) AS question_b"
    rest = "text_a, text_b, label, weight, kind, source"
    queries = {
        "train": f"SELECT {ids}, {rest} FROM (FROM spelled ORDER BY pair_id)",
        **{
            name: f"""SELECT {ids}, {rest}, hex_of(component) AS component
                      FROM (FROM frozen_pairs WHERE split = '{name}' ORDER BY pair_id)"""
            for name in FROZEN
        },
    }
    db.execute("SET preserve_insertion_order = true")
    for name, query in queries.items():
        db.execute(f"COPY ({query}) TO '{quoted(folder / name)}.parquet' (COMPRESSION zstd)")


def _content_hash(file: Path) -> str:
    """A hash of a table's content, whatever its row groups: each column's values and lengths in turn, as a stream."""
    hashes: dict[str, Any] = {}
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                values, lengths = hashes.setdefault(name, (hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)))
                if pa.types.is_string(column.type):
                    lengths.update(pc.binary_length(column).to_numpy(zero_copy_only=False).astype("<i4").tobytes())
                    offsets = np.frombuffer(column.buffers()[1], dtype=np.int32)[
                        column.offset : column.offset + len(column) + 1
                    ]
                    if len(column) and column.buffers()[2] is not None:
                        values.update(memoryview(column.buffers()[2])[offsets[0] : offsets[-1]])
                else:
                    values.update(np.ascontiguousarray(column.to_numpy(zero_copy_only=False)).tobytes())
    parts = [f"{name}:{values.hexdigest()}:{lengths.hexdigest()}" for name, (values, lengths) in hashes.items()]
    return digest("|".join(parts))


def _summary(db: duckdb.DuckDBPyConnection, file: Path) -> SplitSummary:
    columns = [row[0] for row in db.execute("DESCRIBE FROM read_parquet(?)", [str(file)]).fetchall()]
    components = "count(DISTINCT component)" if "component" in columns else "NULL"
    row = db.execute(
        f"""SELECT count(*), count(*) FILTER (source = 'seed'), count(*) FILTER (source = 'interaction'), avg(label),
            avg(label) FILTER (source = 'seed'), avg(label) FILTER (source = 'interaction'), {components}
            FROM read_parquet(?)""",
        [str(file)],
    ).fetchone()
    assert row is not None
    return SplitSummary(*row)


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


def questions_of(*frames: pd.DataFrame) -> list[str]:
    """The distinct texts of some pairs, sorted."""
    columns: Iterable[Any] = (frame[column] for frame in frames for column in ("text_a", "text_b"))
    return sorted(set().union(*columns))
