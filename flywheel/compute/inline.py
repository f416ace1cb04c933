"""Training in this very process: the quickest for many small jobs in a row, none of which must outlive the others."""

from dataclasses import replace

from flywheel.compute.devices import candidates, lease
from flywheel.compute.places import Places
from flywheel.models.options import EncodingOptions
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener
from flywheel.training.train import train


def run(job: TrainingJob, places: Places, encoding: EncodingOptions, listener: Listener) -> TrainedModel:
    """Run `job` here (see `Compute`)."""
    snapshot = Snapshot.load(places.snapshot)
    devices = candidates(encoding.device)
    if job.tuning is not None and encoding.device in ("auto", "cuda"):
        devices = devices[:1]  # layers train on the first GPU that this process sees
    with lease(devices, listener) as device:
        base = replace(job.base, path=places.weights)
        vectors = Vectors.of(
            base,
            places.cache,
            encoding.model_copy(update={"device": device or encoding.device}),
            job.poolings,
            places.root.cache,
        )
        return train(job, snapshot, vectors, places.models, listener, places.root.models)
