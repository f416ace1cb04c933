"""The leaderboard of one snapshot: measured rows, published rows, and which cells belong to an older snapshot."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.evaluation.guess import Guess, measure_guess
from flywheel.evaluation.published import PUBLISHED
from flywheel.evaluation.records import Evaluation, Terms, list_evaluations
from flywheel.evaluation.subjects import GUESS
from flywheel.pairs.snapshots.snapshot import ALL, Snapshot
from flywheel.scoring.verdicts import MIN_COMPONENTS


@dataclass(frozen=True)
class Leaderboard:
    """Baseline and untuned rows first, then tuned cells by variant and size. `stale` names records of older snapshots;
    `on_other_terms` counts rows that are not shown. `guess` is what always giving the commoner label errs, which is neither a
    candidate nor a baseline; None where there is no row to read beside it, or it is the baseline.
    """

    snapshot: Snapshot
    rows: tuple[Evaluation, ...]
    stale: frozenset[str]
    on_other_terms: int = 0
    guess: Guess | None = None

    def to_json(self) -> list[dict[str, Any]]:
        """One dict a row, then the guess, published rows last; a published row has `published_error`, not `error`."""
        measured = [
            {
                "kind": row.kind,
                "variant": row.variant,
                "size": row.size,
                "recipe": row.recipe,
                "place": row.place,
                "error": row.error,
                "ci_low": row.interval.low if row.interval else None,
                "ci_high": row.interval.high if row.interval else None,
                "calibration_set_error": row.calibration_set_error,
                "own_labels_error": row.own_labels.error if row.own_labels else None,
                "threshold": row.rule.threshold,
                "slices": {each.name: {"error": each.error, "n": each.n} for each in row.slices},
                "mrr_at_10": row.retrieval.mrr_at_10,
                "n": row.metrics.n,
                "failed": row.failures.test if row.failures else 0,
                "components": row.components,
                "no_verdict": row.no_verdict,
                "stale": row.record_id in self.stale,
                "seen_before": self.seen(row),
                "record": row.record_id,
                "test_id": row.test_id,
                "alarm": row.alarm.sentence if row.alarm else None,
                "remarks": [finding.sentence for finding in row.findings if not finding.alarm],
            }
            for row in self.rows
        ]
        guess = [
            {
                "kind": "guess",
                "variant": GUESS,
                "size": None,
                "recipe": None,
                "error": self.guess.error,
                "ci_low": self.guess.interval.low if self.guess.interval else None,
                "ci_high": self.guess.interval.high if self.guess.interval else None,
                "n": self.guess.n,
                "components": self.guess.components,
                "test_id": self.snapshot.test_id,
            }
        ] if self.guess else []  # fmt: skip
        published = [
            {
                "kind": "published",
                "variant": row.variant,
                "size": None,
                "recipe": None,
                "published_error": row.published_error,
                "n": row.n,
                "data": row.data,
                "note": row.note,
            }
            for row in PUBLISHED
        ]
        return measured + guess + published

    def seen(self, row: Evaluation) -> bool:
        """Whether the row's base model has trained, or may have, on the data that the test pairs are from."""
        return self.snapshot.on_quora and row.contamination is not None

    @property
    def tuned(self) -> list[Evaluation]:
        """The trained cells of this very snapshot."""
        return [row for row in self.trained if row.record_id not in self.stale]

    @property
    def trained(self) -> list[Evaluation]:
        """The same, and of every other cell the newest of an older snapshot."""
        return [row for row in self.rows if row.kind == "tuned"]


def build_leaderboard(
    snapshot: Snapshot,
    evaluations: Path,
    terms: Terms | None = None,
    champion_id: str | None = None,
) -> Leaderboard:
    """Gather every record on the snapshot's `test_id` and on these terms; of a cell trained on several snapshots, the current
    one's, else the newest, and the champion in any case. Of a baseline or an untuned model that was measured again, by a later
    version or in other numbers, the newest.
    """
    everything = list_evaluations(evaluations, snapshot.test_id)
    records = [record for record in everything if terms in (None, record.terms)]
    current = [r for r in records if r.snapshot_id == snapshot.snapshot_id or _is_api(r)]
    newest = {_cell(record): record for record in current}
    current = [r for r in current if r.kind == "tuned" or r is newest[_cell(r)]]
    cells = {_cell(record) for record in current}
    older = {_cell(record): record for record in records if record.kind == "tuned" and _cell(record) not in cells}
    stale = {record.record_id: record for record in older.values()}
    stale |= {r.record_id: r for r in records if r.record_id == champion_id and r not in current}
    rows = sorted([*current, *stale.values()], key=_order)
    shown = rows and not any(row.variant == GUESS for row in rows)
    guess = measure_guess(snapshot, terms or Terms(MIN_COMPONENTS)) if shown else None
    return Leaderboard(snapshot, tuple(rows), frozenset(stale), len(everything) - len(records), guess)


def _is_api(record: Evaluation) -> bool:
    return record.kind == "baseline" and record.contamination is None and record.size is None


def _cell(record: Evaluation) -> tuple[str | int | None, ...]:
    return record.kind, record.variant, record.size, record.recipe, record.random_seed


def _order(record: Evaluation) -> tuple[int, bool, str, str, bool, float, int]:
    kind = ("baseline", "untuned", "tuned").index(record.kind)
    size = float(record.size or 0) if record.size != ALL else float("inf")
    local = kind == 0 and record.contamination is not None
    return kind, local, record.variant, record.recipe or "", record.size is not None, size, record.random_seed or 0
