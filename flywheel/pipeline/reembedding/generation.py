"""A generation: one model's vectors of one corpus, as Parquet parts in a folder of their own, and which generation is served.

`OUTPUT/MODEL/manifest.json` says what the parts are; it is written first and says `complete` last. A part is the vectors of
consecutive rows of the corpus, appears whole or not at all, and says which plan it belongs to. So what is missing is what is
not there, whoever wrote the rest and however that ended. `OUTPUT/current` is a link to the generation that is served.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError, explain_disk_errors
from flywheel.files import digest, write_bytes, write_json

MANIFEST, CURRENT, LOCK = "manifest.json", "current", ".lock"
_PLAN_KEY = b"flywheel.plan"


@dataclass(frozen=True)
class Part:
    """Consecutive rows of a piece of the corpus, from row `start` (counted from 0) on."""

    number: int
    piece: int
    start: int
    rows: int

    @property
    def name(self) -> str:
        """Its file."""
        return f"part-{self.number:06d}.parquet"


@dataclass(frozen=True)
class Plan:
    """What a generation is made of; two runs with the same plan continue each other.

    `rows` are those of each of `pieces`, which are files of the corpus or its table; `empty` of them have no text and get no
    vector, the first ones at `empty_places`. `ids` are int64 or string, `numbers` what the encoder computed in.
    """

    model: str
    variant: str
    model_fingerprint: str
    numbers: str
    dim: int
    corpus: str
    table: str | None
    id_column: str
    text_column: str
    ids: str
    corpus_fingerprint: str
    pieces: tuple[str, ...]
    rows: tuple[int, ...]
    texts: int
    empty: int
    empty_places: tuple[str, ...]
    part_rows: int

    @cached_property
    def plan_id(self) -> str:
        """Equal for plans whose parts are the same."""
        told = self.model_fingerprint, self.numbers, self.corpus_fingerprint, self.ids, self.rows, self.part_rows
        return digest(repr(told))

    def parts(self) -> Iterator[Part]:
        """All parts, in the order of the corpus."""
        number = 0
        for piece, rows in enumerate(self.rows):
            for start in range(0, rows, self.part_rows):
                yield Part(number, piece, start, min(self.part_rows, rows - start))
                number += 1

    @property
    def schema(self) -> pa.Schema:
        """The columns of every part."""
        kind = pa.list_(pa.field("item", pa.float32(), nullable=False), self.dim)
        columns = [pa.field("id", pa.type_for_alias(self.ids)), pa.field("vector", kind, nullable=False)]
        return pa.schema(columns, metadata={_PLAN_KEY: self.plan_id.encode()})


@dataclass(frozen=True)
class Generation:
    """The folder of a plan. `vectors` and what else is known in the end is in `outcome`, empty until it is complete."""

    folder: Path
    plan: Plan
    outcome: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every text has its vector."""
        return bool(self.outcome)

    @classmethod
    def read(cls, folder: Path) -> "Generation | None":
        """What lies in a folder; None where nothing does. Raises FlywheelError when it is no generation, or damaged."""
        try:
            record = json.loads((folder / MANIFEST).read_bytes())
            told: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in record["plan"].items()
            }
            return cls(folder, Plan(**told), record["outcome"] or {})
        except FileNotFoundError:
            if folder.is_dir() and any(not each.name.startswith(".") for each in folder.iterdir()):
                raise FlywheelError(f"{folder} holds files and no {MANIFEST}. Choose another output folder.") from None
            return None
        except (ValueError, KeyError, TypeError, NotADirectoryError) as error:
            raise FlywheelError(
                f"{folder / MANIFEST} is damaged, or another version of flywheel wrote it. Remove {folder}, then embed again."
            ) from error

    def write(self) -> None:
        """Write the manifest."""
        write_json(self.folder / MANIFEST, {"plan": asdict(self.plan), "complete": self.complete, "outcome": self.outcome})

    def write_part(self, part: Part, ids: pa.Array, vectors: np.ndarray) -> None:
        """Write the file of a part: ids (n,) and float32 vectors (n, dim)."""
        schema = self.plan.schema
        numbers = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
        rows = pa.FixedSizeListArray.from_arrays(numbers, type=schema.field("vector").type)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_arrays([ids, rows], schema=schema), sink, compression="zstd", use_dictionary=False)
        write_bytes(self.folder / part.name, sink.getvalue().to_pybytes())

    def vectors_in(self, part: Part) -> int | None:
        """How many vectors the file of a part holds; None where it is missing, damaged, or of another plan."""
        try:
            found = pq.read_metadata(self.folder / part.name)
        except (OSError, pa.ArrowException):
            return None
        return found.num_rows if (found.metadata or {}).get(_PLAN_KEY) == self.plan.plan_id.encode() else None

    def missing(self) -> list[Part]:
        """The parts that are not there."""
        return [part for part in self.plan.parts() if self.vectors_in(part) is None]


def cut_over(output: Path, model: str) -> tuple[Generation, Generation | None]:
    """Make `OUTPUT/current` a link to a model's generation by one rename; returns it and the one that was served before.

    Raises FlywheelError when the generation is not there, not complete, or a part of it is missing.
    """
    chosen = Generation.read(output / model) if model and Path(model).name == model and model != CURRENT else None
    if chosen is None:
        there = ", ".join(each.folder.name for each in generations(output)) or "none"
        raise FlywheelError(
            f"{output} has no generation {model!r}; it has {there}. Name one of them, or embed with --model first."
        )
    missing = chosen.missing()
    if missing or not chosen.complete:
        of = sum(1 for _ in chosen.plan.parts())
        raise FlywheelError(
            f"The generation {model} in {output} is not complete: {len(missing):,} of {of:,} parts are missing. What is served "
            "stays as it is. Run the command that began it again, which embeds the rest, then cut over."
        )
    link = output / CURRENT
    if link.exists() and not link.is_symlink():
        raise FlywheelError(f"{link} is no link, so flywheel did not make it. Move it away, then cut over again.")
    before = served(output)
    aside = output / f".{CURRENT}-{uuid4().hex}"
    with explain_disk_errors(output):
        try:
            aside.symlink_to(model)
            os.replace(aside, link)
        finally:
            aside.unlink(missing_ok=True)
    return chosen, before


def served(output: Path) -> Generation | None:
    """The generation that `OUTPUT/current` leads to, if any."""
    link = output / CURRENT
    return Generation.read(output / os.readlink(link)) if link.is_symlink() else None


def generations(output: Path) -> list[Generation]:
    """Every generation in an output folder, by name."""
    folders = sorted(each.parent for each in output.glob(f"*/{MANIFEST}") if each.parent.name != CURRENT)
    return [found for folder in folders if (found := Generation.read(folder)) is not None]
