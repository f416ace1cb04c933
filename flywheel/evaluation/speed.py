"""How fast base models embed on this machine: measured when a cell is first evaluated, and whenever a corpus is embedded."""

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from flywheel.errors import FlywheelError
from flywheel.files import write_json
from flywheel.models.features import pooled
from flywheel.models.vectors import Vectors

log = logging.getLogger(__name__)

_WARM_UP, _TIMED = 32, 256


def read_speeds(file: Path) -> dict[str, float]:
    """Texts a second by base model; empty where nothing was measured or the file cannot be read."""
    try:
        return {str(base): float(speed) for base, speed in json.loads(file.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def measure_speed(file: Path, vectors: Vectors, texts: Sequence[str]) -> None:
    """Time some of `texts`, unless the base model's speed is known. One that cannot be loaded is logged and has no speed."""
    speeds = read_speeds(file)
    if vectors.model.name in speeds or not texts:
        return
    try:
        encoder = vectors.load()  # in float32, as a corpus is embedded
    except FlywheelError as error:
        log.warning("The speed of %s is not measured: %s", vectors.model.name, error)
        return
    sample = list(texts[:: max(1, len(texts) // _TIMED)])[:_TIMED]
    pooled(encoder, sample[:_WARM_UP], vectors.poolings)
    started = time.perf_counter()
    pooled(encoder, sample, vectors.poolings)
    note_speed(file, vectors.model.name, len(sample) / (time.perf_counter() - started))


def note_speed(file: Path, base: str, texts_a_second: float) -> None:
    """Keep a base model's speed, in place of one that was measured before."""
    write_json(file, {**read_speeds(file), base: texts_a_second})
