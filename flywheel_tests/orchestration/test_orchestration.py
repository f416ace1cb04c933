"""Dagster's side: what the code location offers, what sensors decide, and what becomes of dead runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.test_utils import create_run_for_test
from hypothesis import given
from hypothesis import strategies as st

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.dagster_file import instance_config
from flywheel.orchestration.instance import (
    POOL,
    PROCESS_TAG,
    check_home,
    open_session,
    process_tag,
    reap_dead_runs,
)
from flywheel.orchestration.launching import LAUNCHED_FOR_TAG, MAX_ATTEMPTS, Launch, decide_launch
from flywheel.orchestration.materialise import materialise
from flywheel.orchestration.partitions import CELLS, GRID_VARIANTS, cell_key, parse_cell
from flywheel.orchestration.sensors import inbox_sensor, retrain_sensor
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.inbox import finished_files, waiting_files
from flywheel.pairs.store.labels import count_pairs
from flywheel.pairs.store.new_pairs import new_pairs, record_training
from flywheel.pipeline.ingest import ingest_inbox, ingest_paths, ingest_seed, take_snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import SIZES, Cell
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import line, write

HEAVY = "torch, transformers, sentence_transformers, datasets, sklearn, scipy, matplotlib, networkx, openai"


def test_the_code_location_loads_without_heavy_imports(tmp_path: Path) -> None:
    script = f"import sys, flywheel.definitions; print(sorted(set('{HEAVY}'.split(', ')) & set(sys.modules)))"
    environment = {**os.environ, "FLYWHEEL_HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "[]"


def test_the_code_location_refuses_another_dagster_home(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(workspace.home.root))
    check_home(workspace.home)
    monkeypatch.setenv("DAGSTER_HOME", "/somewhere/else")
    with pytest.raises(FlywheelError, match=r"/somewhere/else.*flywheel up"):
        check_home(workspace.home)
    monkeypatch.delenv("DAGSTER_HOME")
    monkeypatch.chdir("/")
    with pytest.raises(FlywheelError, match="Dagster would forget everything"):
        check_home(workspace.home)


def test_every_asset_keeps_its_spec(workspace: Workspace) -> None:
    graph = build_defs(workspace.settings).resolve_asset_graph()
    specs = {}
    for key in graph.get_all_asset_keys():
        node, checks = graph.get(key), graph.get_check_keys_for_assets({key})
        specs[key.to_user_string()] = (
            node.group_name, sorted(node.kinds), node.partitions_def is not None,
            sorted(parent.to_user_string() for parent in node.parent_keys), sorted(check.name for check in checks),
            sorted(node.pools or ()),
        )  # fmt: skip
    assert specs == {
        "seed_pairs": ("ingest", ["duckdb"], False, [], [], []),
        "interaction_pairs": ("ingest", ["duckdb"], False, [], ["all_lines_kept", "embargo_share"], []),
        "pairs": (
            "ingest", ["duckdb"], False, ["interaction_pairs", "seed_pairs"],
            ["contradictory_triangles", "label_conflicts"], [],
        ),
        "snapshot": ("ingest", ["parquet"], False, ["pairs"], ["leak_probe", "no_leakage", "prior_shift"], []),
        "finetuned_model": ("train", ["huggingface", "pytorch"], True, ["snapshot"], ["served_vectors"], ["gpu"]),
        "baseline_scores": ("evaluate", ["openai"], False, ["snapshot"], ["baseline_is_api", "baseline_is_sane"], []),
        "evaluation": (
            "evaluate", ["scikitlearn"], True, ["baseline_scores", "finetuned_model"],
            ["cell_is_sane", "enough_components"], [],
        ),
        "api_heads": ("evaluate", ["openai", "pytorch"], False, ["baseline_scores", "evaluation"], [], []),
        "leaderboard": (
            "evaluate", ["matplotlib", "table"], False, ["api_heads", "baseline_scores", "evaluation"], ["sides_are_sane"], [],
        ),
        "champion": ("promote", ["report"], False, ["leaderboard"], [], []),
        "evidence": ("promote", ["report"], False, ["champion"], [], []),
    }  # fmt: skip


def test_the_definitions_can_be_loaded_whole(workspace: Workspace) -> None:
    dg.Definitions.validate_loadable(build_defs(workspace.settings))


def test_the_grid_is_the_experiment() -> None:
    assert SIZES == ("100", "200", "400", "800", "1600", "3200", "6400", "12800", "25600", "51200", "102400", "all")
    assert len(CELLS.get_partition_keys()) == len(SIZES) * len(GRID_VARIANTS) == 96
    bge = Cell(Variant("bge-base-en-v1.5", 256), "100")
    assert cell_key(bge) == "100|bge-base-en-v1.5@256"
    keys = {str(cell_key(Cell(Variant.parse(variant), size))) for variant in GRID_VARIANTS for size in SIZES}
    assert keys == set(CELLS.get_partition_keys())
    with pytest.raises(FlywheelError, match="not in the grid"):
        cell_key(Cell(Variant("all-MiniLM-L6-v2", 64), "100"))
    for key in (cell_key(bge), "100|bge-base-en-v1.5@256"):
        assert parse_cell(dg.build_asset_context(partition_key=key)) == bge


def test_the_top_level_dagster_yaml_says_what_flywheel_writes() -> None:
    assert yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text()) == instance_config(Path("data/dagster"))


statuses = st.lists(st.sampled_from(list(dg.DagsterRunStatus)), max_size=6)


@given(past=statuses)
def test_a_state_is_launched_only_when_every_run_for_it_has_ended_badly_and_attempts_are_left(
    past: list[dg.DagsterRunStatus],
) -> None:
    over = {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
    decision = decide_launch("state", past)
    assert isinstance(decision, Launch) == (set(past) <= over and len(past) < MAX_ATTEMPTS)
    if isinstance(decision, Launch):
        assert decision.run_key == f"state__attempt{len(past) + 1}"


def _tick(sensor: dg.SensorDefinition, workspace: Workspace, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    defs = build_defs(workspace.settings)
    context = dg.build_sensor_context(instance=instance, definitions=defs, resources=dict(defs.resources or {}))
    result = sensor(context)
    assert isinstance(result, dg.RunRequest | dg.SkipReason)
    return result if isinstance(result, dg.RunRequest) else str(result.skip_message)


def _settled(path: Path) -> Path:
    os.utime(path, (1, 1))
    return path


def test_the_inbox_sensor_asks_once_for_finished_files(workspace: Workspace) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert "no finished files" in str(_tick(inbox_sensor, workspace, instance))
        path = write(workspace.home.inbox, [line("a", "b")])
        _settled(write(workspace.home.inbox, [line("c", "d")], "half.jsonl.part"))
        _settled(write(workspace.home.inbox, [line("c", "d")], ".hidden.jsonl"))
        assert "no finished files" in str(_tick(inbox_sensor, workspace, instance)), "still being written"
        _settled(path)
        request = _tick(inbox_sensor, workspace, instance)
        assert isinstance(request, dg.RunRequest)
        tags = {LAUNCHED_FOR_TAG: request.tags[LAUNCHED_FOR_TAG]}
        run = create_run_for_test(instance, "ingest", tags=tags, status=dg.DagsterRunStatus.STARTED)
        assert "in flight" in str(_tick(inbox_sensor, workspace, instance))
        instance.report_run_failed(run)
        again = _tick(inbox_sensor, workspace, instance)
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
        assert _tick(retrain_sensor, workspace, instance) == f"{counted} of 1,000 new training pairs"
        patch.setenv("FLYWHEEL_RETRAINING__AFTER", "50")
        request = _tick(retrain_sensor, workspace, instance)
        assert isinstance(request, dg.RunRequest)
        assert request.partition_key == "all|all-MiniLM-L6-v2@384"
        tags = {LAUNCHED_FOR_TAG: request.tags[LAUNCHED_FOR_TAG]}
        create_run_for_test(instance, "retrain", tags=tags, status=dg.DagsterRunStatus.STARTED)
        assert "in flight" in str(_tick(retrain_sensor, workspace, instance))
    record_training(store, take_snapshot(workspace).snapshot_id)  # the retrain has trained, and its challenger lost
    with dg.DagsterInstance.ephemeral() as instance, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLYWHEEL_RETRAINING__AFTER", "50")
        assert _tick(retrain_sensor, workspace, instance) == "0 of 50 new training pairs"


def test_the_weekly_schedule_retrains_only_when_there_is_something_new(workspace: Workspace, tmp_path: Path) -> None:
    defs = build_defs(workspace.settings)
    schedule = defs.resolve_schedule_def("weekly_retrain")
    assert (schedule.cron_schedule, schedule.default_status) == ("0 3 * * 1", dg.DefaultScheduleStatus.RUNNING)
    with open_session(workspace.settings) as session:
        context = dg.build_schedule_context(instance=session.instance, resources=dict(defs.resources or {}))
        nothing = schedule(context)
        assert isinstance(nothing, dg.SkipReason)
        assert "no new training pairs" in str(nothing.skip_message)
        ingest_paths(workspace, [write(tmp_path, [line(f"a{i}", f"b{i}") for i in range(10)])])
        request = schedule(context)
        assert isinstance(request, dg.RunRequest)
        assert request.partition_key == "all|all-MiniLM-L6-v2@384"
        assert LAUNCHED_FOR_TAG in request.tags


def test_a_wrong_cron_schedule_is_one_sentence(workspace: Workspace) -> None:
    with pytest.raises(FlywheelError, match=r"retraining\.cron is not a cron schedule: 'sometimes'"):
        build_defs(with_options(workspace, retraining={"cron": "sometimes"}).settings)


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
            assert reap_dead_runs(instance) == []
            process.kill()
            process.wait()
            assert reap_dead_runs(instance) == [dying.run_id]
            after = {run.run_id: run.status for run in instance.get_runs()}
            assert after == {dying.run_id: dg.DagsterRunStatus.FAILURE, living.run_id: started}
            assert storage.claim_concurrency_slot(POOL, living.run_id, "finetuned_model").is_claimed


def test_a_failing_step_says_its_one_sentence_and_the_run_is_recorded(workspace: Workspace) -> None:
    with open_session(workspace.settings) as session:
        instance = session.instance
        with pytest.raises(FlywheelError, match="There is no snapshot yet"):
            materialise(session, ["leaderboard"])
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert PROCESS_TAG in run.tags


def test_an_unreadable_file_in_the_inbox_is_set_aside_and_the_others_are_taken(workspace: Workspace) -> None:
    _settled(write(workspace.home.inbox, [line("a", "b")], "good.jsonl"))
    _settled(write(workspace.home.inbox, [b"<html>"], "page.html"))
    summary = ingest_inbox(workspace)
    assert (summary.accepted, len(summary.rejected)) == (1, 1)
    (rejected,) = (workspace.home.inbox / "rejected").iterdir()
    assert rejected.name.endswith("-page.html")
    assert len(list((workspace.home.inbox / "done").glob("*-good.jsonl"))) == 1
    assert finished_files(workspace.home.inbox) == []


def test_a_file_that_takes_a_name_again_is_another_file_and_a_claim_is_taken_up_again(workspace: Workspace) -> None:
    for text in ("one", "two"):
        _settled(write(workspace.home.inbox, [line(text, "b")], "feedback.jsonl"))
        ingest_inbox(workspace)
    _settled(write(workspace.home.inbox / "work", [line("three", "b")], "0123456789ab-feedback.jsonl"))  # a killed run's claim
    assert waiting_files(workspace.home.inbox)
    assert ingest_inbox(workspace).files[0].file == "feedback.jsonl"
    assert waiting_files(workspace.home.inbox) == []
    assert len(list((workspace.home.inbox / "done").iterdir())) == 3
    assert count_pairs(workspace.store).pairs == 3


def test_quora_pairs_come_from_a_local_file_in_either_shape(workspace: Workspace, tmp_path: Path) -> None:
    import pandas as pd

    for columns in (("text_a", "text_b"), ("sentence1", "sentence2")):
        path = tmp_path / f"{columns[0]}.parquet"
        pd.DataFrame({columns[0]: ["how to a", "b"], columns[1]: ["how do a", ""], "label": [1, 0]}).to_parquet(path)
        local = with_options(make_workspace(tmp_path / columns[0]), pairs={"seed_pairs": "quora", "quora_path": path})
        report = ingest_seed(local)
        assert report is not None
        assert (report.accepted, report.quarantined) == (1, 1)
    missing = with_options(workspace, pairs={"seed_pairs": "quora", "quora_path": tmp_path / "none.parquet"})
    with pytest.raises(FlywheelError, match=r"pairs\.quora_path"):
        ingest_seed(missing)


def test_quora_without_a_file_and_without_a_hub_is_one_sentence(workspace: Workspace) -> None:
    with pytest.raises(FlywheelError, match=r"pairs\.quora_path"):
        ingest_seed(with_options(workspace, pairs={"seed_pairs": "quora"}))


def test_the_starter_interactions_hold_what_real_feedback_holds() -> None:
    files = sorted(STARTER.glob("interactions-*.jsonl"))
    assert len(files) == 2
    lines = [raw for file in files for raw in file.read_bytes().splitlines()]
    good = []
    for raw in lines:
        try:
            record = json.loads(raw)
        except ValueError:
            continue
        if isinstance(record, dict):
            good.append(record)
    assert len(lines) - len(good) >= 5, "malformed lines"
    events = [record["event_id"] for record in good if "event_id" in record]
    assert len(events) > len(set(events)), "events delivered twice"
    assert {"explicit", "implied"} == {record.get("kind", "explicit") for record in good}
