"""Records of JSON: one a line, or the items of one array. Numbers of any length stay what they are."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.lines import MAX_LINE_BYTES, Batch, Line, Unreadable, not_utf8, refused
from flywheel.pairs.events.text import TextForm, text_blocks

_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
_WHOLE = 2.0**63  # beyond it orjson makes floats of whole numbers


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
        if _may_be_rounded(record):
            record = json.loads(raw)
    except (ValueError, RecursionError) as error:  # ValueError: also of a number of thousands of digits
        why = "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", "a number is too long")
        return (
            refused(raw, number)
            or not_utf8(raw, number)
            or Unreadable(f"the line is not JSON ({why})", raw, number, "not JSON")
        )
    return refused(raw, number) or Line(record, raw, number)


def _may_be_rounded(value: Any) -> bool:
    """Whether a value holds a float that may have been a whole number of more than 64 bits."""
    if type(value) is dict:
        value = value.values()
    for each in value if isinstance(value, Iterable) and type(value) is not str else ():
        kind = type(each)
        if (kind is float and abs(each) >= _WHOLE) or (kind in (dict, list) and _may_be_rounded(each)):
            return True
    return False


def is_array(lines: Iterator[bytes]) -> bool:
    """Whether lines are those of one JSON array of objects."""
    for raw in lines:
        if begin := raw.strip():
            return begin in (b"[", b"[]") or re.match(rb"\[\s*\{", begin) is not None
    return False


def is_one_object(lines: Iterator[bytes]) -> bool:
    """Whether the first line that is not blank only opens an object, as one that is printed over several lines does."""
    return next((raw for raw in lines if raw.strip()), b"").strip() == b"{"


def array_items(path: Path, name: str, text: TextForm) -> Iterator[Line | Unreadable]:
    """The items of a file that holds one JSON array, numbered; the memory needed does not grow with the file."""
    reader = _Values(text_blocks(path, text))
    number = 0
    try:
        reader.skip("[")
        while number or reader.sign() != "]":
            number += 1
            yield json_record(reader.value().encode("utf-8", "surrogateescape"), number)
            if reader.sign() == "]":
                break
            reader.skip(",")
        reader.skip("]")
        reader.skip("")
    except (json.JSONDecodeError, RecursionError) as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        where = f"item {number}: {why}" if number else why
        raise UnreadableFileError(f"{name} is not a JSON array throughout ({where}). Nothing of it was stored.") from error


class _Values:
    """JSON values of a text that comes in blocks. Raises JSONDecodeError for what is none."""

    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks = blocks
        self._text = ""
        self._place = 0

    def sign(self) -> str:
        """The next sign that is not blank, or nothing at the end."""
        while True:
            blank = _BLANKS.match(self._text, self._place)
            self._place = blank.end() if blank else self._place
            if self._place < len(self._text) or not self._more():
                return self._text[self._place : self._place + 1]

    def skip(self, sign: str) -> None:
        """Go on behind the sign that has to come next."""
        if (found := self.sign()) != sign:
            raise json.JSONDecodeError(f"{found or 'the end'!r} where {sign or 'the end'!r} should be", "", 0)
        self._place += len(sign)

    def value(self) -> str:
        """The text of the next value."""
        self.sign()
        while True:
            try:
                _, end = _DECODER.raw_decode(self._text, self._place)
            except json.JSONDecodeError:  # or it goes on in the next block
                if len(self._text) - self._place > 2 * MAX_LINE_BYTES or not self._more():
                    raise
                continue
            if end < len(self._text) or not self._more():
                value, self._place = self._text[self._place : end], end
                return value

    def _more(self) -> bool:
        block = next(self._blocks, "")
        self._text, self._place = self._text[self._place :] + block, 0
        return block != ""
