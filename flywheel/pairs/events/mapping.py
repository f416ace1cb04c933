"""A record of a file as an event: fields found under the user's names, values made one of a kind, each by itself.

Reasons speak of the user's columns and values, since that is what can be corrected.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from time import time as now
from typing import Any, NamedTuple

from flywheel.pairs.events.coding import LABELS, THUMBS, Coding, written
from flywheel.pairs.events.events import KNOWN_FIELDS, invalid_field
from flywheel.pairs.events.times import read_time
from flywheel.pairs.events.values import listed, nested, shown, unwrapped
from flywheel.pairs.options import FileOptions

# Kinds of refusal that say nothing against a file: its lines are what they should be, and hold no pair.
HARMLESS = frozenset({"blank", "bulk action", "left out", "no click", "same question"})

IDS = ("event_id", "user", "model")
_WHOLE = re.compile(r"-?\d+\.0")
_SHORTENED = re.compile(r"-?\d([.,]\d+)?[eE]\+\d{2,}")
# Words that tables, and libraries that write them, have where there is no id.
NOTHING = frozenset({
    r"\N", "NULL", "null", "(null)", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "NaT", "None", "undefined",
})  # fmt: skip
_NUMBERS = ("label", "weight", "position", "thumb")
_FIRST = ("text_a", "query")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_EXACT = 2.0**53
BULK_ACTIONS = frozenset({"index", "create", "update", "delete"})
_RULES = {
    **dict.fromkeys(("text_a", "text_b", "query", "answer"), "a text of at most 10,000 characters"),
    **dict.fromkeys(IDS, "an id of at most 200 characters"),
    "shown": "a text of at most 10,000 characters, or for a search a list of at most 1,000 of them",
    "clicked": "a list of positions in the list shown, the first is 1",
    "position": "a whole number from 1 to 1,000,000",
    "weight": "a number above 0 and at most 1,000",
    "kind": "explicit or implied",
}


_EPOCH = datetime(1970, 1, 1)
_DAY = 86_400.0  # seconds
# How a field is read: our name, the user's, whether it may be there though the user's name is not, and what its values become.
_Plan = tuple[str, str, bool, Callable[[Any], Any] | None]


class Refusal(NamedTuple):
    """Why a record is no event. Records of one `kind` are refused for one reason, whatever values they hold."""

    kind: str
    reason: str


class Event(NamedTuple):
    """An event as `event.schema.json` has it, and the record's other fields."""

    fields: dict[str, Any]
    extra: dict[str, Any]


