"""Contradictory triangles: A means B and B means C, but A and C were called different. One of the three labels is wrong."""

from dataclasses import dataclass

from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.sql import SPELLINGS

# From the end of the "different" pair that has fewer duplicates, so that a question everyone touches costs nothing.
_TRIANGLES = """
CREATE OR REPLACE TEMP TABLE triangles AS
WITH same AS (
    SELECT question_a AS x, question_b AS y, pair_id FROM pairs WHERE label = 1
    UNION ALL SELECT question_b, question_a, pair_id FROM pairs WHERE label = 1),
degrees AS (SELECT x, count(*) AS degree FROM same GROUP BY x),
different AS (
    SELECT pair_id, if(a.degree <= b.degree, question_a, question_b) AS near,
        if(a.degree <= b.degree, question_b, question_a) AS far
    FROM pairs JOIN degrees a ON a.x = question_a JOIN degrees b ON b.x = question_b WHERE label = 0)
SELECT d.pair_id, s.y AS through, s.pair_id AS near_pair, t.pair_id AS far_pair
FROM different d JOIN same s ON s.x = d.near JOIN same t ON t.x = s.y AND t.y = d.far
"""

_RANKED = f"""
WITH worst AS (
    SELECT pair_id, count(*) AS bridges, min(through) AS through FROM triangles
    GROUP BY pair_id ORDER BY bridges DESC, pair_id LIMIT ?),
texts AS (
    SELECT question, min(text) AS text FROM {SPELLINGS}
    WHERE question IN (SELECT unnest([question_a, question_b]) FROM pairs WHERE pair_id IN (SELECT pair_id FROM worst)
                       UNION ALL SELECT through FROM worst)
    GROUP BY question)
SELECT hex_of(w.pair_id), a.text, b.text, t.text, bridges, 1 + 2 * bridges
FROM worst w JOIN pairs p ON p.pair_id = w.pair_id JOIN texts a ON a.question = p.question_a
JOIN texts b ON b.question = p.question_b JOIN texts t ON t.question = w.through
ORDER BY bridges DESC, w.pair_id
"""


@dataclass(frozen=True)
class Contradiction:
    """A pair called different whose texts both mean the same as `through` (and as `bridges` - 1 other questions)."""

    pair_id: str
    text_a: str
    text_b: str
    through: str
    bridges: int
    pairs: int


@dataclass(frozen=True)
class Contradictions:
    """How many pairs are in a contradictory triangle, their share of all pairs, and the worst by pairs touched."""

    pairs: int
    share: float
    worst: tuple[Contradiction, ...]


def find_contradictions(store: Store, limit: int = 20) -> Contradictions:
    """All contradictory triangles among the pairs as labelled now; the `limit` that touch most pairs by name."""
    with store.transaction() as db:
        db.execute(_TRIANGLES)
        involved, pairs = db.execute(
            """SELECT (SELECT count(DISTINCT p) FROM (SELECT unnest([pair_id, near_pair, far_pair]) AS p FROM triangles)),
                      (SELECT count(*) FROM pairs)"""
        ).fetchall()[0]
        worst = db.execute(_RANKED, [limit]).fetchall() if involved else []
    return Contradictions(involved, involved / max(1, pairs), tuple(Contradiction(*row) for row in worst))
