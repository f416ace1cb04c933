"""How many training pairs have landed since a model was last trained on everything: what the retraining sensor asks."""

from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from flywheel.pairs.store.duckdb_file import Store

# What trains, and what would if it were drawn now: pairs that are waiting are new all the same.
# (Grouping reads the column as it is compressed; a condition on it would unpack every row.)
_COUNT = """
UPDATE counters SET trainable = (
    SELECT CAST(coalesce(sum(pairs), 0) AS BIGINT) FROM (SELECT split, count(*) AS pairs FROM pairs GROUP BY split)
    WHERE split IN ('train', 'waiting'))
"""


@dataclass(frozen=True)
class NewPairs:
    """Training pairs that no training at size `all` has seen, and a key that names this state of the store."""

    new: int
    state: str


def count_trainable(db: duckdb.DuckDBPyConnection) -> int:
    """Count the pairs that train or may; for every transaction that changes them, so that asking costs nothing."""
    db.execute(_COUNT)
    return int(db.execute("SELECT trainable FROM counters").fetchall()[0][0])


def record_training(store: Store, snapshot_id: str) -> None:
    """Remember that a model was trained on all of a snapshot, whatever becomes of it; once a snapshot."""
    with store.transaction() as db:
        db.execute(
            """INSERT INTO retrains SELECT snapshot_id, trainable, ? FROM snapshots
               WHERE snapshot_id = ?
               AND snapshot_id IS DISTINCT FROM (SELECT snapshot_id FROM retrains ORDER BY trained_at DESC LIMIT 1)""",
            [datetime.now(UTC).replace(tzinfo=None), snapshot_id],
        )


def new_pairs(store: Store) -> NewPairs:
    """Count the training pairs that no training at size `all` has seen."""
    with store.transaction() as db:
        (now,) = db.execute("SELECT trainable FROM counters").fetchall()[0]
        last = db.execute("SELECT snapshot_id, trainable FROM retrains ORDER BY trained_at DESC LIMIT 1").fetchone()
    snapshot_id, trained = last or ("none", 0)
    return NewPairs(max(0, now - trained), f"{snapshot_id[:12]}-{now}")
