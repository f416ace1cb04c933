"""Lines in, observations out: validated outside the database, then stored in one transaction per batch."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import UnreadableFileError, explain_disk_errors
from flywheel.pairs.interactions import Batch, Quarantined, parse_line, read_batch
from flywheel.pairs.store import Store

log = logging.getLogger(__name__)

_CHUNK = 20_000
_OBSERVATIONS = pa.schema(
    [(name, pa.string()) for name in ("observation_id", "batch_id")]
    + [("line", pa.int64())]
    + [(name, pa.string()) for name in ("source", "event_id", "user_id")]
    + [("observed_at", pa.timestamp("us"))]
    + [(name, pa.string()) for name in ("pair_id", "question_a", "question_b", "text_a", "text_b")]
    + [("label", pa.int8()), ("weight", pa.float64()), ("kind", pa.string()), ("extra", pa.string())]
)
_QUARANTINE = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])


@dataclass(frozen=True)
class IngestReport:
    """What became of a batch's lines: accepted + duplicates + quarantined = lines."""

    batch_id: str
    file: str
    lines: int
    accepted: int
    duplicates: int
    quarantined: int


def ingest(store: Store, batch: Batch) -> IngestReport:
    """Store a batch once, whole or not at all; a batch that is known already changes nothing.

    An observation is known by its event id, else by batch and line. Killing the process at any moment loses nothing (run
    it again) and doubles nothing (one transaction).
    """
    with store.transaction() as db:
        known = _known(db, batch)
    if known:
        return known
    scratch = Path(tempfile.gettempdir())
    with explain_disk_errors(scratch), tempfile.TemporaryDirectory(prefix="flywheel-ingest-", dir=scratch) as folder:
        observations, quarantine = Path(folder, "observations.parquet"), Path(folder, "quarantine.parquet")
        lines = _stage(batch, observations, quarantine)
        return _commit(store, batch, lines, observations, quarantine)


def ingest_files(store: Store, paths: list[Path], names: list[str] | None = None) -> list[IngestReport]:
    """Ingest JSON-lines files, all of them checked to be readable before the first is stored.

    `names` says what the store calls them, if not by their own names.
    """
    for path in paths:
        if not path.is_file():
            raise UnreadableFileError(f"{path} is not a file. Nothing was ingested; give the path of a .jsonl file.")
        if path.suffix != ".jsonl":
            raise UnreadableFileError(f"{path.name} is not a .jsonl file, the one format read. Nothing of it was stored.")
    return [
        ingest(store, batch)
        for batch in [read_batch(p, n) for p, n in zip(paths, names or [path.name for path in paths], strict=True)]
    ]


def _stage(batch: Batch, observations: Path, quarantine: Path) -> int:
    """Validate every line into two Parquet files; the memory needed does not grow with the batch. Returns the lines."""
    lines = 0
    with (
        pq.ParquetWriter(observations, _OBSERVATIONS) as accepted,
        pq.ParquetWriter(quarantine, _QUARANTINE) as refused,
    ):
        numbered = enumerate(batch.lines, start=1)
        while chunk := list(islice(numbered, _CHUNK)):
            parsed: Iterator[dict[str, Any] | Quarantined] = (parse_line(batch, n, raw) for n, raw in chunk)
            good, bad = [], []
            for row in parsed:
                (bad.append(vars(row)) if isinstance(row, Quarantined) else good.append(row))
            accepted.write_table(pa.Table.from_pylist(good, _OBSERVATIONS))
            refused.write_table(pa.Table.from_pylist(bad, _QUARANTINE))
            lines += len(chunk)
    return lines


def _commit(store: Store, batch: Batch, lines: int, observations: Path, quarantine: Path) -> IngestReport:
    with store.transaction() as db:
        if known := _known(db, batch):  # another process stored the same batch while this one read it
            return known
        before = _count(db, "observations")
        db.execute(
            """INSERT INTO observations BY NAME
               SELECT * FROM read_parquet(?) staged
               WHERE NOT EXISTS (FROM observations known WHERE known.observation_id = staged.observation_id)
               QUALIFY row_number() OVER (PARTITION BY observation_id ORDER BY line) = 1""",
            [str(observations)],
        )
        accepted = _count(db, "observations") - before
        db.execute(
            "INSERT INTO quarantine SELECT ?, ?, line, reason, raw FROM read_parquet(?)",
            [batch.batch_id, batch.file, str(quarantine)],
        )
        quarantined = pq.read_metadata(quarantine).num_rows
        report = IngestReport(batch.batch_id, batch.file, lines, accepted, lines - quarantined - accepted, quarantined)
        db.execute(
            "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                batch.batch_id,
                batch.source,
                batch.file,
                lines,
                accepted,
                report.duplicates,
                quarantined,
                datetime.now(UTC).replace(tzinfo=None),
            ],
        )
    log.info("%s: %d lines, %d accepted, %d quarantined", batch.file, lines, accepted, quarantined)
    return report


def _known(db: Any, batch: Batch) -> IngestReport | None:
    row = db.execute("SELECT lines, quarantined FROM batches WHERE batch_id = ?", [batch.batch_id]).fetchone()
    return IngestReport(batch.batch_id, batch.file, row[0], 0, row[0] - row[1], row[1]) if row else None


def _count(db: Any, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def quarantine_reasons(store: Store, batch_ids: list[str]) -> list[tuple[str, int, str]]:
    """(file, line, reason) of every quarantined line of the batches given."""
    with store.transaction() as db:
        return db.execute(
            "SELECT file, line, reason FROM quarantine WHERE list_contains(?, batch_id) ORDER BY file, line",
            [batch_ids],
        ).fetchall()
