"""Where seed pairs come from: the starter set, or Quora's duplicate questions (a local file or the hub), or nowhere."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError
from flywheel.pairs.events.lines import Batch, Line, json_lines
from flywheel.pairs.events.starter import starter_lines
from flywheel.settings import PROJECT, Settings

QUORA = "quora"


STARTER = PROJECT / "data" / "starter"


QUORA_REPOSITORY, QUORA_SUBSET = "sentence-transformers/quora-duplicates", "pair-class"


def seed_batch(settings: Settings) -> Batch | None:
    """The seed pairs that the settings ask for as one batch, or None when they ask for none.

    Raises FlywheelError when the file or the hub cannot be read.
    """
    if settings.seed == "none":
        return None
    return _starter() if settings.seed == "starter" else _quora(settings.quora_path)


def _starter() -> Batch:
    questions = STARTER / "questions.csv"
    if not questions.is_file():
        raise FlywheelError(f"{questions} is missing; run flywheel from a clone of its repository, or set FLYWHEEL_SEED.")
    lines = list(starter_lines(questions))
    return Batch(hashlib.sha256(b"\n".join(lines)).hexdigest()[:32], "seed", "starter", json_lines(iter(lines)))


def _quora(path: Path | None) -> Batch:
    rows = _load_quora(path)
    columns = ("text_a", "text_b") if "text_a" in rows.column_names else ("sentence1", "sentence2")
    missing = {*columns, "label"} - set(rows.column_names)
    if missing:
        raise FlywheelError(f"The Quora pairs lack the columns {sorted(missing)}; they have {rows.column_names}.")
    content = hashlib.sha256()
    for line in _quora_lines(rows, columns):
        content.update(repr(line[0]).encode("utf-8", "surrogatepass"))
    return Batch(content.hexdigest()[:32], "seed", f"{QUORA} ({path or 'hub'})", _quora_lines(rows, columns))


def _load_quora(path: Path | None) -> Any:
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    if path is not None and not path.is_file():
        raise FlywheelError(f"{path} (FLYWHEEL_QUORA_PATH) is not a file; give the path of a Parquet file of pairs.")
    try:
        if path is not None:
            return load_dataset("parquet", data_files=str(path), split="train")
        return load_dataset(QUORA_REPOSITORY, QUORA_SUBSET, split="train")
    except Exception as error:  # the libraries below raise many kinds: connection, format, cache
        raise FlywheelError(
            f"The Quora pairs cannot be loaded from {path or f'the hub ({QUORA_REPOSITORY})'}: {error}. "
            "Set FLYWHEEL_QUORA_PATH to a Parquet file with text_a, text_b and label, or FLYWHEEL_SEED=starter."
        ) from error


def _quora_lines(rows: Any, columns: tuple[str, str]) -> Iterator[Line]:
    for group in rows.iter(batch_size=10_000):
        for text_a, text_b, label in zip(group[columns[0]], group[columns[1]], group["label"], strict=True):
            yield {"text_a": text_a, "text_b": text_b, "label": label}, None
