"""What the store holds, for people: what became of the lines, by source and day; the splits and their priors; the embargo."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

from flywheel.errors import FlywheelError
from flywheel.pairs.store.duckdb_file import Store

EMBARGO_ADVICE = 0.10
_RECENT = 10_000  # observations that the share of the embargo is taken over
_NEWEST = 1_000  # records that the share of quarantined ones is taken over
_REASONS = 10


@dataclass(frozen=True)
class Day:
    """What became of the lines of one source that were ingested on one day (UTC)."""

    source: str
    day: date
    lines: int
    accepted: int
    duplicates: int
    quarantined: int
    conflicts: int
    embargoed: int
    redacted: int


@dataclass(frozen=True)
class SplitPrior:
    """Pairs of one source in one split, and the share of them that are labelled as duplicates."""

    split: str
    source: str
    pairs: int
    prior: float


@dataclass(frozen=True)
class Embargo:
    """How much of what comes in is linked to test or calibration questions, of the first and of the newest batches.

    The batches are those of interactions that came in after the first draw; both shares are over about 10,000 observations
    (fewer while there are fewer). `advice` says what to do, if anything.
    """

    first: float
    newest: float
    batches: int
    advice: str | None


@dataclass(frozen=True)
class Quarantine:
    """How many `records` the newest `deliveries` of interactions had, about 1,000 or more, how many of them are quarantined,
    and for which kinds of reason, the commonest first, with one of each.
    """

    deliveries: int
    records: int
    quarantined: int
    reasons: tuple[tuple[str, int], ...]

    @property
    def share(self) -> float:
        """Of the records that are quarantined."""
        return self.quarantined / max(1, self.records)


@dataclass(frozen=True)
class Overview:
    """The store at a glance. `reasons` counts quarantined lines by kind of reason, the commonest first, with one of each."""

    days: tuple[Day, ...]
    splits: tuple[SplitPrior, ...]
    reasons: tuple[tuple[str, int], ...]
    embargo: Embargo | None


@dataclass(frozen=True)
class PairEvent:
    """One observation of a pair: where it came from and what it states."""

    pair_id: str
    text_a: str
    text_b: str
    label: int
    kind: str
    weight: float
    type: str
    file: str
    line: int
    batch_id: str
    user: str | None
    time: datetime | None
    position: int | None
    model: str | None


def overview(store: Store) -> Overview:
    """Read it all in one transaction."""
    with store.transaction() as db:
        days = db.execute(
            """SELECT source, CAST(ingested_at AS DATE) AS day, sum(lines)::BIGINT, sum(accepted)::BIGINT,
               sum(duplicates)::BIGINT, sum(quarantined)::BIGINT, sum(conflicts)::BIGINT, sum(embargoed)::BIGINT,
               sum(redacted)::BIGINT
               FROM batches WHERE complete GROUP BY ALL ORDER BY day, source"""
        ).fetchall()
        splits = db.execute(
            """SELECT * FROM (
                   SELECT split, if(seed, 'seed', 'interaction') AS source, count(*), avg(label) FROM pairs GROUP BY ALL)
               ORDER BY list_position(['train', 'calibration', 'test', 'waiting', 'embargoed'], split), source"""
        ).fetchall()
        reasons = db.execute(
            f"SELECT min(reason) AS reason, count(*) AS lines FROM quarantine GROUP BY kind ORDER BY 2 DESC, 1 LIMIT {_REASONS}"
        ).fetchall()
        batches = db.execute(
            """SELECT observations, embargoed FROM batches WHERE complete AND source = 'interaction'
               AND ingested_at > (SELECT min(drawn_at) FROM draws) AND observations > 0 ORDER BY ingested_at, batch_id"""
        ).fetchall()
    return Overview(
        tuple(Day(*row) for row in days), tuple(SplitPrior(*row) for row in splits), tuple(reasons), _embargo(batches)
    )


def last_delivery(store: Store) -> datetime | None:
    """When interactions were last taken in (UTC); None before the first."""
    with store.transaction() as db:
        row = db.execute("SELECT max(ingested_at) FROM batches WHERE complete AND source = 'interaction'").fetchone()
    return row[0].replace(tzinfo=UTC) if row and row[0] else None


def newest_quarantine(store: Store) -> Quarantine:
    """What became of the newest deliveries."""
    with store.transaction() as db:
        batches = db.execute(
            """SELECT batch_id, lines - header - continuation, quarantined FROM batches
               WHERE complete AND source = 'interaction' ORDER BY ingested_at DESC, batch_id"""
        ).fetchall()
        newest, records = [], 0
        for batch_id, held, quarantined in batches:
            newest.append((batch_id, quarantined))
            records += held
            if records >= _NEWEST:
                break
        reasons = db.execute(
            f"""SELECT min(reason) AS reason, count(*) AS lines FROM quarantine WHERE list_contains(?, batch_id)
                GROUP BY kind ORDER BY 2 DESC, 1 LIMIT {_REASONS}""",
            [[batch_id for batch_id, _ in newest]],
        ).fetchall()
    return Quarantine(len(newest), records, sum(quarantined for _, quarantined in newest), tuple(reasons))


def _embargo(batches: list[tuple[int, int]]) -> Embargo | None:
    if not batches:
        return None
    newest = _share(batches[::-1])
    advice = None
    if newest > EMBARGO_ADVICE:
        advice = (
            f"{newest:.0%} of what comes in is linked to test or calibration questions and never trains. "
            "`flywheel snapshot --new-test` draws new calibration and test splits, the test from labelled pairs that were in "
            "neither, or says how many are missing; figures on the two do not compare."
        )
    return Embargo(_share(batches), newest, len(batches), advice)


def _share(batches: list[tuple[int, int]]) -> float:
    observations = embargoed = 0
    for seen, held in batches:
        observations += seen
        embargoed += held
        if observations >= _RECENT:
            break
    return embargoed / observations


def origins(store: Store, wanted: str, limit: int = 100) -> list[PairEvent]:
    """Every observation of a pair (by its id), or of all pairs with a question of exactly this text; newest first.

    Raises FlywheelError when there is none.
    """
    columns = "hex_of(pair_id), text_a, text_b, label, kind, weight, type, file, line, o.batch_id, user_id, observed_at"
    with store.transaction() as db:
        rows = db.execute(
            f"""SELECT {columns}, position, model FROM observations o
                JOIN (SELECT batch_id, file FROM batches) b ON b.batch_id = o.batch_id
                WHERE pair_id = TRY_CAST($wanted AS UUID) OR question_a = question_of(clean($wanted))
                OR question_b = question_of(clean($wanted))
                ORDER BY observed_at DESC NULLS LAST, o.batch_id, line LIMIT $limit""",
            {"wanted": wanted, "limit": limit},
        ).fetchall()
    if not rows:
        raise FlywheelError(
            f"No pair has the id or the text {wanted!r}; the text must be whole, case and spaces do not matter."
        )
    return [PairEvent(*row) for row in rows]
