"""The draw: which of the components that nothing has fixed yet are given to `test` and `calibration`, and which train.

A source of pairs (seed, interaction) is drawn once, when what it gives can judge, and again when somebody asks for a new
version. The first draw of a home waits until a source has so many labelled pairs that it is worth fixing them
(`frozen_from`). Until one source is drawn, nothing is fixed: what has trained for good can never be drawn. What a snapshot has
let train stays in `train`. What judged or calibrated is retired by a new version: it may calibrate or train, but no new test
holds it, since models have been chosen by it.
"""

from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa

from flywheel.errors import FlywheelError
from flywheel.pairs.snapshots.cut import COUNTS, cut
from flywheel.pairs.snapshots.enough import Components, Missing, Offer, SplitRules
from flywheel.pairs.snapshots.plan import Goal, calibrate_only, make_plan, set_aside, what_is_missing
from flywheel.pairs.store.components import FROZEN, reassign, split_sql
from flywheel.scoring.verdicts import reason_no_verdict

SOURCES = ("seed", "interaction")
NEW_TEST = "`flywheel snapshot --new-test` before any other snapshot"  # another one would let the new pairs train
_CLICKS = 10  # so many pairs of any kind count for a labelled one, when a first draw is due


def draw(db: duckdb.DuckDBPyConnection, rules: SplitRules, hold: bool = False) -> dict[str, Missing]:
    """Give every question that is not fixed yet its place: draw the sources that are due, let the others train.

    Only explicit labels judge, so shares and components count explicit pairs. Where components of at most
    `max_component_pairs` cannot fill the shares, larger ones are cut into communities, and the pairs across a cut are
    embargoed. A source whose draw could not judge waits: what would have been drawn is set aside, the rest trains. With `hold`
    nothing trains that a later draw could test. In a home where nothing is drawn, everything waits. Returns, by source, what
    each of those that are due is missing.
    """
    if hold:
        _let_go(db)
    db.execute(
        """CREATE OR REPLACE TEMP TABLE undrawn AS
           SELECT pair_id, question_a, question_b, kind = 'explicit' AS explicit, label, seed, a.component,
               kind = 'explicit' AND pair_id NOT IN (FROM retired) AS fresh
           FROM pairs JOIN assignments a ON a.question = question_a WHERE pairs.split = 'waiting'"""
    )
    db.execute("CREATE OR REPLACE TEMP TABLE chosen (component UUID, split VARCHAR)")
    _sum_components(db)
    held = {source: _count(db, source) for source in SOURCES}
    due = {
        source: explicit >= rules.frozen_from or pairs >= _CLICKS * rules.frozen_from
        for source, (pairs, explicit) in held.items()
    }
    missing = {}
    for source in sorted(SOURCES, key=lambda source: not due[source]):
        drawn = db.execute("SELECT 1 FROM draws WHERE source = ? AND drawn_at IS NOT NULL", [source]).fetchone()
        if not drawn and (due[source] or is_drawn(db)) and (lack := _draw_source(db, source, *held[source], rules)):
            missing[source] = lack
    if hold:
        db.execute(
            """INSERT INTO chosen SELECT component, 'waiting' FROM components
               WHERE fresh > 0 AND component NOT IN (SELECT component FROM chosen)"""
        )
    if is_drawn(db):
        _fix(db)
    else:
        db.execute("CREATE OR REPLACE TEMP TABLE frozen_now AS SELECT *, CAST(NULL AS UUID) AS component FROM pairs LIMIT 0")
    return missing


def is_drawn(db: duckdb.DuckDBPyConnection, now: bool = False) -> bool:
    """Whether a source of the home was ever drawn, or is `now`."""
    return db.execute("SELECT 1 FROM draws" + " WHERE drawn_at IS NOT NULL" * now).fetchone() is not None


def reason_frozen(db: duckdb.DuckDBPyConnection, rules: SplitRules) -> str | None:
    """Why the frozen splits carry no verdict; None where they do, or where nothing is drawn."""
    if not is_drawn(db, now=True):
        return None
    for split in FROZEN:
        found = db.execute(
            """SELECT count(*) FILTER (label = 0) AS different, count(*) FILTER (label = 1) AS same
               FROM frozen_pairs WHERE split = ? GROUP BY component""",
            [split],
        ).fetchnumpy()
        labels = np.stack([np.asarray(found["different"]), np.asarray(found["same"])], axis=1)
        reason = reason_no_verdict(labels.sum(1), rules.min_components, rules.max_component_share)
        if reason is None and labels.sum(0).min() == 0:
            reason = "all pairs have one label"
        if reason:
            return f"in {split}, {reason}"
    return None


def release(db: duckdb.DuckDBPyConnection, retire: bool) -> None:
    """Make the frozen splits due for a new draw: what does not train yet, embargoed pairs too, may be drawn again.

    With `retire`, what they held may not test again.
    """
    if retire:
        db.execute("INSERT INTO retired SELECT pair_id FROM frozen_pairs")
    db.execute("DELETE FROM frozen_pairs")
    db.execute("UPDATE draws SET version = version + 1, drawn_at = NULL")
    db.execute("UPDATE assignments SET state = 'embargoed', component = NULL WHERE state IN ('test', 'calibration')")
    reassign(db)


