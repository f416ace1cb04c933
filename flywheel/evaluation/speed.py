"""How fast base models are on this machine: measured once, when a cell is evaluated, and kept in a file."""

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
        encoder = vectors.loaded
    except FlywheelError as error:
        log.warning("The speed of %s is not measured: %s", vectors.model.name, error)
        return
    sample = list(texts[:: max(1, len(texts) // _TIMED)])[:_TIMED]
    pooled(encoder, sample[:_WARM_UP])
    started = time.perf_counter()
    pooled(encoder, sample)
    write_json(file, {**speeds, vectors.model.name: len(sample) / (time.perf_counter() - started)})
