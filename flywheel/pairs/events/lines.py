"""Lines of a delivery: records, the lines that cannot be read, and the batch they came in."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.coding import toml
from flywheel.pairs.events.mapping import FieldMap

MAX_LINE_BYTES = 1_000_000
HOLDS_NUL = "holds a NUL character"
BLANK = "the line is blank"
_DEPTH = 5  # of the names within records of JSON that a sentence lists


class Unreadable(NamedTuple):
    """A line that is no record: why, how it begins, and its number in the file.

    Lines of one `kind` are refused for one reason, whatever values the sentences name.
    """

    reason: str
    raw: bytes
    number: int
    kind: str = "unreadable"


class Line(NamedTuple):
    """A record, the bytes it was read from (none where the format has no lines), its first line and how many it is on."""

    record: Any
    raw: bytes | None
    number: int
    span: int = 1


@dataclass(frozen=True)
class Batch:
    """One delivery of lines. `batch_id` is a hash of the content, so the same delivery is known again by any name.

    `source` is `seed` or `interaction`; `file` says where the lines came from. `total` lines were counted in the file, and
    the first `header` of them name columns. `fields` turns a record into an event.
    """

    batch_id: str
    source: Literal["seed", "interaction"]
    file: str
    total: int
    lines: Iterator[Line | Unreadable]
    header: int = 0
    fields: FieldMap = field(default_factory=FieldMap)


def refused(raw: bytes, number: int) -> Unreadable | None:
    """Why a line of any format cannot be a record: too long, blank, or with a NUL. None if it can."""
    if len(raw) > MAX_LINE_BYTES:
        return Unreadable(f"the line is longer than {MAX_LINE_BYTES:,} bytes", raw, number, "too long")
    if not raw.strip():
        return Unreadable(BLANK, raw, number, "blank")
    if b"\0" in raw:
        return Unreadable(f"the line {HOLDS_NUL}", raw, number, "NUL")
    return None


def not_utf8(raw: bytes, number: int) -> Unreadable | None:
    """The line as refused for the first byte that is not UTF-8; None if all are."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return Unreadable(
            f"the line is not UTF-8 (byte {error.start}); is it in another pairs.encoding?", raw, number, "not UTF-8"
        )
    return None


# Names under which public data sets and exports have our fields, for a suggestion; nothing is read by them.
_COMMON_NAMES = {
    "text_a": ("text_a", "question1", "sentence1", "premise", "sentence_a", "text1", "text_1", "anchor", "query", "input"),
    "text_b": (
        "text_b",
        "question2",
        "sentence2",
        "hypothesis",
        "sentence_b",
        "text2",
        "text_2",
        "positive",
        "passage",
        "output",
    ),
    "label": ("is_duplicate", "label", "score", "similarity", "similarity_score", "relatedness_score", "gold_label", "labels"),
}


def check_names(file: str, names: list[str], columns: Mapping[str, str], header: int = 0) -> None:
    """Raise UnreadableFileError unless a table's column `names` are distinct and hold a text of ours.

    `header` is the line they are in, if the file has lines.
    """
    where = f"{file}:{header}" if header else file
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise UnreadableFileError(f"{where} has two columns named {twice[0]}. Nothing of it was stored; rename one.")
    roots = {*names, *(name.partition(".")[0] for name in names)}
    wanted = [columns.get(ours, ours) for ours in ("text_a", "query")]
    if not any(name in roots or name.partition(".")[0] in roots for name in wanted):
        raise without_texts(where, file, "columns", names, columns)


def without_texts(where: str, file: str, what: str, names: Sequence[str], columns: Mapping[str, str]) -> UnreadableFileError:
    """A file of which none of its names, called `what` there, is mapped to a text of ours; says how to map them."""
    section = f"[pairs.files.{toml(Path(file).parts[0])}]"
    listed = ", ".join(name or "(no name)" for name in names[:20])
    wanted = [columns.get(ours, ours) for ours in ("text_a", "query")]
    return UnreadableFileError(
        f"{where} has the {what} {listed} and none called {' or '.join(wanted)}. Nothing of it was stored. "
        f"Say which is which in the home's flywheel.toml: {section} and below it columns = {suggested(names)}."
    )


def wrapped(file: str, record: Mapping[str, Any]) -> UnreadableFileError | None:
    """A file's only record as what holds its records, in a list or by columns; None if it is a record itself."""
    if len(record) > 1 and all(isinstance(each, dict) for each in record.values()):
        return UnreadableFileError(
            f"{file} holds one JSON object of columns, not records. Nothing of it was stored; write records, "
            "as pandas does with to_json(orient='records', lines=True)."
        )
    for name, each in record.items():
        if isinstance(each, list) and each and all(isinstance(item, dict | list) for item in each):
            return UnreadableFileError(
                f"{file} holds one JSON object, and records may be within its {name}. Nothing of it was stored; "
                f"write them as an array of objects by themselves, as `jq '.[{json.dumps(name)}]' {shlex.quote(file)}` does."
            )
    return None


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The dotted names of what a record of JSON holds, of a list those of its first item."""
    below = value.items() if isinstance(value, dict) else [("0", value[0])] if isinstance(value, list) and value else ()
    if path and (not below or path.count(".") > _DEPTH):
        yield path
        return
    for name, each in below:
        yield from leaves(each, f"{path}.{name}" if path else name)


def suggested(names: Sequence[str]) -> str:
    """A mapping of columns as TOML: by the names that are common, else to be filled in."""
    found: dict[str, str] = {}
    for ours, common in _COMMON_NAMES.items():
        found[ours] = next(
            (
                name
                for each in common
                for name in names
                if name.lower().rpartition(".")[2].replace(" ", "_") == each and name not in found.values()
            ),
            "...",
        )
    return "{" + ", ".join(f"{ours} = {toml(theirs)}" for ours, theirs in found.items()) + "}"
