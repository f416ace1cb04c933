"""The command that trains a job on any machine, and the spec that it reads."""

from pathlib import Path

from flywheel import storage
from flywheel.compute.places import Places
from flywheel.errors import FlywheelError
from flywheel.models.options import EncodingOptions
from flywheel.training.job import TrainingJob


def training_command(spec: str, places: Places, weights: Path | None, encoding: EncodingOptions) -> list[str]:
    """What Python is to run to train the job whose spec is at `spec`, a path or URI; `weights` is as in `Places`.

    Where there is a root it reads and writes there alone.
    """
    root = places.root
    where = [str(places.snapshot), str(places.models), str(places.cache)]
    if root.uri is not None:
        where = [f"{root.snapshots}/{places.snapshot.name}", str(root.models), str(root.cache)]
    folder = ["--weights", str(weights)] if weights else []
    more = ["--device", encoding.device, "--state-cache-gb", str(encoding.state_cache_gb), *folder]
    return ["-m", "flywheel.training", spec, *where, *more]


def write_spec(job: TrainingJob, places: Places) -> str:
    """Put a job's spec where another machine reads it; returns its URI. Raises FlywheelError when there is no root."""
    if places.root.jobs is None:
        raise FlywheelError(
            "Trainings on other machines (compute.engine, compute.through) find nothing without storage.root. Set storage.root "
            "to an address that both machines reach."
        )
    spec = f"{places.root.jobs}/{job.job_id}.json"
    storage.write(spec, job.to_json().encode())
    return spec
