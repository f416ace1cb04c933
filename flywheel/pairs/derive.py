"""Observations add up to pairs: one row a pair, with its label by a stated rule and the split it belongs to."""

from dataclasses import dataclass

import duckdb
import pandas as pd

from flywheel.pairs.splits import FROZEN, Shares, SplitRules, assign_splits
from flywheel.pairs.store import Store
from flywheel.settings import Settings

# The label of a pair: explicit beats implied, then the newest, then the observation id, so that the order in which
# batches came in changes nothing. The text of a question is the least of the spellings seen.
_DERIVE = """
CREATE OR REPLACE TEMP TABLE derived AS
WITH spelled AS (
    SELECT question_id, min(text) AS text FROM (
        SELECT question_a AS question_id, text_a AS text FROM observations
        UNION ALL SELECT question_b, text_b FROM observations) GROUP BY question_id),
ranked AS (
    SELECT *, row_number() OVER (
        PARTITION BY pair_id ORDER BY kind = 'explicit' DESC, observed_at DESC NULLS LAST, observation_id) AS rank,
        count(*) OVER (PARTITION BY pair_id) AS observations,
        min(label) OVER (PARTITION BY pair_id) < max(label) OVER (PARTITION BY pair_id) AS conflicting,
        max(observed_at) OVER (PARTITION BY pair_id) AS last_observed,
        bool_or(source = 'seed') OVER (PARTITION BY pair_id) AS seed
    FROM observations)
SELECT pair_id, question_a, question_b, a.text AS text_a, b.text AS text_b, label, weight, kind,
       if(seed, 'seed', 'interaction') AS source, observations, conflicting, last_observed
FROM ranked JOIN spelled a ON a.question_id = question_a JOIN spelled b ON b.question_id = question_b
WHERE rank = 1 ORDER BY pair_id
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


def split_rules(settings: Settings) -> SplitRules:
    """The part of the settings that a draw obeys."""
    return SplitRules(
        Shares(settings.test_share, settings.calibration_share),
        Shares(settings.interaction_test_share, settings.interaction_calibration_share),
        settings.max_split_pairs,
        settings.max_component_pairs,
        settings.min_components,
    )


def derive_pairs(store: Store, settings: Settings) -> PairCounts:
    """Rebuild the table `pairs` from the observations, each with the split it would have now; freezes nothing."""
    with store.transaction() as db:
        refresh_pairs(db, settings)
    return count_pairs(store)


def refresh_pairs(db: duckdb.DuckDBPyConnection, settings: Settings) -> pd.DataFrame:
    """The same inside a caller's transaction. Returns `pair_id, split, component`, drawn splits included."""
    db.execute(_DERIVE)
    pairs = db.execute("SELECT pair_id, question_a, question_b, source, kind FROM derived ORDER BY pair_id").df()
    assigned = dict(db.execute("SELECT question_id, split FROM assignments").fetchall())
    drawn = db.execute("SELECT if(bool_or(source = 'seed'), 'seed', 'interaction') FROM frozen_pairs GROUP BY component")
    splits = assign_splits(pairs, assigned, frozenset(row[0] for row in drawn.fetchall()), split_rules(settings))
    splits.insert(0, "pair_id", pairs["pair_id"])
    known = dict(db.execute("SELECT pair_id, split FROM frozen_pairs").fetchall())
    was_frozen = splits["pair_id"].isin(known.keys())
    splits.loc[was_frozen, "split"] = splits.loc[was_frozen, "pair_id"].map(known)
    db.register("splits_frame", splits.astype("object"))
    db.execute(
        """CREATE OR REPLACE TABLE pairs AS
           SELECT derived.*, splits_frame.split FROM derived JOIN splits_frame USING (pair_id) ORDER BY pair_id"""
    )
    db.unregister("splits_frame")
    return splits


def count_pairs(store: Store) -> PairCounts:
    """Counts of the table `pairs` as it stands."""
    splits = ("train", *FROZEN, "embargoed", "waiting")
    columns = ", ".join(f"count(*) FILTER (split = '{s}') AS {s}" for s in splits)
    with store.transaction() as db:
        row = db.execute(
            f"""SELECT count(*), {columns}, count(*) FILTER (source = 'seed'), count(*) FILTER (source = 'interaction'),
                count(*) FILTER (conflicting) FROM pairs"""
        ).fetchone()
    assert row is not None
    return PairCounts(*row)


def batch_outcome(store: Store, batch_ids: list[str]) -> tuple[int, int]:
    """(conflicts, embargoed): accepted observations of the batches whose pair has both labels, and whose pair is embargoed."""
    with store.transaction() as db:
        row = db.execute(
            """SELECT count(*) FILTER (conflicting), count(*) FILTER (split = 'embargoed')
               FROM observations JOIN pairs USING (pair_id) WHERE list_contains(?, batch_id)""",
            [batch_ids],
        ).fetchone()
    assert row is not None
    return row
