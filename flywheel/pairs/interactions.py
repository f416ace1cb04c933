"""The shape of one interaction, and the reasons for which a line is quarantined. Knows no database."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from flywheel.errors import FlywheelError, UnreadableFileError
from flywheel.pairs.text import digest, normalise, pair_id, question_id

MAX_LINE_BYTES = 1_000_000
MAX_TEXT_CHARACTERS = 10_000
_CLOCK_TOLERANCE = timedelta(days=1)
_LABELS: dict[Any, int] = {"same": 1, "different": 0, "1": 1, "0": 0, "true": 1, "false": 0}


def _label(value: Any) -> int:
    known = _LABELS.get(value.strip().lower()) if isinstance(value, str) else value
    if known not in (0, 1) or (isinstance(known, float) and math.isnan(known)):
        raise ValueError(f"is {value!r}; it must be 1 or 0, true or false, same or different")
    return int(known)


def _identifier(value: Any) -> Any:
    """Numbers count as text; a blank identifier is none, so that events without one are not taken for the same."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return (text.strip() or None) if isinstance(text, str) else text


def _checked_unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return value


Identifier = Annotated[Annotated[str, Field(max_length=200)] | None, BeforeValidator(_identifier)]


class Interaction(BaseModel):
    """One event that says whether two texts mean the same. Unknown fields are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)

    text_a: str
    text_b: str
    label: Annotated[int, BeforeValidator(_label)]
    event_id: Identifier = None
    user: Identifier = None
    time: datetime | None = None
    kind: Literal["explicit", "implied"] = "explicit"
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False)

    @field_validator("event_id", "user")
    @classmethod
    def _encodable(cls, value: str | None) -> str | None:
        return value if value is None else _checked_unicode(value)

    @field_validator("text_a", "text_b")
    @classmethod
    def _text(cls, value: str) -> str:
        if len(value) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"has {len(value)} characters; at most {MAX_TEXT_CHARACTERS} are kept")
        text = normalise(_checked_unicode(value))
        if not any(c.isprintable() and not c.isspace() for c in text):
            raise ValueError("is empty")
        return text

    @field_validator("time")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        if value is None:
            return None
        try:
            moment = (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
        except OverflowError:
            raise ValueError(f"is {value}, which no calendar holds") from None
        if moment > datetime.now(UTC) + _CLOCK_TOLERANCE:
            raise ValueError(f"is {value}, which has not come yet")  # it would be the newest word on its pair for ever
        return moment.replace(tzinfo=None)

    @model_validator(mode="after")
    def _two_texts(self) -> "Interaction":
        if question_id(self.text_a) == question_id(self.text_b):
            raise ValueError("text_a and text_b are the same question")
        return self


@dataclass(frozen=True)
class Quarantined:
    """A line that says nothing usable: why, and how it began."""

    line: int
    reason: str
    raw: str


@dataclass(frozen=True)
class Batch:
    """One delivery of lines. `batch_id` is a hash of the content, so the same delivery is known again by any name.

    `source` is `seed` or `interaction`; `file` says where the lines came from.
    """

    batch_id: str
    source: Literal["seed", "interaction"]
    file: str
    lines: Iterator[bytes]


def parse_line(batch: Batch, number: int, raw: bytes) -> dict[str, object] | Quarantined:
    """One JSON line -> the columns of an observation, or the reason why it is none. Never raises for bad data."""
    try:
        interaction = _validate(raw)
    except ValueError as error:
        return Quarantined(number, str(error), raw[:500].decode("utf-8", "replace").replace("\0", "\ufffd"))
    texts = sorted((question_id(text), text) for text in (interaction.text_a, interaction.text_b))
    (question_a, text_a), (question_b, text_b) = texts
    event = interaction.event_id
    identity = f"{batch.source}|event|{event}" if event is not None else f"{batch.batch_id}|line|{number}"
    return {
        "observation_id": digest(identity),
        "batch_id": batch.batch_id,
        "line": number,
        "source": batch.source,
        "event_id": event,
        "user_id": interaction.user,
        "observed_at": interaction.time,
        "pair_id": pair_id(question_a, question_b),
        "question_a": question_a,
        "question_b": question_b,
        "text_a": text_a,
        "text_b": text_b,
        "label": interaction.label,
        "weight": interaction.weight,
        "kind": interaction.kind,
        "extra": json.dumps(interaction.model_extra, sort_keys=True) if interaction.model_extra else None,
    }


def _validate(raw: bytes) -> Interaction:
    if len(raw) > MAX_LINE_BYTES:
        raise ValueError(f"the line has {len(raw)} bytes; at most {MAX_LINE_BYTES} are read")
    if not raw.strip():
        raise ValueError("the line is blank")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"the line is not UTF-8 (byte {error.start})") from None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the line is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"the line holds a JSON {type(record).__name__}, not an object")
    if "\\u0000" in text or "\0" in text:
        raise ValueError("the line holds a NUL character")
    try:
        return Interaction.model_validate(record)
    except ValidationError as error:
        raise ValueError("; ".join(_reason(dict(e)) for e in error.errors())) from None


def _reason(error: dict[str, Any]) -> str:
    field = ".".join(map(str, error["loc"]))
    if error["type"] == "missing":
        return f"{field} is missing"
    return f"{field} {error['msg'].removeprefix('Value error, ')}".strip()


def read_batch(path: Path, name: str) -> Batch:
    """A JSON-lines file as a batch that the store calls `name`. Raises UnreadableFileError when it cannot be read."""
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be read ({error.strerror}). Nothing of it was stored.") from error
    return Batch(content[:32], "interaction", name, _lines(path, content))


def _lines(path: Path, content: str) -> Iterator[bytes]:
    seen = hashlib.sha256()
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 2):
            seen.update(line)
            while not line.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                seen.update(rest)  # an overlong line is one line: it is quarantined, not cut into several
                if rest.endswith(b"\n"):
                    break
            yield line.rstrip(b"\r\n")
    if seen.hexdigest() != content:
        raise FlywheelError(f"{path} changed while it was read. Nothing of it was stored; ingest it again when it is finished.")