def check_fresh(db: duckdb.DuckDBPyConnection, missing: dict[str, Missing]) -> None:
    """Refuse a new version whose test has too few pairs that no earlier one held; `missing` is what `draw` returned."""
    if not db.execute("SELECT 1 FROM frozen_now WHERE split = 'test'").fetchone():
        lack = missing["interaction"]
        raise FlywheelError(
            "A fresh test set takes pairs that neither judged, calibrated nor trained before. Nothing was changed. "
            f"{lack.why} {lack.remedy}".replace("`flywheel snapshot`", NEW_TEST)
        )


def _count(db: duckdb.DuckDBPyConnection, source: str) -> tuple[int, int]:
    """All pairs of a source, and its explicit ones."""
    counted = "SELECT count(*), count(*) FILTER (kind = 'explicit') FROM pairs WHERE seed = ?"
    pairs, explicit = db.execute(counted, [source == "seed"]).fetchall()[0]
    return pairs, explicit


def _let_go(db: duckdb.DuckDBPyConnection) -> None:
    """Make components of new labelled pairs free that only their source's draw has bound: they may be tested yet."""
    db.execute(
        """CREATE OR REPLACE TEMP TABLE bound AS
           SELECT pair_id, kind, coalesce(a.component, b.component) AS component, 'train' IN (a.state, b.state) AS trains
           FROM pairs JOIN assignments a ON a.question = question_a JOIN assignments b ON b.question = question_b
           WHERE 'bound' IN (a.state, b.state)"""
    )
    db.execute(
        """CREATE OR REPLACE TEMP TABLE loose AS
           SELECT component FROM bound GROUP BY component HAVING bool_or(kind = 'explicit') AND NOT bool_or(trains)"""
    )
    db.execute("UPDATE assignments SET state = 'free' WHERE component IN (FROM loose)")
    db.execute(
        """UPDATE pairs SET split = 'waiting' FROM bound
           WHERE pairs.pair_id = bound.pair_id AND bound.component IN (FROM loose)"""
    )


def _sum_components(db: duckdb.DuckDBPyConnection) -> None:
    """`components`: what each component that may be drawn holds. It counts as seed as soon as one of its pairs is."""
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE components AS
           SELECT component, count(*) AS pairs, {COUNTS},
               if(bool_or(seed), 'seed', 'interaction') AS source
           FROM undrawn WHERE component IS NOT NULL GROUP BY component"""
    )


def _draw_source(db: duckdb.DuckDBPyConnection, source: str, pairs: int, explicit: int, rules: SplitRules) -> Missing | None:
    """Choose what of a source is drawn, or is set aside until a draw can judge; returns what that takes."""
    shares = getattr(rules, source)
    goal = Goal.of(shares, explicit, rules)
    (version,) = db.execute("SELECT coalesce(max(version), 0) FROM draws WHERE source = ?", [source]).fetchall()[0]
    components = whole = _small(db, source, rules, version)
    if not goal.is_met_by(whole):
        cut(db, source, rules)
        components = _small(db, source, rules, version)
    plan = make_plan(components, goal, rules)
    missing = None
    if plan is None:
        free = components.fresh[components.sizes("fresh") > 0]
        missing = what_is_missing(Offer(source, pairs, explicit, free), shares, rules)
        if version > 0:  # where nothing new of this source can test, it calibrates and another one tests
            plan = calibrate_only(components, goal, rules)
    if plan is None:
        _choose(db, set_aside(whole, goal), "waiting")
        return missing
    _choose(db, plan.test, "test")
    _choose(db, plan.calibration, "calibration")
    db.execute("DELETE FROM draws WHERE source = ?", [source])
    db.execute("INSERT INTO draws VALUES (?, ?, ?)", [source, version, datetime.now(UTC).replace(tzinfo=None)])
    return missing


def _small(db: duckdb.DuckDBPyConnection, source: str, rules: SplitRules, version: int) -> Components:
    """The components that are small enough to be drawn, in hash order."""
    found = db.execute(
        """SELECT CAST(component AS VARCHAR) AS name, explicit - explicit_same, explicit_same, fresh - fresh_same, fresh_same
           FROM components WHERE source = ? AND pairs <= ? AND explicit > 0
           ORDER BY md5(concat('draw|', ?, '|', component))""",
        [source, rules.max_component_pairs, version],
    ).fetchnumpy()
    names, *counts = (np.asarray(column) for column in found.values())
    labels = np.stack(counts, axis=1).astype(np.int64)
    return Components(names, labels[:, :2], labels[:, 2:])


def _choose(db: duckdb.DuckDBPyConnection, components: Components, split: str) -> None:
    if len(components):
        db.register("chosen_arrow", pa.table({"component": components.names.astype(str), "split": [split] * len(components)}))
        db.execute("INSERT INTO chosen SELECT CAST(component AS UUID), split FROM chosen_arrow")
        db.unregister("chosen_arrow")


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
