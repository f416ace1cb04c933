"""Lines in, observations and pairs out: validated outside the database, then stored, a slice in one transaction."""

import gc
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.files import scratch_folder
from flywheel.pairs.derive import Outcome, add_observations
from flywheel.pairs.events import SAID, field_names, unknown_fields, why_no_event
from flywheel.pairs.readers import Batch, Unreadable, read_batch, suffixes
from flywheel.pairs.redaction import Redactor
from flywheel.pairs.retrains import count_trainable
from flywheel.pairs.store import Store, connect
from flywheel.pairs.text import MACROS, quoted
from flywheel.settings import Settings

log = logging.getLogger(__name__)

Progress = Callable[[int], None]

_CHUNK = 50_000  # lines validated at a time
_SLICE = 500_000  # lines stored in one transaction
_ENGINES = 2  # chunks that the database cleans at once
_RAW_BYTES = 500
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")

_EVENTS = pa.schema([("line", pa.int64()), ("event", pa.string()), ("extra", pa.string())])
_QUARANTINE = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])

# What a chunk says, with the reasons for which some of it says nothing. A time in the future is refused: it would be the
# newest word on its pair for ever. An event of several pairs is stored when at least one of them is one.
_CLEAN = f"""
COPY (
    WITH said AS ({SAID}),
    cleaned AS (
        SELECT * REPLACE (clean(text_a) AS text_a, clean(text_b) AS text_b),
            CASE WHEN NOT regexp_matches(time, '^ *[0-9]') THEN NULL  -- 'epoch' is a time to the database
                 WHEN TRY_CAST(time AS DOUBLE) IS NULL THEN TRY_CAST(time AS TIMESTAMPTZ) AT TIME ZONE 'UTC'
                 WHEN TRY_CAST(time AS DOUBLE) BETWEEN 1e8 AND 1e11  -- below it is 20260101
                     THEN make_timestamp(CAST(TRY_CAST(time AS DOUBLE) * 1e6 AS BIGINT))
            END AS observed_at
        FROM said),
    named AS (SELECT *, question_of(text_a) AS a, question_of(text_b) AS b FROM cleaned)
    SELECT CASE WHEN event_id IS NULL THEN CAST(md5(concat($batch, '|line|', line)) AS UUID)
           ELSE CAST(md5(concat($source, '|event|', event_id)) AS UUID) END AS event,
        item, line, type, event_id, user_id, observed_at,
        pair_of(least(a, b), greatest(a, b)) AS pair_id, least(a, b) AS question_a, greatest(a, b) AS question_b,
        if(a < b, text_a, text_b) AS text_a, if(a < b, text_b, text_a) AS text_b,
        label, kind, weight, position, model, extra,
        CASE
            WHEN time IS NOT NULL AND (observed_at IS NULL OR NOT isfinite(observed_at) OR observed_at < TIMESTAMP '1970-01-01')
                THEN concat('time is ', left(time, 60), ', which is none')
            WHEN observed_at > $now + INTERVAL 1 DAY THEN concat('time is ', observed_at, ', which has not come yet')
            WHEN text_a IS NULL OR text_b IS NULL OR label IS NULL THEN 'one of its fields stands twice'
            WHEN is_blank(text_a) OR is_blank(text_b) THEN 'one of its texts is empty'
            WHEN a = b THEN 'both of its texts are the same question' END AS reason
    FROM named)
TO '$part' (FORMAT parquet, COMPRESSION lz4)
"""


@dataclass(frozen=True)
class IngestReport:
    """What became of a batch's lines: accepted + duplicates + quarantined = lines.

    `observations` is how many the accepted lines hold; `conflicts` and `embargoed` count those whose pair has both labels,
    and those whose pair hangs on a frozen question; `redacted` counts what was replaced before it was stored.
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


def ingest(store: Store, batch: Batch, redactor: Redactor | None = None, progress: Progress | None = None) -> IngestReport:
    """Store a batch once; a batch that is known already changes nothing.

    An event is known by its id, else by batch and line. Killing the process at any moment loses nothing (run it again)
    and doubles nothing (see `_commit`). `progress` hears how many lines have been read.
    """
    with store.transaction() as db:
        known = _known(db, batch)
    if known:
        return known
    with scratch_folder(store.scratch) as folder:
        staged = _stage(batch, folder, store.memory_limit, redactor or Redactor(), progress)
        return _commit(store, batch, staged)


def ingest_files(
    store: Store, paths: Sequence[Path], settings: Settings | None = None, names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[IngestReport]:  # fmt: skip
    """Ingest files, all of them checked to be there and of a known format before the first is stored.

    `names` says what the store calls them, if not by their own names. `settings` names columns and what to redact.
    """
    for path in paths:
        if not _is_file(path):
            raise UnreadableFileError(f"{path} is not a file. Nothing was ingested; give the path of a {suffixes()} file.")
    columns = settings.columns if settings else {}
    if strange := sorted(columns.keys() - field_names()):
        raise FlywheelError(f"columns names {', '.join(strange)}, which no event has; it maps our field names to your columns.")
    batches = [read_batch(p, n, columns) for p, n in zip(paths, names or [path.name for path in paths], strict=True)]
    return [ingest(store, batch, _redactor(settings), progress) for batch in batches]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a NUL
        return False


def _redactor(settings: Settings | None) -> Redactor:
    return Redactor(settings.redact, settings.redact_region, settings.redact_hook) if settings else Redactor()


@dataclass(frozen=True)
class _Staged:
    """A batch's validated content: Parquet files of observations, in order, and one of quarantined lines."""

    parts: list[Path]
    quarantine: Path
    lines: int
    redacted: int


