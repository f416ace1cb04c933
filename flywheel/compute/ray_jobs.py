"""Trainings as jobs of a Ray cluster, by its job server.

A job is a command and not a pickled function, so that the versions of Python and Ray need not match, and it outlives who
started it. Ray tries nothing again: which ends are lost machines is said here, and the caller starts the job again.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flywheel.compute.engine import Command, State, Tail
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError, TryAgainError, needs_extra, one_line

_ANSWER_SECONDS = 30
_LOST = {"JOB_SUPERVISOR_ACTOR_DIED", "JOB_SUPERVISOR_ACTOR_START_FAILURE", "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE"}
_NEVER_RAN = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"  # 15 minutes in the queue, unless the head says otherwise
_EXISTS, _NOT_FOUND = "already exists", "status code 404"
_TO_EXIT = 60


class RayJobs:
    """The cluster behind the address of a Ray dashboard (see `Engine`)."""

    title = "Ray job"

    def __init__(self, options: ComputeOptions) -> None:
        """By the settings. Raises TryAgainError when nothing answers, FlywheelError when it is no Ray or refuses."""
        with needs_extra("ray", "compute.engine ray"):
            import ray.job_submission  # noqa: F401
        self._options = options
        self._tails: dict[str, Tail] = {}
        with self._explained():
            self._client = _client(options.ray.address)

    def find(self, name: str) -> str | None:
        """See `Engine`. Ray stops a job that waits only when its turn has come, so that one that waits may be a stopped one."""
        running = [each.submission_id for each in self._named(name) if each.status == "RUNNING"]
        return running[-1] if running else None

    def start(self, command: Command) -> str:
        """See `Engine`. A name is never used twice, since the log of the job that had it would come first."""
        before = self._named(command.name)
        for each in before:
            if each.status == "PENDING":
                self.stop(each.submission_id)
        options, job = self._options, f"{command.name}.{len(before)}"
        seconds = round(options.job_hours * 3600)
        words = ["timeout", f"--kill-after={_TO_EXIT}", str(seconds), *command.words]
        with self._explained():
            try:
                self._client.submit_job(
                    entrypoint=f"exec {shlex.join(words)}",
                    submission_id=job,
                    entrypoint_num_cpus=options.ray.cpus,
                    entrypoint_num_gpus=options.gpus or None,
                    entrypoint_memory=round(options.ray.memory_gb * 1e9) or None,
                    runtime_env={"env_vars": dict(command.environment)},
                )
            except RuntimeError as error:
                if _EXISTS not in str(error):
                    raise
        return job

    def look(self, job: str) -> State:
        """See `Engine`."""
        with self._explained():
            try:
                info: Any = self._client.get_job_info(job)
            except RuntimeError as error:
                if _NOT_FOUND not in str(error):
                    raise
                return State("ended", "Ray no longer knows it; somebody removed it, or the head was started again", lost=True)
        if info.status == "PENDING":
            return State("queued", "no node has room for it")
        if not info.status.is_terminal():
            return State("running")
        if info.status == "SUCCEEDED":
            return State("ended")
        if info.status == "STOPPED":
            return State("ended", "it was stopped in Ray")
        if info.driver_exit_code == 124:
            return State("ended", "its time was over (compute.job_hours)")
        why = one_line(info.message or "no reason given", 300)
        kind = info.error_type or ""
        return State("ended", why, lost=kind in _LOST, never_ran=kind == _NEVER_RAN)

    def read(self, job: str) -> list[str]:
        """See `Engine`. The log of a node that is gone has nothing new."""
        tail = self._tails.setdefault(job, Tail())
        with self._explained():
            try:
                text: str = self._client.get_job_logs(job)
            except RuntimeError:
                return []
        return tail.feed(text.encode()[tail.seen :])

    def stop(self, job: str) -> None:
        """See `Engine`."""
        with self._explained():
            try:
                self._client.stop_job(job)
            except RuntimeError as error:
                if _NOT_FOUND not in str(error):
                    raise

    def _named(self, name: str) -> list[Any]:
        """The jobs that were ever started by a name, oldest first."""
        with self._explained():
            jobs: list[Any] = self._client.list_jobs()
        ours = [each for each in jobs if (each.submission_id or "").rpartition(".")[0] == name]
        return sorted(ours, key=lambda each: int(each.submission_id.rpartition(".")[2]))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        import requests
        from ray.exceptions import AuthenticationError

        address = self._options.ray.address
        try:
            yield
        except AuthenticationError as error:
            raise FlywheelError(
                f"Ray at {address} does not let us in. Put its token into ~/.ray/auth_token or RAY_AUTH_TOKEN, and set "
                "RAY_AUTH_MODE=token."
            ) from error
        except (ConnectionError, requests.RequestException) as error:
            raise TryAgainError(
                f"No Ray answers at {address} ({type(error).__name__}). Set compute.ray.address to its dashboard, such as "
                "http://head:8265."
            ) from error
        except (RuntimeError, ValueError) as error:
            raise FlywheelError(f"Ray at {address} refuses: {one_line(error, 300)}.") from error


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    class PatientClient(JobSubmissionClient):
        """One that does not wait for an answer for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            return super()._do_request(method, endpoint, **{"timeout": _ANSWER_SECONDS, **options})

    return PatientClient(address)
