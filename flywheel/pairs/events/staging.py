"""Lines validated, cleaned and hashed outside the database: what batches say, as Parquet files ready to be stored."""

import gc
import json
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.events import EVENTS_TO_PAIRS_SQL
from flywheel.pairs.events.lines import HOLDS_NUL, Batch, Line, Unreadable
from flywheel.pairs.events.load import Load, Part, Refused, Staged
from flywheel.pairs.events.mapping import Event, FieldMap, Refusal
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.store.sql import MACROS, connect, quoted

OnLines = Callable[[int], None]
_Empty = tuple[str, int, str, str]  # a line without a pair: its batch, its number, why, and the event's type
CHUNK = 50_000  # lines validated at a time
_ENGINES = 2  # chunks that the database cleans at once
_RAW_BYTES = 500
_CLASHES, _CLASHING_SHARE = 5, 0.01  # events lost to an id that is none: from so many on, and this share
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_EVENTS = pa.schema([("batch", pa.string()), ("line", pa.int64()), ("event", pa.string()), ("extra", pa.string())])
_QUARANTINE = pa.schema([
    ("batch_id", pa.string()), ("line", pa.int64()), ("kind", pa.string()), ("reason", pa.string()), ("raw", pa.string()),
    ("user_id", pa.string()),
])  # fmt: skip

# What a chunk says, with the reasons for which some of it says nothing. An event of several pairs is stored when at least one
# of them is one.
CLEAN_SQL = f"""
COPY (
    WITH stated AS ({EVENTS_TO_PAIRS_SQL}),
    cleaned AS (
        SELECT * REPLACE (clean(text_a) AS text_a, clean(text_b) AS text_b), CAST(time AS TIMESTAMP) AS observed_at
        FROM stated),
    named AS (SELECT *, question_of(text_a) AS a, question_of(text_b) AS b FROM cleaned)
    SELECT CASE WHEN event_id IS NULL THEN CAST(md5(concat(batch, '|line|', line)) AS UUID)
           ELSE CAST(md5(concat($source, '|event|', event_id)) AS UUID) END AS event,
        batch AS batch_id, item, line, type, event_id, user_id, observed_at,
        pair_of(least(a, b), greatest(a, b)) AS pair_id, least(a, b) AS question_a, greatest(a, b) AS question_b,
        if(a < b, text_a, text_b) AS text_a, if(a < b, text_b, text_a) AS text_b,
        label, kind, weight, position, model, extra,
        CASE WHEN is_blank(text_a) THEN 'first' WHEN is_blank(text_b) THEN 'second' WHEN a = b THEN 'same' END AS reason
    FROM named)
TO '$part' (FORMAT parquet, COMPRESSION lz4)
"""
# Our names of an event's two texts.
_TEXTS = {"label": ("text_a", "text_b"), "duplicate": ("text_a", "text_b"), "thumb": ("query", "answer")}


def stage(batches: Sequence[Batch], folder: Path, memory: str, redactor: Redactor, progress: OnLines | None = None) -> Load:
    """Validate every line of the batches, which are all of one source, into Parquet files.

    A chunk holds lines of as many batches as it takes, so that many small ones cost little more than a large one. The memory
    needed does not grow with them. While the database engine cleans and hashes some chunks, the next one is parsed. `progress`
    hears after each chunk how many lines it had.
    """
    parts: list[Part] = []
    quarantine = folder / "quarantine.parquet"
    found = {batch.batch_id: Staged(batch, batch.header) for batch in batches}
    pending: deque[tuple[list[_Lines], Future[list[_Empty]]]] = deque()
    with (
        without_gc(),
        connect(memory_limit=memory, temp_directory=folder / "spill") as db,
        pq.ParquetWriter(quarantine, _QUARANTINE) as refused,
        ThreadPoolExecutor(_ENGINES) as engine,
    ):

        def settle(at_most: int) -> None:
            while len(pending) > at_most:
                chunk, empty = pending.popleft()
                bad = _refused(chunk, empty.result())
                for each in bad:
                    found[each.batch_id].kinds[each.kind] += 1
                    found[each.batch_id].examples.setdefault(each.kind, each)
                rows = [dict(zip(_QUARANTINE.names, each, strict=True)) for each in bad]
                refused.write_table(pa.Table.from_pylist(rows, _QUARANTINE))

        for chunk in _chunks(list(found.values()), redactor):
            settle(_ENGINES - 1)
            parts.append(Part(folder / f"part-{len(parts):06}.parquet", chunk[-1].last))
            pending.append((chunk, engine.submit(_clean, db, chunk, parts[-1].path)))
            if progress:
                progress(sum(each.read for each in chunk))
        settle(0)
        _check_ids(db, found, parts)
    return Load(parts, quarantine, list(found.values()))