@dataclass(frozen=True)
class FieldMap:
    """How the records of a file are events: the user's settings, and what was seen of the columns as a whole.

    `float_ids` are the fields whose ids are written as 17.0; `exact` says of a column up to where its floats are whole
    numbers; `decimal_comma` says that 0,5 is a number.
    """

    options: FileOptions = field(default_factory=FileOptions)
    float_ids: frozenset[str] = frozenset()
    exact: Mapping[str, float] = field(default_factory=dict)
    decimal_comma: bool = False

    @cached_property
    def labels(self) -> Coding:
        """What a label means."""
        return Coding.of(self.options.labels, LABELS, self.options.cut, self.options.cut_below)

    @cached_property
    def thumbs(self) -> Coding:
        """What a thumb means."""
        return Coding.of(self.options.thumbs, THUMBS)

    def column(self, ours: str) -> str:
        """The user's name of one of our fields."""
        return self.options.columns.get(ours, ours)

    def value(self, record: Mapping[str, Any], ours: str) -> Any:
        """What a record holds of one of our fields; None when nothing."""
        if ours in self.options.constants:
            return self.options.constants[ours]
        name = self.options.columns.get(ours, ours)
        found = record[name] if name in record else nested(record, name.split(".")) if "." in name else None
        if type(found) is str and not self.decimal_comma:  # as most are
            return None if not found or found.isspace() else found
        if type(found) is dict:
            found = unwrapped(found)
        elif self.decimal_comma and ours in _NUMBERS and isinstance(found, str) and _COMMA.fullmatch(found.strip()):
            found = found.replace(",", ".")
        return None if found is None or (isinstance(found, str) and not found.strip()) or found != found else found

    def type_of(self, record: Mapping[str, Any]) -> str | Refusal:
        """The type of event that a record is."""
        said = self.value(record, "type")
        if said is None and self.options.types and "type" in self.options.columns:
            return Refusal("left out", f"{self.column('type')} is empty, which pairs.types does not name")
        if "type" in self.options.constants or said is None:
            return str(said or "label") if str(said or "label") in KNOWN_FIELDS else self._no_type(said)
        if self.options.types:
            ours = self.options.types.get(said if isinstance(said, str) else written(said))
            return ours or Refusal("left out", f"{self.column('type')} is {shown(said)}, which pairs.types does not name")
        return said if isinstance(said, str) and said in KNOWN_FIELDS else self._no_type(said)

    def _no_type(self, said: Any) -> Refusal:
        return Refusal(
            "type",
            f"{self.column('type')} is {shown(said)}, none of {', '.join(KNOWN_FIELDS)}; pairs.types says what yours are",
        )

    def read(self, record: Any) -> Event | Refusal:
        """A record as an event. Never raises for bad data."""
        if type(record) is not dict:
            return Refusal("not an object", f"the line holds a JSON {_json_type(record)}, not an object")
        if len(record) == 1 and (action := next(iter(record))) in BULK_ACTIONS and isinstance(record[action], dict):
            return Refusal("bulk action", f"the line is the action {action!r} of a bulk export, not an event")
        kind = self.type_of(record)
        if isinstance(kind, Refusal):
            return kind
        event: dict[str, Any] = {"type": kind}
        fields, used = self._plan(kind)
        for ours, name, anywhere, reader in fields:
            if not anywhere and name not in record:
                continue
            if (value := self.value(record, ours)) is None:
                continue
            read = reader(value) if reader else value
            if read.__class__ is Refusal:
                return read
            if read is not None:
                event[ours] = read
        if wrong := invalid_field(kind, event):
            return self._invalid(wrong, event)
        if kind == "search" and (why := _no_list(event)):
            return why
        if kind == "duplicate" and (said := self.value(record, "label")) is not None and self.labels.read(said) != 1:
            return Refusal(
                "label", f"{self.column('label')} is {shown(said)}, and an event of the type duplicate says the same"
            )
        return Event(event, {name: value for name, value in record.items() if name not in used})

    def _plan(self, kind: str) -> tuple[list[_Plan], frozenset[str]]:
        """Of a type: how its fields are found and read, but for the type itself, and the names that are read."""
        if kind not in self._plans:
            constants, known = self.options.constants, KNOWN_FIELDS[kind]
            fields = [
                (ours, name, "." in name or ours in constants, self._reader(ours, kind))
                for ours in known
                if ours != "type" and (name := self.column(ours))
            ]
            self._plans[kind] = fields, frozenset(self.column(ours) for ours in known if ours not in constants)
        return self._plans[kind]

    @cached_property
    def _plans(self) -> dict[str, tuple[list[_Plan], frozenset[str]]]:
        return {}

    def _reader(self, ours: str, kind: str) -> Callable[[Any], Any] | None:
        """What makes a field's values one of a kind; None for texts."""
        if ours == "event_id":  # all events called NULL would be one
            return lambda value: None if isinstance(value, str) and value.strip() in NOTHING else self._id(ours, value)
        if ours in IDS:
            return partial(self._id, ours)
        if ours == "label":
            return partial(self._coded, ours, self.labels, "1 or 0, true or false, same or different")
        if ours == "thumb":
            return partial(self._coded, ours, self.thumbs, "up or down")
        if ours == "time":
            return self.time
        if ours in ("weight", "position"):
            return self._number
        return partial(listed, ours) if ours == "clicked" or (ours == "shown" and kind == "search") else None

    def _coded(self, ours: str, coding: Coding, known: str, value: Any) -> Any:
        if (meaning := coding.read(value)) is not None:
            return meaning
        said = f"{self.column(ours)} is {shown(value)}"
        if coding.cut is not None:
            setting = "cut_below" if coding.below else "cut"
            return Refusal(ours, f"{said}, no number, and pairs.{setting} takes numbers")
        if coding.said:
            return Refusal("left out", f"{said}, which pairs.{ours}s does not name")
        return Refusal(ours, f"{said}, none of {known}")

    def _id(self, ours: str, value: Any) -> str | Refusal:
        """An id as text, as it was written: 17, 17.0 of a column of floats, and "17" are one."""
        name = self.column(ours)
        if isinstance(value, str):
            text = value.strip()
            if "+" in text and _SHORTENED.fullmatch(text):
                return Refusal(f"{ours} lost digits", f"{name} is {text}: a spreadsheet has shortened it. Export ids as text")
            if ours not in self.float_ids or not _WHOLE.fullmatch(text):
                return text
            whole = text.partition(".")[0]
            if "." in text and abs(int(whole)) >= _EXACT:
                return Refusal(f"{ours} lost digits", f"{name} is {text}, a float that has lost digits. Write ids as text")
            return whole
        if isinstance(value, float) and abs(value) >= min(self.exact.get(name, _EXACT), _EXACT):
            return Refusal(f"{ours} lost digits", f"{name} is {value:g}, a float that has lost digits. Write ids as text")
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            return Refusal(ours, f"{name} is {shown(value)}, not {_RULES[ours]}")
        return str(int(value))

    def holds_text(self, record: Mapping[str, Any]) -> bool:
        """Whether a record has the first text of any event; an object in its place is none."""
        return any(self.value(record, ours) is not None and not isinstance(self.value(record, ours), dict) for ours in _FIRST)

    def user(self, record: Any) -> str | None:
        """Whose record it is, event or not; None when it does not say."""
        if type(record) is not dict or (value := self.value(record, "user")) is None:
            return None
        found = self._id("user", value)
        return found if isinstance(found, str) else None

    def time(self, value: Any) -> str | Refusal:
        """A time in UTC, as the database reads it."""
        name = self.column("time")
        try:
            found = read_time(value, self.options.day_first)
        except ValueError as error:
            return Refusal("time", f"{name} {shown(value)} {error}")
        if found.year < 1970:
            return Refusal("time", f"{name} {shown(value)} is before 1970")
        if (found - _EPOCH).total_seconds() > now() + _DAY:  # it would be the newest word on its pair for ever
            return Refusal("time", f"{name} {shown(value)} is in the future")
        return str(found)

    def _number(self, value: Any) -> Any:
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                return value  # the schema says what is wrong with it
            value = number if math.isfinite(number) else value
        return int(value) if isinstance(value, float) and value.is_integer() else value

    def _invalid(self, ours: str, event: Mapping[str, Any]) -> Refusal:
        name = self.column(ours)
        if ours not in event:
            return Refusal(f"{ours} missing", f"{name} is empty")
        value = event[ours]
        return Refusal(ours, f"{name} is {shown(value)}, not {_RULES[ours]}")


def _no_list(event: Mapping[str, Any]) -> Refusal | None:
    if not event["clicked"]:
        return Refusal("no click", "no result was clicked, so the list says nothing")
    if max(event["clicked"]) > len(event["shown"]):
        return Refusal("clicked", f"clicked names position {max(event['clicked'])} of a list of {len(event['shown'])}")
    return None


def _json_type(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
