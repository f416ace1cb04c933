"""Connected components of questions, kept up to date batch by batch, at the cost of the batch and a scan of the ids.

A question has a state. A snapshot fixes it as `train`, `calibration` or `test` for good. Before that it belongs to a component
of new questions, named by the least of them, and the whole component is

- `embargoed` once it is linked to a frozen question (calibration, test) or an embargoed one: it never trains;
- `bound` once it is linked to a question that trains, or its source has been drawn: the next snapshot lets it train;
- `free` otherwise: it may be drawn.

A pair between two questions that are fixed joins nothing. The embargo wins over everything, passes from question to question
through new ones, and stops at a question that trains already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import duckdb

FROZEN = ("calibration", "test")
_REASSIGNED_AT_ONCE = 500_000

# The questions of the new pairs, each with its component unless it is fixed or embargoed: those do not join components.
_QUESTIONS = """
CREATE OR REPLACE TEMP TABLE questions AS
SELECT q.question, a.state AS before,
    if(a.state IN ('train', 'calibration', 'test', 'embargoed'), NULL, coalesce(a.component, q.question)) AS component
FROM (SELECT question_a AS question FROM edges UNION SELECT question_b FROM edges) q
LEFT JOIN assignments a ON a.question = q.question;
CREATE OR REPLACE TEMP TABLE touched AS
SELECT component, row_number() OVER () - 1 AS n, any_value(before) AS before
FROM questions WHERE component IS NOT NULL GROUP BY component;
CREATE OR REPLACE TEMP TABLE numbered AS
SELECT q.question, coalesce(t.n, -1) AS n,
    CASE WHEN q.before = 'train' THEN 1 WHEN q.component IS NULL THEN 2 ELSE 0 END AS tie
FROM questions q LEFT JOIN touched t ON t.component = q.component;
"""

# What becomes of every component that was touched: those that the new pairs connect (`g`) become one, named by the least.
_MOVES = """
CREATE OR REPLACE TEMP TABLE moves AS
WITH named AS (SELECT g, min(component) AS component FROM touched JOIN groups_arrow USING (n) GROUP BY g)
SELECT t.component, t.before, groups_arrow.state,
    if(groups_arrow.state = 'embargoed', NULL, named.component) AS into_component
