"""The draw: which of the components that nothing has fixed yet are given to `test` and `calibration`, and which train.

A source of pairs (seed, interaction) is drawn once, when what it gives can judge, and again when somebody asks for a new
version. Until one source is drawn, nothing trains: there would be no threshold for a model, and what trains can never be
drawn. What a snapshot has let train stays in `train` for good. What judged or calibrated is retired then: it may calibrate
or train, but no new test holds it, since models have been chosen by it.
"""

from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa

from flywheel.errors import FlywheelError
from flywheel.pairs.snapshots.enough import (
    Component,
    Count,
    Missing,
    Offer,
    Shares,
    SplitRules,
    can_judge,
    label_counts,
    what_is_missing,
)
from flywheel.pairs.store.components import reassign, split_sql

SOURCES = ("seed", "interaction")
NEW_TEST = "`flywheel snapshot --new-test` before any other snapshot"  # another one would let the new pairs train
_CUT_AT_MOST = 300_000  # questions that are cut into communities
_COUNTS = """count(*) FILTER (explicit) AS explicit, count(*) FILTER (explicit AND label = 1) AS explicit_same,
    count(*) FILTER (fresh) AS fresh, count(*) FILTER (fresh AND label = 1) AS fresh_same"""


def draw(db: duckdb.DuckDBPyConnection, rules: SplitRules) -> dict[str, Missing]:
    """Give every question that is not fixed yet its place: draw the sources that are due, let the others train.

    Only explicit labels judge, so shares and components count explicit pairs. Where components of at most
    `max_component_pairs` cannot fill the shares, larger ones are cut into communities, and the pairs across a cut are
    embargoed. A source whose draw could not judge waits: what would have been drawn is set aside, the rest trains. Returns,
    by source, what each of those is missing.
    """
    db.execute(
        """CREATE OR REPLACE TEMP TABLE undrawn AS
           SELECT pair_id, question_a, question_b, kind = 'explicit' AS explicit, label, seed, a.component,
               kind = 'explicit' AND pair_id NOT IN (FROM retired) AS fresh
           FROM pairs JOIN assignments a ON a.question = question_a WHERE pairs.split = 'waiting'"""
    )
    db.execute("CREATE OR REPLACE TEMP TABLE chosen (component UUID, split VARCHAR)")
    _sum_components(db)
    missing = {}
    for source in SOURCES:
        if not db.execute("SELECT 1 FROM draws WHERE source = ? AND drawn_at IS NOT NULL", [source]).fetchone():
            missing[source] = _draw_source(db, source, getattr(rules, source), rules)
    if db.execute("SELECT 1 FROM draws").fetchone():
        _fix(db)
    else:
        db.execute("CREATE OR REPLACE TEMP TABLE frozen_now AS SELECT *, CAST(NULL AS UUID) AS component FROM pairs LIMIT 0")
    held = {"seed" if seed else "interaction" for (seed,) in db.execute("SELECT DISTINCT seed FROM pairs").fetchall()}
    wanted = held if db.execute("SELECT 1 FROM draws").fetchone() else {*held, "interaction"}
    return {source: lack for source, lack in missing.items() if lack and source in wanted}


def release(db: duckdb.DuckDBPyConnection) -> None:
    """Make the frozen splits due for a new draw: what does not train yet, embargoed pairs too, may be drawn again."""
    db.execute("INSERT INTO retired SELECT pair_id FROM frozen_pairs")
    db.execute("DELETE FROM frozen_pairs")
    db.execute("UPDATE draws SET version = version + 1, drawn_at = NULL")
    db.execute("UPDATE assignments SET state = 'embargoed', component = NULL WHERE state IN ('test', 'calibration')")
    reassign(db)


def check_fresh(db: duckdb.DuckDBPyConnection, missing: dict[str, Missing]) -> None:
    """Refuse a new version whose test has too few pairs that no earlier one held; `missing` is what `draw` returned."""
    if not db.execute("SELECT 1 FROM frozen_now WHERE split = 'test'").fetchone():
        raise FlywheelError(
            "A fresh test set takes pairs that neither judged, calibrated nor trained before. Nothing was changed. "
            f"{missing['interaction'].why} {missing['interaction'].remedy}".replace("`flywheel snapshot`", NEW_TEST)
        )


