"""The files of `deploy/`, each checked by its tool."""

import copy
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from flywheel.settings import load_settings
from flywheel_tests.helpers.clusters import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
MANIFESTS = [each for file in (DEPLOY / "kubernetes").glob("*.yaml") for each in yaml.safe_load_all(file.read_text())]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def test_the_linter_has_nothing_to_say_about_the_images() -> None:
    said = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (0, "")


def test_the_images_install_pinned_versions_of_extras_that_are_and_run_as_nobody_special() -> None:
    extras = {name for group in re.findall(r"EXTRAS=([a-z0-9,]+)", DOCKERFILE) for name in group.split(",")}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert {"tune", "s3"} <= extras <= set(project["optional-dependencies"])
    assert all("-c constraints.txt" in line for line in DOCKERFILE.splitlines() if "pip install" in line)
    stages = {stage.splitlines()[0].split()[-1]: stage for stage in re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]}
    for name in ("job", "dagster"):
        assert re.findall(r"^USER (\d+)$", stages[name], re.MULTILINE)[-1] == "1000"


def test_compose_is_as_its_specification_says() -> None:
    from compose_spec import PyCompose

    read = PyCompose.from_yaml(yaml.safe_dump(COMPOSE))
    read.validate()
    assert set(read.service_names()) == {"database", "code", "webserver", "daemon"}
    code = COMPOSE["services"]["code"]
    with pytest.raises(ValueError, match="imagee"):
        PyCompose.from_yaml(yaml.safe_dump({**COMPOSE, "services": {"code": {**code, "imagee": "x"}}}))


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_manifests_are_as_kubernetes_says(version: str) -> None:
    from kubernetes_validate import ValidationError, validate

    for manifest in MANIFESTS:
        validate(manifest, version, strict=True)
    (workload,) = (copy.deepcopy(each) for each in MANIFESTS if each["kind"] == "StatefulSet")
    container = workload["spec"]["template"]["spec"]["containers"][0]
    container["imagee"] = container.pop("image")
    with pytest.raises(ValidationError):
        validate(workload, version, strict=True)


def test_no_file_holds_a_secret_and_every_container_asks_for_what_it_may_have() -> None:
    for file in (each for each in DEPLOY.rglob("*.*") if each.suffix != ".pyc" and each.is_file()):
        text = re.sub(r"\$\{[^}]*\}", "", file.read_text())
        assert not re.search(r"(?i)(password|key|token)[ \t]*[:=][ \t]*[\"']?\w{6,}", text), file
    (pod,) = (each["spec"]["template"]["spec"] for each in MANIFESTS if each["kind"] == "StatefulSet")
    assert pod["securityContext"]["runAsNonRoot"]
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert {"requests", "limits"} <= container["resources"].keys()


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_the_settings_of_the_examples_are_settings(engine: str, tmp_path: Path) -> None:
    (tmp_path / "flywheel.toml").write_text((DEPLOY / engine / "flywheel.toml").read_text())
    compute = load_settings(tmp_path).compute
    assert (compute.engine, compute.gpus) == (engine, 1)
    assert compute.gpu_slots > 1


def test_the_ray_cluster_is_as_rays_schema_says() -> None:
    ray = pytest.importorskip("ray")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    cluster["available_node_types"]["gpu"]["min_worker"] = 0
    with pytest.raises(jsonschema.ValidationError, match="min_worker"):
        jsonschema.validate(cluster, schema)