def _chunks(batches: Sequence[Staged], redactor: Redactor) -> Iterator[list["_Lines"]]:
    """The batches' lines, parsed, about `CHUNK` at a time. A file that turns out to be damaged is a fault of its batch."""
    gathered: list[_Lines] = []
    lines = 0
    for staged in batches:
        source = iter(staged.batch.lines)
        while True:
            redacted = redactor.count
            try:
                some = list(islice(source, CHUNK))
            except UnreadableFileError as error:
                staged.fault = error
                break
            if not some:
                break
            gathered.append(_read(some, staged.batch, redactor))
            more = sum(line.span - 1 for line in some if isinstance(line, Line))
            staged.lines += len(some) + more
            staged.continuation += more
            staged.redacted += redactor.count - redacted
            lines += len(some)
            if lines >= CHUNK:
                yield gathered
                gathered, lines = [], 0
    if gathered:
        yield gathered


def _check_ids(db: duckdb.DuckDBPyConnection, batches: Mapping[str, Staged], parts: Sequence[Part]) -> None:
    """A batch is at fault when what it calls an event's id stands for different pairs, and all but one would be lost."""
    if not parts:
        return
    files = ", ".join(f"'{quoted(part.path)}'" for part in parts)
    found = db.execute(
        f"""WITH named AS (
                SELECT batch_id, line, event_id, min(pair_id) AS pair FROM read_parquet([{files}])
                WHERE event_id IS NOT NULL AND reason IS NULL GROUP BY ALL),
            clashing AS (
                SELECT batch_id, event_id, count(*) AS lines, min(line) AS first,
                    arg_max(line, pair <> named_first) AS other FROM (
                    SELECT *, first_value(pair) OVER (PARTITION BY batch_id, event_id ORDER BY line) AS named_first FROM named)
                GROUP BY ALL HAVING count(DISTINCT pair) > 1),
            lost AS (
                SELECT batch_id, sum(lines) - count(*) AS lost, arg_max(event_id, lines) AS example,
                    arg_max(first, lines) AS first, arg_max(other, lines) AS other FROM clashing GROUP BY batch_id)
            SELECT batch_id, (SELECT count(*) FROM named WHERE named.batch_id = lost.batch_id), lost, example, first, other
            FROM lost"""
    ).fetchall()
    for batch_id, events, lost, example, first, other in found:
        batch = batches[batch_id].batch
        if lost < _CLASHES or lost < _CLASHING_SHARE * events:
            continue
        name = batch.fields.column("event_id")
        batches[batch_id].fault = UnreadableFileError(
            f"{batch.file}: {name} is {example} on line {first} and on line {other}, which hold different pairs, so it is no "
            f"id of an event, and {lost:,} of {events:,} events would be lost. Nothing of it was stored. Name the column that "
            f'is one, or none, in pairs.columns: event_id = "none".'
        )


