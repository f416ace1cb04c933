"""Settings of this room: where training jobs run."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSW|CREDENTIAL", re.IGNORECASE)


def _no_secrets(variables: dict[str, str]) -> dict[str, str]:
    if secret := sorted(name for name in variables if _SECRET.search(name)):
        raise ValueError(
            f"{', '.join(secret)} looks like a secret, and whoever may look at the cluster sees a job's variables; put it "
            "where the job runs (the machine's environment, a Kubernetes or Modal secret)"
        )
    return variables


class SlurmOptions(BaseModel, frozen=True, extra="forbid"):
    """A Slurm cluster, by its own commands."""

    login: tuple[str, ...] = Field(
        (), description='A command that starts a shell where sbatch is, if that is not here: ["ssh", "login-node"].'
    )
    options: tuple[str, ...] = Field(
        (), description='More options of sbatch, each in one word: ["--partition=gpu", "--account=nlp", "--mem=32G"].'
    )
    folder: str = Field(
        "~/.cache/flywheel/slurm", description="Where jobs write their output: a folder that the cluster's machines share."
    )


class RayOptions(BaseModel, frozen=True, extra="forbid"):
    """A Ray cluster, by its job server."""

    address: str = Field("http://127.0.0.1:8265", description="The address of Ray's dashboard, which takes jobs.")
    cpus: float = Field(1, gt=0, description="CPUs that a training asks for.")
    memory_gb: float = Field(0, ge=0, description="Memory that a training asks for; 0 asks for none.")


class KubernetesOptions(BaseModel, frozen=True, extra="forbid"):
    """Jobs of a Kubernetes cluster."""

    image: str = Field("", description="The image that trains, with flywheel in it, such as one of deploy/Dockerfile.")
    namespace: str = Field("default", description="Where the jobs are.")
    context: str | None = Field(
        None,
        description="The context of the kubeconfig, by default its current one. In a pod without a kubeconfig, the account of "
        "the pod is used.",
    )
    service_account: str | None = Field(None, description="The account that a training runs as.")
    cpu: str = Field("1", description="CPUs that a training asks for.")
    memory: str = Field("4Gi", description="Memory that a training asks for, and may take.")
    gpu_resource: str = Field("nvidia.com/gpu", description="What the cluster calls a GPU.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the nodes that may train.")
    tolerations: tuple[dict[str, str], ...] = Field(
        (), description='Taints of nodes that may train all the same: [{ key = "gpu", operator = "Exists" }].'
    )
    env_from_secrets: tuple[str, ...] = Field(
        (), description="Secrets of the namespace whose entries a training gets as variables: the credentials of storage.root."
    )
    work_claim: str | None = Field(
        None, description="A volume claim for the folder compute.work, so that the next training finds what is there."
    )


class ModalOptions(BaseModel, frozen=True, extra="forbid"):
    """A function at Modal, deployed by deploy/modal_app.py, which says what it runs on."""

    app: str = Field("flywheel", description="The name of the app.")
    function: str = Field("train", description="The name of its function.")
    environment_name: str | None = Field(None, description="The environment of the workspace, by default its usual one.")


class ComputeOptions(BaseModel, frozen=True, extra="forbid"):
    """Where training jobs run."""

    run_in: Literal["inline", "process"] = Field(
        "inline",
        description="The run's own process (inline), or one more for each job (process), which takes any of several GPUs for "
        "layers too.",
    )
    through: tuple[str, ...] = Field(
        (),
        description='A command that starts a process elsewhere, put before that of a training: ["ssh", "gpu-box"]. It needs '
        "storage.root, and counts for more than run_in.",
    )
    engine: Literal["slurm", "ray", "kubernetes", "modal"] | None = Field(
        None, description="The cluster that trains. It needs storage.root, and counts for more than run_in and through."
    )
    gpu_slots: int = Field(
        1, gt=0, description="Training steps that may run at once, each on a device of its own; of an engine, its jobs at once."
    )
    gpus: int = Field(1, ge=0, description="GPUs that an engine gives to a training: 1, or 0 for a cluster without any.")
    python: str = Field("python", description="How Python with flywheel is called where an engine trains.")
    work: str | None = Field(
        None, description="A folder there for what is on its way to or from storage.root; by default ~/.cache/flywheel."
    )
    environment: Annotated[dict[str, str], AfterValidator(_no_secrets)] = Field(
        default_factory=dict, description="Variables of a training there, such as OMP_NUM_THREADS; no secrets."
    )
    attempts: int = Field(3, gt=0, description="How often a training is started whose machine an engine lost.")
    queue_hours: float = Field(24, gt=0, description="How long a training may wait in an engine's queue.")
    job_hours: float = Field(24, gt=0, description="How long a training may run there; it ends then, whoever started it.")
    poll_seconds: float = Field(5, gt=0, description="How often a training there is looked at.")
    slurm: SlurmOptions = Field(default_factory=SlurmOptions, description="With engine slurm.")
    ray: RayOptions = Field(default_factory=RayOptions, description="With engine ray.")
    kubernetes: KubernetesOptions = Field(default_factory=KubernetesOptions, description="With engine kubernetes.")
    modal: ModalOptions = Field(default_factory=ModalOptions, description="With engine modal.")
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="US dollars for an hour of the machine that trains; plans then show money."
    )
