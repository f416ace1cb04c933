"""`python -m flywheel.training JOB SNAPSHOT MODELS CACHE`: one training job, on any machine that has the files."""

import argparse
import json
import sys
from pathlib import Path

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots import fetch_snapshot
from flywheel.settings import load_settings
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Progress, to_line
from flywheel.training.train import train


def main() -> int:
    """Run the job of a JSON file; prints the model folder and its calibration figures as JSON. Exit code 1 on failure."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.training", description="Run one training job.")
    parser.add_argument("job", type=Path, help="JSON file with the job's spec")
    parser.add_argument("snapshot", help="folder or URI (s3://...) of the snapshot")
    parser.add_argument("models", type=Path, help="folder to put the model folder in")
    parser.add_argument("cache", type=Path, help="folder of cached vectors")
    arguments = parser.parse_args()
    try:
        settings = load_settings()
        job = TrainingJob.from_json(arguments.job.read_bytes())
        vectors = Vectors(
            Variant.parse(job.variant).model,
            arguments.cache,
            settings.model_paths,
            settings.device,
            state_bytes=int(settings.state_cache_gb * 10**9),
        )
        if vectors.weights_id != job.weights:
            raise FlywheelError(f"The job names the weights {job.weights}, but {vectors.weights_id} lie here.")
        snapshot = fetch_snapshot(arguments.snapshot, settings.snapshots)
        if snapshot.snapshot_id != job.snapshot_id:
            raise FlywheelError(
                f"The job names snapshot {job.snapshot_id}, but {arguments.snapshot} is {snapshot.snapshot_id}."
            )

        def show(event: Progress) -> None:
            print(to_line(event), file=sys.stderr)

        model = train(job, snapshot, vectors, arguments.models, show)
    except (FlywheelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(
        json.dumps({"model": str(model.folder), "calibration_error": model.calibration_error, "threshold": model.fit.threshold})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
