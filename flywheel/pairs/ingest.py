"""Lines in, observations and pairs out: validated outside the database, then stored, a slice in one transaction."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.files import scratch_folder
from flywheel.pairs.events import staging
from flywheel.pairs.events.events import field_names
from flywheel.pairs.events.lines import Batch
from flywheel.pairs.events.readers import read_batch, suffixes
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.events.staging import OnLines, Staged, stage
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import Outcome, add_observations
from flywheel.pairs.store.new_pairs import count_trainable
from flywheel.pairs.store.sql import quoted

log = logging.getLogger(__name__)

_SLICE = 500_000  # lines stored in one transaction


@dataclass(frozen=True)
class IngestReport:
    """What became of a batch's lines: accepted + duplicates + quarantined = lines.

    `observations` is how many the accepted lines hold; `conflicts` and `embargoed` count those whose pair has both labels,
    and those whose pair is linked to a test or calibration question; `redacted` counts what was replaced before it was stored.
    """

    batch_id: str
    file: str
    lines: int
    accepted: int
    duplicates: int
    quarantined: int
    observations: int
    conflicts: int
    embargoed: int
    redacted: int


def ingest(store: Store, batch: Batch, redactor: Redactor | None = None, progress: OnLines | None = None) -> IngestReport:
    """Store a batch once; a batch that is known already changes nothing.

    An event is known by its id, else by batch and line. Killing the process at any moment loses nothing (run it again)
    and doubles nothing (see `_commit`). `progress` hears how many lines have been read.
    """
    with store.transaction() as db:
        known = _known(db, batch)
    if known:
        return known
    with scratch_folder(store.scratch) as folder:
        staged = stage(batch, folder, store.memory_limit, redactor or Redactor(), progress)
        return _commit(store, batch, staged)


def ingest_files(
    store: Store, paths: Sequence[Path], options: PairOptions | None = None, names: Sequence[str] | None = None,
    progress: OnLines | None = None,
) -> list[IngestReport]:  # fmt: skip
    """Ingest files, all of them checked to be there and of a known format before the first is stored.

    `names` says what the store calls them, if not by their own names. `options` name columns and what to redact.
    """
    for path in paths:
        if not _is_file(path):
            raise UnreadableFileError(f"{path} is not a file. Nothing was ingested; give the path of a {suffixes()} file.")
    options = options or PairOptions()
    columns = options.columns
    if strange := sorted(columns.keys() - field_names()):
        raise FlywheelError(
            f"Nothing was ingested: pairs.columns names {', '.join(strange)}, which no event has; it maps our field names "
            f"({', '.join(sorted(field_names()))}) to your columns."
        )
    batches = [read_batch(p, n, columns) for p, n in zip(paths, names or [path.name for path in paths], strict=True)]
    redactors = (Redactor(options.redact, options.redact_region, options.redact_hook) for _ in batches)
    return [ingest(store, batch, redactor, progress) for batch, redactor in zip(batches, redactors, strict=True)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _commit(store: Store, batch: Batch, staged: Staged) -> IngestReport:
    """Store what was staged, slice by slice, each in one transaction that also says how far the batch is.

    A batch of up to 500,000 lines is one slice: stored whole or not at all. A larger one that is killed half way goes on
    from there when it is ingested again, and other processes get their turn between two slices.
    """
    together = _SLICE // staging.CHUNK
    slices = [staged.parts[first : first + together] for first in range(0, len(staged.parts), together)] or [[]]
    for number, parts in enumerate(slices):
        with store.transaction() as db:
            if known := _known(db, batch):  # another process has finished the same batch meanwhile
                return known
            if _stored_slices(db, batch) > number:
                continue
            if number == 0:
                counts = "slices, duplicates, quarantined, observations, conflicts, embargoed"
                db.execute(
                    f"""INSERT INTO batches (batch_id, file, source, complete, thinned, {counts})
                        VALUES (?, ?, ?, false, false, 0, 0, 0, 0, 0, 0)""",
                    [batch.batch_id, batch.file, batch.source],
                )
            _store_slice(db, batch, parts)
            lines = together * staging.CHUNK
            _store_refused(db, batch, staged, range(number * lines + 1, (number + 1) * lines + 1))
            if number == len(slices) - 1:
                return _complete(db, batch, staged)
    raise AssertionError("the last slice completes the batch")


def _stored_slices(db: duckdb.DuckDBPyConnection, batch: Batch) -> int:
    row = db.execute("SELECT slices FROM batches WHERE batch_id = ?", [batch.batch_id]).fetchone()
    return row[0] if row else 0


def _store_slice(db: duckdb.DuckDBPyConnection, batch: Batch, parts: Sequence[Path]) -> None:
    repeated, outcome = 0, Outcome(0, 0, 0)
    if parts:
        repeated = _take_slice(db, batch, parts)
        outcome = add_observations(db)
        count_trainable(db)
    db.execute(
        """UPDATE batches SET slices = slices + 1, duplicates = duplicates + ?, observations = observations + ?,
           conflicts = conflicts + ?, embargoed = embargoed + ? WHERE batch_id = ?""",
        [repeated, outcome.observations, outcome.conflicts, outcome.embargoed, batch.batch_id],
    )


def _store_refused(db: duckdb.DuckDBPyConnection, batch: Batch, staged: Staged, lines: range) -> None:
    """The slice's refused lines, with the slice: another run may refuse others, since a time in the future comes."""
    (refused,) = db.execute(
        """INSERT INTO quarantine SELECT $batch, $file, line, reason, raw FROM read_parquet($path)
           WHERE line >= $first AND line < $after""",
        {
            "batch": batch.batch_id,
            "file": batch.file,
            "path": str(staged.quarantine),
            "first": lines.start,
            "after": lines.stop,
        },
    ).fetchall()[0]
    db.execute("UPDATE batches SET quarantined = quarantined + ? WHERE batch_id = ?", [refused, batch.batch_id])


