"""Take a snapshot: draw what is due, freeze it, export all splits."""

import hashlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError
from flywheel.files import digest, publish, scratch_folder, write_json
from flywheel.pairs.snapshots.enough import SplitRules
from flywheel.pairs.snapshots.folder import Snapshots
from flywheel.pairs.snapshots.snapshot import MANIFEST, SPLITS, Snapshot, SplitSummary
from flywheel.pairs.snapshots.splits import check_fresh, draw, release
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.new_pairs import count_trainable
from flywheel.pairs.store.sql import SPELLINGS, connect, quoted


def take_snapshot(store: Store, snapshots: Snapshots, rules: SplitRules, new_test: bool = False) -> Snapshot:
    """Draw what is due, freeze it, and export all splits; equal content gives the same snapshot.

    The draw is stored in the same transaction that reads the rows, so a kill leaves either no draw or one that the next
    call exports. `new_test` draws a new version of the frozen splits from everything that does not train, its test from pairs
    that no earlier version held. Raises FlywheelError, with nothing changed, when there are too few of those.
    """
    with scratch_folder(snapshots.folder) as folder:
        with store.transaction() as db:
            if new_test:
                release(db)
            missing = draw(db, rules)
            if new_test:
                check_fresh(db, missing)
            _freeze(db)
            _export(db, folder, rules.window_days)
            seeds = db.execute(
                "SELECT DISTINCT split_part(file, ' ', 1) FROM batches WHERE source = 'seed' ORDER BY 1"
            ).fetchall()
            trainable = count_trainable(db)
        hashes = {name: _content_hash(folder / f"{name}.parquet") for name in SPLITS}
        test_id = digest("|".join(hashes[name] for name in FROZEN))
        snapshot_id = digest(f"{hashes['train']}|{test_id}")
        with connect(memory_limit=snapshots.memory_limit, temp_directory=folder.parent / f"{folder.name}.spill") as db:
            summaries = {name: asdict(_summary(db, folder / f"{name}.parquet")) for name in hashes}
        manifest = {
            "snapshot_id": snapshot_id,
            "test_id": test_id,
            "seeds": [row[0] for row in seeds],
            "missing": {source: asdict(lack) for source, lack in missing.items()},
            **summaries,
        }
        write_json(folder / MANIFEST, manifest)
        if shared := Snapshot.load(folder).shared_questions():
            raise FlywheelError(
                f"{shared} questions are in two splits, so no snapshot was made: the store is damaged. Move it away and "
                "ingest again."
            )
        target = snapshots.folder / snapshot_id
        if target.exists() and not _is_whole(target):
            shutil.rmtree(target)
        publish(folder, target)
        if (folder / MANIFEST).exists():  # it was there already: what is missing may have changed where the pairs have not
            (folder / MANIFEST).replace(target / MANIFEST)
    with store.transaction() as db:
        db.execute("DELETE FROM snapshots WHERE snapshot_id = ?", [snapshot_id])
        db.execute("INSERT INTO snapshots VALUES (?, ?)", [snapshot_id, trainable])
    taken = Snapshot.load(target)
    snapshots.make_latest(taken)
    return taken


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


def _export(db: duckdb.DuckDBPyConnection, folder: Path, window_days: int | None) -> None:
    """Write the three files, ordered by pair id. One join or sort at a time, so that each finds memory to work in."""
    recent = "" if window_days is None else (
        f"""AND (seed OR last_observed IS NULL OR last_observed >=
            (SELECT max(last_observed) FROM pairs) - INTERVAL {window_days} DAY)"""
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
