"""A training as Kubernetes is told of it: a Job (`batch/v1`) that tries again only what a lost machine has ended.

It fits the Pod Security Standard "restricted": no root, no privileges, no capabilities.
"""

from typing import Any

from flywheel.compute.engine import Command
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError

CONTAINER = "training"
_LABELS = {"app.kubernetes.io/name": "flywheel", "app.kubernetes.io/component": "training"}
_KEPT_SECONDS = 24 * 3600
_GROUP = 1000  # that of deploy/Dockerfile; who is in it may write to the volume


def manifest(command: Command, options: ComputeOptions) -> dict[str, Any]:
    """The Job that runs `command`. Raises FlywheelError when a setting is missing."""
    cluster = options.kubernetes
    if not cluster.image:
        raise FlywheelError(
            "compute.kubernetes.image is not set. Set it to an image that has flywheel; deploy/Dockerfile makes one."
        )
    seconds, queued = (max(1, round(hours * 3600)) for hours in (options.job_hours, options.queue_hours))
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": command.name, "labels": _LABELS},
        "spec": {
            # Pods that a disruption ends are replaced without being counted; no other is: what the training itself got
            # wrong it would get wrong again, and any other loss is counted by who started the job (compute.attempts).
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {"containerName": CONTAINER, "operator": "NotIn", "values": [0]},
                    },
                ]
            },
            "activeDeadlineSeconds": queued + seconds,  # counts from the job's start, time in the queue too
            "ttlSecondsAfterFinished": _KEPT_SECONDS,
            "template": {"metadata": {"labels": _LABELS}, "spec": _pod(command, options, seconds)},
        },
    }


def _pod(command: Command, options: ComputeOptions, seconds: int) -> dict[str, Any]:
    cluster = options.kubernetes
    asked = {"cpu": cluster.cpu, "memory": cluster.memory}
    limits = {"memory": cluster.memory, **({cluster.gpu_resource: str(options.gpus)} if options.gpus else {})}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": cluster.image,
        "command": [_literal(word) for word in command.words],
        "env": [{"name": name, "value": _literal(value)} for name, value in command.environment.items()],
        "envFrom": [{"secretRef": {"name": name}} for name in cluster.env_from_secrets],
        "resources": {"requests": asked, "limits": limits},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": seconds,  # counts from the pod's start on a node
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,  # they would be variables that begin like flywheel's settings
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "nodeSelector": cluster.node_selector,
        "tolerations": list(cluster.tolerations),
        "containers": [container],
    }
    if cluster.service_account:
        pod["serviceAccountName"] = cluster.service_account
    if cluster.work_claim:
        if not options.work:
            raise FlywheelError(
                "compute.kubernetes.work_claim has no place in the container. Set compute.work to the folder where it shall be."
            )
        pod["securityContext"]["fsGroup"] = _GROUP
        pod["volumes"] = [{"name": "work", "persistentVolumeClaim": {"claimName": cluster.work_claim}}]
        container["volumeMounts"] = [{"name": "work", "mountPath": options.work}]
    return pod


def _literal(text: str) -> str:
    """What Kubernetes takes for `text`; it would read `$(NAME)` as a variable."""
    return text.replace("$", "$$")
