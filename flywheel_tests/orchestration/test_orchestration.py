"""Dagster's side: what the code location offers, what sensors decide, and what becomes of dead runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.foreign import Portability
from flywheel.orchestration import checks
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.dagster_file import instance_config
from flywheel.orchestration.instance import (
    PROCESS_TAG,
    open_session,
)
from flywheel.orchestration.materialise import materialise
from flywheel.orchestration.partitions import Grid, parse_cell
from flywheel.pairs.deliveries import ingest_files
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.inbox import finished_files, rejected_deliveries, waiting_files
from flywheel.pairs.store.labels import count_pairs
from flywheel.pipeline.ingest import ingest_inbox, ingest_seed
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import SIZES, Cell
from flywheel_tests.helpers.homes import make_workspace, with_options
from flywheel_tests.pairs.test_ingest import line, write

HEAVY = (
    "torch, duckdb, pandas, pyarrow, transformers, sentence_transformers, datasets, sklearn, scipy, matplotlib, networkx, "
    "openai, numpy.random, jinja2, safetensors"
)


def test_the_code_location_loads_without_heavy_imports(tmp_path: Path) -> None:
    script = f"import sys, flywheel.definitions; print(sorted(set('{HEAVY}'.split(', ')) & set(sys.modules)))"
    environment = {**os.environ, "FLYWHEEL_HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert run.stdout.strip() == "[]"


def test_the_ticks_of_an_idle_home_import_nothing_heavy(tmp_path: Path) -> None:
    script = f"""
import sys
import dagster as dg
from flywheel.definitions import defs

repository = defs.get_repository_def()
for name in ("inbox_sensor", "retrain_sensor"):
    with dg.build_sensor_context(
        dg.DagsterInstance.ephemeral(), repository_def=repository, resources={{"workspace": defs.resources["workspace"]}}
    ) as context:
        print(defs.get_sensor_def(name).evaluate_tick(context).skip_message, file=sys.stderr)