def _sum_components(db: duckdb.DuckDBPyConnection) -> None:
    """`components`: what each component that may be drawn holds. It counts as seed as soon as one of its pairs is."""
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE components AS
           SELECT component, count(*) AS pairs, {_COUNTS},
               if(bool_or(seed), 'seed', 'interaction') AS source
           FROM undrawn WHERE component IS NOT NULL GROUP BY component"""
    )


def _draw_source(db: duckdb.DuckDBPyConnection, source: str, shares: Shares, rules: SplitRules) -> Missing | None:
    """Choose what of a source is drawn, or is set aside until a draw can judge; returns what that takes."""
    counted = "SELECT count(*), count(*) FILTER (kind = 'explicit') FROM pairs WHERE seed = ?"
    pairs, explicit = db.execute(counted, [source == "seed"]).fetchall()[0]
    targets = [min(int(share * explicit), rules.max_split_pairs) for share in (shares.test, shares.calibration)]
    (version,) = db.execute("SELECT coalesce(max(version), 0) FROM draws WHERE source = ?", [source]).fetchall()[0]
    components = whole = _small(db, source, rules, version)
    if sum(each.fresh for each in components) < targets[0] or sum(each.explicit for each in components) < sum(targets):
        _cut(db, source, rules)
        components = _small(db, source, rules, version)
    held, wanted = sum(each.explicit for each in components), sum(targets)
    takes = targets if held >= wanted else [target * held // wanted for target in targets]
    tested, calibrated = _fill(components, takes[0], takes[1], rules.max_component_share)
    if not can_judge(tested, "fresh", rules):
        tested, calibrated = [], calibrated if version == 0 else _fill(components, 0, takes[1], rules.max_component_share)[1]
    free = [each for each in components if each.fresh]
    missing = what_is_missing(Offer(source, pairs, explicit, free, "fresh"), shares, rules)
    if not can_judge(calibrated, "explicit", rules) or not (tested or version):
        _choose(db, _set_aside(whole, *targets), "waiting")
        return missing
    _choose(db, tested, "test")  # where nothing new of this source can test, it calibrates and another one tests
    _choose(db, calibrated, "calibration")
    db.execute("DELETE FROM draws WHERE source = ?", [source])
    db.execute("INSERT INTO draws VALUES (?, ?, ?)", [source, version, datetime.now(UTC).replace(tzinfo=None)])
    return None if tested else missing


def _small(db: duckdb.DuckDBPyConnection, source: str, rules: SplitRules, version: int) -> list[Component]:
    """The components that are small enough to be drawn, in hash order."""
    rows = db.execute(
        """SELECT CAST(component AS VARCHAR), explicit, explicit_same, fresh, fresh_same FROM components
           WHERE source = ? AND pairs <= ? AND explicit > 0 ORDER BY md5(concat('draw|', ?, '|', component))""",
        [source, rules.max_component_pairs, version],
    ).fetchall()
    return [Component(*row) for row in rows]


def _fill(components: list[Component], test: int, calibration: int, largest: float) -> tuple[list[Component], list[Component]]:
    """The first components whose fresh pairs fill `test`, and the first of the others whose pairs fill `calibration`.

    None that holds more than the share `largest` of what its split should.
    """
    tested = _until([each for each in components if each.fresh], "fresh", test, largest)
    names = {each.name for each in tested}
    return tested, _until([each for each in components if each.name not in names], "explicit", calibration, largest)


def _until(components: list[Component], counted: Count, wanted: int, largest: float) -> list[Component]:
    fitting = [each for each in components if each.pairs(counted) <= max(1.0, largest * wanted)]
    sizes = np.array([each.pairs(counted) for each in fitting], dtype=np.int64)
    return fitting[: int(np.searchsorted(sizes.cumsum() - sizes, wanted))]


def _set_aside(components: list[Component], test: int, calibration: int) -> list[Component]:
    """What waits for a draw that can judge: what would fill the splits, and all that holds a pair of the rarer label."""
    zeros, ones = label_counts(components, "explicit")
    filling = [each for split in _fill(components, test, calibration, 1.0) for each in split]
    names = {each.name for each in filling}
    return [*filling, *(each for each in components if each.name not in names and each.labels("explicit")[int(ones < zeros)])]


def _choose(db: duckdb.DuckDBPyConnection, components: list[Component], split: str) -> None:
    if components:
        names = [each.name for each in components]
        db.register("chosen_arrow", pa.table({"component": names, "split": [split] * len(names)}))
        db.execute("INSERT INTO chosen SELECT CAST(component AS UUID), split FROM chosen_arrow")
        db.unregister("chosen_arrow")


def _cut(db: duckdb.DuckDBPyConnection, source: str, rules: SplitRules) -> None:
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
        f"""INSERT INTO components SELECT component, count(*), {_COUNTS}, ?
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


def _fix(db: duckdb.DuckDBPyConnection) -> None:
    """Write what was chosen: questions into their splits, pairs with them; everything else that is new trains."""
    db.execute(
        """CREATE OR REPLACE TEMP TABLE placed AS
           SELECT DISTINCT unnest([question_a, question_b]) AS question,
               if(chosen.split = 'waiting', 'free', chosen.split) AS state
           FROM undrawn JOIN chosen USING (component)"""
    )
    db.execute(
        """CREATE OR REPLACE TABLE assignments AS
           SELECT a.question, coalesce(p.state, if(a.state IN ('free', 'bound'), 'train', a.state)) AS state,
               if(p.state = 'free', a.component, NULL) AS component
           FROM assignments a LEFT JOIN placed p ON p.question = a.question"""
    )
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE outcome AS
            SELECT u.pair_id, u.component,
                CASE WHEN c.split = 'test' AND u.fresh OR c.split = 'calibration' AND u.explicit THEN c.split
                ELSE {split_sql("a.state", "b.state")} END AS split
            FROM undrawn u JOIN assignments a ON a.question = u.question_a JOIN assignments b ON b.question = u.question_b
            LEFT JOIN chosen c ON c.component = u.component"""
    )
    db.execute("""UPDATE pairs SET split = o.split FROM outcome o WHERE pairs.pair_id = o.pair_id AND o.split <> 'waiting'""")
    db.execute(
        """CREATE OR REPLACE TEMP TABLE frozen_now AS
           SELECT pairs.*, o.component FROM pairs JOIN outcome o USING (pair_id) WHERE o.split IN ('calibration', 'test')"""
    )
