"""Trainings as Slurm jobs, by Slurm's own commands, here or on a login node.

Each call is a few lines for a shell there, which writes the job's output to a folder that the cluster shares. A job gets no
variable of this process: `--export=NONE`.
"""

import shlex
import subprocess

from flywheel.compute.engine import Command, State, Tail
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError, TryAgainError, one_line
from flywheel.training.progress import LESS_MEMORY

_CALL_SECONDS = 60
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_LOST = {"NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "REVOKED"}
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"} | _LOST
# What the commands say when the controller, or the way to it, is what fails.
_SILENT = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "Zero Bytes were transmitted")
_UNKNOWN = "Invalid job id specified"
_SSH_FAILED = 255


class Slurm:
    """The cluster that sbatch talks to (see `Engine`)."""

    title = "Slurm job"

    def __init__(self, options: ComputeOptions) -> None:
        """By the settings; asks nothing yet."""
        self._options = options
        self._tails: dict[str, Tail] = {}
        folder = options.slurm.folder
        self._folder = f'"$HOME"/{shlex.quote(folder[2:])}' if folder.startswith("~/") else shlex.quote(folder)

    def find(self, name: str) -> str | None:
        """See `Engine`."""
        found = self._call(f"squeue --noheader --me --name={shlex.quote(name)} --format=%i").split()
        return found[0] if found else None

    def start(self, command: Command) -> str:
        """See `Engine`."""
        minutes = max(1, round(self._options.job_hours * 60))
        words = [
            *("sbatch", "--parsable", f"--job-name={command.name}", f"--time={minutes}", "--requeue", "--open-mode=append"),
            *("--output=%j.out", "--export=NONE"),
            *([f"--gres=gpu:{self._options.gpus}"] if self._options.gpus else []),
            *self._options.slurm.options,
        ]
        exports = [f"export {name}={shlex.quote(value)}" for name, value in command.environment.items()]
        script = "\n".join(["#!/bin/sh", *exports, f"exec {shlex.join(command.words)}"])
        folder = f"mkdir -p {self._folder}\ncd {self._folder}\nfind . -name '*.out' -mtime +30 -delete"
        return self._call(f"{folder}\n{shlex.join(words)} <<'END_OF_JOB'\n{script}\nEND_OF_JOB").strip().split(";")[0]

    def look(self, job: str) -> State:
        """See `Engine`."""
        try:
            said = self._call(f"scontrol --oneliner show job {job}")
        except FlywheelError as error:
            if _UNKNOWN not in str(error):
                raise
            return State("ended", "Slurm no longer knows it; most likely its administrator removed it")
        fields = dict(word.split("=", 1) for word in said.split() if "=" in word)
        return _state(fields["JobState"], fields.get("Reason", ""), fields.get("ExitCode", ""))

    def read(self, job: str) -> list[str]:
        """See `Engine`."""
        tail = self._tails.setdefault(job, Tail())
        file = f"{self._folder}/{job}.out"
        return tail.feed(self._run(f"test ! -e {file} || tail -c +{tail.seen + 1} {file}"))

    def stop(self, job: str) -> None:
        """See `Engine`."""
        self._call(f"scancel {job}")

    def _call(self, script: str) -> str:
        return self._run(script).decode(errors="replace")

    def _run(self, script: str) -> bytes:
        words = [*self._options.slurm.login, "sh", "-s"]
        try:
            done = subprocess.run(
                words, input=f"set -e\n{script}\n".encode(), capture_output=True, timeout=_CALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise TryAgainError(f"Slurm did not answer within {_CALL_SECONDS} s.") from None
        except OSError as error:
            raise FlywheelError(
                f"compute.slurm.login cannot be started ({error.strerror}: {words[0]}). Set it to a command of this machine, "
                'such as ["ssh", "login-node"].'
            ) from error
        if done.returncode == 0:
            return done.stdout
        said = one_line(done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}", 500)
        if done.returncode == _SSH_FAILED or any(sign in said for sign in _SILENT):
            raise TryAgainError(f"Slurm does not answer: {said}.")
        if "not found" in said:
            raise FlywheelError(
                f"Slurm's commands are not here: {said}. Set compute.slurm.login to a command that starts a shell on a "
                "login node."
            )
        raise FlywheelError(f"Slurm refuses: {said}. See the settings compute.slurm.options and compute.gpus.")


def _state(state: str, reason: str, code: str) -> State:
    """What Slurm's words for a job mean."""
    if state in _WAITING:
        return State("queued", reason)
    if state not in _OVER:  # RUNNING, COMPLETING, CONFIGURING, SUSPENDED, ...
        return State("running")
    why = {
        "COMPLETED": "",
        "CANCELLED": "it was cancelled in Slurm",
        "TIMEOUT": "its time was over (compute.job_hours)",
        "OUT_OF_MEMORY": f"memory ran out: {LESS_MEMORY}, and ask for more by compute.slurm.options",
    }.get(state, f"Slurm says {state}, exit code {code}")
    return State("ended", why, lost=state in _LOST)
