"""Trainings as Kubernetes jobs, to the wire: the real client against a stand-in that runs the container's command here."""

import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes.config import incluster_config

from flywheel.compute import kubernetes_jobs, remote_job
from flywheel.compute.kubernetes_jobs import KubernetesJobs
from flywheel.compute.options import ComputeOptions
from flywheel.errors import FlywheelError, TryAgainError
from flywheel.training.job import TrainingJob
from flywheel.training.progress import Notice, Progress, Trained
from flywheel_tests.helpers.clumps import World
from flywheel_tests.helpers.clusters import Heard, cluster_options, cluster_world, here, launcher, processes_of, stop_at
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.helpers.kubernetes import IMAGE, NAMESPACE, Cluster, cluster, kubeconfig
from flywheel_tests.helpers.slurm import wait_until
from flywheel_tests.training.test_training import contents
from flywheel_tests.training.test_tune import Command, job_of
from flywheel_tests.training.test_tune import world as starter

__all__ = ["starter"]  # a fixture
pytestmark = pytest.mark.slow
SECRET = "sk-of-the-storage"
SETTINGS = {"image": IMAGE, "namespace": NAMESPACE}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as cluster_options sets it for jobs
    with cluster(tmp_path / "cluster") as lab:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "cluster" / "kubeconfig"))
        yield lab


@pytest.fixture
def world(lab: Cluster, tmp_path: Path) -> World:
    return cluster_world(tmp_path, tmp_path / "disk", engine="kubernetes", kubernetes=SETTINGS)


def train(world: World, heard: Heard, job: TrainingJob | None = None, **compute: Any) -> Path:
    compute = {**compute, "kubernetes": {**SETTINGS, **compute.get("kubernetes", {})}}
    workspace = with_options(world.workspace, compute=compute).with_listener(heard)
    return workspace.train(job or world.job(), world.snapshot).folder


def long(world: World) -> TrainingJob:
    return world.job(head=replace(world.job().head, min_steps=3_000))


def test_a_job_makes_there_what_it_makes_here_and_says_how_far_it_is(world: World, lab: Cluster) -> None:
    heard = Heard()
    folder = train(world, heard)
    away = contents(folder)
    assert heard.notices[0] == f"Started Kubernetes job flywheel-{world.job().job_id}-0."
    assert heard.steps == sorted(set(heard.steps)), "no line is heard twice"
    assert heard.steps[-1] == 80
    shutil.rmtree(folder)
    assert contents(here(world).train(world.job(), world.snapshot).folder) == away
    assert len(lab.pods) == 1