@contextmanager
def without_gc() -> Iterator[None]:
    """Disable the garbage collector: it doubles ingest time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class _Lines:
    """Some lines of a batch: the events among them as (line, event, extra), the lines that are none, and how each begins and
    whose it is.

    There are `read` of them, and `last` is the last one's number.
    """

    batch: Batch
    events: list[tuple[int, bytes, bytes | None]]
    refused: list[Refused]
    beginning: Callable[[int], tuple[str, str | None]]
    read: int
    last: int


def _read(some: Sequence[Line | Unreadable], batch: Batch, redactor: Redactor) -> _Lines:
    fields = batch.fields
    events: list[tuple[int, bytes, bytes | None]] = []
    refused: list[Refused] = []

    def beginning(place: int, redact: Callable[[str], str]) -> tuple[str, str | None]:
        line = some[place]
        user = fields.user(line.record) if isinstance(line, Line) else None
        return redact(_beginning(line, bool(redactor)))[:_RAW_BYTES], user

    def beginning_of(number: int) -> tuple[str, str | None]:  # of an event that was redacted, and counted
        return beginning(bisect_left(some, number, key=lambda line: line.number), redactor.sentence)

    for place, line in enumerate(some):
        read = _event(line, fields, redactor)
        if isinstance(read, Refusal):
            reason = redactor.sentence(read.reason)
            refused.append(Refused(batch.batch_id, line.number, read.kind, reason, *beginning(place, redactor)))
            continue
        events.append((line.number, *read))
    return _Lines(batch, events, refused, beginning_of, len(some), some[-1].number)


def _event(line: Line | Unreadable, fields: FieldMap, redactor: Redactor) -> tuple[bytes, bytes | None] | Refusal:
    """A line as an event in JSON and its other fields in JSON, or why it is none."""
    if isinstance(line, Unreadable):
        return Refusal(line.kind, line.reason)
    try:
        read = fields.read(line.record)
        if isinstance(read, Refusal):
            return read
        event: tuple[bytes, bytes | None] = _json(read, redactor)
    except (TypeError, ValueError, RecursionError) as error:  # nested too deeply, a value of a type that JSON has not
        return Refusal("not JSON", f"the line cannot be written as JSON ({error})")
    if any(part and b"\\u0000" in part and _ESCAPED_NUL.search(part) for part in event):
        return Refusal("NUL", f"the line {HOLDS_NUL}")
    return event


def _json(event: Event, redactor: Redactor) -> tuple[bytes, bytes | None]:
    fields = redactor.record(event.fields) if redactor else event.fields
    extra = redactor.everything(event.extra) if redactor else event.extra
    if not extra:
        return orjson.dumps(fields), None
    try:
        return orjson.dumps(fields), orjson.dumps(extra, default=str, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        if "Integer exceeds" not in str(error):
            raise
        return orjson.dumps(fields), json.dumps(extra, default=str, sort_keys=True, ensure_ascii=False).encode()


def _beginning(line: Line | Unreadable, parsed: bool) -> str:
    """How a line begins: as it came, or `parsed`, so that a redactor sees its texts and no escapes."""
    if isinstance(line, Unreadable):
        begins = line.raw
    elif line.raw is None or (parsed and isinstance(line.record, dict)):
        begins = repr(line.record)[: 4 * _RAW_BYTES].encode("utf-8", "replace")
    else:
        begins = line.raw
    return begins[: 2 * _RAW_BYTES].decode("utf-8", "replace").replace("\0", "\ufffd")


def _clean(database: duckdb.DuckDBPyConnection, chunk: Sequence[_Lines], part: Path) -> list[_Empty]:
    """Write what a chunk says to `part`; returns the lines that say nothing."""
    db = database.cursor()
    db.execute(MACROS)
    db.register("events", _table(chunk))
    db.execute(CLEAN_SQL.replace("$part", quoted(part)), {"source": chunk[0].batch.source})
    empty = db.execute(
        """SELECT batch_id, line, min(reason), min(type) FROM read_parquet(?)
           GROUP BY batch_id, line HAVING count(*) = count(reason)""",
        [str(part)],
    ).fetchall()
    db.close()
    return empty


def _table(chunk: Sequence[_Lines]) -> pa.Table:
    """The events of a chunk as the table `events`."""
    events = [event for some in chunk for event in some.events]
    batches = pa.array([some.batch.batch_id for some in chunk for _ in some.events], pa.string())
    texts = (pa.array([event[part] for event in events], pa.binary()).cast(pa.string()) for part in (1, 2))
    return pa.Table.from_arrays([batches, pa.array([event[0] for event in events], pa.int64()), *texts], schema=_EVENTS)


def _refused(chunk: Sequence[_Lines], empty: Sequence[_Empty]) -> list[Refused]:
    """The lines of a chunk that are quarantined, batch by batch in order."""
    refused = {each.batch.batch_id: list(each.refused) for each in chunk}
    of = {each.batch.batch_id: each for each in chunk}
    for batch_id, line, reason, kind in empty:
        no_pair, beginning = _no_pair(of[batch_id].batch.fields, reason, kind), of[batch_id].beginning(line)
        refused[batch_id].append(Refused(batch_id, line, no_pair.kind, no_pair.reason, *beginning))
    return [each for some in refused.values() for each in sorted(some, key=lambda each: each.number)]


def _no_pair(fields: FieldMap, reason: str, kind: str) -> Refusal:
    if reason == "same":
        return Refusal("same question", "both of its texts are the same question")
    names = _TEXTS.get(kind, ("query", "shown"))
    return Refusal("empty", f"{fields.column(names[reason == 'second'])} is empty")
