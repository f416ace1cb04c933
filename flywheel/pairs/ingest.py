"""Lines in, observations and pairs out: validated outside the database, then stored, a slice or many small batches in one
transaction.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

from flywheel.errors import UnreadableFileError
from flywheel.files import scratch_folder
from flywheel.pairs.events import staging
from flywheel.pairs.events.lines import Batch
from flywheel.pairs.events.load import Load, Part, Staged, check
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.events.staging import OnLines, stage
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import OUTCOMES, add_observations
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
    """Store the batches of one delivery; see `ingest_deliveries`. Raises UnreadableFileError when it is refused."""
    (outcome,) = ingest_deliveries(store, [batches], redacted, progress, max_refused)
    if isinstance(outcome, UnreadableFileError):
        raise outcome
    return outcome


def ingest_deliveries(
    store: Store, deliveries: Sequence[Sequence[Batch]], redacted: Redactor | None = None, progress: OnLines | None = None,
    max_refused: float = 1.0,
) -> list[list[IngestReport] | UnreadableFileError]:  # fmt: skip
    """Store the batches of some deliveries, each once; one that is known already changes nothing.

    Small batches share a transaction. An event is known by its id, else by batch and line. Killing the process at any moment
    loses nothing (run it again) and doubles nothing (see `_commit`). `progress` hears how many lines each chunk had. Gives each
    delivery's reports, or why nothing of it was stored: no line is an event, or more than the share `max_refused` of them
    fails for one reason.
    """
    with store.transaction() as db:
        found = _of_batches(db, [batch.batch_id for batches in deliveries for batch in batches])
    known = {batch_id: _as_known(report) for batch_id, report in found.items()}
    new = {batch.batch_id: batch for batches in deliveries for batch in batches if batch.batch_id not in known}
    reports: dict[str, IngestReport] = {}
    refused: dict[int, UnreadableFileError] = {}
    with scratch_folder(store.scratch) as folder:
        loads = []
        for number, load_of in enumerate(_loads(list(new.values()))):
            (place := folder / str(number)).mkdir()
            loads.append(stage(load_of, place, store.memory_limit, redacted or Redactor(), progress))
        staged = {each.batch.batch_id: each for load in loads for each in load.batches}
        for number, batches in enumerate(deliveries):
            try:
                check([staged[batch.batch_id] for batch in batches if batch.batch_id in staged], max_refused)
            except UnreadableFileError as error:
                refused[number] = error
        wanted = {batch.batch_id for number, batches in enumerate(deliveries) if number not in refused for batch in batches}
        for load in loads:
            if taken := [each for each in load.batches if each.batch.batch_id in wanted]:
                reports |= _commit(store, load, taken)
    again = {batch_id: _as_known(report) for batch_id, report in reports.items()} | known
    return [refused.get(n) or _reports(batches, reports, again) for n, batches in enumerate(deliveries)]


def _reports(batches: Sequence[Batch], first: dict[str, IngestReport], again: Mapping[str, IngestReport]) -> list[IngestReport]:
    """A delivery's reports; a batch that comes a second time, under whatever name, is known by then."""
    found = (first.pop(batch.batch_id) if batch.batch_id in first else again[batch.batch_id] for batch in batches)
    return [replace(report, file=batch.file) for batch, report in zip(batches, found, strict=True)]