print(sorted(set('{HEAVY}'.split(', ')) & set(sys.modules)))
"""
    workspace = make_workspace(tmp_path)
    workspace.home.inbox.mkdir()
    (tmp_path / "flywheel.toml").write_text("retraining.first = true\n")
    ingest_files(workspace.store, [write(tmp_path, [line("one question", "another question")])])
    environment = {**os.environ, "FLYWHEEL_HOME": str(tmp_path), "DAGSTER_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert "no finished files" in run.stderr
    assert "1 of 2,000 new interaction pairs" in run.stderr
    assert run.stdout.strip() == "[]"


def test_the_code_location_loads_under_any_dagster_home(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    script = "from flywheel.definitions import defs; print(defs.resources['workspace'].home)"
    for place in ({}, {"DAGSTER_HOME": str(tmp_path / "elsewhere")}):
        environment = {**os.environ, "FLYWHEEL_HOME": str(tmp_path / "home"), **place}
        command = [sys.executable, "-c", script]
        run = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=tmp_path)
        assert run.stdout.strip() == str(tmp_path / "home")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere"], "looking at it writes nothing"


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
        "seed_pairs": ("ingest", ["duckdb"], False, [], [], ["store"]),
        "interaction_pairs": (
            "ingest", ["duckdb"], False, [],
            ["all_lines_kept", "embargo_share", "quarantine_share", "rejected_files"], ["store"],
        ),
        "pairs": (
            "ingest", ["duckdb"], False, ["interaction_pairs", "seed_pairs"],
            ["contradictory_triangles", "label_conflicts"], [],
        ),
        "snapshot": (
            "ingest", ["parquet"], False, ["pairs"],
            ["label_drift", "leak_probe", "no_leakage", "prior_shift", "text_drift"], ["store"],
        ),
        "finetuned_model": (
            "train", ["huggingface", "pytorch"], True, ["snapshot"], ["folder_portability", "served_vectors"], ["gpu"],
        ),
        "retrained_model": (
            "train", ["huggingface", "pytorch"], False, ["snapshot"],
            ["cell_is_sane", "enough_components", "folder_portability", "served_vectors"], ["gpu"],
        ),
        "baseline_scores": ("evaluate", ["openai"], False, ["snapshot"], ["baseline_is_api", "baseline_is_sane"], ["api"]),
        "evaluation": ("evaluate", ["scikitlearn"], True, ["finetuned_model"], ["cell_is_sane", "enough_components"], ["gpu"]),
        "api_heads": (
            "evaluate", ["openai", "pytorch"], False, ["baseline_scores", "evaluation", "retrained_model"], [], [],
        ),
        "challengers": (
            "train", ["huggingface", "pytorch"], False, ["retrained_model", "snapshot"],
            ["challengers_trained", "folder_portability", "served_vectors"], ["gpu"],
        ),
        "leaderboard": (
            "evaluate", ["matplotlib", "table"], False,
            ["api_heads", "baseline_scores", "challengers", "evaluation", "retrained_model"],
            ["sides_are_sane"], [],
        ),
        "champion": (
            "promote", ["report"], False, ["leaderboard"], ["budget_left", "far_questions", "score_drift"], [],
        ),
        "evidence": ("promote", ["report"], False, ["champion"], [], []),
    }  # fmt: skip
    assert all(graph.get(key).code_version for key in graph.get_all_asset_keys())


def test_a_folder_that_other_programs_refuse_fails_its_blocking_check() -> None:
    assert checks.about("folder_portability")["blocking"]
    loads, refused = Portability("It loads.", ()), Portability("It loads.", ("tokenizer.json is missing",))
    good = checks.folder_portability({"first": loads, "second": loads})
    assert (good.passed, good.description) == (True, "It loads.")
    bad = checks.folder_portability({"first": loads, "second": refused})
    assert (bad.passed, bad.description) == (False, "second: tokenizer.json is missing")


def test_the_definitions_can_be_loaded_whole(workspace: Workspace) -> None:
    dg.Definitions.validate_loadable(build_defs(workspace.settings))


def test_the_matrix_has_the_grid_of_the_settings_and_a_demo_fills_it_by_default(workspace: Workspace) -> None:
    assert SIZES == ("100", "200", "400", "800", "1600", "3200", "6400", "12800", "25600", "51200", "102400", "all")
    assert len(Grid.of(workspace.settings.grid).partitions.get_partition_keys()) == 2 * len(SIZES)
    experiment = [f"{base}@{dim}" for base in ("bge-base-en-v1.5", "all-mpnet-base-v2") for dim in (256, 512)]
    grid = Grid.of(with_options(workspace, grid={"variants": experiment, "sizes": ["100", "all"]}).settings.grid)
    keys = {str(grid.key(Cell(Variant.parse(variant), size))) for variant in experiment for size in ("100", "all")}
    assert keys == set(grid.partitions.get_partition_keys())
    bge = Cell(Variant("bge-base-en-v1.5", 256), "100")
    assert bge in grid
    assert grid.key(bge) == "100|bge-base-en-v1.5@256"
    assert Cell(Variant("bge-base-en-v1.5", 64), "100") not in grid
    for key in (grid.key(bge), "100|bge-base-en-v1.5@256"):
        assert parse_cell(key) == bge


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"variants": ["nonsense@256"]}, "grid.*nonsense"),
        ({"variants": []}, r"grid\.variants"),
        ({"sizes": ["many"]}, "'many' is not a size"),
        ({"sizes": ["100", "0100"]}, "100 is there twice"),
    ],
)
def test_a_wrong_grid_is_one_sentence(tmp_path: Path, wrong: dict[str, list[str]], said: str) -> None:
    lines = [f"{name} = {json.dumps(value)}" for name, value in wrong.items()]
    (tmp_path / "flywheel.toml").write_text("\n".join(["[grid]", *lines]))
    with pytest.raises(FlywheelError, match=said):
        build_defs(tmp_path)


def test_the_top_level_dagster_yaml_says_what_flywheel_writes() -> None:
    assert yaml.safe_load((Path(__file__).parents[2] / "dagster.yaml").read_text()) == instance_config(Path("data/dagster"))


def test_a_wrong_cron_schedule_is_one_sentence(workspace: Workspace) -> None:
    with pytest.raises(FlywheelError, match=r"retraining\.cron is not a cron schedule: 'sometimes'"):
        build_defs(with_options(workspace, retraining={"cron": "sometimes"}).settings)


def test_a_failing_step_says_its_one_sentence_and_the_run_is_recorded(workspace: Workspace) -> None:
    with open_session(workspace.settings) as session:
        instance = session.instance
        with pytest.raises(FlywheelError, match="There is no snapshot yet"):
            materialise(session, ["leaderboard"])
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert PROCESS_TAG in run.tags


def _settled(path: Path) -> Path:
    os.utime(path, (1, 1))
    return path


def test_an_unreadable_file_in_the_inbox_is_set_aside_and_the_others_are_taken(workspace: Workspace) -> None:
    _settled(write(workspace.home.inbox, [line("a", "b")], "good.jsonl"))
    _settled(write(workspace.home.inbox, [b"<html>"], "page.html"))
    summary = ingest_inbox(workspace)
    assert (summary.accepted, len(summary.rejected)) == (1, 1)
    (rejected,) = rejected_deliveries(workspace.home.inbox)
    assert (rejected.path.name, rejected.reason) == ("page.html", summary.rejected[0])
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
