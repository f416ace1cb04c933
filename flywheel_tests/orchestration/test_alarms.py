"""What is told of, when, and how often: the decision, the sensors on a real instance, and the run that sends."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from tenacity import wait_none

from flywheel.alarms import send
from flywheel.alarms.send import VARIABLE
from flywheel.orchestration import launching
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.failures import sentence_of
from flywheel.orchestration.launching import LAUNCHED_FOR_TAG, MAX_ATTEMPTS
from flywheel.orchestration.news import Check, Seen, World, news
from flywheel.pipeline.ingest import ingest_paths
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.champions import Turn
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.helpers.receivers import SECRET, Webhook, webhook
from flywheel_tests.pairs.test_ingest import line, write

NOW = datetime(2026, 9, 1, 12, tzinfo=UTC)
EMPTY = World((), {}, None, None, "assets/champion", "assets/interaction_pairs")
FAILS = Check(7, "check warns", "pairs: the check label_conflicts warns: 9 % have both.", "assets/pairs")


def told(world: World, seen: Seen | None, days: int | None = 14, now: datetime = NOW) -> tuple[dict[str, str], Seen]:
    found, present = news(seen, world, days, now)
    assert Seen.of(present.to_json()) == present
    return {key: alarm.kind for key, alarm in found.items()}, present


def test_the_first_look_tells_nothing_and_a_failing_check_is_told_once_until_it_passes() -> None:
    failing, passing = (replace(EMPTY, checks={"pairs-label_conflicts": each}) for each in (FAILS, replace(FAILS, failed=None)))
    assert told(failing, None)[0] == {}
    _, seen = told(passing, None)
    first, seen = told(failing, seen)
    assert first == {"check-pairs-label_conflicts-7": "check warns"}
    again, seen = told(replace(EMPTY, checks={"pairs-label_conflicts": replace(FAILS, number=8)}), seen)
    assert again == {}
    _, seen = told(EMPTY, seen)  # the check is running
    again, seen = told(failing, seen)
    assert again == {}
    _, seen = told(passing, seen)
    assert told(failing, seen)[0] == first


def test_days_without_data_are_told_once_a_gap_and_a_skipped_schedule_once_a_tick() -> None:
    _, seen = told(EMPTY, None)
    quiet = replace(EMPTY, last_data=NOW - timedelta(days=15), skipped=(1000.0, "2 of 200 new interaction pairs"))
    assert told(quiet, seen, days=None)[0] == {"skipped-1000": "retraining skipped"}
    first, seen = told(quiet, seen)
    assert set(first.values()) == {"no data", "retraining skipped"}
    again, seen = told(quiet, seen, now=NOW + timedelta(days=3))
    assert again == {}
    _, seen = told(replace(quiet, last_data=NOW, skipped=None), seen)
    later = told(replace(quiet, last_data=NOW), seen, now=NOW + timedelta(days=14))[0]
    assert list(later.values()) == ["no data"], "the tick that was told is not told again"


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        yield server


def tick(workspace: Workspace, instance: dg.DagsterInstance, sensor: str, cursor: str | None) -> Any:
    defs = build_defs(workspace.settings, key_prefix=["a"], workspace=workspace)
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources={"a_workspace": workspace}, cursor=cursor)
    return defs.resolve_sensor_def(f"a_{sensor}").evaluate_tick(context)


def launch(workspace: Workspace, instance: dg.DagsterInstance, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
    defs = build_defs(workspace.settings, key_prefix=["a"], workspace=workspace)
    job = defs.resolve_job_def("a_alarm")
    return job.execute_in_process(
        run_config=request.run_config,
        instance=instance,
        resources={"a_workspace": workspace},
        raise_on_error=False,
        tags=request.tags,
    )


def note(workspace: Workspace) -> None:
    turn = Turn("m", "MiniLM@384 | all", 0.31, 6097, "c", 0.303, "t", "It has the lower error on calibration pairs.")
    with workspace.registry.locked():
        workspace.registry.note(turn, "s")


def test_an_entry_of_the_history_is_sent_once_with_its_link(workspace: Workspace, hook: Webhook) -> None:
    note(workspace)
    with dg.instance_for_test() as instance:
        first = tick(workspace, instance, "alarm_sensor", None)
        assert first.run_requests == []
        note(workspace)
        asked = tick(workspace, instance, "alarm_sensor", first.cursor)
        (request,) = asked.run_requests
        repeated = tick(workspace, instance, "alarm_sensor", first.cursor)  # the daemon died before it kept the cursor
        assert [each.run_key for each in repeated.run_requests] == [request.run_key] == ["entry-2"]
        assert tick(workspace, instance, "alarm_sensor", asked.cursor).run_requests == []
        assert launch(workspace, instance, request).success
    assert hook.messages == [
        "Retrained. MiniLM@384 | all, trained on 6,097 pairs: 31.0 %. The champion has 30.3 % on the same pairs. "
        "It has the lower error on calibration pairs.\nhttp://127.0.0.1:3000/assets/a/champion"
    ]
    assert hook.taken[0]["title"] == "flywheel/a: not judged"


def test_what_nobody_wants_to_hear_and_what_nobody_can_hear_is_not_asked_for(
    workspace: Workspace, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.instance_for_test() as instance:
        cursor = tick(workspace, instance, "alarm_sensor", None).cursor
        note(workspace)
        deaf = with_options(workspace, alarms={"tell": ["promoted"]})
        assert tick(deaf, instance, "alarm_sensor", cursor).run_requests == []
        monkeypatch.delenv(VARIABLE)
        missed = tick(workspace, instance, "alarm_sensor", cursor)
        assert missed.run_requests == []
        assert "FLYWHEEL_ALARM_URLS is not set" in str(missed.skip_message)
        monkeypatch.setenv(VARIABLE, hook.url)
        assert tick(workspace, instance, "alarm_sensor", missed.cursor).run_requests == [], "old news"


def test_a_check_that_warns_is_told_with_its_page(workspace: Workspace, hook: Webhook, tmp_path: Path) -> None:
    with dg.instance_for_test() as instance:
        cursor = tick(workspace, instance, "alarm_sensor", None).cursor
        ingest_paths(workspace, [write(tmp_path, [line("a", "b", 0), line("a", "b", 1)])])
        defs = build_defs(workspace.settings, key_prefix=["a"], workspace=workspace)
        dg.materialize(
            defs.assets or (), selection=[dg.AssetKey(["a", "pairs"])], instance=instance, resources={"a_workspace": workspace}
        )
        asked = tick(workspace, instance, "alarm_sensor", cursor)
        config = next(each.run_config["ops"]["a_send_alarm"]["config"] for each in asked.run_requests)
        assert config["kind"] == "check warns"
        assert config["sentence"] == "pairs: the check label_conflicts warns: 100.0 % of the pairs have both labels."
        assert config["page"] == "assets/a/pairs?view=checks&checkDetail=label_conflicts"
        assert tick(workspace, instance, "alarm_sensor", asked.cursor).run_requests == []


def test_a_failed_run_is_told_when_it_is_not_tried_again(workspace: Workspace, hook: Webhook) -> None:
    with dg.instance_for_test() as instance:
        cursor = tick(workspace, instance, "failure_sensor", None).cursor

        def fail(tags: dict[str, str]) -> Any:
            nonlocal cursor
            instance.report_run_failed(create_run_for_test(instance, "a_retrain", tags=tags), "It died.")
            found = tick(workspace, instance, "failure_sensor", cursor)
            cursor = found.cursor
            return found

        for attempt in range(1, MAX_ATTEMPTS):
            found = fail({LAUNCHED_FOR_TAG: "state"})
            assert found.run_requests == []
            assert f"tried again, {MAX_ATTEMPTS - attempt} more times" in str(found.skip_message)
        (last,) = fail({LAUNCHED_FOR_TAG: "state"}).run_requests
        (by_hand,) = fail({}).run_requests
        assert tick(workspace, instance, "failure_sensor", cursor).run_requests == []
        for request in (last, by_hand):
            assert launch(workspace, instance, request).success
    assert len(set(hook.messages)) == 2
    assert all("a_retrain has failed" in text and "It died." in text and "/runs/" in text for text in hook.messages)


def test_a_message_that_nobody_takes_fails_its_own_run_and_shows_no_secret(
    workspace: Workspace, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "WAIT", wait_none())
    hook.answers = [500] * 9
    note(workspace)
    with dg.instance_for_test() as instance:
        request = tick(workspace, instance, "alarm_sensor", Seen(0, (), None, 0.0).to_json()).run_requests[0]
        result = launch(workspace, instance, request)
        assert not result.success
        events = instance.all_logs(result.run_id)
        assert SECRET not in "".join(dg.serialize_value(event) for event in events)
        assert any("has not taken the message" in str(sentence_of(event)) for event in result.all_events)
    assert hook.tries == 4


def test_a_message_whose_run_was_killed_is_sent_again_to_those_who_do_not_have_it(
    workspace: Workspace, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "WAIT", wait_none())
    note(workspace)
    with webhook() as other, dg.instance_for_test() as instance:
        monkeypatch.setenv(VARIABLE, f"{hook.url} {other.url}")
        other.answers = [500] * 4
        looked = tick(workspace, instance, "alarm_sensor", Seen(0, (), None, 0.0).to_json())
        (request,) = looked.run_requests
        assert not launch(workspace, instance, request).success
        assert tick(workspace, instance, "alarm_sensor", looked.cursor).run_requests == [], "after a pause"
        monkeypatch.setattr(launching, "_PAUSES", (timedelta(0), timedelta(0)))
        (again,) = tick(workspace, instance, "alarm_sensor", looked.cursor).run_requests
        assert again.run_key == "entry-1__attempt2"
        assert launch(workspace, instance, again).success
        assert tick(workspace, instance, "alarm_sensor", looked.cursor).run_requests == []
        assert (len(hook.messages), hook.tries) == (1, 1)
        assert other.messages == hook.messages


def test_without_alarms_there_is_neither_job_nor_sensor(tmp_path: Path) -> None:
    made = build_defs(make_workspace(tmp_path).settings, alarms=False)
    assert {sensor.name for sensor in made.sensors or ()} == {"inbox_sensor", "retrain_sensor", "leaderboard_sensor"}
    assert "alarm" not in {job.name for job in made.resolve_all_job_defs()}
