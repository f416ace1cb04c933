"""Training in a process of its own, by the command that any machine runs: a crash or a lack of memory ends only that.

The process ends with this one, even when this one is killed: it stops when its standard input, a pipe from here, is closed.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from flywheel import storage
from flywheel.compute.command import training_command, write_spec
from flywheel.compute.devices import candidates, lease, visible_card
from flywheel.compute.places import Places
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.models.options import EncodingOptions
from flywheel.training.environment import needed_for_training
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel, finished
from flywheel.training.progress import LESS_MEMORY, Failure, Listener, Result, from_line
from flywheel.training.shared import TrainedModels

_TAIL_BYTES = 2_000
_END_SECONDS = 5


def run(job: TrainingJob, places: Places, encoding: EncodingOptions, listener: Listener) -> TrainedModel:
    """Run `job` in a process of its own (see `Compute`)."""
    if model := finished(places.models, job):
        return model
    with lease(candidates(encoding.device), listener) as leased, tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "job.json"
        spec.write_text(job.to_json())
        device = leased or encoding.device
        # The leased card is the only one that the process sees.
        options = encoding.model_copy(update={"device": "cuda:0" if device.startswith("cuda:") else device})
        # What the root has too is kept where a home has it, so that nothing is fetched that is here.
        more = ["--work", str(places.models.parent)] if places.root.uri else []
        command = [sys.executable, *training_command(str(spec), places, places.weights, options), *more]
        result = _watch([*command, "--until-eof"], training_environment(os.environ, device), listener)
    model = TrainedModels(places.models, places.root.models).load(job.job_id)
    return model.as_reused() if result.reused else model


def run_elsewhere(
    job: TrainingJob, places: Places, encoding: EncodingOptions, listener: Listener, through: Sequence[str]
) -> TrainedModel:
    """Run `job` where the command `through` starts a process, which reads and writes at the root alone (see `Compute`).

    That machine brings the base model's weights, and what it needs to reach the root.
    """
    spec = write_spec(job, places)
    command = [*through, "python", *training_command(spec, places, None, encoding), "--until-eof"]
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    try:
        result = _watch(command, environment, listener)
    except (FileNotFoundError, PermissionError) as error:
        raise FlywheelError(
            f"compute.through cannot be started ({error.strerror}: {error.filename}). Set it to a command of this machine, "
            'such as ["ssh", "gpu-box"].'
        ) from error
    storage.delete_file(spec)
    model = TrainedModels(places.models, places.root.models).load(job.job_id)
    return model.as_reused() if result.reused else model


def training_environment(environment: Mapping[str, str], device: str) -> dict[str, str]:
    """The variables of `environment` that a training needs; of the cards only the one of `device`, if it is a card."""
    passed = needed_for_training(environment)
    if device.startswith("cuda:"):  # the process sees the leased card alone, so that no library takes another
        passed["CUDA_VISIBLE_DEVICES"] = visible_card(device, environment)
    return passed


def _watch(command: list[str], environment: dict[str, str], listener: Listener) -> Result:
    """Run a command to its end and give its result back. Raises FlywheelError with why there is none."""
    ending: Result | Failure | None = None
    with tempfile.TemporaryFile() as errors:
        with _child(command, environment, errors) as child:
            assert child.stdout is not None
            for line in child.stdout:
                event = from_line(line)
                if isinstance(event, Result | Failure):
                    ending = event
                else:
                    listener(event)
            code = child.wait()
        if isinstance(ending, Result) and code == 0:
            return ending
        if isinstance(ending, Failure):
            raise TryAgainError(ending.reason) if ending.passing else FlywheelError(ending.reason)
        raise FlywheelError(_why(code, _tail(errors)))


@contextmanager
def _child(command: list[str], environment: dict[str, str], errors: IO[bytes]) -> "Iterator[subprocess.Popen[str]]":
    """A process that has ended when the block ends. Its own session keeps the terminal's Ctrl-C from it: we pass that on."""
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            pipe.close()


def _why(code: int, tail: str) -> str:
    """What became of a process that ended without saying so itself."""
    if code == -signal.SIGKILL:
        return f"The training process was killed, most likely because memory ran out: {LESS_MEMORY}."
    if code < 0:
        return f"The training process crashed ({signal.Signals(-code).name}); its last words: {tail or 'none'}"
    return f"The training process ended with exit code {code} and no result; its last words: {tail or 'none'}"


def _tail(errors: IO[bytes]) -> str:
    """The last words on standard error, on one line."""
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    return " | ".join(line.strip() for line in errors.read().decode(errors="replace").splitlines()[-5:] if line.strip())
