"""What deploy/ says: Modal's function runs commands, and the services of the compose file run here, on a real PostgreSQL."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flywheel.home import Home
from flywheel_tests.helpers.clusters import REPOSITORY
from flywheel_tests.helpers.postgres import DATABASE, USER, Postgres
from flywheel_tests.helpers.s3 import free_port

DEPLOY = REPOSITORY / "deploy"
LAUNCH = """mutation { launchRun(executionParams: { selector: {
    repositoryLocationName: "flywheel.definitions", repositoryName: "__repository__", jobName: "ingest"}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = "{ runsOrError { ... on Runs { results { status } } } }"
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType required healthy } } } }"


@pytest.fixture(scope="module")
def modal_app() -> ModuleType:
    pytest.importorskip("modal")
    spec = importlib.util.spec_from_file_location("modal_app", DEPLOY / "modal_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:The train function is executing locally")
@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ('echo "$WORD"; exit 3', {"exit_code": 3, "last_event": ""}),
        ("""echo '{"event": 1}'; echo '{"event": 2}'; echo end""", {"exit_code": 0, "last_event": '{"event": 2}'}),
        ("kill -9 $$", {"exit_code": -9, "last_event": ""}),
    ],
)
def test_modals_function_gives_back_how_a_command_ended(
    modal_app: ModuleType, capfd: pytest.CaptureFixture[str], script: str, ending: dict[str, Any]
) -> None:
    assert modal_app.train.local(["sh", "-c", script], {"WORD": "a variable"}) == ending
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "The container has begun."
    assert ("a variable" in lines) == ("WORD" in script)


@pytest.mark.filterwarnings("ignore:The train function is executing locally")
def test_a_command_that_is_not_there_is_an_ending_too(modal_app: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    assert modal_app.train.local(["pyhton"], {})["exit_code"] == 127
    assert "No such file or directory: pyhton" in capfd.readouterr().out


def test_every_file_that_an_image_takes_is_there(modal_app: ModuleType) -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1] if not word.startswith("--")]
    allowed = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*copied} - {"/venv"} == allowed
    assert all((REPOSITORY / name).exists() for name in [*allowed, *modal_app.SOURCES])


class Services:
    """The services of the compose file but the database, as processes of this machine."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.web = folder, free_port()
        code = free_port()
        shutil.copytree(DEPLOY / "dagster", folder / "dagster")
        for file in (folder / "dagster").iterdir():
            text = file.read_text().replace("port: 5432", f"port: {postgres.port}").replace("port: 4000", f"port: {code}")
            file.write_text(text.replace("/state", str(folder / "state")))
        self._ports = {"4000": str(code), "3000": str(self.web), "0.0.0.0": "127.0.0.1"}
        self._values = {"CODE_HOST": "127.0.0.1", "DAGSTER_PG_HOST": postgres.host, "DAGSTER_PG_USER": USER}
        self._values |= {"DAGSTER_PG_DATABASE": DATABASE, "DAGSTER_PG_PASSWORD": "none is asked for"}

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        service = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())["services"][name]
        given = {key: self._values[key] for key, value in service["environment"].items() if value is not None}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {"DAGSTER_HOME": str(self.folder / "dagster"), "FLYWHEEL_HOME": str(self.folder / "state"), "PATH": path}
        words = [self._ports.get(word, word).replace("/dagster/", f"{self.folder}/dagster/") for word in service["command"]]
        words[0] = str(Path(sys.executable).with_name(words[0]))
        with (self.folder / f"{name}.log").open("wb") as log:
            kept = {key: value for key, value in os.environ.items() if key in ("PYTHONPATH", "HOME", "HF_HUB_OFFLINE")}
            return subprocess.Popen(words, env={**kept, **given, **variables}, stdout=log, stderr=log, cwd=self.folder)

    def ask(self, query: str) -> dict[str, Any]:
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.web}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def wait(self, what: str, holds: Any, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if holds():
                    return
            except (OSError, KeyError, TypeError):
                pass  # not ready yet
            time.sleep(0.5)
        pytest.fail(f"no {what} within {seconds:.0f} s: " + str([log.read_text()[-2000:] for log in self.folder.glob("*.log")]))


@pytest.fixture
def services(tmp_path: Path, postgres: Postgres) -> Iterator[Services]:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "flywheel.toml").write_text('pairs.seed_pairs = "none"\n')
    made = Services(tmp_path, postgres)
    with ExitStack() as stack:
        for name in ("code", "webserver", "daemon"):
            process = stack.enter_context(made.start(name))
            stack.callback(process.terminate)
        yield made


@pytest.mark.slow
def test_the_services_of_the_compose_file_ingest_with_their_runs_in_postgresql(services: Services, tmp_path: Path) -> None:
    services.wait(
        "web server with the code location", lambda: services.ask(LAUNCH)["launchRun"]["__typename"] == "LaunchRunSuccess"
    )
    services.wait("end of the run", lambda: services.ask(STATUS)["runsOrError"]["results"][0]["status"] == "SUCCESS")
    assert Home(tmp_path / "state").database.exists()
    assert not list((tmp_path / "state" / "dagster").glob("storage/*")), "no SQLite beside it"

    def all_are_well() -> bool:
        daemons = services.ask(DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
        return all(each["healthy"] for each in daemons if each["required"])

    services.wait("healthy daemon", all_are_well)
