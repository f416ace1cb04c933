"""Cross-fitting: all pairs train and the labelled ones judge too, each by a model that has not seen its component.

Before frozen splits begin, labelled pairs are too few to be set aside. So components are spread over folds: a fold's pairs are
judged by what was trained on the others.
"""

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.pairs.snapshots.enough import Missing, Offer, SplitRules, held, to_ingest
from flywheel.scoring.verdicts import reason_no_verdict

MIN_JUDGING_PAIRS = 100
_FOLDS, _FEWER_FOLDS, _MANY_PAIRS = 10, 5, 5_000  # the second number of folds above so many pairs


@dataclass(frozen=True)
class Folds:
    """Into how many folds the judging components of a home are spread: 0 where they carry no verdict, and what is missing."""

    count: int
    missing: Missing | None


def fold(db: duckdb.DuckDBPyConnection, rules: SplitRules) -> Folds:
    """Spread the components of the table `exported` over folds: the temporary table `folds` (`component`, `fold`).

    `exported` gets the column `component`.

    Fold -1 has what trains only: components without an explicit pair, and those that hold more of the explicit pairs that
    judge than a verdict allows. Where what is left carries no verdict, all have -1.
    """
    db.execute(
        """CREATE OR REPLACE TEMP TABLE exported AS
           SELECT exported.*, a.component FROM exported JOIN assignments a ON a.question = question_a"""
    )
    found = db.execute(
        """SELECT CAST(component AS VARCHAR) AS component, count(*) FILTER (kind = 'explicit' AND label = 0) AS different,
               count(*) FILTER (kind = 'explicit' AND label = 1) AS same
           FROM exported GROUP BY component ORDER BY different + same DESC, md5(concat('fold|', component))"""
    ).fetchnumpy()
    labels = np.stack([np.asarray(found[name]) for name in ("different", "same")], axis=1).astype(np.int64)
    pairs, seeds = db.execute("SELECT count(*), count(*) FILTER (source = 'seed') FROM exported").fetchall()[0]
    judging = small_enough(labels.sum(1), rules.max_component_share)
    missing = _what_is_missing(labels, judging, pairs, seeds, rules)
    count = 0 if missing else _FEWER_FOLDS if pairs > _MANY_PAIRS else _FOLDS
    numbers = np.full(len(labels), -1, dtype=np.int32)
    if count:
        numbers[judging] = spread(labels[judging], count)
    table = pa.table({"component": np.asarray(found["component"]).astype(str), "fold": numbers})
    db.register("folds_arrow", table)
    db.execute("CREATE OR REPLACE TEMP TABLE folds AS SELECT CAST(component AS UUID) AS component, fold FROM folds_arrow")
    db.unregister("folds_arrow")
    return Folds(count, missing)


def small_enough(sizes: NDArray[np.int64], largest: float) -> NDArray[np.bool_]:
    """Which components judge, by their explicit pairs (n,): the most of which none holds more than the share `largest`."""
    ordered = np.sort(sizes[sizes > 0])
    fits = np.flatnonzero(ordered <= largest * ordered.cumsum())
    return (sizes > 0) & (sizes <= (ordered[fits[-1]] if len(fits) else 0))


def spread(labels: NDArray[np.int64], folds: int) -> NDArray[np.int32]:
    """The fold of each component, (n,), by its pairs of either label, (n, 2): the largest first, each to where it is needed.

    That is the fold with the least of its labels so far, as shares of all pairs of a label, so that a rare label is spread too.
    """
    weight = 1.0 / np.maximum(1, labels.sum(0)).astype(np.float64) ** 2
    held, taken = np.zeros((folds, 2)), np.empty(len(labels), dtype=np.int32)
    for i, given in enumerate(labels):
        taken[i] = np.argmin(held @ (given * weight))
        held[taken[i]] += given
    return taken


def _what_is_missing(
    labels: NDArray[np.int64], judging: NDArray[np.bool_], pairs: int, seeds: int, rules: SplitRules
) -> Missing | None:
    """What the pairs lack to judge and train in turn; None where they lack nothing."""
    mine = labels[judging]
    least = np.maximum(0, rules.min_labels - (mine > 0).sum(0))  # so that no fold can hold all pairs of a label
    wanted = max(MIN_JUDGING_PAIRS - int(mine.sum()), rules.min_components - len(mine), int(least.sum()))
    if wanted <= 0 and reason_no_verdict(mine.sum(1), rules.min_components, rules.max_component_share) is None:
        return None
    least[np.argsort(mine.sum(0))] += np.array([wanted - least.sum() + 1, wanted - least.sum()]) // 2
    source = "interaction" if seeds == 0 else "seed" if seeds == pairs else "seed and interaction"
    offer = Offer(source, pairs, int(labels.sum()), labels[labels.sum(1) > 0])
    needed = (
        f"A verdict takes {MIN_JUDGING_PAIRS} labelled pairs in {rules.min_components} components, none above "
        f"{rules.max_component_share:.0%}, and either label in {rules.min_labels} of these."
    )
    return Missing(f"{held(offer)} {needed}", to_ingest(int(least[0]), int(least[1])))
