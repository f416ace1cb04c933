"""Training in this very process: the quickest for many small jobs in a row, none of which must outlive the others."""

from dataclasses import replace

from flywheel.compute.devices import candidates, lease
from flywheel.compute.places import Places
from flywheel.models.catalogue import Variant
from flywheel.models.options import ModelOptions
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener
from flywheel.training.train import train


def run(job: TrainingJob, places: Places, models: ModelOptions, listener: Listener) -> TrainedModel:
    """Run `job` here (see `Compute`)."""
    snapshot = Snapshot.load(places.snapshot)
    devices = candidates(models.device)
    if job.tuning is not None and models.device in ("auto", "cuda"):
        devices = devices[:1]  # layers train on the first GPU that this process sees
    with lease(devices, listener) as device:
        vectors = Vectors.of(Variant.parse(job.variant).model, places.cache, models)
        return train(job, snapshot, replace(vectors, device=device or models.device), places.models, listener)
