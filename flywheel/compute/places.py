"""Where a training job reads and writes."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Places:
    """A job's snapshot folder, the folder its model folder goes into, and the folder of cached vectors."""

    snapshot: Path
    models: Path
    cache: Path
