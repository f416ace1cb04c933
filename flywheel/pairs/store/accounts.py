"""Whether every line of some batches is accounted for, and why lines of theirs were quarantined."""

from flywheel.pairs.store.duckdb_file import Store


def quarantine_reasons(store: Store, batch_ids: list[str], limit: int = 1000) -> list[tuple[str, int, str]]:
    """(file, line, reason) of the first quarantined lines of the batches given."""
    with store.transaction() as db:
        return db.execute(
            "SELECT file, line, reason FROM quarantine WHERE list_contains(?, batch_id) ORDER BY file, line LIMIT ?",
            [batch_ids, limit],
        ).fetchall()


def unaccounted(store: Store, batch_ids: list[str]) -> list[str]:
    """What does not add up, as sentences: lines counted against each other, and against the lines the store holds.

    A batch that something was forgotten of holds fewer than it counted, and is left out.
    """
    with store.transaction() as db:
        rows = db.execute(
            """WITH held AS (
                   SELECT batch_id, count(DISTINCT line) AS accepted FROM observations
                   WHERE list_contains($batches, batch_id) GROUP BY batch_id),
               refused AS (
                   SELECT batch_id, count(*) AS quarantined FROM quarantine
                   WHERE list_contains($batches, batch_id) GROUP BY batch_id)
               SELECT b.file, b.lines, b.header, b.continuation, b.accepted, b.duplicates, b.quarantined,
                   coalesce(h.accepted, 0), coalesce(r.quarantined, 0)
               FROM batches b LEFT JOIN held h USING (batch_id) LEFT JOIN refused r USING (batch_id)
               WHERE list_contains($batches, b.batch_id) AND b.complete AND NOT b.thinned""",
            {"batches": batch_ids},
        ).fetchall()
    return [
        f"{file}: {lines} lines, {header} header, {continuation} continuation, {accepted} accepted ({held} in the store), "
        f"{duplicates} duplicates, {quarantined} quarantined ({kept} in the store)"
        for file, lines, header, continuation, accepted, duplicates, quarantined, held, kept in rows
        if header + continuation + accepted + duplicates + quarantined != lines or held != accepted or kept != quarantined
    ]
