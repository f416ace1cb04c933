"""One interface for everything that runs training jobs, and the choice by name."""

from typing import Protocol

from flywheel.compute import inline, process
from flywheel.compute.places import Places
from flywheel.models.options import ModelOptions
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener


class Compute(Protocol):
    """Runs a job and gives back the finished model folder, which may have been there already.

    While it trains it holds the lease of a device (`flywheel.compute.devices`) if the machine is this one. Raises
    FlywheelError when the job fails, however it ends; when the caller is interrupted, the job ends first.
    """

    def __call__(self, job: TrainingJob, places: Places, models: ModelOptions, listener: Listener) -> TrainedModel:
        """Run `job`, with base models as `models` says; `listener` hears how far it is."""


_COMPUTE: dict[str, Compute] = {"inline": inline.run, "process": process.run}


def choose_compute(name: str) -> Compute:
    """What the setting `compute.run_in` names."""
    return _COMPUTE[name]
