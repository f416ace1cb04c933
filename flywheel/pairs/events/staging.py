"""Lines validated, cleaned and hashed outside the database: what a batch says, as Parquet files ready to be stored."""

import gc
import json
import re
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.events import EVENTS_TO_PAIRS_SQL
from flywheel.pairs.events.lines import HOLDS_NUL, Batch, Line, Unreadable
from flywheel.pairs.events.mapping import HARMLESS, Event, FieldMap, Refusal
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.store.sql import MACROS, connect, quoted

OnLines = Callable[[int], None]
CHUNK = 50_000  # lines validated at a time
_ENGINES = 2  # chunks that the database cleans at once
_RAW_BYTES = 500
_CLASHES, _CLASHING_SHARE = 5, 0.01  # events lost to an id that is none: from so many on, and this share
_ESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_EVENTS = pa.schema([("line", pa.int64()), ("event", pa.string()), ("extra", pa.string())])
_QUARANTINE = pa.schema([
    ("line", pa.int64()), ("kind", pa.string()), ("reason", pa.string()), ("raw", pa.string()), ("user_id", pa.string()),
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
    SELECT CASE WHEN event_id IS NULL THEN CAST(md5(concat($batch, '|line|', line)) AS UUID)
           ELSE CAST(md5(concat($source, '|event|', event_id)) AS UUID) END AS event,
        item, line, type, event_id, user_id, observed_at,
        pair_of(least(a, b), greatest(a, b)) AS pair_id, least(a, b) AS question_a, greatest(a, b) AS question_b,
        if(a < b, text_a, text_b) AS text_a, if(a < b, text_b, text_a) AS text_b,
        label, kind, weight, position, model, extra,
        CASE WHEN is_blank(text_a) THEN 'first' WHEN is_blank(text_b) THEN 'second' WHEN a = b THEN 'same' END AS reason
    FROM named)
TO '$part' (FORMAT parquet, COMPRESSION lz4)
"""
# Our names of an event's two texts.
_TEXTS = {"label": ("text_a", "text_b"), "duplicate": ("text_a", "text_b"), "thumb": ("query", "answer")}


class Refused(NamedTuple):
    """A line that is quarantined: its number, the kind of reason, the reason, how it begins, and whose it is."""

    number: int
    kind: str
    reason: str
    raw: str
    user: str | None


class Part(NamedTuple):
    """A file of observations, and the number of the last line that it is about."""

    path: Path
    last: int


@dataclass(frozen=True)
class Staged:
    """A batch's validated content: Parquet files of observations, in order, and one of quarantined lines.

    Of `lines` physical lines `continuation` go on with a record that began before. `kinds` counts the refused ones by kind of
    reason, and `examples` has the first of each.
    """

    parts: list[Part]
    quarantine: Path
    lines: int
    continuation: int
    kinds: Counter[str]
    examples: dict[str, Refused]
    redacted: int


def check(delivery: Sequence[tuple[Batch, Staged]], most: float) -> None:
    """Raise UnreadableFileError when no line of a delivery is an event, or more than the share `most` fails for one reason."""
    records = sum(staged.lines - batch.header - staged.continuation for batch, staged in delivery)
    kinds = sum((staged.kinds for _, staged in delivery), Counter[str]())
    faults = Counter({kind: n for kind, n in kinds.items() if kind not in HARMLESS})
    judged = records - (kinds.total() - faults.total())
    kind, count = (faults.most_common(1) or kinds.most_common(1) or [("", 0)])[0]
    if not count or not (kinds.total() == records or (faults and count > most * judged)):
        return

    def first(kind: str) -> tuple[str, Refused]:
        return next((batch.file, staged.examples[kind]) for batch, staged in delivery if kind in staged.examples)

    file, example = first(kind)
    others = [first(other) for other, _ in (kinds - Counter({kind: count})).most_common(3)]
    more = "".join(f"; {'' if name == file else f'{name}, '}line {each.number}: {each.reason}" for name, each in others)
    way = (
        "" if kind in HARMLESS else f" `flywheel ingest --dry-run {file.partition('/')[0]}` shows how the file was understood."
    )
    raise UnreadableFileError(
        f"{file}:{example.number}: {example.reason}; {count:,} of {records:,} lines are refused for this reason{more}. "
        f"Nothing of it was stored.{way}"
    )


def stage(batch: Batch, folder: Path, memory: str, redactor: Redactor, progress: OnLines | None) -> Staged:
    """Validate every line into Parquet files; the memory needed does not grow with the batch.

    While the database engine cleans and hashes some chunks, the next one is parsed.
    """
    parts: list[Part] = []
    quarantine = folder / "quarantine.parquet"
    kinds: Counter[str] = Counter()
    examples: dict[str, Refused] = {}
    lines, continuation, redacted = batch.header, 0, redactor.count
    pending: deque[Future[list[Refused]]] = deque()
    with (
        without_gc(),
        connect(memory_limit=memory, temp_directory=folder / "spill") as db,
        pq.ParquetWriter(quarantine, _QUARANTINE) as refused,
        ThreadPoolExecutor(_ENGINES) as engine,
    ):

        def settle(at_most: int) -> None:
            while len(pending) > at_most:
                bad = pending.popleft().result()
                kinds.update(each.kind for each in bad)
                for each in bad:
                    examples.setdefault(each.kind, each)
                rows = [dict(zip(_QUARANTINE.names, each, strict=True)) for each in bad]
                refused.write_table(pa.Table.from_pylist(rows, _QUARANTINE))

        source = iter(batch.lines)
        while chunk := list(islice(source, CHUNK)):
            settle(_ENGINES - 1)
            parts.append(Part(folder / f"part-{len(parts):06}.parquet", chunk[-1].number))
            pending.append(engine.submit(_clean, db, batch, _read(chunk, batch.fields, redactor), parts[-1].path))
            more = sum(line.span - 1 for line in chunk if isinstance(line, Line))
            lines, continuation = lines + len(chunk) + more, continuation + more
            if progress:
                progress(lines)
        settle(0)
        _check_ids(db, batch, parts)
    return Staged(parts, quarantine, lines, continuation, kinds, examples, redactor.count - redacted)


def _check_ids(db: duckdb.DuckDBPyConnection, batch: Batch, parts: Sequence[Part]) -> None:
    """Raise UnreadableFileError when what is called an event's id stands for different pairs, and all but one would be lost."""
    if not parts:
        return
    files = ", ".join(f"'{quoted(part.path)}'" for part in parts)
    ((events, lost, example, first, other),) = db.execute(
        f"""WITH named AS (
                SELECT line, event_id, min(pair_id) AS pair FROM read_parquet([{files}])
                WHERE event_id IS NOT NULL AND reason IS NULL GROUP BY line, event_id),
            clashing AS (
                SELECT event_id, count(*) AS lines, min(line) AS first, arg_max(line, pair <> named_first) AS other FROM (
                    SELECT *, first_value(pair) OVER (PARTITION BY event_id ORDER BY line) AS named_first FROM named)
                GROUP BY event_id HAVING count(DISTINCT pair) > 1)
            SELECT (SELECT count(*) FROM named), coalesce(sum(lines) - count(*), 0), arg_max(event_id, lines),
                arg_max(first, lines), arg_max(other, lines) FROM clashing"""
    ).fetchall()
    if lost < _CLASHES or lost < _CLASHING_SHARE * events:
        return
    name = batch.fields.column("event_id")
    raise UnreadableFileError(
        f"{batch.file}: {name} is {example} on line {first} and on line {other}, which hold different pairs, so it is no id "
        f"of an event, and {lost:,} of {events:,} events would be lost. Nothing of it was stored. Name the column that is one, "
        f'or none, in pairs.columns: event_id = "none".'
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
class _Chunk:
    """Some lines: the events among them, the lines that are none, and how each begins and whose it is."""

    events: pa.Table
    refused: list[Refused]
    beginning: Callable[[int], tuple[str, str | None]]


def _read(chunk: Sequence[Line | Unreadable], fields: FieldMap, redactor: Redactor) -> _Chunk:
    numbers: list[int] = []
    events: list[bytes] = []
    extras: list[bytes | None] = []
    refused: list[Refused] = []

    def beginning(place: int) -> tuple[str, str | None]:
        line = chunk[place]
        user = fields.user(line.record) if isinstance(line, Line) else None
        return redactor(_beginning(line, bool(redactor)))[:_RAW_BYTES], user

    def beginning_of(number: int) -> tuple[str, str | None]:
        return beginning(bisect_left(chunk, number, key=lambda line: line.number))

    for place, line in enumerate(chunk):
        read = _event(line, fields, redactor)
        if isinstance(read, Refusal):
            refused.append(Refused(line.number, read.kind, redactor.sentence(read.reason), *beginning(place)))
            continue
        numbers.append(line.number)
        events.append(read[0])
        extras.append(read[1])
    columns = [
        pa.array(numbers, pa.int64()),
        pa.array(events, pa.binary()).cast(pa.string()),
        pa.array(extras, pa.binary()).cast(pa.string()),
    ]
    return _Chunk(pa.Table.from_arrays(columns, schema=_EVENTS), refused, beginning_of)


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


def _clean(database: duckdb.DuckDBPyConnection, batch: Batch, chunk: _Chunk, part: Path) -> list[Refused]:
    """Write what a chunk says to `part`; returns the lines that say nothing."""
    db = database.cursor()
    db.execute(MACROS)
    db.register("events", chunk.events)
    db.execute(CLEAN_SQL.replace("$part", quoted(part)), {"batch": batch.batch_id, "source": batch.source})
    empty = db.execute(
        "SELECT line, min(reason), min(type) FROM read_parquet(?) GROUP BY line HAVING count(*) = count(reason)", [str(part)]
    ).fetchall()
    db.close()
    none = [Refused(line, *_no_pair(batch.fields, reason, kind), *chunk.beginning(line)) for line, reason, kind in empty]
    return sorted([*chunk.refused, *none], key=lambda each: each.number)


def _no_pair(fields: FieldMap, reason: str, kind: str) -> Refusal:
    if reason == "same":
        return Refusal("same question", "both of its texts are the same question")
    names = _TEXTS.get(kind, ("query", "shown"))
    return Refusal("empty", f"{fields.column(names[reason == 'second'])} is empty")
