"""The Parquet files of a snapshot: written from the store, hashed by their content, summed up."""

import hashlib
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flywheel.files import digest
from flywheel.pairs.snapshots.snapshot import Judging, SplitSummary
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.sql import quoted
from flywheel.scoring.power import detectable_in

_JUDGES = "kind = 'explicit' AND fold >= 0"  # which pairs of a cross-fitted snapshot judge
_OF_JUDGING = ("pair_id", "label", "component", "fold")


def spell(db: duckdb.DuckDBPyConnection, window_days: int | None) -> None:
    """`exported`: what trains, and where nothing is drawn what waits; with texts and components. `texts` is there already.

    One join or sort at a time, so that each finds memory to work in.
    """
    recent = "" if window_days is None else (
        f"""AND (seed OR last_observed IS NULL OR last_observed >=
            (SELECT max(last_observed) FROM pairs) - INTERVAL {window_days} DAY)"""
    )  # fmt: skip
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE half_spelled AS
            SELECT pairs.*, text AS text_a FROM pairs JOIN texts ON question = question_a
            WHERE (split = 'train' OR split = 'waiting' AND NOT EXISTS (FROM draws)) {recent}"""
    )
    db.execute(
        """CREATE OR REPLACE TEMP TABLE exported AS
           SELECT pair_id, question_a, question_b, text_a, text AS text_b, label, weight, kind,
               if(seed, 'seed', 'interaction') AS source, split
           FROM half_spelled JOIN texts ON question = question_b"""
    )
    db.execute("DROP TABLE half_spelled")


def write_tables(db: duckdb.DuckDBPyConnection, folder: Path, cross_fitted: bool) -> None:
    """Write the three files, ordered by pair id."""
    ids = "hex_of(pair_id) AS pair_id, hex_of(question_a) AS question_a, hex_of(question_b) AS question_b"
    rest = "text_a, text_b, label, weight, kind, source"
    train = f"SELECT {ids}, {rest} FROM (FROM exported WHERE split = 'train' ORDER BY pair_id)"
    if cross_fitted:
        train = f"""SELECT {ids}, {rest}, hex_of(component) AS component, fold
                    FROM (FROM exported JOIN folds USING (component) ORDER BY pair_id)"""
    queries = {
        "train": train,
        **{
            name: f"""SELECT {ids}, {rest}, hex_of(component) AS component
                      FROM (FROM frozen_pairs WHERE split = '{name}' ORDER BY pair_id)"""
            for name in FROZEN
        },
    }
    db.execute("SET preserve_insertion_order = true")
    for name, query in queries.items():
        db.execute(f"COPY ({query}) TO '{quoted(folder / name)}.parquet' (COMPRESSION zstd)")


def content_hash(file: Path, judging_only: bool = False) -> str:
    """A hash of a table's content, whatever its row groups: each column's values and lengths in turn, as a stream.

    With `judging_only`, of who judges in a cross-fitted snapshot: ids, labels, components and folds.
    """
    hashes: dict[str, Any] = {}
    with pq.ParquetFile(file) as table:
        for whole in table.iter_batches():
            batch = whole
            if judging_only:
                judges = pc.and_(pc.equal(whole["kind"], "explicit"), pc.greater_equal(whole["fold"], 0))
                batch = whole.filter(judges).select(list(_OF_JUDGING))
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


def summarise(db: duckdb.DuckDBPyConnection, file: Path) -> SplitSummary:
    """What the file of a split holds."""
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


def sum_up_judging(db: duckdb.DuckDBPyConnection, folder: Path, cross_fitted: bool) -> Judging:
    """What judges in a snapshot whose files are in `folder`."""
    file, which = ("train", _JUDGES) if cross_fitted else ("test", "true")
    found = db.execute(
        f"SELECT count(*) AS pairs FROM read_parquet(?) WHERE {which} GROUP BY component", [str(folder / f"{file}.parquet")]
    ).fetchnumpy()
    sizes = np.asarray(found["pairs"])
    return Judging(int(sizes.sum()), len(sizes), detectable_in(sizes, cross_fitted))
