"""Forgetting: what a user, a batch or a text left behind goes away for good."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.errors import FlywheelError
from flywheel.pairs.store.components import reassign
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.labels import sum_up
from flywheel.pairs.store.new_pairs import count_trainable
from flywheel.pairs.store.sql import LINE_OF_CONTENT, SPELLINGS

if TYPE_CHECKING:
    import duckdb

# An unknown field whose name speaks of a user, with the id as its value or within: "userId":"4711", "user":{"id":4711}.
_NAMES = "user|customer|client|visitor|member|person|distinct|author|annotator|rater|email"
_ID = "(?i:id|ids|uid|uuid|key|name|email|hash|pseudo_id)"
_IN_OTHER_FIELDS = f"""regexp_matches(extra, concat(
    '"[^"]*(?i:{_NAMES})(?:[ _.-]?{_ID})?":(?:\\{{[^{{}}]*"_?{_ID}":)?"?', regexp_escape(?), '(?:\\.0)?"?[,}}\\]]'))"""


@dataclass(frozen=True)
class Selection:
    """What to forget: everything of a user, of a batch (an id or its beginning), or whose text holds some words.

    A user is who the field `user` names, or an unknown field whose name speaks of one (userId, customer_id).
    """

    user: str | None = None
    batch: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Raises FlywheelError unless exactly one is named."""
        given = [value for value in (self.user, self.batch, self.text) if value is not None]
        if len(given) != 1 or not given[0].strip():
            raise FlywheelError("Say what to forget: exactly one of --user, --batch and --text-contains, and not a blank.")
        if self.batch is not None and len(self.batch) < 8:
            raise FlywheelError(
                "A batch is named by at least the first 8 characters of its id; `flywheel pairs origin TEXT` names it."
            )

    def where(self, table: str) -> tuple[str, list[str]]:
        """The condition on `observations` or `quarantine`, and its parameter."""
        if self.batch is not None:
            return "starts_with(batch_id, ?)", [self.batch]
        if self.user is not None:
            user, escaped = self.user.strip(), json.dumps(self.user.strip())[1:-1]
            if table == "observations":
                return f"user_id = ? OR {_IN_OTHER_FIELDS}", [user, json.dumps(user, ensure_ascii=False)[1:-1]]
            # a line that could not be read names its user somewhere in what is kept of it, if at all
            named = "regexp_matches(raw, concat('(^|[^\\w-])', regexp_escape(?), '($|[^\\w-])'))"
            return f"user_id = ? OR {named} OR {named}", [user, user, escaped]
        assert self.text is not None
        held = ("text_a", "text_b", "extra") if table == "observations" else ("raw", "reason")
        return " OR ".join(f"contains(lower(coalesce({c}, '')), lower($1))" for c in held), [self.text]


@dataclass(frozen=True)
class Found:
    """What a selection holds now. `unfinished`: an earlier `forget` was interrupted before it had deleted everything."""

    observations: int
    pairs: int
    quarantined: int
    unfinished: bool


@dataclass(frozen=True)
class Forgotten:
    """What went: counts, the ids of the pairs that lost an observation, and of the batches that held one."""

    observations: int
    quarantined: int
    pair_ids: frozenset[str]
    batch_ids: frozenset[str]


def find(store: Store, selection: Selection) -> Found:
    """Count what `forget` would take away; changes nothing."""
    where, values = selection.where("observations")
    refused, refused_values = selection.where("quarantine")
    with store.transaction() as db:
        observations, pairs = db.execute(
            f"SELECT count(*), count(DISTINCT pair_id) FROM observations WHERE {where}", values
        ).fetchall()[0]
        (quarantined,) = db.execute(f"SELECT count(*) FROM quarantine WHERE {refused}", refused_values).fetchall()[0]
        (unfinished,) = db.execute("SELECT count(*) FROM unfinished").fetchall()[0]
    return Found(observations, pairs, quarantined, bool(unfinished))


