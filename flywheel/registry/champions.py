"""Champions on disk: one atomic pointer, and a history that is only added to."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import ConfigDict, TypeAdapter

from flywheel.errors import FlywheelError, explain_disk_errors, validation_fault
from flywheel.files import write_bytes, write_json
from flywheel.registry.shared import HISTORY, POINTER, SharedHistory

Action = Literal["promoted", "kept", "not judged", "rolled back"]


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
    seed_threshold: float


@dataclass(frozen=True)
class Verdict:
    """A challenger against a reference (the champion, or the baseline while there is none) on one `test_id`.

    `detectable` is the smallest true difference in error that this decision had an 80 % chance to find, from `components` and
    `pairs` of the test split; None where none can be found. With `folds`, the pairs were cross-fitted: the verdict is on the
    procedure that gave the challenger, each pair judged by a model that was trained without its fold.
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
    detectable: float | None
    components: int
    pairs: int
    target_prior: float | None
    folds: int = 0


@dataclass(frozen=True)
class Turn:
    """What a snapshot brought where nothing was judged: its best new model beside the champion, on the same test pairs.

    `candidate` and `champion` are records; the champion's figures are missing where it cannot be compared on these pairs.
    """

    candidate: str
    candidate_name: str
    error: float
    train_pairs: int | None
    champion: str | None
    champion_error: float | None
    test_id: str
    reason: str


@dataclass(frozen=True)
class Entry:
    """A line of the history: a decision, a turn without one, or a rollback; whom it made `champion`, and the `previous`
    champion's entry. `snapshot_id` is the snapshot that was decided on.
    """

    number: int
    time: str
    action: Action
    champion: Champion | None
    previous: int | None
    verdict: Verdict | None
    snapshot_id: str | None = None
    turn: Turn | None = None


class Registry:
    """The champions of one home, in `folder`, or of all homes that share the history at `uri`."""

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder = folder
        self._shared = None if uri is None else SharedHistory(folder, uri)
        self._deciding = False

    def champion(self) -> Champion | None:
        """The present champion, or None."""
        entry = self.current()
        return entry.champion if entry else None

    def current(self) -> Entry | None:
        """The entry that made the present champion, or None. Raises FlywheelError when the registry is damaged."""
        self._pull()
        pointer = self.folder / POINTER
        if not pointer.exists():
            return None
        try:
            number = json.loads(pointer.read_text())["entry"]
            return next(entry for entry in self._entries() if entry.number == number)
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise FlywheelError(
                f"{pointer} is damaged. Write the number of an entry of its history that has a champion into it, "
                'in the form {"entry": 1}.'
            ) from error

    def history(self) -> list[Entry]:
        """Every entry, oldest first. Raises FlywheelError naming the first file that is damaged."""
        self._pull()
        return self._entries()

    def _pull(self) -> None:
        if self._shared and not self._deciding:
            self._shared.pull()

    def _entries(self) -> list[Entry]:
        return [_entry(file) for file in sorted((self.folder / HISTORY).glob("*.json"))]

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
        with self.locked():
            target = self.rollback_target(to)
            return self.append("rolled back", target.champion, None, target.previous)

    def note(self, turn: Turn, snapshot_id: str) -> Entry:
        """Write that a snapshot's turn ended without a decision; the champion stays. Needs the lock."""
        present = self.current()
        return self.append("not judged", None, None, present.number if present else None, snapshot_id, turn)

    def append(
        self,
        action: Action,
        champion: Champion | None,
        verdict: Verdict | None,
        previous: int | None,
        snapshot_id: str | None = None,
        turn: Turn | None = None,
    ) -> Entry:
        """Write the entry, then swap the pointer: a kill between the two leaves the old champion and a full history. Needs the
        lock. Raises TryAgainError when another machine has written an entry meanwhile.
        """
        number = len(self.history()) + 1
        now = datetime.now(UTC).isoformat(timespec="seconds")
        entry = Entry(number, now, action, champion, previous, verdict, snapshot_id, turn)
        content = json.dumps(asdict(entry), indent=1, sort_keys=True).encode()
        if self._shared:  # there first: what is there counts
            self._shared.create(number, content)
        write_bytes(self.folder / HISTORY / f"{number:06}.json", content)
        if champion:
            self.point_to(entry)
        return entry

    def point_to(self, entry: Entry) -> None:
        """Make the champion of an entry the present one, by one rename."""
        if self._shared:
            self._shared.point_to(entry.number)
        write_json(self.folder / POINTER, {"entry": entry.number})

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process of the home at a time decides, on the history as it is now.

        Another machine may decide at once. Then its entry is not read before this decision is written, so that the one that
        comes second finds its entry's number taken.
        """
        with explain_disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / "lock"):
                self._pull()
                self._deciding = True
                try:
                    yield
                finally:
                    self._deciding = False


# In a tuple, because a dataclass alone takes no configuration.
_ENTRY = TypeAdapter(tuple[Entry], config=ConfigDict(strict=True, allow_inf_nan=False))


def _entry(file: Path) -> Entry:
    try:
        return _ENTRY.validate_json(b"[%s]" % file.read_bytes())[0]
    except ValueError as error:
        raise FlywheelError(
            f"{file} is damaged, or another version of flywheel wrote it ({validation_fault(error)}). Put a copy of it back. "
            f"Without one, move {file.parent.parent} away and run `flywheel champion promote`, which begins a new history "
            "with nothing spent on its test sets."
        ) from error
