"""Observations add up to pairs: one row a pair, with its label by a stated rule. Costs what the new ones cost, and a scan.

The label of a pair: explicit beats implied, then the newest, then the event's hash, so that the order in which batches came
in changes nothing. How often each label was given is kept beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.pairs.store.components import assign, split_sql
from flywheel.pairs.store.duckdb_file import Store

if TYPE_CHECKING:
    import duckdb

# Whatever `slice` holds (columns as in `observations`), by pair. The greatest observation is the `deciding` one, compared
# field by field.
_SUM_UP = """
CREATE OR REPLACE TEMP TABLE summed AS
SELECT pair_id, any_value(question_a) AS question_a, any_value(question_b) AS question_b,
    deciding.label AS label, deciding.weight AS weight, if(deciding.explicit, 'explicit', 'implied') AS kind,
    seed, same, different, last_observed, deciding.at AS decided_at, deciding.by AS decided_by, deciding.item AS decided_item
FROM (
    SELECT pair_id, any_value(question_a) AS question_a, any_value(question_b) AS question_b,
        max({'explicit': kind = 'explicit', 'at': coalesce(observed_at, TIMESTAMP '0001-01-01'), 'by': event, 'item': item,
             'label': label, 'weight': weight}) AS deciding,
        bool_or(source = 'seed') AS seed, count(*) FILTER (label = 1) AS same, count(*) FILTER (label = 0) AS different,
        max(observed_at) AS last_observed
    FROM slice GROUP BY pair_id)
GROUP BY ALL
"""

_ADD_TO_KNOWN = """
CREATE OR REPLACE TEMP TABLE added AS
SELECT pair_id, question_a, question_b, if(newer, s_label, label) AS label, if(newer, s_weight, weight) AS weight,
    if(newer, s_kind, kind) AS kind, seed OR s_seed AS seed, same + s_same AS same, different + s_different AS different,
    greatest(last_observed, s_last_observed) AS last_observed, if(newer, s_decided_at, decided_at) AS decided_at,
    if(newer, s_decided_by, decided_by) AS decided_by, if(newer, s_decided_item, decided_item) AS decided_item, split
FROM (
    SELECT k.*, s.label AS s_label, s.weight AS s_weight, s.kind AS s_kind, s.seed AS s_seed, s.same AS s_same,
        s.different AS s_different, s.last_observed AS s_last_observed, s.decided_at AS s_decided_at,
        s.decided_by AS s_decided_by, s.decided_item AS s_decided_item,
        (s.kind = 'explicit', s.decided_at, s.decided_by, s.decided_item)
            > (k.kind = 'explicit', k.decided_at, k.decided_by, k.decided_item) AS newer
    FROM summed s JOIN known k ON k.pair_id = s.pair_id)
"""

# What the observations of `slice` did, by batch: how many there are, disagree with another, and are embargoed.
OUTCOMES = """
SELECT batch_id, count(*) AS observations, count(*) FILTER (p.same > 0 AND p.different > 0) AS conflicts,
    count(*) FILTER (p.split = 'embargoed') AS embargoed
FROM slice JOIN pairs p ON p.pair_id = slice.pair_id GROUP BY batch_id
"""


@dataclass(frozen=True)
class PairCounts:
    """How many pairs the store holds, by split and by source, and how many have both labels."""

    pairs: int
    train: int
    calibration: int
    test: int
    embargoed: int
    waiting: int
    seed: int
    interaction: int
    conflicting: int


def sum_up(db: duckdb.DuckDBPyConnection) -> None:
    """The temporary table `slice` (columns as in `observations`) summed up by pair, as the temporary table `summed`."""
    db.execute(_SUM_UP)


def add_observations(db: duckdb.DuckDBPyConnection) -> None:
    """Add the temporary table `slice` (columns as in `observations`) to the pairs, new questions to the components."""
    sum_up(db)
    db.execute("CREATE OR REPLACE TEMP TABLE known AS SELECT p.* FROM pairs p JOIN summed s ON p.pair_id = s.pair_id")
    (known,) = db.execute("SELECT count(*) FROM known").fetchall()[0]
    if known:
        db.execute(_ADD_TO_KNOWN)
        db.execute("DELETE FROM pairs WHERE pair_id IN (SELECT pair_id FROM known)")
        db.execute("INSERT INTO pairs BY NAME FROM added")
    db.execute("CREATE OR REPLACE TEMP TABLE edges AS SELECT * FROM summed WHERE pair_id NOT IN (SELECT pair_id FROM known)")
    assign(db)
    db.execute(
        f"""INSERT INTO pairs BY NAME
            SELECT edges.*, {split_sql("a.state", "b.state")} AS split
            FROM edges JOIN nodes a ON a.question = question_a JOIN nodes b ON b.question = question_b"""
    )


def count_pairs(store: Store) -> PairCounts:
    """Counts of the table `pairs`."""
    splits = ("train", "calibration", "test", "embargoed", "waiting")
    columns = ", ".join(f"count(*) FILTER (split = '{s}')" for s in splits)
    with store.transaction() as db:
        row = db.execute(
            f"""SELECT count(*), {columns}, count(*) FILTER (seed), count(*) FILTER (NOT seed),
                count(*) FILTER (same > 0 AND different > 0) FROM pairs"""
        ).fetchone()
    assert row is not None
    return PairCounts(*row)
