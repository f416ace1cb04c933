"""`flywheel export`: the champion for other programs, as a folder, as a graph, on a hub, in MLflow."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.models.folder import open_model
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.conftest import flywheel, verb
from flywheel_tests.helpers.foreign import install, run_there
from flywheel_tests.helpers.hub import TOKEN, hub
from flywheel_tests.helpers.mlflow import mlflow_server

Demo = tuple[Path, subprocess.CompletedProcess[str]]
TEXTS = ["how do I reset my password", "where is my parcel"]


@pytest.fixture(scope="module")
def home(demo: Demo) -> Path:
    return demo[0]


@pytest.fixture(scope="module")
def champion(home: Path) -> Path:
    return Path(json.loads(verb("champion", "show", "--json", "--home", home).stdout)["model"])


def exported(*arguments: str | Path, **environment: str) -> dict[str, Any]:
    run = verb("export", *arguments, "--json", **environment)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_the_champions_folder_is_copied_whole_and_loads_by_the_line_that_is_printed(
    home: Path, champion: Path, tmp_path: Path
) -> None:
    run = verb("export", "--to", tmp_path / "served", "--home", home)
    assert run.returncode == 0, run.stderr
    names: dict[str, Any] = {}
    exec(run.stdout.partition("Load it:")[2], names)
    assert np.array_equal(names["model"].encode(TEXTS), open_model(champion, "cpu").encode(TEXTS))
    copied = tmp_path / "served" / "model.safetensors"
    assert copied.stat().st_nlink == 1
    assert "own_scores.parquet" not in {file.name for file in copied.parent.iterdir()}
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in copied.parent.rglob("*") if file.is_file())
    again = verb("export", "--to", tmp_path / "served", "--home", home)
    assert again.returncode == 1
    assert "exists already" in again.stderr
    other = exported("--model", champion.name, "--out", tmp_path / "another", "--home", home)
    assert (other["place"], other["model"]) == (str(tmp_path / "another"), champion.name)


def test_without_a_champion_a_model_must_be_named_and_be_there(workspace: Workspace) -> None:
    home = workspace.home.root
    run = verb("export", "--home", home)
    assert (run.returncode, "Name a trained model with --model" in run.stderr) == (1, True)
    for name in ("nonsense", "../models"):
        run = verb("export", "--model", name, "--home", home)
        assert (run.returncode, "There is no model" in run.stderr) == (1, True)


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_package_that_is_missing_is_named_with_its_extra(
    form: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("onnxruntime", "openvino"):
        monkeypatch.setitem(sys.modules, package, None)
    run = verb("export", "--to", form, "--out", tmp_path / "graph", "--home", home)
    assert (run.returncode, f"pip install 'flywheel[{form}]'" in run.stderr) == (1, True)
    assert not (tmp_path / "graph").exists()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_graph_gives_the_models_vectors_by_its_cards_own_lines(form: str, home: Path, champion: Path, tmp_path: Path) -> None:
    made = exported("--to", form, "--out", tmp_path / "graph", "--home", home)
    exact, *rounded = made["reports"]
    print(made["instruction_set"], *made["reports"], sep="\n")
    assert exact["largest_difference"] < 1e-5
    assert (exact["flips"], exact["kept"]) == (0, True)
    for report in rounded:
        assert (tmp_path / "graph" / "model_int8.onnx").exists() == report["kept"]
        assert not report["kept"] or (report["flips"] <= 0.002 * report["pairs"] and report["speed"] > exact["speed"])
    record = json.loads((tmp_path / "graph" / "parity.json").read_text())
    assert record["reports"] == made["reports"]
    card = (tmp_path / "graph" / "README.md").read_text()
    lines = [line.removeprefix("    ") for line in card.splitlines() if line.startswith("    ")]
    names: dict[str, Any] = {}
    exec("\n".join(lines).replace("path/to/this/folder", str(tmp_path / "graph")), names)
    expected = open_model(champion, "cpu").encode(["how do I reset my password"])
    np.testing.assert_allclose(names["vectors"], expected, atol=1e-5)


def test_a_model_goes_to_a_hub_as_one_private_commit(home: Path, champion: Path, tmp_path: Path) -> None:
    with hub() as server:
        there = {"HF_ENDPOINT": server.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        push = ("export", "--to", "hub", "--name", "team/questions", "--home", home, "--json")
        run = flywheel(*push, HF_TOKEN=TOKEN, **there)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["place"].startswith(f"{server.address}/team/questions/commit/")
        assert server.repositories == {"team/questions": True}
        assert len(server.messages) == 1
        sent = {path: (champion / path).read_bytes() for path in server.files}
        assert server.files == sent
        assert {"model.safetensors", "2_Dense/model.safetensors", "modules.json", "README.md"} <= sent.keys()
        assert not {"own_scores.parquet", "folds.safetensors"} & sent.keys()
        refused = flywheel(*push, HF_TOKEN="hf_wrong", **there)
        assert (refused.returncode, "Check that HF_TOKEN may write there" in refused.stderr) == (1, True)
    gone = flywheel(*push, HF_TOKEN=TOKEN, **there)
    assert (gone.returncode, "was not reached" in gone.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (["--to", "hub"], {}, "Give --name OWNER/NAME"),
        (["--to", "hub", "--name", "a/b"], {"HF_TOKEN": ""}, "HF_TOKEN is not set"),
        (["--to", "hub", "--name", "a/b/c"], {"HF_TOKEN": TOKEN}, "is no name of a repository"),
        (["--to", "hub", "--name", "a/b"], {"HF_TOKEN": TOKEN}, "HF_HUB_OFFLINE"),
        (["--to", "elsewhere", "--out", "another"], {}, "name two folders"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], environment: dict[str, str], said: str, home: Path) -> None:
    run = verb("export", *arguments, "--home", home, **environment)
    assert (run.returncode, said in run.stderr) == (1, True), run.stderr


MLFLOW = (  # what MLflow's server needs that is not here already
    "mlflow==3.17.2 mlflow-skinny==3.17.2 mlflow-tracing==3.17.2 cachetools==7.3.3 databricks-sdk==0.162.0 fastapi==0.165.0 "
    "google-auth==2.63.0 gunicorn==26.2.0 huey==3.5.4 importlib_metadata==9.1.0 opentelemetry-api==1.45.2 "
    "opentelemetry-proto==1.45.2 opentelemetry-sdk==1.45.2 opentelemetry-semantic-conventions==0.66b2 prettytable==3.18.0 "
    "pyasn1==0.6.5 pyasn1_modules==0.4.2 skops==0.16.0 sqlparse==0.6.1 zipp==4.1.2"
)


@pytest.mark.long
@pytest.mark.slow
def test_the_champion_becomes_a_version_in_mlflow_with_its_alias(home: Path, champion: Path, tmp_path: Path) -> None:
    packages = install(tmp_path / "packages", MLFLOW.split())
    with mlflow_server(packages, tmp_path) as address:
        there = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), str(packages)]), "MLFLOW_TRACKING_URI": address}
        run = flywheel("export", "--to", "mlflow", "--name", "questions", "--home", home, "--json", **there)
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["place"] == "models:/questions@champion"
        fetch = "import mlflow; mlflow.artifacts.download_artifacts('models:/questions@champion', dst_path='fetched')"
        run_there(packages, f"import os; os.environ['MLFLOW_TRACKING_URI'] = {address!r}; {fetch}", where=tmp_path)
    (fetched,) = (tmp_path / "fetched").rglob("modules.json")
    for name in ("model.safetensors", "2_Dense/model.safetensors", "1_Pooling/config.json", "flywheel.json"):
        assert (fetched.parent / name).read_bytes() == (champion / name).read_bytes()
