"""Large components cut into communities that may be drawn; the pairs across a cut are embargoed."""

import duckdb
import numpy as np
import pyarrow as pa

from flywheel.pairs.snapshots.enough import SplitRules

COUNTS = """count(*) FILTER (explicit) AS explicit, count(*) FILTER (explicit AND label = 1) AS explicit_same,
    count(*) FILTER (fresh) AS fresh, count(*) FILTER (fresh AND label = 1) AS fresh_same"""
_CUT_AT_MOST = 300_000  # questions that are cut into communities


def cut(db: duckdb.DuckDBPyConnection, source: str, rules: SplitRules) -> None:
    """Split the source's large components into communities (Louvain, scikit-network).

    A question with more pairs than a component may hold (a hub) belongs to no community: drawn, it would embargo most of
    what it touches. The resolution makes communities of about the size that may be drawn: merging two questions gains
    modularity while the product of their degrees is below 2 x pairs / resolution.
    """
    from scipy.sparse import csr_matrix
    from sknetwork.clustering import Louvain

    db.execute(
        """CREATE OR REPLACE TEMP TABLE large AS
           SELECT u.* FROM undrawn u JOIN components c USING (component) WHERE c.source = ? AND c.pairs > ?""",
        [source, rules.max_component_pairs],
    )
    db.execute(
        """CREATE OR REPLACE TEMP TABLE members AS
           SELECT question, row_number() OVER (ORDER BY question) - 1 AS n FROM (
               SELECT question_a AS question FROM large UNION ALL SELECT question_b FROM large)
           GROUP BY question HAVING count(*) <= ?""",
        [rules.max_component_pairs],
    )
    _narrow(db)
    edges = db.execute(
        """SELECT CAST(a.n AS INTEGER) AS a, CAST(b.n AS INTEGER) AS b FROM large
           JOIN members a ON a.question = question_a JOIN members b ON b.question = question_b ORDER BY 1, 2"""
    ).fetchnumpy()
    a, b = np.asarray(edges["a"]), np.asarray(edges["b"])
    if len(a) == 0:
        return
    (count,) = db.execute("SELECT count(*) FROM members").fetchall()[0]
    ends = np.concatenate([a, b]), np.concatenate([b, a])
    graph = csr_matrix((np.ones(2 * len(a), bool), ends), shape=(count, count))
    resolution = max(1.0, len(a) / (4 * rules.max_component_pairs))
    labels = Louvain(resolution=resolution, shuffle_nodes=False, random_state=0).fit_predict(graph)
    db.register("labels_arrow", pa.table({"n": np.arange(count), "label": np.asarray(labels, dtype=np.int64)}))
    db.execute(
        """CREATE OR REPLACE TEMP TABLE communities AS
           SELECT question, min(question) OVER (PARTITION BY label) AS community
           FROM members JOIN labels_arrow USING (n)"""
    )
    db.unregister("labels_arrow")
    db.execute(
        """CREATE OR REPLACE TEMP TABLE recut AS
           SELECT large.pair_id, if(a.community = b.community, a.community, NULL) AS component
           FROM large LEFT JOIN communities a ON a.question = question_a LEFT JOIN communities b ON b.question = question_b"""
    )
    db.execute("UPDATE undrawn SET component = recut.component FROM recut WHERE undrawn.pair_id = recut.pair_id")
    # A community counts as a component of this source, whatever its pairs are: the component it was cut from did.
    db.execute("DELETE FROM components WHERE source = ? AND pairs > ?", [source, rules.max_component_pairs])
    db.execute(
        f"""INSERT INTO components SELECT component, count(*), {COUNTS}, ?
           FROM undrawn JOIN (SELECT pair_id FROM large) USING (pair_id) WHERE component IS NOT NULL GROUP BY component""",
        [source],
    )


def _narrow(db: duckdb.DuckDBPyConnection) -> None:
    """Keep the neighbourhood of a few questions where there are more than a draw can need: the first of them in hash order
    and what they lead to, step by step. The rest is left uncut and trains.
    """
    (count,) = db.execute("SELECT count(*) FROM members").fetchall()[0]
    if count <= _CUT_AT_MOST:
        return
    in_hash_order = "ORDER BY md5(concat('cut|', question)) LIMIT"
    db.execute(f"CREATE OR REPLACE TEMP TABLE region AS SELECT question FROM members {in_hash_order} {_CUT_AT_MOST // 100}")
    db.execute("CREATE OR REPLACE TEMP TABLE border AS FROM region")
    held = found = _CUT_AT_MOST // 100
    while found and held < _CUT_AT_MOST:
        db.execute(
            f"""CREATE OR REPLACE TEMP TABLE border AS
                SELECT question FROM (
                    SELECT question_b AS question FROM large JOIN border ON question = question_a
                    UNION SELECT question_a FROM large JOIN border ON question = question_b)
                WHERE question IN (SELECT question FROM members) AND question NOT IN (FROM region)
                {in_hash_order} {_CUT_AT_MOST - held}"""
        )
        (found,) = db.execute("SELECT count(*) FROM border").fetchall()[0]
        db.execute("INSERT INTO region FROM border")
        held += found
    db.execute(
        """CREATE OR REPLACE TEMP TABLE members AS
           SELECT question, row_number() OVER (ORDER BY question) - 1 AS n FROM region"""
    )
