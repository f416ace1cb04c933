"""Training in this very process: the quickest for many small jobs in a row, none of which must outlive the others."""

from dataclasses import replace

from flywheel.compute.devices import candidates, lease
from flywheel.models.catalogue import Variant
from flywheel.models.vectors import vectors_of
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.settings import Settings
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener
from flywheel.training.train import train


def run(job: TrainingJob, settings: Settings, listener: Listener) -> TrainedModel:
    """Run `job` here (see `Compute`)."""
    snapshot = Snapshot.load(settings.snapshots / job.snapshot_id)
    devices = candidates(settings.device)
    if job.tuning is not None and settings.device in ("auto", "cuda"):
        devices = devices[:1]  # layers train on the first GPU that this process sees
    with lease(devices, listener) as device:
        vectors = vectors_of(Variant.parse(job.variant).model, settings)
        vectors = replace(vectors, device=device or settings.device)
        return train(job, snapshot, vectors, settings.models, listener)
