"""Lines of a delivery: records, the lines that cannot be read, and the batch they came in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import orjson

from flywheel.errors import UnreadableFileError

MAX_LINE_BYTES = 1_000_000
HOLDS_NUL = "holds a NUL character"


class Unreadable(NamedTuple):
    """A line that is no record: why, and how it begins."""

    reason: str
    raw: bytes


# One line: its record, and the bytes it was read from (none where the format has no lines).
Line = tuple[Any, bytes | None]


@dataclass(frozen=True)
class Batch:
    """One delivery of lines. `batch_id` is a hash of the content, so the same delivery is known again by any name.

    `source` is `seed` or `interaction`; `file` says where the lines came from.
    """

    batch_id: str
    source: Literal["seed", "interaction"]
    file: str
    lines: Iterator[Line | Unreadable]


def json_lines(lines: Iterator[bytes]) -> Iterator[Line | Unreadable]:
    """JSON lines as records."""
    for raw in lines:
        yield json_record(raw)


def raw_lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends. One that is too long is one line still: its beginning, and one byte more than allowed."""
    while line := file.readline(MAX_LINE_BYTES + 2):
        if not line.endswith(b"\n") and len(line) > MAX_LINE_BYTES:
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield line
        else:
            yield line.rstrip(b"\r\n")


def refused(raw: bytes) -> Unreadable | None:
    """Why a line of any format cannot be a record: too long, blank, or with a NUL. None if it can."""
    if len(raw) > MAX_LINE_BYTES:
        return Unreadable(f"the line is longer than {MAX_LINE_BYTES:,} bytes", raw)
    if not raw.strip():
        return Unreadable("the line is blank", raw)
    if b"\0" in raw:
        return Unreadable(f"the line {HOLDS_NUL}", raw)
    return None


def json_record(raw: bytes) -> Line | Unreadable:
    """A line of JSON as a record."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return refused(raw) or Unreadable(f"the line is not {not_utf8(raw) or f'JSON ({error.msg})'}", raw)
    return refused(raw) or (record, raw)


def not_utf8(raw: bytes) -> str | None:
    """The first byte at which `raw` is not UTF-8, in words; None if it is."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"UTF-8 (byte {error.start})"
    return None


def check_names(path: Path, names: list[str], columns: Mapping[str, str]) -> None:
    """Raise UnreadableFileError unless a table's column `names` are distinct and hold a text of ours."""
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UnreadableFileError(f"{path.name} has two columns named {twice[0]}. Nothing of it was stored; rename one.")
    found = {ours for ours in ("text_a", "query") if columns.get(ours, ours) in names}
    if not found:
        raise UnreadableFileError(
            f"{path.name} has the columns {', '.join(names[:20])} and neither text_a nor query. Nothing of it was stored; "
            "say in the home's flywheel.toml, below [pairs], which is which: "
            'columns = {"text_a" = "...", "text_b" = "...", "label" = "..."}.'
        )
