"""Lines in, observations and pairs out: validated outside the database, then stored, a slice in one transaction."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import duckdb

from flywheel.files import scratch_folder
from flywheel.pairs.events import staging
from flywheel.pairs.events.lines import Batch
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.events.staging import OnLines, Part, Staged, stage
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import Outcome, add_observations
from flywheel.pairs.store.new_pairs import count_trainable
from flywheel.pairs.store.sql import LINE_OF_CONTENT, quoted

log = logging.getLogger(__name__)

_SLICE = 500_000  # lines stored in one transaction


@dataclass(frozen=True)
class IngestReport:
    """What became of a batch's lines: header + continuation + accepted + duplicates + quarantined = lines.

    A continuation line goes on with a record that began before. `observations` is how many the accepted lines hold; `conflicts`
    and `embargoed` count those whose pair has both labels, and those whose pair is linked to a test or calibration question;
    `redacted` counts what was replaced before it was stored.
    """

    batch_id: str
    file: str
    lines: int
    header: int
    continuation: int
    accepted: int
    duplicates: int
    quarantined: int
    observations: int
    conflicts: int
    embargoed: int
    redacted: int


def ingest(
    store: Store, batch: Batch, redacted: Redactor | None = None, progress: OnLines | None = None, max_refused: float = 1.0
) -> IngestReport:
    """Store one batch; see `ingest_together`."""
    return ingest_together(store, [batch], redacted, progress, max_refused)[0]


def ingest_together(
    store: Store, batches: Sequence[Batch], redacted: Redactor | None = None, progress: OnLines | None = None,
    max_refused: float = 1.0,
) -> list[IngestReport]:  # fmt: skip
    """Store the batches of one delivery, each once; one that is known already changes nothing.

    An event is known by its id, else by batch and line. Killing the process at any moment loses nothing (run it again)
    and doubles nothing (see `_commit`). `progress` hears how many lines of a batch have been read. Raises
    UnreadableFileError, with nothing of any batch stored, when no line is an event or more than the share `max_refused` of
    them fails for one reason.
    """
    known: dict[str, IngestReport] = {}
    staged: list[tuple[Batch, Staged]] = []
    with scratch_folder(store.scratch) as folder:
        for number, batch in enumerate(batches):
            with store.transaction() as db:
                report = _known(db, batch)
            if report:
                known[batch.file] = report
                continue
            part = folder / str(number)
            part.mkdir()
            staged.append((batch, stage(batch, part, store.memory_limit, redacted or Redactor(), progress)))
        if staged:
            staging.check(staged, max_refused)
        stored = {batch.file: _commit(store, batch, each) for batch, each in staged}
    return [(known | stored)[batch.file] for batch in batches]


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
            last = number == len(slices) - 1
            begin = slices[number - 1][-1].last if number else 0
            _store_refused(db, batch, staged, begin, staged.lines if last else parts[-1].last)
            if last:
                return _complete(db, batch, staged)
    raise AssertionError("the last slice completes the batch")


def _stored_slices(db: duckdb.DuckDBPyConnection, batch: Batch) -> int:
    row = db.execute("SELECT slices FROM batches WHERE batch_id = ?", [batch.batch_id]).fetchone()
    return row[0] if row else 0


def _store_slice(db: duckdb.DuckDBPyConnection, batch: Batch, parts: Sequence[Part]) -> None:
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


def _store_refused(db: duckdb.DuckDBPyConnection, batch: Batch, staged: Staged, after: int, last: int) -> None:
    """The slice's refused lines, with the slice: another run may refuse others, since a time in the future comes."""
    (refused,) = db.execute(
        """INSERT INTO quarantine SELECT $batch, $file, line, kind, reason, raw, user_id FROM read_parquet($path)
           WHERE line > $after AND line <= $last""",
        {"batch": batch.batch_id, "file": batch.file, "path": str(staged.quarantine), "after": after, "last": last},
    ).fetchall()[0]
    db.execute("UPDATE batches SET quarantined = quarantined + ? WHERE batch_id = ?", [refused, batch.batch_id])


def _complete(db: duckdb.DuckDBPyConnection, batch: Batch, staged: Staged) -> IngestReport:
    db.execute(
        """UPDATE batches SET complete = true, lines = $lines, header = $header, continuation = $continuation,
           redacted = $redacted, accepted = $records - quarantined - duplicates, ingested_at = $now WHERE batch_id = $batch""",
        {
            "lines": batch.total, "header": batch.header, "continuation": staged.continuation, "redacted": staged.redacted,
            "records": staged.lines - batch.header - staged.continuation,
            "now": datetime.now(UTC).replace(tzinfo=None), "batch": batch.batch_id,
        },
    )  # fmt: skip
    columns = ", ".join(field.name for field in fields(IngestReport))
    row = db.execute(f"SELECT {columns} FROM batches WHERE batch_id = ?", [batch.batch_id]).fetchone()
    assert row is not None
    report = IngestReport(*row)
    log.info("%s: %d lines, %d accepted, %d quarantined", batch.file, report.lines, report.accepted, report.quarantined)
    return report


def _take_slice(db: duckdb.DuckDBPyConnection, batch: Batch, parts: Sequence[Part]) -> int:
    """The slice's new observations as the temporary view `slice`, stored; returns how many lines were known already."""
    staged = "read_parquet([" + ", ".join(f"'{quoted(part.path)}'" for part in parts) + "])"
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE repeated AS
            WITH named AS (SELECT event, line FROM {staged} WHERE event_id IS NOT NULL AND reason IS NULL)
            SELECT DISTINCT line FROM named WHERE event IN (
                SELECT o.event FROM observations o JOIN (SELECT DISTINCT event FROM named) n ON o.event = n.event
                UNION ALL SELECT f.event FROM forgotten f JOIN (SELECT DISTINCT event FROM named) n ON f.event = n.event)
            UNION
            SELECT line FROM (SELECT line, '{batch.batch_id}' AS batch_id FROM {staged} WHERE event_id IS NULL)
            WHERE {LINE_OF_CONTENT} IN (FROM forgotten)
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
    row = db.execute(
        """SELECT lines, header, continuation, 0, accepted + duplicates, quarantined, 0, 0, 0, 0 FROM batches
           WHERE batch_id = ? AND complete""",
        [batch.batch_id],
    ).fetchone()
    return IngestReport(batch.batch_id, batch.file, *row) if row else None


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
               SELECT b.file, b.lines, b.header, b.continuation, b.accepted, b.duplicates, b.quarantined,
                   coalesce(h.accepted, 0), coalesce(r.quarantined, 0)
               FROM batches b LEFT JOIN held h USING (batch_id) LEFT JOIN refused r USING (batch_id)
               WHERE list_contains($batches, b.batch_id) AND b.complete AND NOT b.thinned""",
            {"batches": batch_ids},
        ).fetchall()
    return [
        f"{file}: {lines} lines, {header} header, {continuation} continuation, {accepted} accepted ({held} in the store), "
        f"{duplicates} duplicates, {quarantined} quarantined ({kept} in the store)"
        for file, lines, header, continuation, accepted, duplicates, quarantined, held, kept in rows
        if header + continuation + accepted + duplicates + quarantined != lines or held != accepted or kept != quarantined
    ]