FROM touched t JOIN groups_arrow USING (n) JOIN named USING (g);
CREATE OR REPLACE TEMP TABLE nodes AS
SELECT q.question, q.before, coalesce(m.state, q.before) AS state, m.into_component AS component
FROM questions q LEFT JOIN moves m ON m.component = q.component;
INSERT INTO assignments SELECT question, state, component FROM nodes WHERE before IS NULL;
"""


def split_sql(a: str, b: str) -> str:
    """SQL for the split of a pair that is not drawn, from the states of its questions."""
    held = "('calibration', 'test', 'embargoed')"
    return (
        f"CASE WHEN {a} IN {held} OR {b} IN {held} THEN 'embargoed' "
        f"WHEN {a} = 'free' AND {b} = 'free' THEN 'waiting' ELSE 'train' END"
    )


def assign(db: duckdb.DuckDBPyConnection) -> None:
    """Take the temporary table `edges` (`question_a`, `question_b`, `seed`) into the components.

    Leaves the state of every question it names in the temporary table `nodes`, and moves what the new pairs have tied to
    something else: questions in `assignments`, their pairs in `pairs`.
    """
    db.execute(_QUESTIONS)
    _group(db)
    _move_known(db)


def _group(db: duckdb.DuckDBPyConnection) -> None:
    """Decide what becomes of the components that the new pairs connect, and place the new questions."""
    import pyarrow as pa

    edges = db.execute(
        """SELECT a.n AS a, b.n AS b, a.tie AS tie_a, b.tie AS tie_b, seed FROM edges
           JOIN numbered a ON a.question = question_a JOIN numbered b ON b.question = question_b"""
    ).fetchnumpy()
    touched = db.execute("SELECT n, before FROM touched").fetchnumpy()
    drawn = {row[0] for row in db.execute("SELECT source FROM draws WHERE drawn_at IS NOT NULL").fetchall()}
    a, b = np.asarray(edges["a"]), np.asarray(edges["b"])
    count = len(touched["n"])
    group = connected(count, a[(a >= 0) & (b >= 0)], b[(a >= 0) & (b >= 0)])
    before = np.full(count, "", dtype=object)
    before[touched["n"]] = np.ma.filled(touched["before"], "")

    def groups_of(nodes: np.ndarray) -> np.ndarray:
        return np.isin(group, np.unique(group[nodes[nodes >= 0]]))

    to_frozen = groups_of(np.concatenate([a[edges["tie_b"] == 2], b[edges["tie_a"] == 2]]))
    to_trained = groups_of(np.concatenate([a[edges["tie_b"] == 1], b[edges["tie_a"] == 1], np.flatnonzero(before == "bound")]))
    seed = groups_of(np.concatenate([a[edges["seed"]], b[edges["seed"]]]))
    if drawn == {"interaction"}:  # what is still free then holds seed pairs
        seed |= groups_of(np.flatnonzero(before == "free"))
    settled = np.where(seed, "seed" in drawn, "interaction" in drawn)
    state = np.where(to_frozen, "embargoed", np.where(to_trained | settled, "bound", "free"))
    db.register("groups_arrow", pa.table({"n": np.arange(count), "g": group, "state": pa.array(state.tolist(), pa.string())}))
    db.execute(_MOVES)
    db.unregister("groups_arrow")


def connected(count: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Connected components of `count` nodes over edges a-b: the component's number, per node."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _move_known(db: duckdb.DuckDBPyConnection) -> None:
    """Components that were there before and now belong to another, or have another state."""
    db.execute(
        """CREATE OR REPLACE TEMP TABLE moved AS
           SELECT * FROM moves WHERE before IS NOT NULL
           AND (state <> before OR into_component IS DISTINCT FROM component)"""
    )
    changed = dict(db.execute("SELECT state <> before, count(*) FROM moved GROUP BY 1").fetchall())
    if changed.get(True):
        db.execute(
            """CREATE OR REPLACE TEMP TABLE turned AS
               SELECT a.question, m.state FROM assignments a JOIN moved m ON a.component = m.component
               WHERE m.state <> m.before"""
        )
        for end in ("question_a", "question_b"):
            db.execute(
                f"""UPDATE pairs SET split = if(t.state = 'embargoed', 'embargoed', 'train') FROM turned t
                    WHERE pairs.{end} = t.question AND pairs.split IN ('waiting', 'train')"""
            )
    if changed:
        db.execute(
            """UPDATE assignments SET state = m.state, component = m.into_component
               FROM moved m WHERE assignments.component = m.component"""
        )


def reassign(db: duckdb.DuckDBPyConnection) -> None:
    """Work out again the components of everything that is not fixed, and the split of its pairs.

    For when pairs were deleted, or a new version is to be drawn; costs what all these pairs cost, a slice at a time.
    """
    db.execute("DELETE FROM assignments WHERE state IN ('free', 'bound', 'embargoed')")
    db.execute(
        """CREATE OR REPLACE TEMP TABLE open_pairs AS
           SELECT pair_id, question_a, question_b, seed, row_number() OVER (ORDER BY pair_id) - 1 AS n FROM pairs
           WHERE question_a NOT IN (SELECT question FROM assignments)
           OR question_b NOT IN (SELECT question FROM assignments)"""
    )
    (count,) = db.execute("SELECT count(*) FROM open_pairs").fetchall()[0]
    for first in range(0, count, _REASSIGNED_AT_ONCE):
        db.execute(
            f"CREATE OR REPLACE TEMP TABLE edges AS FROM open_pairs WHERE n >= {first} AND n < {first + _REASSIGNED_AT_ONCE}"
        )
        assign(db)
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE resplit AS
            SELECT p.pair_id, {split_sql("a.state", "b.state")} AS split FROM open_pairs p
            JOIN assignments a ON a.question = question_a JOIN assignments b ON b.question = question_b"""
    )
    db.execute("UPDATE pairs SET split = r.split FROM resplit r WHERE pairs.pair_id = r.pair_id")
