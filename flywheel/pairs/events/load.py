"""What became of the lines of batches that were validated together, and whether a delivery may be stored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from flywheel.errors import UnreadableFileError
from flywheel.pairs.events.lines import Batch
from flywheel.pairs.events.mapping import HARMLESS


class Refused(NamedTuple):
    """A line that is quarantined: its batch, its number, the kind of reason, the reason, how it begins, and whose it is."""

    batch_id: str
    number: int
    kind: str
    reason: str
    raw: str
    user: str | None


class Part(NamedTuple):
    """A file of observations, and the number of the last line that it is about, of the last batch in it."""

    path: Path
    last: int


@dataclass
class Staged:
    """What became of a batch's lines.

    Of `lines` physical lines `continuation` go on with a record that began before. `kinds` counts the refused ones by kind of
    reason, and `examples` has the first of each. `fault` says why nothing of the batch may be stored.
    """

    batch: Batch
    lines: int
    continuation: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Refused] = field(default_factory=dict)
    redacted: int = 0
    fault: UnreadableFileError | None = None


@dataclass(frozen=True)
class Load:
    """Batches validated together: Parquet files of their observations, in order, and one of their quarantined lines."""

    parts: list[Part]
    quarantine: Path
    batches: list[Staged]


def check(delivery: Sequence[Staged], most: float) -> None:
    """Raise UnreadableFileError when a batch of a delivery has a fault, when none of its lines is an event, or when more than
    the share `most` fails for one reason.
    """
    for each in delivery:
        if each.fault:
            raise each.fault
    records = sum(each.lines - each.batch.header - each.continuation for each in delivery)
    kinds = sum((each.kinds for each in delivery), Counter[str]())
    faults = Counter({kind: n for kind, n in kinds.items() if kind not in HARMLESS})
    judged = records - (kinds.total() - faults.total())
    kind, count = (faults.most_common(1) or kinds.most_common(1) or [("", 0)])[0]
    if not count or not (kinds.total() == records or (faults and count > most * judged)):
        return

    def first(kind: str) -> tuple[str, Refused]:
        return next((each.batch.file, each.examples[kind]) for each in delivery if kind in each.examples)

    file, example = first(kind)
    others = [first(other) for other, _ in (kinds - Counter({kind: count})).most_common(3)]
    more = "".join(f"; {'' if name == file else f'{name}, '}line {each.number}: {each.reason}" for name, each in others)
    way = (
        "" if kind in HARMLESS else f" `flywheel ingest --dry-run {file.partition('/')[0]}` shows how the file was understood."
    )
    raise UnreadableFileError(
        f"{file}:{example.number}: {example.reason}; {count:,} of {records:,} lines are refused for this reason{more}. "
        f"Nothing of it was stored.{way}"
    )
