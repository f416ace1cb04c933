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
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import orjson

# The fields that the database reads out of an event's JSON.
_FIELDS = orjson.dumps({
    **dict.fromkeys(("type", "event_id", "user", "time", "model", "text_a", "text_b", "query", "shown", "answer"), "VARCHAR"),
    **dict.fromkeys(("label", "kind", "thumb"), "VARCHAR"), "weight": "DOUBLE", "position": "INTEGER", "clicked": ["INTEGER"],
}).decode()  # fmt: skip

# What valid events say: the table `events` (batch, line, event: JSON, extra: JSON or NULL) as one row a pair.
EVENTS_TO_PAIRS_SQL = f"""
WITH fields AS MATERIALIZED (
    SELECT batch, line, extra, unnest(json_transform(event, '{_FIELDS}')) FROM events),
lists AS (
    SELECT *, json_transform(shown, '["VARCHAR"]') AS texts, unnest(range(1, list_max(clicked) + 1)) AS place
    FROM fields WHERE type = 'search'),
stated AS (
    SELECT batch, line, 0 AS item, coalesce(type, 'label') AS type, event_id, "user", time, model, extra,
        coalesce(text_a, query) AS text_a, coalesce(text_b, shown, answer) AS text_b,
        CASE coalesce(type, 'label')
            WHEN 'label' THEN regexp_matches(label, '(?i)1|true|same')
            WHEN 'thumb' THEN thumb = 'up' ELSE type IN ('duplicate', 'click') END AS label,
        CASE WHEN type IN ('click', 'skip', 'thumb') THEN 'implied' ELSE coalesce(kind, 'explicit') END AS kind,
        coalesce(weight, CASE type WHEN 'click' THEN 0.5 WHEN 'skip' THEN 0.1 WHEN 'thumb' THEN 0.8 ELSE 1 END) AS weight,
        position
    FROM fields WHERE type IS DISTINCT FROM 'search'
    UNION ALL
    SELECT batch, line, place - 1, type, event_id, "user", time, model, extra, query, texts[place],
        list_contains(clicked, place), 'implied', coalesce(weight, if(list_contains(clicked, place), 0.5, 0.1)), place
    FROM lists)
SELECT batch, line, CAST(item AS SMALLINT) AS item, type, nullif(trim(event_id), '') AS event_id,
    nullif(trim("user"), '') AS user_id, time, nullif(trim(model), '') AS model, extra, text_a, text_b,
    CAST(label AS TINYINT) AS label, kind, weight, position
FROM stated
"""


def event_schema() -> dict[str, Any]:
    """The JSON Schema of an event, as published beside this module."""
    return orjson.loads(files("flywheel.pairs.events").joinpath("event.schema.json").read_bytes())


def _known_fields() -> dict[str, tuple[str, ...]]:
    definitions = event_schema()["$defs"]
    common = definitions["common"]["properties"]
    names = [each["$ref"].rpartition("/")[2] for each in event_schema()["oneOf"]]
    return {name: tuple(definitions[name]["properties"] | common) for name in names}


# The fields that each type of event knows, in the schema's order.
KNOWN_FIELDS = _known_fields()


@functools.cache
def _validator(kind: str) -> Any:
    import jsonschema_rs

    schema = event_schema()
    (one,) = (each for each in schema["oneOf"] if each["$ref"].endswith(f"/{kind}"))
    return jsonschema_rs.validator_for({**one, "$defs": schema["$defs"]})


def field_names() -> frozenset[str]:
    """Every field that some type of event knows."""
    return frozenset().union(*KNOWN_FIELDS.values())


def invalid_field(kind: str, event: Mapping[str, Any]) -> str | None:
    """The field for which an event is none of its kind, or None when it is one."""
    validator = _validator(kind)
    if validator.is_valid(event):
        return None
    for name in ("text_a", "text_b", "query", "shown", "answer", "clicked", "label", "thumb"):  # what is missing, first
        if name not in event and name in _required(kind):
            return name
    return next(str(error.instance_path[0]) for error in validator.iter_errors(event))


@functools.cache
def _required(kind: str) -> frozenset[str]:
    return frozenset(event_schema()["$defs"][kind]["required"])
