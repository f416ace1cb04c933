"""`python -m flywheel.training JOB SNAPSHOT OUTPUT CACHE`: one training job, on any machine that has the files.

Standard output is JSON lines: events of progress and, last, a result or a failure (`flywheel.training.progress`). All that
libraries print goes to standard error.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from flywheel import storage as remote
from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.vectors import vectors_of
from flywheel.pairs.snapshots.folder import fetch_snapshot
from flywheel.settings import Settings, load_settings
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import LESS_MEMORY, Event, Failure, Listener, Result, to_line
from flywheel.training.train import train

RECORD = "flywheel.json"


def main() -> int:
    """Run the job, say how far it is and what came of it. Exit code 1 on failure, 130 and 143 when told to stop."""
    parser = argparse.ArgumentParser(prog="python -m flywheel.training", description="Run one training job.")
    parser.add_argument("job", help="JSON file with the job's spec: a path or a URI")
    parser.add_argument("snapshot", help="folder or URI (s3://...) of the snapshot")
    parser.add_argument("output", help="folder or URI to put the model folder in")
    parser.add_argument("cache", type=Path, help="folder of cached vectors")
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends, as when the caller dies")
    arguments = parser.parse_args()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _stop)
    if arguments.until_eof:
        threading.Thread(target=_stop_at_eof, daemon=True).start()

    def say(event: Event) -> None:
        print(to_line(event), file=events)

    try:
        say(_run(arguments.job, arguments.snapshot, arguments.output, arguments.cache, say))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, FlywheelError | OSError):
            traceback.print_exc()
        reason = _reason(error)
        print(reason, file=sys.stderr)
        say(Failure(reason))
        return 1
    return 0


def _run(spec: str, snapshot_at: str, output: str, cache: Path, listener: Listener) -> Result:
    settings = load_settings()
    text = remote.read(spec)
    if text is None:
        raise FlywheelError(f"There is no file {spec} with a job's spec.")
    job = TrainingJob.from_json(text)
    target = f"{output.rstrip('/')}/{job.job_id}"
    if "://" in output and (record := remote.read(f"{target}/{RECORD}")) is not None:
        return _finished(record, target)
    vectors = replace(vectors_of(Variant.parse(job.variant).model, settings), cache_folder=cache)
    if vectors.weights_id != job.weights:
        raise FlywheelError(f"The job names the weights {job.weights}, but {vectors.weights_id} lie here.")
    snapshot = fetch_snapshot(snapshot_at, settings.snapshots)
    if snapshot.snapshot_id != job.snapshot_id:
        raise FlywheelError(f"The job names snapshot {job.snapshot_id}, but {snapshot_at} is {snapshot.snapshot_id}.")
    model = train(job, snapshot, vectors, _folder(output, settings), listener)
    if "://" not in output:
        return _result(model, str(model.folder))
    remote.upload(model.folder, target, last=RECORD)
    return _result(model, target)


def _folder(output: str, settings: Settings) -> Path:
    """Where to train: the output itself, or the home's models, from where they go to their URI."""
    return settings.models if "://" in output else Path(output)


def _finished(record: bytes, uri: str) -> Result:
    """The result of a model that lies at `uri` already, from its record there."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / RECORD).write_bytes(record)
        return _result(TrainedModel.load(Path(folder)).as_reused(), uri)


def _result(model: TrainedModel, where: str) -> Result:
    return Result(where, model.calibration_error, model.fit.threshold, model.train_pairs, model.seconds, model.reused)


def _reason(error: Exception) -> str:
    if isinstance(error, FlywheelError | OSError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return f"Training ran out of memory: {LESS_MEMORY}."
    first_line = str(error).split("\n", 1)[0]
    return f"Training failed with {type(error).__name__}: {first_line}"


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind on SIGTERM, so that half-written files are removed."""
    sys.exit(128 + number)


def _stop_at_eof() -> None:
    """End this process when the other end of standard input is closed, which the system does when its process dies."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
