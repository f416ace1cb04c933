"""One interface for everything that runs training jobs, and the choice by name."""

from functools import partial
from typing import Protocol

from flywheel.compute import inline, process, remote_job
from flywheel.compute.engine import Engine
from flywheel.compute.options import ComputeOptions
from flywheel.compute.places import Places
from flywheel.models.options import EncodingOptions
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener


class Compute(Protocol):
    """Runs a job and gives back the finished model folder, which may have been there already.

    While it trains it holds the lease of a device (`flywheel.compute.devices`) if the machine is this one. Raises
    FlywheelError when the job fails, however it ends; when the caller is interrupted, the job ends first.
    """

    def __call__(self, job: TrainingJob, places: Places, encoding: EncodingOptions, listener: Listener) -> TrainedModel:
        """Run `job`, with encoders as `encoding` says; `listener` hears how far it is."""


def choose_compute(options: ComputeOptions, notes: str | None = None) -> Compute:
    """What the settings name; `notes` is the folder where an engine whose jobs have no names keeps which is which."""
    if options.engine is not None:
        return partial(remote_job.run, options=options, engine=_engine(options, notes))
    if options.through:
        return partial(process.run_elsewhere, through=options.through)
    return inline.run if options.run_in == "inline" else process.run


def _engine(options: ComputeOptions, notes: str | None) -> Engine:
    match options.engine:
        case "ray":
            from flywheel.compute.ray_jobs import RayJobs

            return RayJobs(options)
        case "kubernetes":
            from flywheel.compute.kubernetes_jobs import KubernetesJobs

            return KubernetesJobs(options)
        case "modal":
            from flywheel.compute.modal_calls import ModalCalls

            return ModalCalls(options, notes)
        case _:
            from flywheel.compute.slurm import Slurm

            return Slurm(options)
