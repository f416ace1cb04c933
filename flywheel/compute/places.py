"""Where a training job reads and writes."""

from dataclasses import dataclass, field
from pathlib import Path

from flywheel.home import Root


@dataclass(frozen=True)
class Places:
    """A job's snapshot folder, the folder its model folder goes into, and the folder of cached vectors.

    `weights` is the folder of the base model on this machine; without it, an installed package or the hub has it. Where there
    is a `root`, it has the snapshot, and gets the model folder and the vectors too.
    """

    snapshot: Path
    models: Path
    cache: Path
    weights: Path | None = None
    root: Root = field(default_factory=Root)
