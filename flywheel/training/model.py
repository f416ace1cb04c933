"""A finished model folder and the figures in its `flywheel.json`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError
from flywheel.scoring.thresholds import ScoreFit
from flywheel.training.job import TrainingJob


@dataclass(frozen=True)
class TrainedModel:
    """A finished model folder and the figures in its `flywheel.json`.

    `fit` turns scores into probabilities and holds the threshold that ships, from `calibration`; `own_fit` is taken out
    of fold from the job's own pairs, up to 1,600 of them. `kept_start` says why the model is the untrained start, where
    training brought no proven gain. `losses` are (step, loss). `reused` says that nothing was trained this time.
    """

    folder: Path
    job: TrainingJob
    fit: ScoreFit
    own_fit: ScoreFit | None
    calibration_error: float
    train_pairs: int
    seconds: float
    kept_start: str | None = None
    losses: tuple[tuple[int, float], ...] = ()
    reused: bool = False

    @classmethod
    def load(cls, folder: Path) -> "TrainedModel":
        """Read a model folder's `flywheel.json`. Raises FlywheelError when there is none or it is damaged."""
        try:
            record: dict[str, Any] = json.loads((folder / "flywheel.json").read_text())
            return cls(
                folder=folder,
                job=TrainingJob.from_json(json.dumps(record["job"])),
                fit=ScoreFit.from_json(record["fit"]),
                own_fit=ScoreFit.from_json(record["own_fit"]) if record["own_fit"] else None,
                calibration_error=record["calibration_error"],
                train_pairs=record["train_pairs"],
                seconds=record["seconds"],
                kept_start=record["kept_start"],
                losses=tuple((step, loss) for step, loss in record["losses"]),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlywheelError(f"{folder} holds no model of flywheel; train it with `flywheel train`.") from error

    @property
    def tuned_encoder(self) -> bool:
        """Whether the folder holds other encoder weights than the base model's."""
        return self.job.tuning is not None and self.kept_start is None

    def as_reused(self) -> "TrainedModel":
        """The same model, marked as found instead of made."""
        return replace(self, reused=True)