def test_a_job_gets_its_own_variables_and_the_secrets_entries_and_nothing_of_the_launchers(
    world: World, lab: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    lab.secrets["storage"] = {"AWS_SECRET_ACCESS_KEY": "of the cluster"}
    seen: list[dict[str, str]] = []
    words = {**world.workspace.settings.compute.environment, "PRICE": "$5 $(HOME)"}

    def look(event: Progress) -> None:
        seen.extend(each.info["environ"] for each in processes_of(world, world.job()))

    train(world, Heard(look), environment=words, kubernetes={"env_from_secrets": ["storage"]})
    assert seen
    assert SECRET not in str(seen)
    assert SECRET not in str(lab.manifests)
    assert (seen[0]["PRICE"], seen[0]["AWS_SECRET_ACCESS_KEY"]) == ("$5 $(HOME)", "of the cluster")


def test_who_stops_leaves_no_job_behind(world: World, lab: Cluster) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(world, Heard(stop_at(Trained)), long(world))
    wait_until(lambda: not lab.jobs(), "the job's end")
    assert not processes_of(world, long(world))


def test_a_launcher_that_was_killed_finds_its_job_again(world: World, lab: Cluster, tmp_path: Path) -> None:
    job = long(world)
    with launcher(world, job, tmp_path) as process:
        wait_until(lambda: lab.pods and processes_of(world, job), "the job")
        process.kill()
    heard = Heard()
    train(world, heard, job)
    assert heard.notices[0] == f"Following Kubernetes job flywheel-{job.job_id}-0."
    assert heard.steps[-1] == 3_000
    assert len(lab.pods) == 1


def test_the_jobs_own_failure_is_final_and_the_ended_job_makes_way_for_the_next(world: World, lab: Cluster) -> None:
    wrong = world.job(size="102400")
    for started in (1, 2):
        with pytest.raises(FlywheelError, match=r"102,?400"):
            train(world, Heard(), wrong)
        assert len(lab.pods) == started


@pytest.mark.long
def test_a_training_whose_pod_was_lost_goes_on_from_its_checkpoint_in_another(
    starter: World, lab: Cluster, tmp_path: Path
) -> None:
    job, alone = job_of(starter, "top", layers=1, batch_size=2, min_steps=60), Command(starter, tmp_path / "alone")
    alone.run(job)
    options = cluster_options(tmp_path / "disk", engine="kubernetes", kubernetes=SETTINGS, work=str(tmp_path / "work"))
    workspace = with_options(starter.workspace, storage={"root": f"file://{tmp_path}/root"}, compute=options)
    checkpoints = tmp_path / "root" / "models" / ".tuned" / job.tuning_id / "checkpoints"

    def lose(event: Progress) -> None:
        if len(lab.pods) == 1 and list(checkpoints.glob("*/trainer_state.json")):
            lab.disrupt(lab.pods[0])
            wait_until(lambda: len(lab.pods) == 2, "another pod")
            shutil.rmtree(tmp_path / "work")

    heard = Heard(lose)
    workspace.with_listener(heard).train(job, starter.snapshot)
    assert len(lab.pods) == 2
    assert len(lab.manifests) == 1, "the same Kubernetes job"
    assert "Going on from a checkpoint of another machine." in heard.notices
    away = Command(starter, tmp_path / "away")
    away.models = tmp_path / "work" / "models"
    assert away.layers(job) == alone.layers(job)


def test_a_training_that_memory_ended_is_not_tried_again(world: World, lab: Cluster) -> None:
    def kill(event: Progress) -> None:
        if isinstance(event, Trained):
            lab.run_out_of_memory(lab.pods[0])

    with pytest.raises(
        FlywheelError, match=r"ended: memory ran out: choose a recipe that trains less .*compute\.kubernetes\.memory"
    ):
        train(world, Heard(kill), long(world))
    assert len(lab.pods) == 1


def test_a_job_that_its_administrator_deletes_fails(world: World, lab: Cluster) -> None:
    job = long(world)

    def delete(event: Progress) -> None:
        if isinstance(event, Trained):
            lab.delete(f"flywheel-{job.job_id}-0")

    with pytest.raises(FlywheelError, match=r"ended: it was deleted in Kubernetes\. Its last words:"):
        train(world, Heard(delete), job)


def test_a_training_ends_when_its_time_is_over_whoever_started_it(world: World) -> None:
    with pytest.raises(FlywheelError, match=r"ended: its time was over \(compute\.job_hours\)"):
        train(world, Heard(), long(world), job_hours=2 / 3600)


def test_a_server_that_is_away_is_waited_for(world: World, lab: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_job, "_PATIENCE_SECONDS", 1)
    job, answers = long(world), KubernetesJobs._job

    def fall_silent(event: Progress) -> None:
        if isinstance(event, Trained):
            monkeypatch.setattr(KubernetesJobs, "_job", lambda self, name: answers(away, name))

    away = KubernetesJobs(
        with_options(world.workspace, compute={"kubernetes": {**SETTINGS, "context": "nowhere"}}).settings.compute
    )
    with pytest.raises(
        TryAgainError, match=r"cannot be followed: No Kubernetes answers at .*It may go on\. Run the same again"
    ):
        train(world, Heard(fall_silent), job)
    assert lab.jobs()
    monkeypatch.setattr(KubernetesJobs, "_job", answers)
    train(world, Heard(), job)
    assert len(lab.pods) == 1


@pytest.mark.parametrize(
    ("compute", "sentence"),
    [
        ({"python": "pyhton"}, r"ended: StartError: .*pyhton"),
        ({"python": "false"}, r"ended: exit code 1\. Its last words: none"),
        ({"kubernetes": {"image": ""}}, r"^compute\.kubernetes\.image is not set\."),
        ({"kubernetes": {"namespace": "ml-typo"}}, r'^Kubernetes refuses: namespaces "ml-typo" not found\. See the settings'),
        ({"kubernetes": {"memory": "lots"}}, r"^Kubernetes refuses: quantities must match .*memory.*See the settings"),
        ({"kubernetes": {"tolerations": [{"kye": "gpu"}]}}, r"^Kubernetes refuses: .*kye.*See the settings"),
        ({"kubernetes": {"work_claim": "disk"}}, r"^compute\.kubernetes\.work_claim has no place .*compute\.work"),
        ({"kubernetes": {"context": "stranger"}}, r"does not let us in \(401\)\. Log in"),
        ({"kubernetes": {"context": "nowhere"}}, r"^No Kubernetes answers at http://127\.0\.0\.1:9 "),
        ({"kubernetes": {"context": "typo"}}, r"^Nothing leads to a Kubernetes cluster: .*typo"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_sentence(world: World, lab: Cluster, compute: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FlywheelError, match=sentence):
        train(world, Heard(), **compute)


@pytest.mark.parametrize(
    ("compute", "waits_for"),
    [
        ({"kubernetes": {"image": "registry/typo:1"}}, r'ImagePullBackOff: failed to pull .*"registry/typo:1": not found'),
        ({"gpus": 9}, r"Unschedulable: 0/1 nodes are available: 1 Insufficient nvidia\.com/gpu"),
        ({"kubernetes": {"env_from_secrets": ["typo"]}}, r'CreateContainerConfigError: secret "typo" not found'),
    ],
)  # fmt: skip
def test_what_waits_says_what_for_and_is_taken_back(
    world: World, lab: Cluster, compute: dict[str, Any], waits_for: str
) -> None:
    heard = Heard()
    with pytest.raises(FlywheelError, match=rf"waited in the queue for 0\.0005 hours .*{waits_for}\. It was taken back"):
        train(world, heard, queue_hours=5e-4, **compute)
    assert [event.text for event in heard.events if isinstance(event, Notice) and "waits in the queue" in event.text][1:] in (
        [], heard.notices[-1:],
    ), "a reason is told once"  # fmt: skip
    wait_until(lambda: not lab.jobs(), "the job's end")


def test_a_quota_that_lets_no_pod_be_is_the_reason_told(world: World, lab: Cluster) -> None:
    lab.quota = True
    with pytest.raises(FlywheelError, match=r"FailedCreate: pods .* is forbidden: exceeded quota: gpus\. It was taken back"):
        train(world, Heard(), queue_hours=5e-4)


def test_rights_that_are_missing_are_named(world: World, lab: Cluster) -> None:
    lab.rules = lab.rules[1:]
    with pytest.raises(FlywheelError, match=r"^Kubernetes refuses: jobs is forbidden: .*deploy/kubernetes/launcher\.yaml"):
        train(world, Heard())


def test_a_server_that_never_answers_is_left_in_bounded_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig(lab=(url, ""))))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr(kubernetes_jobs, "_TIMEOUT", (0.2, 0.2))
        with pytest.raises(TryAgainError, match=r"^No Kubernetes answers at"):
            KubernetesJobs(ComputeOptions(engine="kubernetes")).find("flywheel-0")


def test_without_a_kubeconfig_the_pods_account_leads_to_the_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FlywheelError, match=r"^Nothing leads to a Kubernetes cluster: .*Set KUBECONFIG"):
        KubernetesJobs(ComputeOptions(engine="kubernetes"))
    (tmp_path / "broken").write_text("clusters: [")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
    with pytest.raises(FlywheelError, match=r"^Nothing leads to a Kubernetes cluster: .*Set KUBECONFIG"):
        KubernetesJobs(ComputeOptions(engine="kubernetes"))
    monkeypatch.setenv("KUBECONFIG", "")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(kubernetes_jobs, "_TIMEOUT", (0.1, 0.1))
    configuration = kubernetes_jobs._configuration(None)
    assert configuration.host == "https://10.0.0.1:443"
    assert configuration.api_key["BearerToken"] == "bearer x"
