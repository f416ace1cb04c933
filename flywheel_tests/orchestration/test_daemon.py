"""The real web server and daemon: a file dropped in the inbox becomes an ingest run, a retrain run, a new evaluation."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flywheel.orchestration.partitions import cell_key
from flywheel.pipeline.training import next_retraining
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.homes import make_workspace

pytestmark = pytest.mark.slow

RUNS = "{ runsOrError(filter: {pipelineName: %s}) { ... on Runs { results { status tags { key value } } } } }"
EVALUATIONS = """{ assetOrError(assetKey: {path: ["evaluation"]}) { ... on Asset {
    assetMaterializations(partitions: [%s]) { runId metadataEntries { label ... on TextMetadataEntry { text } } } } } }"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """`flywheel up` on a home, asked through its GraphQL API."""

    def __init__(self, home: Path, log: Path, retrain_after: int = 50) -> None:
        self.port = free_port()
        self.log = log
        self.cell = cell_key(next_retraining(make_workspace(home))[0])
        environment = {**os.environ, "FLYWHEEL_RETRAINING__AFTER": str(retrain_after)}
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flywheel.cli", "up", "--home", str(home), "--port", str(self.port)],
                stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
            )  # fmt: skip

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as response:
            data: dict[str, Any] = json.load(response)["data"]
        return data

    def runs(self, job: str) -> list[str]:
        results = self.ask(RUNS % json.dumps(job))["runsOrError"]["results"]
        return [run["status"] for run in results]

    def evaluated_snapshots(self) -> list[str]:
        found = self.ask(EVALUATIONS % json.dumps(self.cell))["assetOrError"]["assetMaterializations"]
        return [entry["text"] for each in found for entry in each["metadataEntries"] if entry["label"] == "snapshot_id"]

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"the server stopped:\n{self.log.read_text()}"
            try:
                if holds():
                    return
            except OSError:
                pass  # not listening yet
            time.sleep(0.5)
        pytest.fail(f"{what} within {seconds:.0f} s:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> int:
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture
def server(demo: tuple[Path, object], tmp_path: Path) -> Iterator[Server]:
    running = Server(copy_home(demo[0], tmp_path / "home"), tmp_path / "up.log")
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


def test_a_file_in_the_inbox_is_ingested_retrains_and_is_evaluated(server: Server, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "home")
    before = workspace.snapshots.latest()
    assert before is not None
    server.wait_until("the web server answers", lambda: server.runs("ingest") == [])
    assert server.evaluated_snapshots() == [before.snapshot_id]

    known = sorted(set(before.pairs("train")["text_a"]))[:120]
    aside = tmp_path / "feedback.jsonl"
    aside.write_text("\n".join(json.dumps({"text_a": f"{t} any idea?", "text_b": t, "label": 1}) for t in known))
    aside.rename(workspace.home.inbox / "feedback.jsonl")

    server.wait_until("one ingest run succeeds", lambda: server.runs("ingest") == ["SUCCESS"])
    server.wait_until("one retrain run succeeds", lambda: server.runs("retrain") == ["SUCCESS"])
    after = workspace.snapshots.latest()
    assert after is not None
    assert after.train.pairs == before.train.pairs + 120
    assert after.test_id == before.test_id
    assert sorted(server.evaluated_snapshots()) == sorted([before.snapshot_id, after.snapshot_id])
    assert not (workspace.home.inbox / "feedback.jsonl").exists()

    second = subprocess.run(
        [sys.executable, "-m", "flywheel.cli", "up", "--home", str(workspace.home.root), "--port", str(free_port())],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert "running on" in second.stderr
    assert server.stop() == 0
    log = server.log.read_text()
    for noise in ("DEBUG", "Warning", "telemetry", "Traceback"):
        assert noise not in log


@pytest.mark.parametrize("seconds", [0.5, 2.5, 4.0])
def test_ctrl_c_while_it_starts_prints_no_traceback(tmp_path: Path, seconds: float) -> None:
    starting = Server(tmp_path / "home", tmp_path / "up.log")
    while "Dagster UI" not in starting.log.read_text():
        assert starting.process.poll() is None
        time.sleep(0.1)
    time.sleep(seconds)
    assert starting.stop() == 0
    assert starting.log.read_text().splitlines()[-1] == "stopping"


def test_what_the_web_server_says_when_it_cannot_start_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "dagster_webserver"
    broken.mkdir()
    (broken / "__init__.py").touch()
    (broken / "__main__.py").write_text("import sys; sys.exit('the web server says why')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    server = Server(tmp_path / "home", tmp_path / "up.log")
    assert server.process.wait(60) == 1
    assert "the web server says why" in server.log.read_text()


def test_killed_it_leaves_no_process_behind_and_can_be_started_again(tmp_path: Path) -> None:
    killed = Server(tmp_path / "home", tmp_path / "up.log")
    killed.wait_until("the web server answers", lambda: killed.runs("ingest") == [])
    started = psutil.Process(killed.process.pid).children(recursive=True)
    assert len(started) >= 4  # web server, daemon, and a code server each
    killed.process.kill()
    killed.process.wait()
    assert not psutil.wait_procs(started, timeout=60)[1]

    again = Server(tmp_path / "home", tmp_path / "again.log")
    again.wait_until("the web server answers", lambda: again.runs("ingest") == [])
    assert again.stop() == 0
