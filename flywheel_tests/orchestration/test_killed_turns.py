"""A whole turn on real processes, from dropped files to a decision, whose daemon is killed twice on the way."""

import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flywheel.registry.decisions import in_words
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.orchestration.test_daemon import Server

pytestmark = [pytest.mark.slow, pytest.mark.long]

DECISIONS = """{ assetOrError(assetKey: {path: ["champion"]}) { ... on Asset { assetMaterializations { runId metadataEntries {
    label ... on TextMetadataEntry { text } } } } } }"""


def decisions(server: Server) -> list[str]:
    """What each materialisation of `champion` says became of its turn, the newest first."""
    found = server.ask(DECISIONS)["assetOrError"].get("assetMaterializations", [])
    return [entry["text"] for each in found for entry in each["metadataEntries"] if entry["label"] == "what_became_of_it"]


def kill_the_daemon(server: Server, when: str, holds: Callable[[], bool]) -> None:
    """Kill it with SIGKILL once something holds; all else that `flywheel up` has started then ends too."""
    server.wait_until(when, holds, 400)
    started = psutil.Process(server.process.pid).children(recursive=True)
    next(process for process in started if "dagster._daemon" in process.cmdline()).kill()
    assert server.process.wait(90) == 1
    assert not psutil.wait_procs(started, timeout=90)[1]


def test_a_turn_comes_to_its_decision_though_the_daemon_is_killed_twice(demo: tuple[Path, object], tmp_path: Path) -> None:
    home, log = copy_home(demo[0], tmp_path / "home"), tmp_path / "up.log"
    workspace = make_workspace(home)
    before, entries = workspace.current_snapshot(), len(workspace.registry.history())
    known = sorted(set(before.pairs("train")["text_a"]))[:120]

    first = Server(home, log)
    first.wait_until("the web server answers", lambda: first.runs("ingest") == [])
    said = len(decisions(first))
    assert said, "the demo's"
    for number in range(3):
        aside = tmp_path / f"feedback-{number}.jsonl"
        asked = known[40 * number : 40 * (number + 1)]
        aside.write_text("\n".join(json.dumps({"text_a": f"{text} any idea?", "text_b": text, "label": 1}) for text in asked))
        aside.rename(home / "inbox" / aside.name)
    kill_the_daemon(first, "an ingest is there", lambda: first.runs("ingest") != [])

    second = Server(home, log)
    kill_the_daemon(second, "a retraining is at work", lambda: "STARTED" in second.runs("retrain"))

    third = Server(home, log)
    try:
        third.wait_until("the turn is decided", lambda: "SUCCESS" in third.runs("retrain"), 600)
        assert third.runs("ingest").count("SUCCESS") == 1
        assert third.runs("retrain").count("SUCCESS") == 1
        ticks = third.sensor_ticks("retrain_sensor")
        third.wait_until("the sensor looks once more", lambda: third.sensor_ticks("retrain_sensor") > ticks)
        assert set(third.runs("retrain")) <= {"SUCCESS", "FAILURE"}, "nothing is launched twice"
        history = workspace.registry.history()
        assert len(history) == entries + 1
        # A run that was killed may have come as far as its sentence; the one that repeats it says the same.
        told = decisions(third)[:-said]
        assert set(told) == {in_words(history[-1])}
        assert len(told) <= len(third.runs("retrain")), "none says it twice"
    finally:
        if third.process.poll() is None:
            third.stop()
    after = workspace.current_snapshot()
    assert after.train.pairs == before.train.pairs + 120, "every pair once"
    assert history[-1].snapshot_id == after.snapshot_id