def _loads(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Batches that are stored in one transaction: of one source, and together no more lines than a chunk; or a larger one."""
    load: list[Batch] = []
    lines = 0
    for batch in batches:
        lines += batch.total
        if load and (batch.source != load[0].source or lines > staging.CHUNK):
            yield load
            load, lines = [], batch.total
        load.append(batch)
    if load:
        yield load


def _commit(store: Store, load: Load, taken: Sequence[Staged]) -> dict[str, IngestReport]:
    """Store the batches `taken` of a load, slice by slice, each in one transaction that also says how far they are.

    A load of up to 500,000 lines is one slice: stored whole or not at all. A larger one is a single batch; killed half way, it
    goes on from there when it is ingested again, and other processes get their turn between two slices.
    """
    together = _SLICE // staging.CHUNK
    slices = [load.parts[first : first + together] for first in range(0, len(load.parts), together)] or [[]]
    finished: dict[str, IngestReport] = {}
    for number, parts in enumerate(slices):
        with store.transaction() as db:
            ids = [each.batch.batch_id for each in taken]
            meanwhile = {batch_id: _as_known(each) for batch_id, each in _of_batches(db, ids).items()}  # by another process
            finished = meanwhile | finished
            begun = _stored_slices(db, ids)
            open_ = [each for each in taken if each.batch.batch_id not in finished]
            open_ = [each for each in open_ if begun.get(each.batch.batch_id, 0) == number]
            if not open_:
                continue
            if number == 0:
                _begin(db, open_)
            _store_slice(db, open_, parts)
            last = number == len(slices) - 1
            begin = slices[number - 1][-1].last if number else 0
            _store_refused(db, load, open_, begin, None if last else parts[-1].last)
            if last:
                finished |= _complete(db, open_)
    for each in taken:
        report = finished[each.batch.batch_id]
        log.info("%s: %d lines, %d accepted, %d quarantined", report.file, report.lines, report.accepted, report.quarantined)
    return finished


def _stored_slices(db: duckdb.DuckDBPyConnection, batch_ids: Sequence[str]) -> dict[str, int]:
    """How many slices are stored of those batches that were begun."""
    rows = db.execute("SELECT batch_id, slices FROM batches WHERE list_contains(?, batch_id)", [batch_ids]).fetchall()
    return dict(rows)


def _begin(db: duckdb.DuckDBPyConnection, batches: Sequence[Staged]) -> None:
    rows = [{"batch_id": b.batch_id, "file": b.file, "source": b.source} for b in (each.batch for each in batches)]
    db.register("begun", pa.Table.from_pylist(rows))
    counts = "slices, duplicates, quarantined, observations, conflicts, embargoed"
    db.execute(
        f"""INSERT INTO batches (batch_id, file, source, complete, thinned, {counts})
            SELECT batch_id, file, source, false, false, 0, 0, 0, 0, 0, 0 FROM begun"""
    )
    db.unregister("begun")


def _store_slice(db: duckdb.DuckDBPyConnection, batches: Sequence[Staged], parts: Sequence[Part]) -> None:
    """Store what the parts hold of these batches, and add it to their counts."""
    rows = [{"batch_id": each.batch.batch_id, "place": n, "source": each.batch.source} for n, each in enumerate(batches)]
    db.register("taken", pa.Table.from_pylist(rows))
    if parts:
        _take_slice(db, parts)
        add_observations(db)
        count_trainable(db)
        db.execute(
            """UPDATE batches SET duplicates = duplicates + n FROM (
                   SELECT batch_id, count(*) AS n FROM repeated GROUP BY batch_id) found
               WHERE batches.batch_id = found.batch_id"""
        )
        db.execute(
            f"""UPDATE batches SET observations = batches.observations + found.observations,
                conflicts = batches.conflicts + found.conflicts, embargoed = batches.embargoed + found.embargoed
                FROM ({OUTCOMES}) found WHERE batches.batch_id = found.batch_id"""
        )
    db.execute("UPDATE batches SET slices = slices + 1 WHERE batch_id IN (SELECT batch_id FROM taken)")
    db.unregister("taken")


def _take_slice(db: duckdb.DuckDBPyConnection, parts: Sequence[Part]) -> None:
    """The new observations of the batches in `taken` as the temporary view `slice`, stored; and the table `repeated` of lines
    that were known already, by an earlier batch or by an earlier line of these.
    """
    files = ", ".join(f"'{quoted(part.path)}'" for part in parts)
    staged = f"(FROM read_parquet([{files}]) JOIN taken USING (batch_id))"
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE repeated AS
            WITH named AS (
                SELECT event, batch_id, line, {{'place': place, 'line': line}} AS spot FROM {staged}
                WHERE event_id IS NOT NULL AND reason IS NULL)
            SELECT DISTINCT batch_id, line FROM named WHERE event IN (
                SELECT o.event FROM observations o JOIN (SELECT DISTINCT event FROM named) n ON o.event = n.event
                UNION ALL SELECT f.event FROM forgotten f JOIN (SELECT DISTINCT event FROM named) n ON f.event = n.event)
            UNION
            SELECT batch_id, line FROM {staged} WHERE event_id IS NULL AND {LINE_OF_CONTENT} IN (FROM forgotten)
            UNION
            SELECT batch_id, line FROM named JOIN (
                SELECT event, min(spot) AS first FROM named GROUP BY event HAVING min(spot) < max(spot)) USING (event)
            WHERE spot > first"""
    )
    db.execute(
        f"""CREATE OR REPLACE TEMP VIEW slice AS
            SELECT * EXCLUDE (reason, place) FROM {staged} s
            WHERE reason IS NULL AND NOT EXISTS (
                SELECT 1 FROM repeated r WHERE r.batch_id = s.batch_id AND r.line = s.line)"""
    )
    db.execute("INSERT INTO observations BY NAME SELECT * FROM slice")


