"""Two evaluations side by side on the same test pairs: by how much, how sure, on which kinds of pairs, and which pairs flip."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.errors import FlywheelError
from flywheel.evaluation.cross_fitted import paired
from flywheel.evaluation.paired import PairedTest
from flywheel.evaluation.records import Evaluation, Terms
from flywheel.evaluation.scores import decisions
from flywheel.evaluation.slices import slices_of
from flywheel.evaluation.statistics import reason_no_verdict
from flywheel.models.api.ledger import Paid
from flywheel.pairs.snapshots.snapshot import Snapshot

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class FlippedPair:
    """A test pair that the two decide differently, with each one's probability that it is the same."""

    text_a: str
    text_b: str
    label: int
    ours: float
    theirs: float


@dataclass(frozen=True)
class SliceDifference:
    """Error rates of both on one kind of pairs; the test is None where too few components are of that kind."""

    name: str
    ours: float
    theirs: float
    n: int
    components: int
    test: PairedTest | None

    @property
    def difference(self) -> float:
        """Ours less theirs."""
        return self.ours - self.theirs


@dataclass(frozen=True)
class Comparison:
    """`ours` against `theirs`. `test` is None where the splits carry no verdict or a side is not sane.

    `broken` pairs are right by theirs and wrong by ours, `fixed` ones the other way round; of both, those that ours is
    surest of are given, surest first. `broken_share` is of the pairs that theirs had right.
    """

    ours: Evaluation
    theirs: Evaluation
    test: PairedTest | None
    difference: float
    broken: int
    broken_share: float
    fixed: int
    worst_broken: tuple[FlippedPair, ...]
    best_fixed: tuple[FlippedPair, ...]
    slices: tuple[SliceDifference, ...]

    @property
    def unsound(self) -> Evaluation | None:
        """The side on which no verdict may rest, or None."""
        return unsound(self.ours, self.theirs)


def unsound(ours: Evaluation, theirs: Evaluation) -> Evaluation | None:
    """The side of a comparison on which no verdict may rest, what one is compared with first; None where both are sane."""
    return next((side for side in (theirs, ours) if side.alarm), None)


def unsound_text(side: Evaluation, remedy: bool = True) -> str:
    """Whose alarm it is, and what it says, with what to do about it."""
    assert side.alarm
    return f"{side.name} cannot be compared with anything: {side.alarm.sentence if remedy else side.alarm.reason}"


def check_same_test(ours: Evaluation, theirs: Evaluation) -> None:
    """Raise FlywheelError unless both were scored on the same test pairs and on the same terms."""
    if ours.test_id != theirs.test_id:
        raise FlywheelError(
            f"{ours.name} was scored on test {ours.test_id} and {theirs.name} on {theirs.test_id}: score both on one snapshot."
        )
    if ours.terms != theirs.terms:
        raise FlywheelError(
            f"{ours.name} was evaluated with {_terms_text(ours.terms)} and {theirs.name} with {_terms_text(theirs.terms)}. "
            "Run `flywheel grid`, which evaluates both again."
        )


def _terms_text(terms: Terms) -> str:
    elsewhere = ", ".join(each[:12] for each in terms.elsewhere) or "none"
    return f"min_components {terms.min_components}, target_prior {terms.target_prior} and pairs from elsewhere {elsewhere}"


def compare(ours: Evaluation, theirs: Evaluation, snapshot: Snapshot, evaluations: Path, shown: int) -> Comparison:
    """Compare two evaluations on the snapshot's test pairs; `shown` is how many flipped pairs of each kind are given.

    Raises FlywheelError when they, or the snapshot, are of different test pairs.
    """
    check_same_test(ours, theirs)
    if snapshot.test_id != ours.test_id:
        raise FlywheelError(
            f"{ours.name} was scored on test {ours.test_id}, which is not that of snapshot {snapshot.snapshot_id}."
        )
    minimum = ours.terms.min_components
    judged = not (ours.no_verdict or theirs.no_verdict or unsound(ours, theirs))
    left, right = decisions(evaluations, ours), decisions(evaluations, theirs)
    pairs = snapshot.judging_pairs().set_index("pair_id").loc[left.index]
    table = pairs.assign(
        ours=left["probability"], theirs=right["probability"], ours_wrong=left["wrong"], theirs_wrong=right["wrong"],
        failed=left["failed"] | right["failed"], fold=left["fold"],
    )  # fmt: skip
    broken = table[table["ours_wrong"] & ~table["theirs_wrong"]]
    fixed = table[~table["ours_wrong"] & table["theirs_wrong"]]
    kinds = {name: table[mask] for name, mask in slices_of(table).items() if mask.any()}
    return Comparison(
        ours=ours,
        theirs=theirs,
        test=_test(table, minimum) if judged else None,
        difference=float(table["ours_wrong"].mean() - table["theirs_wrong"].mean()),
        broken=len(broken),
        broken_share=len(broken) / max(1, int((~table["theirs_wrong"]).sum())),
        fixed=len(fixed),
        worst_broken=_surest(broken, shown),
        best_fixed=_surest(fixed, shown),
        slices=tuple(_slice(name, rows, minimum, judged) for name, rows in kinds.items()),
    )


def _test(table: pd.DataFrame, minimum: int) -> PairedTest | None:
    table = table[~table["failed"]]  # nobody wins by what the other could not embed
    if reason_no_verdict(table["component"].to_numpy(), minimum):
        return None
    return paired(*(table[name].to_numpy() for name in ("ours_wrong", "theirs_wrong", "component", "fold")))


def _slice(name: str, rows: pd.DataFrame, minimum: int, judged: bool) -> SliceDifference:
    ours, theirs = float(rows["ours_wrong"].mean()), float(rows["theirs_wrong"].mean())
    test = _test(rows, minimum) if judged else None
    return SliceDifference(name, ours, theirs, len(rows), rows["component"].nunique(), test)


def _surest(flipped: pd.DataFrame, shown: int) -> tuple[FlippedPair, ...]:
    surest = (flipped["ours"] - 0.5).abs().sort_values(ascending=False, kind="stable").index[:shown]
    columns = ["text_a", "text_b", "label", "ours", "theirs"]
    return tuple(FlippedPair(*row) for row in flipped.loc[surest, columns].itertuples(index=False))


@dataclass(frozen=True)
class Baseline:
    """What models are held against, whether it is the API itself, what is to be done if it is not, and what was paid for it
    this time.
    """

    evaluation: Evaluation
    is_api: bool
    advice: str | None
    paid: Paid
