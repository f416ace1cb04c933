"""Values of JSON: at the end of a path, out of what a database wraps around them, as a list, in a sentence."""

import json
from collections.abc import Sequence
from typing import Any

import orjson

_EXTENDED = frozenset({"$oid", "$date", "$numberLong", "$numberInt", "$numberDouble", "$numberDecimal", "$uuid"})


def nested(value: Any, names: Sequence[str]) -> Any:
    """What is at the end of a path of names; a number counts items of a list from 0. A text on the way may be JSON."""
    if not names:
        return value
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return None
    if isinstance(value, list):
        place = int(names[0]) if names[0].isdecimal() else len(value)
        return nested(value[place], names[1:]) if place < len(value) else None
    if not isinstance(value, dict):
        return None
    for taken in range(len(names), 0, -1):  # a name may hold a dot itself
        if (name := ".".join(names[:taken])) in value:
            return nested(value[name], names[taken:])
    return None


def unwrapped(value: dict[str, Any]) -> Any:
    """A value as it is within MongoDB's extended JSON, {"$oid": "..."}, {"$date": {"$numberLong": "..."}}; else as it is."""
    inner: Any = value
    while type(inner) is dict and len(inner) == 1 and (name := next(iter(inner))) in _EXTENDED:
        inner = inner[name]
    return inner


def listed(ours: str, value: Any) -> Any:
    """A list, also from its JSON, of clicked positions also a single one; numbers in it also from texts."""
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return value
    if ours == "shown":
        return value
    items = [value] if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(items, list):
        return items
    return [int(each) if isinstance(each, str) and each.strip().isdecimal() else each for each in items]


def shown(value: Any) -> str:
    """A value in a reason: on one line, and whole or not at all, since a half might be half of what is redacted."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"a value of {len(text):,} characters"