def _store_refused(db: duckdb.DuckDBPyConnection, load: Load, batches: Sequence[Staged], after: int, last: int | None) -> None:
    """The slice's refused lines, with the slice: another run may refuse others, since a time in the future comes.

    Only a load of one batch has several slices: its lines above `after` and up to `last`, to the end without it.
    """
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE refused AS
            SELECT q.batch_id, b.file, q.line, q.kind, q.reason, q.raw, q.user_id
            FROM read_parquet('{quoted(load.quarantine)}') q JOIN batches b ON b.batch_id = q.batch_id
            WHERE list_contains($batches, q.batch_id) AND q.line > $after AND q.line <= coalesce($last, q.line)""",
        {"batches": [each.batch.batch_id for each in batches], "after": after, "last": last},
    )
    db.execute("INSERT INTO quarantine FROM refused")
    db.execute(
        """UPDATE batches SET quarantined = quarantined + n FROM (
               SELECT batch_id, count(*) AS n FROM refused GROUP BY batch_id) found
           WHERE batches.batch_id = found.batch_id"""
    )


def _complete(db: duckdb.DuckDBPyConnection, batches: Sequence[Staged]) -> dict[str, IngestReport]:
    rows = [
        {
            "batch_id": each.batch.batch_id, "lines": each.batch.total, "header": each.batch.header,
            "continuation": each.continuation, "redacted": each.redacted,
            "records": each.lines - each.batch.header - each.continuation,
        }
        for each in batches
    ]  # fmt: skip
    db.register("done", pa.Table.from_pylist(rows))
    db.execute(
        """UPDATE batches SET complete = true, lines = done.lines, header = done.header, continuation = done.continuation,
           redacted = done.redacted, accepted = done.records - quarantined - duplicates, ingested_at = $now
           FROM done WHERE batches.batch_id = done.batch_id""",
        {"now": datetime.now(UTC).replace(tzinfo=None)},
    )
    db.unregister("done")
    return _of_batches(db, [each.batch.batch_id for each in batches])


def _of_batches(db: duckdb.DuckDBPyConnection, batch_ids: Sequence[str]) -> dict[str, IngestReport]:
    """The reports of those batches that are complete."""
    columns = ", ".join(field.name for field in fields(IngestReport))
    rows = db.execute(
        f"SELECT {columns} FROM batches WHERE list_contains(?, batch_id) AND complete", [list(batch_ids)]
    ).fetchall()
    return {row[0]: IngestReport(*row) for row in rows}


def _as_known(report: IngestReport) -> IngestReport:
    """The report of a batch that has been stored before: all that it accepted is known."""
    return replace(
        report, accepted=0, duplicates=report.accepted + report.duplicates,
        observations=0, conflicts=0, embargoed=0, redacted=0,
    )  # fmt: skip
