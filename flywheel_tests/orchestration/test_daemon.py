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

from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.receivers import SECRET, webhook

pytestmark = pytest.mark.slow

RUNS = "{ runsOrError(filter: {pipelineName: %s}) { ... on Runs { results { status tags { key value } } } } }"
RETRAININGS = """{ assetOrError(assetKey: {path: ["retrained_model"]}) { ... on Asset {
    assetMaterializations { runId metadataEntries { label ... on TextMetadataEntry { text } } } } } }"""

TICKS = """query Ticks($name: String!) { sensorOrError(sensorSelector: {repositoryName: "__repository__",
    repositoryLocationName: "flywheel.definitions", sensorName: $name}) { ... on Sensor { sensorState {
    ticks(limit: 30) { status timestamp } } } } }"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """`flywheel up` on a home, asked through its GraphQL API."""

    def __init__(self, home: Path, log: Path, retrain_after: int = 50, **variables: str) -> None:
        self.port, self.started = free_port(), time.time()
        self.log = log
        environment = {**os.environ, "FLYWHEEL_RETRAINING__AFTER": str(retrain_after), "FLYWHEEL_RETRAINING__FIRST": "1"}
        environment |= variables
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

    def sensor_ticks(self, name: str) -> int:
        """How many looks of a sensor have ended since this server started."""
        found = self.ask(TICKS, name=name)["sensorOrError"].get("sensorState", {}).get("ticks", [])
        return len([tick for tick in found if tick["status"] != "STARTED" and tick["timestamp"] > self.started])

    def untold(self) -> set[str]:
        """The events of which no run for a message has succeeded."""
        found = self.ask(RUNS % json.dumps("alarm"))["runsOrError"]["results"]
        told = [({tag["key"]: tag["value"] for tag in run["tags"]}["flywheel/launched_for"], run["status"]) for run in found]
        return {event for event, _ in told} - {event for event, status in told if status == "SUCCESS"}

    def retrained_snapshots(self) -> list[str]:
        found = self.ask(RETRAININGS)["assetOrError"].get("assetMaterializations", [])
        return [entry["text"] for each in found for entry in each["metadataEntries"] if entry["label"] == "snapshot_id"]

    def wait_until(self, what: str, holds: Callable[[], bool], seconds: float = 400) -> None:
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
    assert server.retrained_snapshots() == []

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
    assert server.retrained_snapshots() == [after.snapshot_id]
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


@pytest.mark.long
def test_a_turn_is_told_once_also_by_a_daemon_that_was_killed(demo: tuple[Path, object], tmp_path: Path) -> None:
    home, log = copy_home(demo[0], tmp_path / "home"), tmp_path / "up.log"
    workspace = make_workspace(home)
    entries = len(workspace.registry.history())
    snapshot = workspace.snapshots.latest()
    assert snapshot is not None
    known = sorted(set(snapshot.pairs("train")["text_a"]))[:120]
    with webhook() as hook:
        hook.answers = [500]
        first = Server(home, log, FLYWHEEL_ALARM_URLS=hook.url)
        try:
            first.wait_until("the sensors look", lambda: first.sensor_ticks("alarm_sensor") > 0)
            aside = tmp_path / "feedback.jsonl"
            aside.write_text("\n".join(json.dumps({"text_a": f"{t} any idea?", "text_b": t, "label": 1}) for t in known))
            aside.rename(home / "inbox" / "feedback.jsonl")
            (home / "inbox" / "notes.txt").write_text("not an event")
            first.wait_until("the turn is over", lambda: len(workspace.registry.history()) > entries)
            first.wait_until("it is told", lambda: any("Nothing was promoted." in text for text in hook.messages))
        finally:
            os.killpg(first.process.pid, signal.SIGKILL)
        second = Server(home, log, FLYWHEEL_ALARM_URLS=hook.url)
        try:
            second.wait_until("the sensors look again", lambda: second.sensor_ticks("alarm_sensor") > 0)
            second.wait_until("every event is told", lambda: second.untold() == set())
            ticks = second.sensor_ticks("alarm_sensor")
            second.wait_until("the sensors look twice more", lambda: second.sensor_ticks("alarm_sensor") >= ticks + 2)
            assert second.stop() == 0
        finally:
            if second.process.poll() is None:
                second.process.kill()
    assert len(hook.messages) == len(set(hook.messages)), hook.messages
    assert len([text for text in hook.messages if text.startswith("Nothing was promoted.")]) == 1
    assert len([text for text in hook.messages if "notes.txt" in text]) == 1
    assert all(text.count("http://127.0.0.1:3000/") == 1 for text in hook.messages)
    assert SECRET not in log.read_text()
    written = (path for path in home.rglob("*") if path.is_file() and not path.is_symlink())
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize("seconds", [0.5, 4.0, 9.0])
def test_ctrl_c_while_it_starts_prints_no_traceback(tmp_path: Path, seconds: float) -> None:
    starting = Server(tmp_path / "home", tmp_path / "up.log")
    while "Loading" not in starting.log.read_text():
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


def test_when_one_of_its_processes_dies_it_says_which_and_ends_the_others(tmp_path: Path) -> None:
    server = Server(tmp_path / "home", tmp_path / "up.log")
    server.wait_until("the web server answers", lambda: server.runs("ingest") == [])
    started = psutil.Process(server.process.pid).children(recursive=True)
    daemon = next(process for process in started if "dagster._daemon" in process.cmdline())
    daemon.kill()
    assert server.process.wait(60) == 1
    assert "Dagster's daemon was killed by SIGKILL, so everything stops" in server.log.read_text()
    assert not psutil.wait_procs(started, timeout=60)[1]


def test_killed_it_leaves_no_process_behind_and_can_be_started_again(tmp_path: Path) -> None:
    killed = Server(tmp_path / "home", tmp_path / "up.log")
    killed.wait_until("the web server answers", lambda: killed.runs("ingest") == [])
    started = psutil.Process(killed.process.pid).children(recursive=True)
    assert len(started) >= 4  # web server, daemon, and the code server that both use, in two processes
    killed.process.kill()
    killed.process.wait()
    assert not psutil.wait_procs(started, timeout=60)[1]

    again = Server(tmp_path / "home", tmp_path / "again.log")
    again.wait_until("the web server answers", lambda: again.runs("ingest") == [])
    assert again.stop() == 0