def _stage(batch: Batch, folder: Path, memory: str, redactor: Redactor, progress: Progress | None) -> _Staged:
    """Validate every line into Parquet files; the memory needed does not grow with the batch.

    While the database engine cleans and hashes some chunks, the next one is parsed.
    """
    parts: list[Path] = []
    quarantine = folder / "quarantine.parquet"
    lines = 0
    pending: deque[Future[list[tuple[int, str, str]]]] = deque()
    with (
        _without_gc(),
        connect(memory_limit=memory, temp_directory=folder / "spill") as db,
        pq.ParquetWriter(quarantine, _QUARANTINE) as refused,
        ThreadPoolExecutor(_ENGINES) as engine,
    ):

        def settle(at_most: int) -> None:
            while len(pending) > at_most:
                bad = pending.popleft().result()
                columns = zip(*bad, strict=True) if bad else ([], [], [])
                refused.write_table(pa.table(dict(zip(_QUARANTINE.names, map(list, columns), strict=True)), _QUARANTINE))

        numbered = enumerate(batch.lines, start=1)
        while chunk := list(islice(numbered, _CHUNK)):
            settle(_ENGINES - 1)
            parts.append(folder / f"part-{len(parts):06}.parquet")
            pending.append(engine.submit(_clean, db, batch, _read(chunk, redactor), parts[-1]))
            lines += len(chunk)
            if progress:
                progress(lines)
        settle(0)
    return _Staged(parts, quarantine, lines, redactor.count)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Let nobody look for cycles among millions of records that hold none; it doubles the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class _Chunk:
    """Some lines: the events among them, the lines that are none (number, reason, beginning), and how each begins."""

    events: pa.Table
    refused: list[tuple[int, str, str]]
    beginning: Callable[[int], str]
    redacted: Callable[[str], str]


def _read(chunk: Sequence[tuple[int, Any]], redactor: Redactor) -> _Chunk:
    numbers: list[int] = []
    events: list[bytes] = []
    extras: list[str | None] = []
    refused: list[tuple[int, str, str]] = []
    first = chunk[0][0]

    def beginning(number: int) -> str:
        line = chunk[number - first][1]
        if redactor and type(line) is not Unreadable and type(line[0]) is dict:
            return redactor(repr(line[0])[: 2 * _RAW_BYTES])[:_RAW_BYTES]
        return redactor(_beginning(line))[:_RAW_BYTES]

    for number, line in chunk:
        if type(line) is Unreadable:
            refused.append((number, redactor(line.reason), beginning(number)))
            continue
        record, raw = line
        try:
            reason = why_no_event(record)
            if redactor and not reason:
                record, raw = redactor.record(record), None
            event, extra = (b"", None) if reason else _encoded(record, raw)
        except (TypeError, ValueError, RecursionError) as error:  # nested too deeply, a value of a type that JSON has not
            reason = f"the line cannot be written as JSON ({error})"
        if not reason and b"\\u0000" in event and _ESCAPED_NUL.search(event):
            reason = "the line holds a NUL character"
        if reason:
            refused.append((number, redactor(reason), beginning(number)))
            continue
        numbers.append(number)
        events.append(event)
        extras.append(extra)
    columns = [pa.array(numbers, pa.int64()), pa.array(events, pa.binary()).cast(pa.string()), pa.array(extras, pa.string())]
    return _Chunk(pa.Table.from_arrays(columns, schema=_EVENTS), refused, beginning, redactor)


def _encoded(record: dict[str, Any], raw: bytes | None) -> tuple[bytes, str | None]:
    """A record as JSON: as it came where that is certain to say the same, and its unknown fields.

    Of a field that stands twice the validator sees the last, and the database would see the first.
    """
    plain = raw is not None and raw.count(b'":') == len(record) and b'" :' not in raw
    return raw if plain and raw is not None else orjson.dumps(record, default=str), unknown_fields(record)


def _beginning(line: Any) -> str:
    record, raw = (None, line.raw) if type(line) is Unreadable else line
    begins = raw if raw is not None else repr(record).encode("utf-8", "replace")
    return begins[: 2 * _RAW_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")


def _clean(database: duckdb.DuckDBPyConnection, batch: Batch, chunk: _Chunk, part: Path) -> list[tuple[int, str, str]]:
    """Write what a chunk says to `part`; returns the lines that say nothing: number, reason, beginning."""
    db = database.cursor()
    db.execute(MACROS)
    db.execute("SET TimeZone = 'UTC'")  # of times that say none
    db.register("events", chunk.events)
    now = datetime.now(UTC).replace(tzinfo=None)
    db.execute(_CLEAN.replace("$part", quoted(part)), {"now": now, "batch": batch.batch_id, "source": batch.source})
    empty = db.execute(
        "SELECT line, min(reason) FROM read_parquet(?) GROUP BY line HAVING count(*) = count(reason)", [str(part)]
    ).fetchall()
    db.close()
    return sorted(chunk.refused + [(line, chunk.redacted(reason), chunk.beginning(line)) for line, reason in empty])


def _commit(store: Store, batch: Batch, staged: _Staged) -> IngestReport:
    """Store what was staged, slice by slice, each in one transaction that also says how far the batch is.

    A batch of up to 500,000 lines is one slice: stored whole or not at all. A larger one that is killed half way goes on
    from there when it is ingested again, and other processes get their turn between two slices.
    """
    together = _SLICE // _CHUNK
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
            _store_refused(db, batch, staged, range(number * together * _CHUNK + 1, (number + 1) * together * _CHUNK + 1))
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


def _store_refused(db: duckdb.DuckDBPyConnection, batch: Batch, staged: _Staged, lines: range) -> None:
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


def _complete(db: duckdb.DuckDBPyConnection, batch: Batch, staged: _Staged) -> IngestReport:
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
