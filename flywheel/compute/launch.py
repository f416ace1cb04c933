"""One interface for all places where a training job can run, and the choice among them."""

from typing import Protocol

from flywheel.compute import inline, process
from flywheel.settings import Settings
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener


class Compute(Protocol):
    """Runs a job on its snapshot in the home and gives back the finished model folder, which may have been there already.

    While it trains it holds the lease of a device (`flywheel.compute.devices`) if the machine is this one. Raises
    FlywheelError when the job fails, however it ends; when the caller is interrupted, the job ends first.
    """

    def __call__(self, job: TrainingJob, settings: Settings, listener: Listener) -> TrainedModel:
        """Run `job`; `listener` hears how far it is."""


_PLACES: dict[str, Compute] = {"inline": inline.run, "process": process.run}


def compute_of(settings: Settings) -> Compute:
    """Where the setting `compute` says that jobs run."""
    return _PLACES[settings.compute]
