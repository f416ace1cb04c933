"""Events: what a user left behind, and what it says about pairs of texts.

`event.schema.json` is the published shape and the one that validates. Each event says something of one pair or, for a list of
results, of several:

| event | says | label | kind | weight |
|---|---|---|---|---|
| label | text_a, text_b | as labelled | explicit, or as it says | 1 |
| duplicate | text_a, text_b | same | explicit | 1 |
| click | query, shown | same | implied | 0.5 |
| skip | query, shown | different | implied | 0.1 |
| search | query and each clicked result | same | implied | 0.5 |
| search | query and each result passed over above the lowest click | different | implied | 0.1 |
| thumb | query, answer | same (up), different (down) | implied | 0.8 |

A thumb judges an answer, not whether two questions mean the same, so it is implied. Results below the lowest click say
nothing: the user may not have seen them. An event's own `weight` takes the place of the weight above.
"""

import functools
from importlib.resources import files
from typing import Any

import orjson

# The fields that the database reads out of an event's JSON.
_FIELDS = orjson.dumps({
    **dict.fromkeys(("type", "event_id", "user", "time", "model", "text_a", "text_b", "query", "shown", "answer"), "VARCHAR"),
    **dict.fromkeys(("label", "kind", "thumb"), "VARCHAR"), "weight": "DOUBLE", "position": "INTEGER", "clicked": ["INTEGER"],
}).decode()  # fmt: skip

# What valid events say: the table `events` (line, event: JSON, extra: JSON or NULL) as one row a pair.
EVENTS_TO_PAIRS_SQL = f"""
WITH fields AS MATERIALIZED (
    SELECT line, extra, unnest(json_transform(event, '{_FIELDS}')) FROM events),
lists AS (
    SELECT *, json_transform(shown, '["VARCHAR"]') AS texts, unnest(range(1, list_max(clicked) + 1)) AS place
    FROM fields WHERE type = 'search'),
stated AS (
    SELECT line, 0 AS item, coalesce(type, 'label') AS type, event_id, "user", time, model, extra,
        coalesce(text_a, query) AS text_a, coalesce(text_b, shown, answer) AS text_b,
        CASE coalesce(type, 'label')
            WHEN 'label' THEN regexp_matches(label, '(?i)1|true|same')
            WHEN 'thumb' THEN thumb = 'up' ELSE type IN ('duplicate', 'click') END AS label,
        CASE WHEN type IN ('click', 'skip', 'thumb') THEN 'implied' ELSE coalesce(kind, 'explicit') END AS kind,
        coalesce(weight, CASE type WHEN 'click' THEN 0.5 WHEN 'skip' THEN 0.1 WHEN 'thumb' THEN 0.8 ELSE 1 END) AS weight,
        position
    FROM fields WHERE type IS DISTINCT FROM 'search'
    UNION ALL
    SELECT line, place - 1, type, event_id, "user", time, model, extra, query, texts[place], list_contains(clicked, place),
        'implied', coalesce(weight, if(list_contains(clicked, place), 0.5, 0.1)), place
    FROM lists)
SELECT line, CAST(item AS SMALLINT) AS item, type, nullif(trim(event_id), '') AS event_id, nullif(trim("user"), '') AS user_id,
    time, nullif(trim(model), '') AS model, extra, text_a, text_b, CAST(label AS TINYINT) AS label, kind, weight, position
FROM stated
"""


def event_schema() -> dict[str, Any]:
    """The JSON Schema of an event, as published beside this module."""
    return orjson.loads(files("flywheel.pairs.events").joinpath("event.schema.json").read_bytes())


@functools.cache
def _kinds() -> dict[str | None, tuple[Any, frozenset[str]]]:
    """Of each type of event: what validates it, and the fields it knows."""
    import jsonschema_rs

    schema = event_schema()
    definitions = schema["$defs"]
    common = definitions["common"]["properties"].keys()
    kinds: dict[str | None, tuple[Any, frozenset[str]]] = {}
    for each in schema["oneOf"]:
        name = each["$ref"].rpartition("/")[2]
        validator = jsonschema_rs.validator_for({**each, "$defs": definitions}, mask="the value")
        kinds[name] = validator, frozenset(common | definitions[name]["properties"].keys())
    return {None: kinds["label"], **kinds}


def field_names() -> frozenset[str]:
    """Every field that some type of event knows."""
    return frozenset().union(*(known for _, known in _kinds().values()))


def reason_not_event(record: Any) -> str | None:
    """The reason why a record is no event, or None when it is one. Never raises for bad data."""
    if type(record) is not dict:
        return f"the line holds a JSON {_json_type(record)}, not an object"
    name = record.get("type")
    known = _kinds().get(name) if name is None or type(name) is str else None
    if known is None:
        return f"type is none of {', '.join(name for name in _kinds() if name)}"
    if not known[0].is_valid(record):
        return "; ".join(_reason(error) for error in known[0].iter_errors(record))
    return _why_no_list(record) if name == "search" else None


def unknown_fields(record: dict[str, Any]) -> str | None:
    """The fields that are not in the schema, as JSON; None when there are none."""
    unknown = record.keys() - _kinds()[record.get("type")][1]
    return orjson.dumps({field: record[field] for field in sorted(unknown)}, default=str).decode() if unknown else None


def _why_no_list(record: dict[str, Any]) -> str | None:
    if not record["clicked"]:
        return "no result was clicked, so the list says nothing"
    if max(record["clicked"]) > len(record["shown"]):
        return f"clicked names position {max(record['clicked'])} of a list of {len(record['shown'])}"
    return None


def _reason(error: Any) -> str:
    path = list(error.instance_path)
    if path == ["label"]:
        return "label is none of 1 or 0, true or false, same or different"
    message = error.message.replace('"', "")[:200]
    return message if not path else f"{'.'.join(map(str, path))}: {message}"


def _json_type(value: Any) -> str:
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
