"""What an embedding API was paid: one line of JSON for each of its answers, beside the vectors that they brought."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flywheel.errors import FlywheelError


@dataclass(frozen=True)
class Paid:
    """Texts that were paid for, the tokens that the endpoint counted, and texts of answers that named no tokens."""

    texts: int = 0
    tokens: int = 0
    uncounted: int = 0

    def __add__(self, other: "Paid") -> "Paid":
        return Paid(self.texts + other.texts, self.tokens + other.tokens, self.uncounted + other.uncounted)

    def money(self, price: float) -> float:
        """US dollars at `price` a million tokens."""
        return self.tokens * price / 1e6


def add_to_ledger(file: Path, answer: Paid) -> None:
    """Write down what one answer cost, by one write at the file's end, so that writers may come at once. Raises OSError."""
    tokens = None if answer.uncounted else answer.tokens
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "texts": answer.texts, "tokens": tokens}
    line = json.dumps(entry).encode() + b"\n"
    with file.open("ab+") as ledger:
        if ledger.tell() and not _ends_line(ledger.fileno(), ledger.tell()):
            line = b"\n" + line  # a killed writer's line stays alone
        ledger.write(line)
        ledger.flush()
        os.fsync(ledger.fileno())


def read_ledger(file: Path) -> Paid:
    """The sum of the ledger's lines; torn ones are passed over. Raises FlywheelError when the file cannot be read."""
    try:
        return sum(_entries(file), Paid())
    except OSError as error:
        raise FlywheelError(
            f"{file} cannot be read ({error.strerror}), so what was paid is not known. Move it away or fix its permissions."
        ) from error


def _ends_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _entries(file: Path) -> Iterator[Paid]:
    if not file.exists():
        return
    with file.open("rb") as ledger:
        for line in ledger:
            try:
                entry = json.loads(line)
                texts, tokens = int(entry["texts"]), entry["tokens"]
                yield Paid(texts, int(tokens or 0), texts if tokens is None else 0)
            except (ValueError, KeyError, TypeError):
                continue
