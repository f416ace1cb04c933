"""The real daemon, and runs that die: none holds the pool for ever, none leaves a training process behind."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from flywheel.models.catalogue import Variant
from flywheel.orchestration.instance import POOL, PROCESS_TAG, prepare_home
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.pipeline.training import training_job
from flywheel.training.job import Cell
from flywheel_tests.compute.test_compute import held, is_gone, training_child
from flywheel_tests.helpers.clumps import World, take_world
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.orchestration.test_daemon import Server

pytestmark = [pytest.mark.slow, pytest.mark.long]

LAUNCH = """mutation ($tags: [ExecutionTag!]!) { launchRun(executionParams: {
    selector: {repositoryLocationName: "flywheel.definitions", repositoryName: "__repository__", jobName: "__ASSET_JOB",
        assetSelection: [{path: ["finetuned_model"]}]},
    executionMetadata: {tags: $tags}
}) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
TERMINATE = "mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"


class Runs:
    """Runs of the asset `finetuned_model` on a server."""

    def __init__(self, server: Server, instance: dg.DagsterInstance, in_one_more: bool) -> None:
        self.server, self.instance, self.in_one_more = server, instance, in_one_more

    def launch(self, variant: str, size: str) -> str:
        cell = {"": f"{size}|{variant}", "/variant": variant, "/size": size}
        tags = [{"key": f"dagster/partition{dimension}", "value": value} for dimension, value in cell.items()]
        answer = self.server.ask(LAUNCH, tags=tags)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def status(self, run: str) -> dg.DagsterRunStatus:
        found = self.instance.get_run_by_id(run)
        assert found is not None
        return found.status

    def messages(self, run: str) -> list[str]:
        return [event.user_message or event.message for event in self.instance.all_logs(run)]

    def process(self, run: str) -> psutil.Process:
        found = self.instance.get_run_by_id(run)
        assert found is not None
        return psutil.Process(int(found.tags[PROCESS_TAG].split("|")[2]))

    def training(self, run: str) -> psutil.Process:
        """The process in which a run trains."""
        process = self.process(run)
        return training_child(process.pid) if self.in_one_more else process

    def slots_taken(self) -> int:
        return self.instance.event_log_storage.get_concurrency_info(POOL).active_slot_count

    def wait_for_message(self, run: str, words: str) -> None:
        def said() -> bool:
            assert self.status(run) != dg.DagsterRunStatus.FAILURE, self.messages(run)
            return any(words in message for message in self.messages(run))

        self.server.wait_until(f"run says {words!r}", said)

    def wait_for_status(self, run: str, status: dg.DagsterRunStatus) -> None:
        self.server.wait_until(f"run is {status}", lambda: self.status(run) == status)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A home with enough questions for some seconds of encoding, and nothing encoded."""
    workspace = with_options(make_workspace(tmp_path / "home"), evaluation={"min_components": 2})
    return take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-14 * 48 :])


@pytest.fixture(params=["inline", "process"])
def runs(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Runs that train in their own process, or in one more."""
    monkeypatch.setenv("FLYWHEEL_ENCODING__DEVICE", "cpu")
    monkeypatch.setenv("FLYWHEEL_COMPUTE__RUN_IN", request.param)
    prepare_home(world.workspace.home)
    server = Server(world.workspace.home.root, tmp_path / "up.log", retrain_after=1_000_000)
    try:
        server.wait_until("the web server answers", lambda: server.runs("ingest") == [])
        with dg.DagsterInstance.get() as instance:
            yield Runs(server, instance, request.param == "process")
    finally:
        if server.process.poll() is None:
            server.stop()


def test_no_run_that_dies_holds_the_pool_and_no_training_outlives_its_run(world: World, runs: Runs) -> None:
    workspace = make_workspace(world.workspace.home.root)
    job = training_job(workspace, world.snapshot, Cell(Variant.parse("all-MiniLM-L6-v2@256"), "200"), "head")

    killed = runs.launch("all-MiniLM-L6-v2@256", "100")
    runs.wait_for_message(killed, "encoded")
    process, child = runs.process(killed), runs.training(killed)
    assert runs.slots_taken() == 1
    assert not list(workspace.home.models.glob("*/flywheel.json"))
    waiting = runs.launch("all-MiniLM-L6-v2@384", "100")
    process.kill()
    assert is_gone(child)
    runs.wait_for_status(waiting, dg.DagsterRunStatus.SUCCESS)
    assert runs.status(killed) == dg.DagsterRunStatus.FAILURE
    assert any("SIGKILL" in message or "process has ended: killed" in message for message in runs.messages(killed))

    assert any(message.startswith("step ") and "loss" in message for message in runs.messages(waiting))
    event = runs.instance.get_latest_materialization_event(dg.AssetKey("finetuned_model"))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.partition == "100|all-MiniLM-L6-v2@384"
    assert {"calibration_set_error", "threshold", "train_pairs", "dagster/uri"} <= event.asset_materialization.metadata.keys()

    with held(workspace.home.models, job):
        verb = subprocess.Popen(
            [sys.executable, "-m", "flywheel.cli", "train", job.variant, job.size, "--home", str(workspace.home.root)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        runs.server.wait_until("the verb trains", lambda: runs.slots_taken() == 1)
        (by_hand,) = runs.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]), limit=2)
        cancelled = runs.launch(job.variant, job.size)
        verb.kill()
        verb.wait()
        runs.wait_for_message(cancelled, "opened dagster pipes")
        assert runs.status(by_hand.run_id) == dg.DagsterRunStatus.FAILURE
        assert any("process has ended: killed" in message for message in runs.messages(by_hand.run_id))

        child = runs.training(cancelled)
        runs.server.ask(TERMINATE, run=cancelled)
        assert is_gone(child)
        runs.wait_for_status(cancelled, dg.DagsterRunStatus.CANCELED)
    assert runs.slots_taken() == 0
