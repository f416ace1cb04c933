"""What Kubernetes is told of a training: right by its schemas and its client, and by what neither of them looks at."""

import json
import re
from typing import Any

import kubernetes_validate
import pytest
from kubernetes import client

from flywheel.compute.engine import Command
from flywheel.compute.kubernetes_manifest import manifest
from flywheel.compute.options import ComputeOptions, KubernetesOptions
from flywheel.errors import FlywheelError
from flywheel.files import digest

COMMAND = Command(
    f"flywheel-{digest('a job')}-2", ("python", "-m", "flywheel.training", "s3://root/jobs/1.json"), {"A": "$(B)"}
)
FULL = {
    "image": "registry/flywheel:1", "service_account": "trainer", "node_selector": {"pool": "gpu"}, "work_claim": "disk",
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}], "env_from_secrets": ["storage"],
}  # fmt: skip


def made(**compute: Any) -> dict[str, Any]:
    given = {"engine": "kubernetes", "work": "/work", "kubernetes": FULL, **compute}
    return manifest(COMMAND, ComputeOptions.model_validate(given))


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("options", [FULL, {"image": "registry/flywheel:1"}])
def test_it_fits_the_schema(version: str, options: dict[str, Any]) -> None:
    job = made(kubernetes=options)
    kubernetes_validate.validate(job, version, strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["imagee"] = "registry/flywheel:1"
    with pytest.raises(kubernetes_validate.ValidationError, match="imagee"):
        kubernetes_validate.validate(job, version, strict=True)


def test_the_client_loses_nothing_of_it() -> None:
    class Answer:
        data = json.dumps(made())

    api = client.ApiClient()
    model = api.deserialize(Answer, "V1Job")
    assert api.sanitize_for_serialization(model) == made()


def test_what_no_schema_finds_is_right() -> None:
    job = made(gpus=2)
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in made(gpus=0)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"])
    assert container["env"] == [{"name": "A", "value": "$$(B)"}], "a dollar is one"
    assert (container["volumeMounts"][0]["mountPath"], pod["volumes"][0]["name"]) == (
        "/work",
        container["volumeMounts"][0]["name"],
    )
    assert pod["automountServiceAccountToken"] is pod["enableServiceLinks"] is False


def test_only_a_lost_pod_is_tried_again() -> None:
    spec = made()["spec"]
    first, second = spec["podFailurePolicy"]["rules"]
    assert (first["action"], first["onPodConditions"]) == ("Ignore", [{"type": "DisruptionTarget", "status": "True"}])
    assert (second["action"], second["onExitCodes"]["operator"], second["onExitCodes"]["values"]) == ("FailJob", "NotIn", [0])
    assert second["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]
    assert spec["backoffLimit"] == 0


def test_it_ends_by_itself_after_its_own_hours_and_those_in_the_queue() -> None:
    spec = made(job_hours=2, queue_hours=3)["spec"]
    assert spec["template"]["spec"]["activeDeadlineSeconds"] == 2 * 3600
    assert spec["activeDeadlineSeconds"] == 5 * 3600
    assert made(job_hours=1e-9)["spec"]["template"]["spec"]["activeDeadlineSeconds"] == 1


def test_it_fits_the_restricted_security_standard() -> None:
    """As https://kubernetes.io/docs/concepts/security/pod-security-standards/ has it."""
    pod = made()["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert {*pod} & {"hostNetwork", "hostPID", "hostIPC"} == set()
    assert [{*volume} - {"name"} for volume in pod["volumes"]] == [{"persistentVolumeClaim"}]


def test_a_secret_is_named_and_never_told() -> None:
    with pytest.raises(ValueError, match="AWS_SECRET_ACCESS_KEY looks like a secret"):
        ComputeOptions(environment={"AWS_SECRET_ACCESS_KEY": "sk-1"})
    [container] = made()["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "storage"}}]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(FlywheelError, match=r"compute\.kubernetes\.image is not set"):
        made(kubernetes=KubernetesOptions().model_dump())
    with pytest.raises(FlywheelError, match=r"Set compute\.work to the folder"):
        made(work=None)
