"""Records of JSON: one a line, or the items of one array. Numbers of any length stay what they are."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import duckdb
import orjson

from flywheel.errors import UnreadableFileError, one_line
from flywheel.pairs.events.lines import MAX_LINE_BYTES, Batch, Line, Unreadable, not_utf8, refused
from flywheel.pairs.events.text import COMPRESSION

_LONG_NUMBER = re.compile(rb"\d{19}")  # orjson makes floats of whole numbers beyond 64 bits


def json_lines(lines: Iterator[bytes]) -> Iterator[Line | Unreadable]:
    """JSON lines as records."""
    for number, raw in enumerate(lines, start=1):
        yield json_record(raw, number)


def json_batch(batch_id: str, source: Literal["seed", "interaction"], file: str, lines: Sequence[bytes]) -> Batch:
    """JSON lines in memory as a batch."""
    return Batch(batch_id, source, file, len(lines), json_lines(iter(lines)))


def json_record(raw: bytes, number: int) -> Line | Unreadable:
    """A line of JSON as a record."""
    try:
        record = orjson.loads(raw)
        if _LONG_NUMBER.search(raw):
            record = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number of thousands of digits
        why = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", "a number is too long")
        return (
            refused(raw, number)
            or not_utf8(raw, number)
            or Unreadable(f"the line is not JSON ({why})", raw, number, "not JSON")
        )
    return refused(raw, number) or Line(record, raw, number)


def is_array(lines: Iterator[bytes]) -> bool:
    """Whether lines are those of one JSON array of objects."""
    for raw in lines:
        if begin := raw.strip():
            return begin in (b"[", b"[]") or re.match(rb"\[\s*\{", begin) is not None
    return False


def is_one_object(lines: Iterator[bytes]) -> bool:
    """Whether the first line that is not blank only opens an object, as one that is printed over several lines does."""
    return next((raw for raw in lines if raw.strip()), b"").strip() == b"{"


def array_items(path: Path, name: str) -> Iterator[Line | Unreadable]:
    """The items of a file that holds one JSON array, numbered; the memory needed does not grow with the file."""
    compression = COMPRESSION.get(path.suffix.lower(), "uncompressed")
    with duckdb.connect() as db:
        try:
            items = db.execute(
                "SELECT json FROM read_json_objects(?, format = 'array', compression = ?, maximum_object_size = ?)",
                [glob_escaped(path), compression, 2 * MAX_LINE_BYTES],
            )
            read = 0
            while some := items.fetchmany(1000):
                for number, (item,) in enumerate(some, start=read + 1):
                    yield json_record(item.encode(), number)
                read += len(some)
        except duckdb.Error as error:
            why = str(error).partition("Malformed JSON in file")[2].partition(", ")[2] or one_line(error)
            raise UnreadableFileError(
                f"{name} is not a JSON array throughout ({why.strip()[:150]}). Nothing of it was stored."
            ) from error


def glob_escaped(path: Path) -> str:
    """A path in which the database sees no pattern."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
