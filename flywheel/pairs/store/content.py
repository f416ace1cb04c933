"""Ids of what the store holds: equal for equal content, whatever the order in which it came in."""

from typing import Literal

from flywheel.files import digest
from flywheel.pairs.store.duckdb_file import Store


def observations_id(store: Store, source: Literal["seed", "interaction"]) -> str:
    """The id of all observations of a source."""
    with store.transaction() as db:
        counted = db.execute(
            "SELECT batch_id, count(*) FROM observations WHERE source = ? GROUP BY batch_id ORDER BY batch_id", [source]
        ).fetchall()
    return digest(str(counted))


def pairs_id(store: Store) -> str:
    """The id of all pairs, with their labels and splits."""
    with store.transaction() as db:
        found = db.execute("SELECT count(*), bit_xor(hash(pair_id, label, weight, kind, split)) FROM pairs").fetchall()
    return digest(str(found))
