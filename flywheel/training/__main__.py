"""`python -m flywheel.training JOB SNAPSHOT OUTPUT CACHE`: one training job, on any machine that has the files.

Everything it needs is in the job and the arguments: no settings are read. Standard output is JSON lines: events of progress
and, last, a result or a failure (`flywheel.training.progress`). What libraries print goes to standard error.
"""

import argparse
import os
import signal
import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

from pydantic import ValidationError

from flywheel import storage
from flywheel.errors import FlywheelError, TryAgainError, one_line
from flywheel.home import Home
from flywheel.models.catalogue import Variant
from flywheel.models.options import EncodingOptions
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.folder import fetch_snapshot
from flywheel.processes import at_end_of_input
from flywheel.training.job import TrainingJob
from flywheel.training.model import RECORD, TrainedModel
from flywheel.training.progress import LESS_MEMORY, Event, Failure, Listener, Notice, Result, to_line
from flywheel.training.shared import TrainedModels
from flywheel.training.train import train


def main() -> int:
    """Run the job, say how far it is and what came of it. Exit code 1 on failure, 130 on Ctrl-C, 143 on SIGTERM."""
    arguments = _parser().parse_args()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _stop)
    if arguments.until_eof:
        at_end_of_input(partial(os._exit, 1))

    def tell(event: Event) -> None:
        print(to_line(event), file=events)

    try:
        tell(_run(arguments, tell))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not isinstance(error, FlywheelError | OSError):
            traceback.print_exc()
        reason = _reason(error)
        print(reason, file=sys.stderr)
        tell(Failure(reason, isinstance(error, TryAgainError)))
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flywheel.training", description="Run one training job.")
    parser.add_argument("job", help="JSON file with the job's spec: a path or a URI")
    parser.add_argument("snapshot", help="folder or URI (s3://...) of the snapshot")
    parser.add_argument("output", help="folder or URI to put the model folder in")
    parser.add_argument("cache", help="folder or URI of cached vectors")
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="where what comes from a URI, or is on its way to one, is kept; default: the parent of the folder of cached "
        "vectors, and where they are at a URI, ~/.cache/flywheel",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="local folder of the base model")
    parser.add_argument(
        "--state-cache-gb", type=_gigabytes, default=EncodingOptions().state_cache_gb, help="disk for token states"
    )
    parser.add_argument("--until-eof", action="store_true", help="stop when standard input ends, as when the caller dies")
    return parser


def _gigabytes(text: str) -> float:
    try:
        return EncodingOptions.model_validate({"state_cache_gb": text}).state_cache_gb
    except ValidationError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0") from None


def _run(arguments: argparse.Namespace, listener: Listener) -> Result:
    text = storage.read(arguments.job)
    if text is None:
        raise FlywheelError(f"There is no file {arguments.job}. Give the path or URI of a job's spec.")
    job = TrainingJob.from_json(text)
    output, place = str(arguments.output).rstrip("/"), Home(_work(arguments))
    target = f"{output}/{job.job_id}"
    if storage.is_uri(output) and (record := storage.read(f"{target}/{RECORD}")) is not None:
        return _result(TrainedModel.from_json(Path(job.job_id), record).as_reused(), target)
    base = replace(job.base, path=arguments.weights)
    shared = arguments.cache.rstrip("/") if storage.is_uri(arguments.cache) else None
    cache = place.cache if shared else Path(arguments.cache)
    vectors = Vectors.of(base, cache, _options(arguments), job.poolings, shared)
    if vectors.weights_id != job.weights:
        raise FlywheelError(
            f"The job is for the weights {job.weights}, but this machine has {vectors.weights_id}. Give the folder of the "
            "right ones with --weights FOLDER."
        )
    snapshot = fetch_snapshot(arguments.snapshot, place.snapshots)
    if snapshot.snapshot_id != job.snapshot_id:
        raise FlywheelError(
            f"The job is for snapshot {job.snapshot_id}, but {arguments.snapshot} is {snapshot.snapshot_id}. Give the one "
            "that it is for."
        )
    if not storage.is_uri(output):
        model = train(job, snapshot, vectors, Path(output), listener)
        return _result(model, str(model.folder))
    models = TrainedModels(place.models, output)
    model = train(job, snapshot, vectors, place.models, listener, output)
    models.share(model)
    for dim in job.dims:  # what shares its layers costs little more here, and would need a machine of its own
        other = replace(job, variant=str(Variant(job.base.name, dim)))
        if other != job:
            try:
                models.share(train(other, snapshot, vectors, place.models, listener, output))
            except FlywheelError as error:
                listener(Notice(f"{other.variant} is not made along with {job.variant}: {error}"))
    return _result(model, target)


def _work(arguments: argparse.Namespace) -> Path:
    if arguments.work is not None:
        return Path(arguments.work)
    if not storage.is_uri(arguments.cache):
        return Path(arguments.cache).parent
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flywheel"


def _options(arguments: argparse.Namespace) -> EncodingOptions:
    return EncodingOptions(device=arguments.device, state_cache_gb=arguments.state_cache_gb)


def _result(model: TrainedModel, where: str) -> Result:
    return Result(where, model.calibration_set_error, model.rule.threshold, model.train_pairs, model.seconds, model.reused)


def _reason(error: Exception) -> str:
    if isinstance(error, FlywheelError | OSError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return f"Training ran out of memory: {LESS_MEMORY}."
    return f"Training failed with {type(error).__name__}: {one_line(error)}"


def _stop(number: int, frame: FrameType | None) -> None:
    """Unwind on SIGTERM, so that half-written files are removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
