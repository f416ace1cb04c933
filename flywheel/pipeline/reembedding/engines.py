"""Where texts are embedded: what every engine does, and the one that needs nothing but this process."""

import time
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flywheel.errors import FlywheelError
from flywheel.models.embedder import Embedder, Numbers
from flywheel.pairs.corpus.rows import ID, TEXT, is_empty
from flywheel.pairs.corpus.source import Corpus
from flywheel.pipeline.reembedding.generation import Generation, Part, Plan
from flywheel.pipeline.reembedding.plan import Work

WARM_UP = 32
_TOGETHER = 8192  # texts that are tokenised at once


class Engine(Protocol):
    """Where texts are embedded."""

    workers: int
    machines: int
    startup: float  # seconds until the first text, known once the rate is

    def rate(self, sample: Sequence[str]) -> float:
        """Texts a second of all workers together, measured on a sample."""

    def run(self, work: Work) -> Iterator[Part]:
        """Embed and write the parts that are to be done; each comes when its file is there."""


class RowReader:
    """Reads parts of a corpus; one that lies after the last one is read on from there."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._piece, self._next, self._rest = -1, 0, pa.table({})
        self._batches: Iterator[pa.RecordBatch] = iter(())

    def read(self, part: Part) -> pa.Table:
        """The rows of a part: place, id, text. Raises FlywheelError when the corpus has fewer by now."""
        if part.piece != self._piece or part.start < self._next:
            self._piece, self._next, self._rest = part.piece, part.start, pa.table({})
            self._batches = self._corpus.batches(part.piece, part.start)
        skip, rows, held = part.start - self._next, list[pa.Table](), 0
        while held < skip + part.rows:
            if not len(self._rest):
                batch = next(self._batches, None)
                if batch is None:
                    raise FlywheelError(f"{self._corpus} has fewer rows than before: it has changed while it was embedded.")
                self._rest = pa.Table.from_batches([batch])
            taken = self._rest.slice(0, skip + part.rows - held)
            rows.append(taken.slice(max(0, skip - held)))
            held += len(taken)
            self._rest = self._rest.slice(len(taken))
        self._next = part.start + part.rows
        return pa.concat_tables(rows).combine_chunks()


class PartWriter:
    """Reads, embeds and writes parts of a generation, one after the other."""

    def __init__(self, generation: Generation, corpus: Corpus, embedder: Embedder) -> None:
        self._generation, self._embedder, self._reader = generation, embedder, RowReader(corpus)

    def write(self, part: Part) -> None:
        """Embed the texts of a part that are not empty, and write them with their ids."""
        rows = self._reader.read(part)
        rows = rows.filter(pc.invert(is_empty(rows[TEXT])))
        ids = rows[ID].combine_chunks() if len(rows) else pa.array([], self._generation.plan.schema.field("id").type)
        texts = rows[TEXT].to_pylist()
        some = [self._embedder(texts[start : start + _TOGETHER]) for start in range(0, len(texts), _TOGETHER)]
        empty = np.empty((0, self._generation.plan.dim), np.float32)
        self._generation.write_part(part, ids, np.concatenate([empty, *some]))


class Here:
    """This process and its device."""

    workers = machines = 1
    startup = 0.0

    def __init__(self, work: Work) -> None:
        self._embedder = Embedder(work.folder, work.device, numbers_of(work.plan))

    def rate(self, sample: Sequence[str]) -> float:
        """Texts a second."""
        return measured_rate(self._embedder, sample)

    def run(self, work: Work) -> Iterator[Part]:
        """Embed part after part."""
        writer = PartWriter(work.generation, work.corpus, self._embedder)
        for part in work.todo:
            writer.write(part)
            yield part


def numbers_of(plan: Plan) -> Numbers:
    """What the encoder computes in."""
    return "bfloat16" if plan.numbers == "bfloat16" else "float32"


def measured_rate(embedder: Embedder, sample: Sequence[str]) -> float:
    """Texts a second, timed on a sample after a few of them as a warm-up."""
    embedder(sample[:WARM_UP])
    timed = sample[WARM_UP:] or sample
    started = time.perf_counter()
    embedder(timed)
    return len(timed) / (time.perf_counter() - started)