def _complete(db: duckdb.DuckDBPyConnection, batch: Batch, staged: Staged) -> IngestReport:
    db.execute(
        """UPDATE batches SET complete = true, lines = $lines, redacted = $redacted,
           accepted = $lines - quarantined - duplicates, ingested_at = $now WHERE batch_id = $batch""",
        {
            "lines": staged.lines, "redacted": staged.redacted,
            "now": datetime.now(UTC).replace(tzinfo=None), "batch": batch.batch_id,
        },
    )  # fmt: skip
    columns = ", ".join(field.name for field in fields(IngestReport))
    row = db.execute(f"SELECT {columns} FROM batches WHERE batch_id = ?", [batch.batch_id]).fetchone()
    assert row is not None
    report = IngestReport(*row)
    log.info("%s: %d lines, %d accepted, %d quarantined", batch.file, report.lines, report.accepted, report.quarantined)
    return report


def _take_slice(db: duckdb.DuckDBPyConnection, batch: Batch, parts: Sequence[Path]) -> int:
    """The slice's new observations as the temporary view `slice`, stored; returns how many lines were known already."""
    staged = "read_parquet([" + ", ".join(f"'{quoted(part)}'" for part in parts) + "])"
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE repeated AS
            WITH named AS (SELECT event, line FROM {staged} WHERE event_id IS NOT NULL AND reason IS NULL)
            SELECT DISTINCT line FROM named WHERE event IN (
                SELECT o.event FROM observations o JOIN (SELECT DISTINCT event FROM named) n ON o.event = n.event
                UNION ALL SELECT f.event FROM forgotten f JOIN (SELECT DISTINCT event FROM named) n ON f.event = n.event)
            UNION
            SELECT line FROM named JOIN (
                SELECT event, min(line) AS first FROM named GROUP BY event HAVING min(line) < max(line)) USING (event)
            WHERE line > first"""
    )
    (repeated,) = db.execute("SELECT count(*) FROM repeated").fetchall()[0]
    db.execute(
        f"""CREATE OR REPLACE TEMP VIEW slice AS
            SELECT * EXCLUDE (reason), '{batch.batch_id}' AS batch_id, '{batch.source}' AS source FROM {staged}
            WHERE reason IS NULL {"AND line NOT IN (FROM repeated)" if repeated else ""}"""
    )
    db.execute("INSERT INTO observations BY NAME SELECT * FROM slice")
    return int(repeated)


def _known(db: Any, batch: Batch) -> IngestReport | None:
    row = db.execute("SELECT lines, quarantined FROM batches WHERE batch_id = ? AND complete", [batch.batch_id]).fetchone()
    if row is None:
        return None
    return IngestReport(batch.batch_id, batch.file, row[0], 0, row[0] - row[1], row[1], 0, 0, 0, 0)


def quarantine_reasons(store: Store, batch_ids: list[str], limit: int = 1000) -> list[tuple[str, int, str]]:
    """(file, line, reason) of the first quarantined lines of the batches given."""
    with store.transaction() as db:
        return db.execute(
            "SELECT file, line, reason FROM quarantine WHERE list_contains(?, batch_id) ORDER BY file, line LIMIT ?",
            [batch_ids, limit],
        ).fetchall()


def unaccounted(store: Store, batch_ids: list[str]) -> list[str]:
    """What does not add up, as sentences: lines counted against each other, and against the lines the store holds.

    A batch that something was forgotten of holds fewer than it counted, and is left out.
    """
    with store.transaction() as db:
        rows = db.execute(
            """WITH held AS (
                   SELECT batch_id, count(DISTINCT line) AS accepted FROM observations
                   WHERE list_contains($batches, batch_id) GROUP BY batch_id),
               refused AS (
                   SELECT batch_id, count(*) AS quarantined FROM quarantine
                   WHERE list_contains($batches, batch_id) GROUP BY batch_id)
               SELECT b.file, b.lines, b.accepted, b.duplicates, b.quarantined, coalesce(h.accepted, 0),
                   coalesce(r.quarantined, 0)
               FROM batches b LEFT JOIN held h USING (batch_id) LEFT JOIN refused r USING (batch_id)
               WHERE list_contains($batches, b.batch_id) AND b.complete AND NOT b.thinned""",
            {"batches": batch_ids},
        ).fetchall()
    return [
        f"{file}: {lines} lines read, {accepted} accepted ({held} in the store), {duplicates} duplicates, "
        f"{quarantined} quarantined ({kept} in the store)"
        for file, lines, accepted, duplicates, quarantined, held, kept in rows
        if accepted + duplicates + quarantined != lines or held != accepted or kept != quarantined
    ]
