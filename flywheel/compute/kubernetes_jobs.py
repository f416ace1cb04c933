"""Trainings as Kubernetes Jobs, by the API server that the kubeconfig, or the pod that this runs in, leads to.

The cluster itself replaces a pod that a disruption ended, in the same Job, and the training goes on from its checkpoint.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.compute.engine import Command, State
from flywheel.compute.kubernetes_manifest import CONTAINER, manifest
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError, TryAgainError, needs_extra, one_line
from flywheel.training.progress import LESS_MEMORY

_TIMEOUT = (5, 30)  # seconds to connect and to wait for an answer, each tried twice
_GONE_SECONDS = 60
_OVERLAP_SECONDS = 5
_EXISTS, _UNKNOWN = 409, 404
_BUSY = 429
_NO_PULL = ("ErrImagePull", "ImagePullBackOff")


@dataclass
class _Log:
    """How far a pod's log was read: the time stamp of the last line, and when that was by our clock."""

    last: str = ""
    read_at: float | None = None


class KubernetesJobs:
    """The cluster that the kubeconfig leads to (see `Engine`)."""

    title = "Kubernetes job"

    def __init__(self, options: ComputeOptions) -> None:
        """By the settings; asks nothing yet. Raises FlywheelError when nothing leads to a cluster."""
        with needs_extra("kubernetes", "compute.engine kubernetes"):
            from kubernetes import client
        self._options, self._namespace = options, options.kubernetes.namespace
        configuration = _configuration(options.kubernetes.context)
        self._host = configuration.host
        api = client.ApiClient(configuration)
        self._batch, self._core = client.BatchV1Api(api), client.CoreV1Api(api)
        self._logs: dict[str, _Log] = {}
        self._pulls: dict[str, str] = {}

    def find(self, name: str) -> str | None:
        """See `Engine`."""
        found = self._job(name)
        return name if found is not None and not _is_over(found) else None

    def start(self, command: Command) -> str:
        """See `Engine`. An ended job of that name is deleted first."""
        body, deadline = manifest(command, self._options), time.monotonic() + _GONE_SECONDS
        while time.monotonic() < deadline:
            with self._explained(passing=_EXISTS):
                self._batch.create_namespaced_job(self._namespace, body, _request_timeout=_TIMEOUT)
                return command.name
            found = self._job(command.name)
            if found is not None and not _is_over(found):
                return command.name
            if found is not None and found.metadata.deletion_timestamp is None:
                self._delete(command.name, found.metadata.uid)
            time.sleep(0.2)
        raise TryAgainError(
            f"The ended Kubernetes job {command.name} was not deleted within {_GONE_SECONDS} s. Look for what holds it with "
            f"kubectl get job {command.name} -o yaml."
        )

    def look(self, job: str) -> State:
        """See `Engine`."""
        found = self._job(job)
        if found is None:
            return State("ended", "it was deleted in Kubernetes")
        pod, held = self._newest_pod(job), _held(found.status)
        if "Complete" in held:
            return State("ended")
        if "Failed" in held:
            return _ended(held["Failed"], pod)
        if pod is None:
            return State("queued", self._warning(found.metadata.uid) or "it has no pod yet")
        if pod.status.phase == "Pending":
            return State("queued", self._waits_for(pod))
        return State("running")

    def read(self, job: str) -> list[str]:
        """See `Engine`. Of the newest pod; what cannot be read has nothing new: the pod waits, or its node is gone."""
        pod = self._newest_pod(job)
        if pod is None:
            return []
        log, now = self._logs.setdefault(pod.metadata.name, _Log()), time.monotonic()
        since = {} if log.read_at is None else {"since_seconds": math.ceil(now - log.read_at) + _OVERLAP_SECONDS}
        try:
            with self._explained():
                answer = self._core.read_namespaced_pod_log(
                    pod.metadata.name,
                    self._namespace,
                    container=CONTAINER,
                    timestamps=True,
                    _preload_content=False,
                    _request_timeout=_TIMEOUT,
                    **since,
                )
                text = answer.data.decode(errors="replace")
        except FlywheelError as error:
            if getattr(error.__cause__, "status", 0) in (0, 401, 403):
                raise
            return []
        stamped = [line.partition(" ") for line in text.split("\n") if line]
        new = [(stamp, words) for stamp, _, words in stamped if stamp > log.last]
        log.last, log.read_at = (new[-1][0] if new else log.last), now
        return [words for _, words in new]

    def stop(self, job: str) -> None:
        """See `Engine`."""
        self._delete(job)

    def _job(self, name: str) -> Any | None:
        with self._explained(passing=_UNKNOWN):
            return self._batch.read_namespaced_job(name, self._namespace, _request_timeout=_TIMEOUT)
        return None

    def _newest_pod(self, job: str) -> Any | None:
        with self._explained():
            pods = self._core.list_namespaced_pod(
                self._namespace, label_selector=f"batch.kubernetes.io/job-name={job}", _request_timeout=_TIMEOUT
            ).items
        return max(pods, key=lambda pod: (pod.metadata.creation_timestamp, pod.metadata.name), default=None)

    def _delete(self, name: str, uid: str | None = None) -> None:
        """Delete a job, its pods first; only the one with that uid if it is given."""
        body = {"propagationPolicy": "Foreground", **({"preconditions": {"uid": uid}} if uid else {})}
        with self._explained(passing=_UNKNOWN), self._explained(passing=_EXISTS):
            self._batch.delete_namespaced_job(name, self._namespace, body=body, _request_timeout=_TIMEOUT)

    def _waits_for(self, pod: Any) -> str:
        """Why a pod does not run yet."""
        for condition in pod.status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                return _joined(condition.reason, condition.message)
        waiting = getattr(_container(pod), "waiting", None)
        if waiting is None:
            return "its node prepares it"
        if waiting.reason in _NO_PULL:  # the two come by turns: the message of the first is the one that says why
            if waiting.reason == _NO_PULL[0] or pod.metadata.name not in self._pulls:
                self._pulls[pod.metadata.name] = _joined(_NO_PULL[1], waiting.message)
            return self._pulls[pod.metadata.name]
        if waiting.reason == "ContainerCreating" and (warning := self._warning(pod.metadata.uid)):
            return warning
        return _joined(waiting.reason, waiting.message)

    def _warning(self, uid: str) -> str:
        """The newest warning about an object, such as a quota that is used up; nothing where events may not be read."""
        with self._explained(passing=403):
            events = self._core.list_namespaced_event(
                self._namespace, field_selector=f"involvedObject.uid={uid},type=Warning", _request_timeout=_TIMEOUT
            ).items
            last = max(events, key=lambda event: event.metadata.creation_timestamp, default=None)
            return _joined(last.reason, last.message) if last else ""
        return ""

    @contextmanager
    def _explained(self, passing: int = -1) -> Iterator[None]:
        """Say what the server or the way to it lacks; an answer with the status `passing` only ends the block."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            if error.status == passing:
                return
            raise self._refusal(error) from error
        except HTTPError as error:
            raise TryAgainError(
                f"No Kubernetes answers at {self._host} ({type(getattr(error, 'reason', None) or error).__name__}). Set "
                "compute.kubernetes.context to the context of your kubeconfig that leads to the cluster."
            ) from error

    def _refusal(self, error: Any) -> FlywheelError:
        if error.status == 401:
            return FlywheelError(
                f"Kubernetes at {self._host} does not let us in (401). Log in to the cluster again, so that kubectl get jobs "
                "works."
            )
        said = one_line(_message(error), 400)
        if error.status == _BUSY or error.status >= 500:
            return TryAgainError(f"Kubernetes at {self._host} has trouble (status {error.status}): {said}.")
        if error.status == 403:
            return FlywheelError(
                f"Kubernetes refuses: {said}. deploy/kubernetes/launcher.yaml has the rights that an account needs."
            )
        return FlywheelError(f"Kubernetes refuses: {said}. See the settings compute.kubernetes.")


def _configuration(context: str | None) -> Any:
    """How to reach the cluster: by a kubeconfig, or in a pod by its account."""
    from kubernetes import client, config
    from yaml import YAMLError

    configuration = client.Configuration()
    configuration.retries = 1
    file = os.environ.get("KUBECONFIG") or str(Path.home() / ".kube" / "config")
    try:
        if os.environ.get("KUBECONFIG") or Path(file).exists():
            config.load_kube_config(config_file=file, context=context, client_configuration=configuration)
        else:
            config.load_incluster_config(client_configuration=configuration)
    except (config.ConfigException, YAMLError, OSError) as error:
        raise FlywheelError(
            f"Nothing leads to a Kubernetes cluster: {one_line(error, 300)}. Set KUBECONFIG to a kubeconfig, and "
            "compute.kubernetes.context to a context in it."
        ) from error
    return configuration


def _held(status: Any) -> dict[str, Any]:
    """The conditions that are true, by their type."""
    return {condition.type: condition for condition in status.conditions or [] if condition.status == "True"}


def _is_over(job: Any) -> bool:
    """Whether it has ended, or is being deleted."""
    return job.metadata.deletion_timestamp is not None or bool({"Complete", "Failed"} & _held(job.status).keys())


def _container(pod: Any) -> Any | None:
    """The state of the training's container, once there is one."""
    states = [each.state for each in pod.status.container_statuses or [] if each.name == CONTAINER]
    return states[0] if states else None


