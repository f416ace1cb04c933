"""Where seed pairs come from: the starter set, or Quora's duplicate questions (a local file or the hub), or nowhere."""

import hashlib
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError, one_line
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.events.lines import Batch, Line
from flywheel.pairs.events.starter import starter_lines
from flywheel.pairs.options import QUORA, PairOptions

STARTER = Path(str(files("flywheel.pairs.events"))) / "starter_set"
QUORA_REPOSITORY = "sentence-transformers/quora-duplicates"
QUORA_FILE = "pair-class/train-00000-of-00001.parquet"
_OTHER_PAIRS = "Set pairs.quora_path to a Parquet file with text_a, text_b and label, or pairs.seed_pairs to starter."


def seed_batch(options: PairOptions) -> Batch | None:
    """The seed pairs that the settings ask for as one batch, or None when they ask for none.

    Raises FlywheelError when the file or the hub cannot be read.
    """
    if options.seed_pairs == "none":
        return None
    return _starter() if options.seed_pairs == "starter" else _quora(options.quora_path)


def _starter() -> Batch:
    lines = list(starter_lines(STARTER / "questions.csv"))
    return json_batch(hashlib.sha256(b"\n".join(lines)).hexdigest()[:32], "seed", "starter", lines)


def _quora(path: Path | None) -> Batch:
    file = path or _quora_from_hub()
    if not file.is_file():
        raise FlywheelError(f"{file} (pairs.quora_path) is not a file. Give the path of a Parquet file of pairs.")
    try:
        names = pq.read_schema(file).names
    except (OSError, pa.ArrowException) as error:
        raise FlywheelError(f"{file} cannot be read as Parquet: {one_line(error)}. {_OTHER_PAIRS}") from error
    columns = ("text_a", "text_b") if "text_a" in names else ("sentence1", "sentence2")
    if missing := sorted({*columns, "label"} - set(names)):
        raise FlywheelError(f"{file} lacks the columns {', '.join(missing)}; it has {', '.join(names)}. {_OTHER_PAIRS}")
    content = hashlib.sha256()
    total = 0
    for line in _quora_lines(file, columns):
        total = line.number
        content.update(repr(line.record).encode("utf-8", "surrogatepass"))
    return Batch(content.hexdigest()[:32], "seed", f"{QUORA} ({path or 'hub'})", total, _quora_lines(file, columns))


def _quora_from_hub() -> Path:
    """The pairs' file, downloaded once into the hub's own cache."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(QUORA_REPOSITORY, QUORA_FILE, repo_type="dataset"))
    except Exception as error:  # the client's errors have no common base
        raise FlywheelError(
            f"The Quora pairs cannot be loaded from the hub ({QUORA_REPOSITORY}): {one_line(error)}. {_OTHER_PAIRS}"
        ) from error


def _quora_lines(file: Path, columns: tuple[str, str]) -> Iterator[Line]:
    with pq.ParquetFile(file) as rows:
        groups = rows.iter_batches(10_000, columns=[*columns, "label"])
        for number, row in enumerate(chain.from_iterable(group.to_pylist() for group in groups), start=1):
            yield Line({"text_a": row[columns[0]], "text_b": row[columns[1]], "label": row["label"]}, None, number)
