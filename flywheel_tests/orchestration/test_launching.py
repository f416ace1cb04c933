"""Whether a run is launched: what sensors and the schedule decide, from past runs and what is there; and runs that died."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import time_machine
from dagster._core.events import EngineEventData
from dagster._core.test_utils import create_run_for_test
from hypothesis import given
from hypothesis import strategies as st

from flywheel.orchestration import launching
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.instance import POOL, PROCESS_TAG, open_session, process_tag, reap_dead_runs
from flywheel.orchestration.launching import LAUNCHED_FOR_TAG, MAX_ATTEMPTS, Attempt, Launch, Wait, asked_once, decide_launch
from flywheel.pairs.store.new_pairs import new_pairs, record_training
from flywheel.pipeline.ingest import ingest_paths, take_snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.pairs.test_ingest import line, write

statuses = st.lists(st.sampled_from(list(dg.DagsterRunStatus)), max_size=6)
NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)


@given(past=statuses)
def test_a_state_is_launched_only_when_every_run_for_it_has_ended_badly_and_attempts_are_left(
    past: list[dg.DagsterRunStatus],
) -> None:
    over = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    decision = decide_launch("state", [Attempt(status, NOW - timedelta(days=1)) for status in past], NOW)
    assert isinstance(decision, Launch) == (set(past) <= over and len(past) < MAX_ATTEMPTS)
    if isinstance(decision, Launch):
        assert decision.run_key == f"state__attempt{len(past) + 1}"


def test_each_attempt_comes_after_a_longer_pause() -> None:
    failed = [Attempt(dg.DagsterRunStatus.FAILURE, NOW)]
    waits = []
    for past in (failed, failed * 2):
        waits.append(next(s for s in range(0, 3600, 10) if isinstance(_after(past, s), Launch)))
        early = _after(past, 30)
        assert isinstance(early, Wait)
        assert f"attempt {len(past) + 1} of 3 comes at 12:" in early.reason
    assert waits == [60, 600]
    assert "or wait for new data" in str(_after(failed * 3, 10**6))


def test_a_clock_that_was_set_back_holds_up_no_further_attempt() -> None:
    failed = [Attempt(dg.DagsterRunStatus.FAILURE, NOW)]
    assert isinstance(_after(failed, -3600), Launch)
    assert isinstance(_after(failed, 1), Wait)
    assert isinstance(_after(failed, -1), Wait), "the clock of another machine is a second ahead"


def test_two_daemons_that_look_at_once_ask_for_a_run_once(tmp_path: Path) -> None:
    file, launch = tmp_path / "requested.json", Launch("state__attempt1")
    assert asked_once(file, "ingest", launch, NOW) == launch
    assert isinstance(asked_once(file, "ingest", launch, NOW + timedelta(seconds=5)), Wait)
    assert asked_once(file, "retrain", launch, NOW) == launch, "another job"
    other = Launch("state__attempt2")
    assert asked_once(file, "ingest", other, NOW + timedelta(seconds=5)) == other
    resumed = asked_once(file, "ingest", other, NOW + timedelta(minutes=2))
    assert isinstance(resumed, Wait), "a daemon takes up what another one asked for, and a third one looks meanwhile"
    behind = asked_once(file, "ingest", other, NOW + timedelta(seconds=4.99))
    assert isinstance(behind, Wait), "its clock is a hundredth of a second behind"
    again = asked_once(file, "ingest", other, NOW + timedelta(minutes=6))
    assert again == other, "the daemon that asked has died"
    assert asked_once(file, "ingest", other, NOW - timedelta(days=1)) == other, "the clock was set back"


def test_a_turn_that_failed_after_its_training_is_tried_again_until_it_succeeds(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = with_options(workspace, evaluation={"min_components": 2})
    monkeypatch.setattr(launching, "_PAUSES", (timedelta(0),) * 2)
    ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"b{i}", i % 2) for i in range(300)])])
    record_training(workspace.store, take_snapshot(workspace).snapshot_id)
    with dg.DagsterInstance.ephemeral() as instance:
        assert "0 of 2,000" in str(_tick("retrain_sensor", workspace, instance))
        for ending, request in ((dg.DagsterRunStatus.FAILURE, "none-2__attempt2"), (dg.DagsterRunStatus.SUCCESS, None)):
            create_run_for_test(instance, "retrain", tags={LAUNCHED_FOR_TAG: "none-2"}, status=ending)
            asked = _tick("retrain_sensor", workspace, instance)
            assert (asked.run_key if isinstance(asked, dg.RunRequest) else None) == request


def test_the_last_training_is_the_last_one_whatever_the_clock_said(workspace: Workspace, tmp_path: Path) -> None:
    workspace = with_options(workspace, evaluation={"min_components": 2})
    with time_machine.travel(datetime.now(UTC) + timedelta(days=3), tick=True):
        ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"b{i}", i % 2) for i in range(300)])])
        record_training(workspace.store, take_snapshot(workspace).snapshot_id)
    ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"c{i}", i % 2) for i in range(300)], "more.jsonl")])
    assert new_pairs(workspace.store).new > 0
    later = take_snapshot(workspace).snapshot_id
    record_training(workspace.store, later)
    found = new_pairs(workspace.store)
    assert (found.new, found.since) == (0, later[:12])


def _after(past: list[Attempt], seconds: int) -> Launch | Wait:
    return decide_launch("state", past, NOW + timedelta(seconds=seconds))


def _tick(sensor: str, workspace: Workspace, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    defs = build_defs(workspace.settings)
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources=dict(defs.resources or {}))
    tick = defs.resolve_sensor_def(sensor).evaluate_tick(context)
    return tick.run_requests[0] if tick.run_requests else str(tick.skip_message)


def _settled(path: Path) -> Path:
    os.utime(path, (1, 1))
    return path


def test_the_inbox_sensor_asks_once_for_finished_files(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert "inbox is not there" in str(_tick("inbox_sensor", workspace, instance))
        workspace.home.inbox.mkdir(parents=True)
        assert "no finished files" in str(_tick("inbox_sensor", workspace, instance))
        path = _settled(write(workspace.home.inbox, [line("a", "b")]))
        _settled(write(workspace.home.inbox, [line("c", "d")], "half.jsonl.part"))
        _settled(write(workspace.home.inbox, [line("c", "d")], ".hidden.jsonl"))
        with path.open("ab"):
            assert "no finished files" in str(_tick("inbox_sensor", workspace, instance)), "still being written"
        request = _tick("inbox_sensor", workspace, instance)
        assert isinstance(request, dg.RunRequest)
        tags = {LAUNCHED_FOR_TAG: request.tags[LAUNCHED_FOR_TAG]}
        run = create_run_for_test(instance, "ingest", tags=tags, status=dg.DagsterRunStatus.STARTED)
        assert "in flight" in str(_tick("inbox_sensor", workspace, instance))
        instance.report_run_failed(run)
        assert "attempt 2 of 3 comes at" in str(_tick("inbox_sensor", workspace, instance))
        monkeypatch.setattr(launching, "_PAUSES", (timedelta(0),))
        again = _tick("inbox_sensor", workspace, instance)
        assert isinstance(again, dg.RunRequest)
        assert again.run_key != request.run_key


def test_the_retrain_sensor_counts_new_pairs_fires_once_and_not_after_a_lost_challenge(
    workspace: Workspace, tmp_path: Path
) -> None:
    workspace = with_options(workspace, retraining={"after": 50}, evaluation={"min_components": 2})
    store = workspace.store
    ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"b{i}", i % 2) for i in range(300)])])
    trained = take_snapshot(workspace)
    record_training(store, trained.snapshot_id)
    record_training(store, trained.snapshot_id)
    assert new_pairs(store).new == 0
    ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"c{i}", i % 2) for i in range(300)], "more.jsonl")])
    counted = new_pairs(store).new
    assert counted > 50
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_RETRAINING__AFTER", "1000")
        assert _tick("retrain_sensor", workspace, instance) == f"{counted} of 1,000 new interaction pairs"
        patch.setenv("FLYWHEEL_RETRAINING__AFTER", "50")
        request = _tick("retrain_sensor", workspace, instance)
        assert isinstance(request, dg.RunRequest)
        tags = {LAUNCHED_FOR_TAG: request.tags[LAUNCHED_FOR_TAG]}
        create_run_for_test(instance, "retrain", tags=tags, status=dg.DagsterRunStatus.STARTED)
        assert "in flight" in str(_tick("retrain_sensor", workspace, instance))
    record_training(store, take_snapshot(workspace).snapshot_id)  # the retrain has trained, and its challenger lost
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_RETRAINING__AFTER", "50")
        assert _tick("retrain_sensor", workspace, instance) == "0 of 50 new interaction pairs"


def test_the_weekly_schedule_retrains_only_for_a_tenth_of_what_the_sensor_waits_for(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_RETRAINING__AFTER", "100")
    defs = build_defs(workspace.settings)
    schedule = defs.resolve_schedule_def("weekly_retrain")
    assert (schedule.cron_schedule, schedule.default_status) == ("0 3 * * 1", dg.DefaultScheduleStatus.RUNNING)
    with open_session(workspace.settings) as session:

        def tick() -> Any:
            context = dg.build_schedule_context(instance=session.instance, resources=dict(defs.resources or {}))
            return schedule.evaluate_tick(context)

        ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"b{i}") for i in range(9)])])
        assert "no model has been trained yet" in str(tick().skip_message)
        monkeypatch.setenv("FLYWHEEL_RETRAINING__FIRST", "true")
        assert tick().skip_message == "9 of 10 new interaction pairs"
        ingest_paths(workspace, [write(tmp_path, [line("a9", "b9")], "one-more.jsonl")])
        (request,) = tick().run_requests or ()
        assert LAUNCHED_FOR_TAG in request.tags


def test_a_run_whose_process_is_gone_is_reported_failed_and_its_slot_is_free(workspace: Workspace) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        import psutil

        host, boot, _, _ = process_tag().split("|")
        tag = f"{host}|{boot}|{process.pid}|{psutil.Process(process.pid).create_time():.0f}"
        with open_session(workspace.settings) as session:
            instance = session.instance
            started = dg.DagsterRunStatus.STARTED
            dying = create_run_for_test(instance, "retrain", tags={PROCESS_TAG: tag}, status=started)
            living = create_run_for_test(instance, "retrain", tags={PROCESS_TAG: process_tag()}, status=started)
            storage = instance.event_log_storage
            assert storage.claim_concurrency_slot(POOL, dying.run_id, "finetuned_model").is_claimed
            assert reap_dead_runs(instance, [POOL]) == []
            process.kill()
            process.wait()
            assert reap_dead_runs(instance, [POOL]) == [dying.run_id]
            after = {run.run_id: run.status for run in instance.get_runs()}
            assert after == {dying.run_id: dg.DagsterRunStatus.FAILURE, living.run_id: started}
            assert storage.claim_concurrency_slot(POOL, living.run_id, "finetuned_model").is_claimed


def test_a_run_that_was_killed_before_its_first_step_is_reported_failed(workspace: Workspace) -> None:
    with open_session(workspace.settings) as session, subprocess.Popen(["sleep", "60"]) as process:
        instance, started = session.instance, dg.DagsterRunStatus.STARTED
        dead, waiting, silent = (create_run_for_test(instance, "retrain", status=started) for _ in range(3))
        process.kill()
        process.wait()
        for run, pid in ((dead, process.pid), (waiting, os.getpid())):
            instance.report_engine_event("Started process for run.", run, EngineEventData.in_process(pid))
        assert reap_dead_runs(instance, [POOL]) == [dead.run_id], "the others may wait for a slot"
        assert {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=[started]))} == {waiting.run_id, silent.run_id}
