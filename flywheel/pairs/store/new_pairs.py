"""How many interaction pairs have landed since a model was last trained on everything: what the retraining sensor asks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flywheel.pairs.store.duckdb_file import Store

if TYPE_CHECKING:
    import duckdb

# What users left that trains, and what would if it were drawn now: pairs that are waiting are new all the same. Seed pairs are
# no news. (Grouping reads the columns as they are compressed; a condition on them would unpack every row.)
_COUNT = """
UPDATE counters SET trainable = (
    SELECT CAST(coalesce(sum(pairs), 0) AS BIGINT) FROM (SELECT split, seed, count(*) AS pairs FROM pairs GROUP BY split, seed)
    WHERE split IN ('train', 'waiting') AND NOT seed)
"""


@dataclass(frozen=True)
class NewPairs:
    """Interaction pairs that train and that no training at size `all` has seen (`new`), those that the last one saw
    (`trained`), when that was, and how its snapshot's id begins (`since`). Without a training, `last` is None.
    """

    new: int
    trained: int
    last: datetime | None
    since: str


def count_trainable(db: duckdb.DuckDBPyConnection) -> int:
    """Count the interaction pairs that train or may; for every transaction that changes them, so that asking costs nothing."""
    db.execute(_COUNT)
    return int(db.execute("SELECT trainable FROM counters").fetchall()[0][0])


def record_training(store: Store, snapshot_id: str) -> None:
    """Remember that a model was trained on all of a snapshot, whatever becomes of it; once a snapshot."""
    with store.transaction() as db:
        db.execute(
            """INSERT INTO retrains SELECT snapshot_id, trainable, ? FROM snapshots
               WHERE snapshot_id = ?
               AND snapshot_id IS DISTINCT FROM (SELECT snapshot_id FROM retrains ORDER BY rowid DESC LIMIT 1)""",
            [datetime.now(UTC).replace(tzinfo=None), snapshot_id],
        )


def new_pairs(store: Store) -> NewPairs:
    """Count the interaction pairs that no training at size `all` has seen."""
    with store.transaction() as db:
        (now,) = db.execute("SELECT trainable FROM counters").fetchall()[0]
        found = db.execute("SELECT snapshot_id, trainable, trained_at FROM retrains ORDER BY rowid DESC LIMIT 1").fetchone()
    snapshot_id, trained, at = found or ("none", 0, None)
    return NewPairs(max(0, now - trained), trained, at, snapshot_id[:12])