def _ended(condition: Any, pod: Any | None) -> State:
    """Why a job failed, by its condition and its last pod."""
    said = _joined(condition.reason, condition.message)
    if condition.reason == "DeadlineExceeded" or (pod is not None and pod.status.reason == "DeadlineExceeded"):
        return State("ended", "its time was over (compute.job_hours)")
    if pod is None:
        return State("ended", said)
    if "DisruptionTarget" in (held := _held(pod.status)):
        return State("ended", _joined(held["DisruptionTarget"].reason, held["DisruptionTarget"].message), lost=True)
    terminated = getattr(_container(pod), "terminated", None)
    if terminated is None:  # it failed without having run: its node refused it, or went away
        return State("ended", _joined(pod.status.reason or condition.reason, pod.status.message), lost=True)
    if terminated.reason == "OOMKilled":
        return State("ended", f"memory ran out: {LESS_MEMORY}, and ask for more by compute.kubernetes.memory")
    if terminated.reason in ("Error", "Completed"):
        return State("ended", f"exit code {terminated.exit_code}")
    return State("ended", _joined(terminated.reason, terminated.message))  # its command could not be started


def _joined(reason: str | None, message: str | None) -> str:
    return one_line(": ".join(part for part in (reason, message) if part) or "no reason given", 300)


def _message(error: Any) -> str:
    """What the API server says: its message, if the body is the usual one."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.body or error.reason)
