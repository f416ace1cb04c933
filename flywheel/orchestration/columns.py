"""What the columns of stored tables hold, for the UI."""

import dagster as dg


def _schema(rows: dict[str, str]) -> dg.TableSchema:
    parts = {name: text.partition(": ") for name, text in rows.items()}
    return dg.TableSchema([dg.TableColumn(name, kind, words) for name, (kind, _, words) in parts.items()])


_TEXTS = {
    "text_a": "VARCHAR: one text, as it was first written",
    "text_b": "VARCHAR: the other",
    "label": "TINYINT: 1 where both mean the same, 0 where they do not",
    "weight": "DOUBLE: how much the label counts in training",
    "kind": "VARCHAR: explicit where a person judged, implied where behaviour did",
}
_IDS = {
    "pair_id": "UUID: the two texts' pair, whatever their order",
    "question_a": "UUID: one text without case and spacing",
    "question_b": "UUID: the other",
}
OBSERVATIONS = _schema({
    "event": "UUID: what a user did",
    "item": "SMALLINT: which of its observations, as an event may hold several",
    "batch_id": "VARCHAR: the delivered file's content",
    "line": "BIGINT: its line",
    "source": "VARCHAR: seed or interaction",
    "type": "VARCHAR: label, duplicate, search, click, skip or thumb",
    "event_id": "VARCHAR: the producer's own id of the event",
    "user_id": "VARCHAR: who left it",
    "observed_at": "TIMESTAMP: when, in UTC",
    **_IDS,
    **_TEXTS,
    "position": "INTEGER: where it stood in a list of results",
    "model": "VARCHAR: the model that ranked them",
    "extra": "VARCHAR: fields that flywheel does not know, as JSON",
})  # fmt: skip
PAIRS = _schema({
    **_IDS,
    **{name: _TEXTS[name] for name in ("label", "weight", "kind")},
    "seed": "BOOLEAN: whether the seed holds it",
    "same": "BIGINT: observations that say same",
    "different": "BIGINT: observations that say different",
    "last_observed": "TIMESTAMP: the newest of them",
    "decided_at": "TIMESTAMP: the one that decides the label",
    "decided_by": "UUID: its event",
    "decided_item": "SMALLINT: its item",
    "split": "VARCHAR: train, calibration, test, embargo, or none",
})  # fmt: skip
SNAPSHOT = _schema({
    **{name: text.replace("UUID", "VARCHAR") for name, text in _IDS.items()},
    **_TEXTS,
    "source": "VARCHAR: seed or interaction",
    "component": "VARCHAR: which texts pairs link, directly or not; of calibration and test",
})  # fmt: skip
