"""Champions: one challenger a decision, a paired test, one atomic pointer, a history that is only added to."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import ConfigDict, TypeAdapter

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.evaluation.evaluate import tested_pairs
from flywheel.evaluation.records import Evaluation, fault
from flywheel.files import write_json
from flywheel.registry.decisions import Rules, champion_of, judge, same_match

Action = Literal["promoted", "kept", "rolled back"]


@dataclass(frozen=True)
class Champion:
    """The promoted model: weights, threshold, snapshot and evaluation as one unit. `model` is a folder name in models/.

    `threshold` is that of interaction pairs, what users do; seed pairs were judged at `seed_threshold`.
    """

    model: str
    variant: str
    size: str
    recipe: str
    threshold: float
    snapshot_id: str
    test_id: str
    error: float
    ci_low: float | None
    ci_high: float | None
    n: int
    seed_threshold: float | None = None  # histories begun before it was kept have none


@dataclass(frozen=True)
class Verdict:
    """A challenger against a reference (the champion, or the baseline while there is none) on one `test_id`.

    `detectable` is the smallest true difference in error that this decision had an 80 % chance to find, from `components` and
    `pairs` of the test split; all three are None in entries of earlier versions, and `detectable` where there is none.
    """

    challenger: str
    challenger_name: str
    reference: str
    reference_name: str
    test_id: str
    decision: int
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    alpha: float
    broken_share: float | None
    mrr_change: float
    recall_change: float
    promoted: bool
    reason: str
    detectable: float | None = None
    components: int | None = None
    pairs: int | None = None
    target_prior: float | None = None


@dataclass(frozen=True)
class Entry:
    """A line of the history: a decision or a rollback, whom it made `champion`, and the `previous` champion's entry."""

    number: int
    time: str
    action: Action
    champion: Champion | None
    previous: int | None
    verdict: Verdict | None


class Registry:
    """The champions of one home, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def current(self) -> Entry | None:
        """The entry that made the present champion, or None. Raises FlywheelError when the registry is damaged."""
        pointer = self.folder / "champion.json"
        if not pointer.exists():
            return None
        try:
            number = json.loads(pointer.read_text())["entry"]
            return next(entry for entry in self.history() if entry.number == number)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise FlywheelError(
                f"{pointer} is damaged. Write the number of an entry of the history beside it that has a champion into it, "
                'in the form {"entry": 1}.'
            ) from error

    def history(self) -> list[Entry]:
        """Every entry, oldest first. Raises FlywheelError naming the first file that is damaged."""
        return [_entry(file) for file in sorted((self.folder / "history").glob("*.json"))]

    def judged(self, challenger: Evaluation, reference: Evaluation) -> Entry | None:
        """The entry that judged these two on this test split and for this share of duplicates, if there is one."""
        return next(
            (entry for entry in self.history() if entry.verdict and same_match(entry.verdict, challenger, reference)), None
        )

    def spent(self, test_id: str, evaluations: Path) -> int:
        """How many decisions have been made on pairs of this test split: on it, or on another that shares pairs with it.

        A draw anew, or a label that joins, gives another `test_id` to much the same pairs; what was spent on them is spent.
        A split of which no record is left counts as sharing: nobody can tell.
        """
        made = Counter(entry.verdict.test_id for entry in self.history() if entry.verdict)
        ours = tested_pairs(evaluations, test_id) or frozenset()
        others = {other: tested_pairs(evaluations, other) for other in made if other != test_id}
        apart = sum(made[other] for other, theirs in others.items() if theirs is not None and ours.isdisjoint(theirs))
        return made.total() - apart

    def decide(self, challenger: Evaluation, reference: Evaluation, evaluations: Path, rules: Rules) -> tuple[Entry, bool]:
        """Judge the challenger, add the verdict to the history, and swap the pointer if it won.

        Returns the entry and whether it is new: the same two are judged once a `test_id`, so that asking again spends
        nothing and promotes nobody twice; it ends a promotion that was killed before the swap. Raises FlywheelError when
        the test split carries no verdict, or the reference no longer reigns.
        """
        with self._locked():
            history = self.history()
            if entry := self.judged(challenger, reference):
                if entry.champion and not any(later.champion for later in history[entry.number :]):
                    write_json(self.folder / "champion.json", {"entry": entry.number})
                return entry, False
            present = self.current()
            reigning = present.champion.model if present and present.champion else None
            if reigning != (reference.record_id if reference.kind == "tuned" else None):
                raise FlywheelError(
                    f"{challenger.name} was to be compared with {reference.name}, but the champion has changed meanwhile: "
                    "run `flywheel champion promote` again."
                )
            number = 1 + self.spent(challenger.test_id, evaluations)
            verdict = judge(challenger, reference, evaluations, rules, number, against_champion=reference.kind == "tuned")
            previous = present.number if present else None
            if not verdict.promoted:
                return self._append("kept", None, verdict, previous), True
            return self._append("promoted", champion_of(challenger), verdict, previous), True

    def rollback_target(self, to: int | None = None) -> Entry:
        """The entry whose champion a rollback would restore: the one before the present one, or entry `to`.

        Raises FlywheelError when there is no such champion.
        """
        present = self.current()
        if present is None:
            raise FlywheelError("There is no champion yet, so there is nothing to roll back.")
        number = to if to is not None else present.previous
        target = next((e for e in self.history() if e.number == number and e.champion), None)
        if target is None:
            what = "There is no earlier champion" if to is None else f"Entry {to} made no champion"
            raise FlywheelError(f"{what}; `flywheel champion history` lists them.")
        return target

    def rollback(self, to: int | None = None) -> Entry:
        """Restore the champion of `rollback_target`; without `to`, each time one further back."""
        with self._locked():
            target = self.rollback_target(to)
            return self._append("rolled back", target.champion, None, target.previous)

    def _append(self, action: Action, champion: Champion | None, verdict: Verdict | None, previous: int | None) -> Entry:
        """Write the entry, then swap the pointer: a kill between the two leaves the old champion and a full history."""
        number = len(self.history()) + 1
        entry = Entry(number, datetime.now(UTC).isoformat(timespec="seconds"), action, champion, previous, verdict)
        write_json(self.folder / "history" / f"{number:06}.json", asdict(entry))
        if champion:
            write_json(self.folder / "champion.json", {"entry": number})
        return entry

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                yield


# In a tuple, because a dataclass alone takes no configuration.
_ENTRY = TypeAdapter(tuple[Entry], config=ConfigDict(strict=True, allow_inf_nan=False))


def _entry(file: Path) -> Entry:
    try:
        return _ENTRY.validate_json(b"[%s]" % file.read_bytes())[0]
    except ValueError as error:
        raise FlywheelError(
            f"{file} is damaged ({fault(error)}). Put a copy of it back; without one, move {file.parent.parent} away and run "
            "`flywheel champion promote`, which begins a new history with nothing spent on its test sets."
        ) from error
