"""One reading of a whole corpus before anything is embedded: how many texts, which are empty, and what they are."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flywheel.errors import FlywheelError
from flywheel.pairs.corpus.rows import ID, PLACE, TEXT, is_empty
from flywheel.pairs.corpus.source import Corpus
from flywheel.pairs.corpus.table import id_check

SAMPLE = 288
_SHOWN = 5
OnRows = Callable[[int], None]


@dataclass(frozen=True)
class Survey:
    """What a corpus holds: rows by piece, texts that are not empty, where the first empty ones are, and a random sample.

    `fingerprint` is of ids and texts in their order, and of nothing else: the same rows in another file have the same.
    """

    rows: tuple[int, ...]
    texts: int
    empty_places: tuple[str, ...]
    fingerprint: str
    ids_are_numbers: bool
    sample: tuple[str, ...]

    @property
    def empty(self) -> int:
        """How many rows have no text, or white space alone."""
        return sum(self.rows) - self.texts


def survey(corpus: Corpus, scratch: Path, memory_limit: str, on_rows: OnRows | None = None) -> Survey:
    """Read a corpus once, in bounded memory; ids go to a file below `scratch` meanwhile. `on_rows` hears rows done.

    Raises FlywheelError for an id that occurs twice, for ids of two kinds, and as the readers do.
    """
    rows, texts, places, fingerprint, sample = [0] * len(corpus.pieces), 0, list[str](), Fingerprint(), _Sample()
    kind: pa.DataType | None = None
    with id_check(scratch, memory_limit) as ids:
        for piece in range(len(corpus.pieces)):
            for batch in corpus.batches(piece):
                if kind not in (None, batch[ID].type):
                    raise FlywheelError(
                        f"The ids of {corpus} are whole numbers in one file and texts in another. Write them all as texts."
                    )
                kind = batch[ID].type
                empty = is_empty(batch[TEXT])
                full = batch[TEXT].filter(pc.invert(empty))
                rows[piece] += len(batch)
                texts += len(full)
                if len(places) < _SHOWN:
                    places += [_place(corpus, piece, each) for each in batch[PLACE].filter(empty).to_pylist()]
                fingerprint.add(batch)
                sample.add(full)
                ids.add(piece, batch)
                if on_rows is not None:
                    on_rows(sum(rows))
        count, twice = ids.twice(list(corpus.pieces), corpus.unit)
    if twice is not None:
        others = f"; {count - 1:,} more ids occur several times too" if count > 1 else ""
        raise FlywheelError(
            f"The id {twice.id!r} of {corpus} stands at {twice.first} and at {twice.last}{others}. An index has one vector an "
            "id: remove the copies, or name another column with --id."
        )
    if not texts:
        raise FlywheelError(f"{corpus} holds no text in the column {corpus.text_column!r}. Name another with --text.")
    numbers = kind is not None and pa.types.is_integer(kind)
    return Survey(tuple(rows), texts, tuple(places[:_SHOWN]), fingerprint.hex(), numbers, sample.texts())


def _place(corpus: Corpus, piece: int, place: int) -> str:
    return f"{corpus.unit} {place:,}" + (f" of {corpus.pieces[piece]}" if len(corpus.pieces) > 1 else "")


class Fingerprint:
    """A hash of ids and texts in their order, however they come in batches."""

    def __init__(self) -> None:
        self._hashes = [hashlib.blake2b(digest_size=16) for _ in range(4)]

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        for name, (lengths, content) in ((ID, self._hashes[:2]), (TEXT, self._hashes[2:])):
            column = batch[name]
            if not pa.types.is_string(column.type):
                content.update(column.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
                continue
            sizes = pc.fill_null(pc.binary_length(column), -1)
            lengths.update(sizes.to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            # The values of a new array without nulls lie one after the other in one buffer.
            joined = pc.binary_join(pa.ListArray.from_arrays([0, len(column)], pc.fill_null(column, "")), "")
            content.update(joined[0].as_buffer())

    def hex(self) -> str:
        """The hash so far."""
        return hashlib.blake2b("".join(each.hexdigest() for each in self._hashes).encode(), digest_size=16).hexdigest()


class _Sample:
    """Some texts, each as likely as any other; the same for the same corpus."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._kept: list[tuple[float, str]] = []

    def add(self, texts: pa.Array) -> None:
        keys = self._random.random(len(texts))
        limit = self._kept[-1][0] if len(self._kept) == SAMPLE else 1.0
        rows = np.flatnonzero(keys < limit)
        if len(rows):
            new = zip(keys[rows].tolist(), texts.take(pa.array(rows)).to_pylist(), strict=True)
            self._kept = sorted([*self._kept, *new])[:SAMPLE]

    def texts(self) -> tuple[str, ...]:
        return tuple(text for _, text in self._kept)