def forget(store: Store, selection: Selection) -> Forgotten:
    """Delete the observations, sum their pairs up again from what is left, and rewrite the file without them.

    The hashes of the events stay, so that a second delivery of the same ones is known as a duplicate. A question that
    trained stays assigned by its hash: a model knows it. Until `finish` is called, a further call returns the ids of this
    one too, so that a kill before the snapshots are deleted loses nothing.
    """
    where, values = selection.where("observations")
    refused, refused_values = selection.where("quarantine")
    with store.transaction() as db:
        db.execute(f"CREATE OR REPLACE TEMP TABLE deleted AS SELECT * FROM observations WHERE {where}", values)
        db.execute(
            f"""CREATE OR REPLACE TEMP TABLE thinned AS
                SELECT batch_id FROM deleted UNION SELECT batch_id FROM quarantine WHERE {refused}""",
            refused_values,
        )
        (quarantined,) = db.execute(f"SELECT count(*) FROM quarantine WHERE {refused}", refused_values).fetchall()[0]
        (observations,) = db.execute("SELECT count(*) FROM deleted").fetchall()[0]
        db.execute("INSERT INTO unfinished SELECT 'batch', batch_id FROM thinned")
        db.execute("INSERT INTO unfinished SELECT DISTINCT 'pair', hex_of(pair_id) FROM deleted")
        db.execute("INSERT INTO forgotten SELECT DISTINCT event FROM deleted")
        db.execute(  # an event without an id is known by its line in this content, under whatever settings it is read again
            f"INSERT INTO forgotten SELECT DISTINCT {LINE_OF_CONTENT} FROM deleted WHERE event_id IS NULL"
        )
        db.execute(f"DELETE FROM observations WHERE {where}", values)
        db.execute(f"DELETE FROM quarantine WHERE {refused}", refused_values)
        db.execute("UPDATE batches SET thinned = true WHERE batch_id IN (FROM thinned)")
        _sum_up_again(db)
        reassign(db)
        count_trainable(db)
        ids = db.execute("SELECT kind, id FROM unfinished").fetchall()
    store.rewrite()
    pair_ids, batch_ids = (frozenset(name for of, name in ids if of == kind) for kind in ("pair", "batch"))
    return Forgotten(observations, quarantined, pair_ids, batch_ids)


def finish(store: Store) -> None:
    """Clear the list of unfinished deletions."""
    with store.transaction() as db:
        db.execute("DELETE FROM unfinished")


def _sum_up_again(db: duckdb.DuckDBPyConnection) -> None:
    db.execute(
        """CREATE OR REPLACE TEMP TABLE slice AS
           SELECT * FROM observations WHERE pair_id IN (SELECT pair_id FROM deleted)"""
    )
    sum_up(db)
    db.execute(
        """CREATE OR REPLACE TEMP TABLE kept AS
           SELECT summed.*, pairs.split FROM summed JOIN pairs ON pairs.pair_id = summed.pair_id"""
    )
    db.execute("DELETE FROM pairs WHERE pair_id IN (SELECT pair_id FROM deleted)")
    db.execute("INSERT INTO pairs BY NAME SELECT * FROM kept")
    for table in ("frozen_pairs", "retired"):
        db.execute(f"DELETE FROM {table} WHERE pair_id NOT IN (SELECT pair_id FROM pairs)")
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE respelled AS
           SELECT question, min(text) AS text FROM {SPELLINGS}
           WHERE question IN (SELECT unnest([question_a, question_b]) FROM deleted) GROUP BY question"""
    )
    for side in ("a", "b"):
        db.execute(
            f"""UPDATE frozen_pairs SET text_{side} = r.text FROM respelled r
                WHERE frozen_pairs.question_{side} = r.question"""
        )
    db.execute(
        """UPDATE frozen_pairs SET label = k.label, weight = k.weight FROM kept k WHERE frozen_pairs.pair_id = k.pair_id"""
    )


def remove_deliveries(inbox: Path, batch_ids: frozenset[str]) -> list[str]:
    """Delete the files of these batches from inbox/done; the store has what is left of them. Returns their names."""
    beginnings = {batch[:12] for batch in batch_ids}
    held = [path for path in sorted((inbox / "done").glob("*")) if path.name.partition("-")[0] in beginnings]
    for path in held:
        os.remove(path)
    return [path.name for path in held]
