"""Lines validated, cleaned and hashed outside the database: what a batch says, as Parquet files ready to be stored."""

import gc
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.pairs.events.events import EVENTS_TO_PAIRS_SQL, reason_not_event, unknown_fields
from flywheel.pairs.events.lines import Batch, Unreadable
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.store.sql import MACROS, connect, quoted

OnLines = Callable[[int], None]
CHUNK = 50_000  # lines validated at a time
_ENGINES = 2  # chunks that the database cleans at once
_RAW_BYTES = 500
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_EVENTS = pa.schema([("line", pa.int64()), ("event", pa.string()), ("extra", pa.string())])
_QUARANTINE = pa.schema([("line", pa.int64()), ("reason", pa.string()), ("raw", pa.string())])

# What a chunk says, with the reasons for which some of it says nothing. A time in the future is refused: it would be the
# newest word on its pair for ever. An event of several pairs is stored when at least one of them is one.
CLEAN_SQL = f"""
COPY (
    WITH stated AS ({EVENTS_TO_PAIRS_SQL}),
    cleaned AS (
        SELECT * REPLACE (clean(text_a) AS text_a, clean(text_b) AS text_b),
            CASE WHEN NOT regexp_matches(time, '^ *[0-9]') THEN NULL  -- 'epoch' is a time to the database
                 WHEN TRY_CAST(time AS DOUBLE) IS NULL THEN TRY_CAST(time AS TIMESTAMPTZ) AT TIME ZONE 'UTC'
                 WHEN TRY_CAST(time AS DOUBLE) BETWEEN 1e8 AND 1e11  -- below it is 20260101
                     THEN make_timestamp(CAST(TRY_CAST(time AS DOUBLE) * 1e6 AS BIGINT))
            END AS observed_at
        FROM stated),
    named AS (SELECT *, question_of(text_a) AS a, question_of(text_b) AS b FROM cleaned)
    SELECT CASE WHEN event_id IS NULL THEN CAST(md5(concat($batch, '|line|', line)) AS UUID)
           ELSE CAST(md5(concat($source, '|event|', event_id)) AS UUID) END AS event,
        item, line, type, event_id, user_id, observed_at,
        pair_of(least(a, b), greatest(a, b)) AS pair_id, least(a, b) AS question_a, greatest(a, b) AS question_b,
        if(a < b, text_a, text_b) AS text_a, if(a < b, text_b, text_a) AS text_b,
        label, kind, weight, position, model, extra,
        CASE
            WHEN time IS NOT NULL AND (observed_at IS NULL OR NOT isfinite(observed_at) OR observed_at < TIMESTAMP '1970-01-01')
                THEN concat('not a valid time: ', left(time, 60))
            WHEN observed_at > $now + INTERVAL 1 DAY THEN concat('time is in the future: ', observed_at)
            WHEN text_a IS NULL OR text_b IS NULL OR label IS NULL THEN 'a field appears twice'
            WHEN is_blank(text_a) OR is_blank(text_b) THEN 'one of its texts is empty'
            WHEN a = b THEN 'both of its texts are the same question' END AS reason
    FROM named)
TO '$part' (FORMAT parquet, COMPRESSION lz4)
"""


@dataclass(frozen=True)
class Staged:
    """A batch's validated content: Parquet files of observations, in order, and one of quarantined lines."""

    parts: list[Path]
    quarantine: Path
    lines: int
    redacted: int


def stage(batch: Batch, folder: Path, memory: str, redactor: Redactor, progress: OnLines | None) -> Staged:
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
        while chunk := list(islice(numbered, CHUNK)):
            settle(_ENGINES - 1)
            parts.append(folder / f"part-{len(parts):06}.parquet")
            pending.append(engine.submit(_clean, db, batch, _read(chunk, redactor), parts[-1]))
            lines += len(chunk)
            if progress:
                progress(lines)
        settle(0)
    return Staged(parts, quarantine, lines, redactor.count)


@contextmanager
def _without_gc() -> Iterator[None]:
    """Disable the garbage collector: it doubles ingest time."""
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
            reason = reason_not_event(record)
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

    Of a field that appears twice the validator sees the last, and the database would see the first.
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
    db.execute(CLEAN_SQL.replace("$part", quoted(part)), {"now": now, "batch": batch.batch_id, "source": batch.source})
    empty = db.execute(
        "SELECT line, min(reason) FROM read_parquet(?) GROUP BY line HAVING count(*) = count(reason)", [str(part)]
    ).fetchall()
    db.close()
    return sorted(chunk.refused + [(line, chunk.redacted(reason), chunk.beginning(line)) for line, reason in empty])
