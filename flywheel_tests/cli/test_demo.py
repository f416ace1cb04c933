"""The whole loop through the command line, on the starter set, in a temporary home."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flywheel.orchestration.instance import open_session
from flywheel_tests.conftest import copy_home, flywheel, verb
from flywheel_tests.helpers.homes import make_workspace

Demo = tuple[Path, subprocess.CompletedProcess[str]]


def test_the_demo_ends_with_a_table_a_figure_a_champion_and_what_to_type_next(demo: Demo) -> None:
    home, run = demo
    assert run.returncode == 0, run.stderr
    for said in ("baseline", "untuned", "95 % interval", "Champion:", "error_versus_size.png", "flywheel up"):
        assert said in run.stdout
    assert "not text-embedding-3-small" in run.stdout
    assert "Published elsewhere" in run.stdout
    assert (home / "error_versus_size.png").read_bytes().startswith(b"\x89PNG")
    for noise in ("DEBUG", "telemetry", "Warning", "warning", "Traceback"):
        assert noise not in run.stdout + run.stderr


def test_the_untuned_baseline_is_well_above_five_percent_and_the_champion_provably_below_it(demo: Demo) -> None:
    home, _ = demo
    board = json.loads(verb("leaderboard", "--json", "--home", home).stdout)
    (baseline,) = [row for row in board if row["kind"] == "baseline"]
    assert baseline["error"] > 0.1
    assert [row for row in board if row["kind"] == "published" and "error" not in row and row["published_error"] > 0]
    champion = json.loads(verb("champion", "show", "--json", "--home", home).stdout)
    assert champion["error"] < baseline["error"]
    assert champion["verdict"]["p_value"] < champion["verdict"]["alpha"]
    assert champion["verdict"]["ci_high"] < 0
    assert Path(champion["model"], "model.safetensors").exists()


def test_dagster_shows_the_cells_the_data_fills_and_leaves_the_others_empty(demo: Demo) -> None:
    home, _ = demo
    with open_session(make_workspace(home).settings) as session:
        instance = session.instance
        from dagster import AssetKey, DagsterRunStatus, RunsFilter

        cells = instance.get_materialized_partitions(AssetKey("evaluation"))
        sizes = ("100", "200", "400", "800", "1600", "3200", "all")
        assert cells == {f"{size}|all-MiniLM-L6-v2@{dim}" for size in sizes for dim in (256, 384)}
        assert instance.get_materialized_partitions(AssetKey("finetuned_model")) == cells
        assert not instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.FAILURE]))
        for name in ("seed_pairs", "interaction_pairs", "pairs", "snapshot", "baseline_scores", "leaderboard", "champion"):
            assert instance.get_latest_materialization_event(AssetKey(name)) is not None, name


def test_a_second_demo_does_no_work_twice_and_says_so(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "again")
    files = {path.relative_to(home): path.stat().st_mtime_ns for path in home.glob("models/**/*") if path.is_file()}
    shards = sorted(home.glob("cache/**/*.npy"))
    history = verb("champion", "history", "--json", "--home", home).stdout
    run = verb("demo", "--home", home)
    assert run.returncode == 0, run.stderr
    assert "0 cells to train, 14 already finished" in run.stdout
    assert "nothing ingested twice" in run.stdout
    assert "no question was encoded and no cell trained a second time" in run.stdout
    assert "not text-embedding-3-small" in run.stdout
    assert {path.relative_to(home): path.stat().st_mtime_ns for path in home.glob("models/**/*") if path.is_file()} == files
    assert sorted(home.glob("cache/**/*.npy")) == shards
    assert verb("champion", "history", "--json", "--home", home).stdout == history


def test_new_interactions_move_the_snapshot_and_mark_older_cells_stale(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "moved")
    before = make_workspace(home).snapshots.latest()
    assert before is not None
    known = sorted(set(before.pairs("train")["text_a"]))
    new = tmp_path / "new.jsonl"
    new.write_text("\n".join(json.dumps({"text_a": f"{t} please", "text_b": t, "label": 1}) for t in known[:40]))
    counts = json.loads(verb("ingest", new, "--json", "--home", home).stdout)
    assert counts["lines"] == counts["accepted"] + counts["duplicates"] + counts["quarantined"] == 40
    assert (counts["header"], counts["continuation"], counts["rejected"]) == (0, 0, [])
    snapshot = json.loads(verb("snapshot", "--json", "--home", home).stdout)
    assert snapshot["snapshot_id"] != before.snapshot_id
    assert snapshot["train"] == before.train.pairs + counts["accepted"]
    trained = json.loads(verb("train", "all-MiniLM-L6-v2@64", "200", "--json", "--home", home).stdout)
    assert trained["snapshot_id"] == snapshot["snapshot_id"]
    assert 0 < trained["calibration_set_error"] < 0.5
    board = json.loads(verb("leaderboard", "--json", "--home", home).stdout)
    stale = {(row["variant"], row["size"]): row["stale"] for row in board if row["kind"] == "tuned"}
    assert stale["all-MiniLM-L6-v2@64", "200"] is False
    assert stale["all-MiniLM-L6-v2@256", "200"] is True


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["train", "no-such-model@256", "100"], 1, "no base model 'no-such-model'"),
        (["train", "all-MiniLM-L6-v2@4096", "100"], 1, "384"),
        (["train", "all-MiniLM-L6-v2@256", "102400"], 1, "102400 seed pairs, but `train` holds 4106"),
        (["train", "all-MiniLM-L6-v2@256", "many"], 1, "'many' is not a size"),
        (["train", "all-MiniLM-L6-v2@256", "100", "--recipe", "magic"], 1, "Unknown recipe 'magic'"),
        (["train", "bge-base-en-v1.5@256", "100"], 1, 'models."bge-base-en-v1.5".path'),
        (["train", "jina-embeddings-v2-small-en@256", "100"], 1, "models.jina-embeddings-v2-small-en.path"),
        (["ingest", "missing.jsonl"], 1, "is not a file"),
        (["champion", "rollback"], 1, "no earlier champion"),
        (["grid", "--size", "many"], 1, "'many' is not a size"),
        (["train"], 2, "Missing argument"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_clear_sentence(demo: Demo, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    before = sorted(demo[0].glob("models/*")), sorted(demo[0].glob("evaluations/*/*"))
    run = verb(*arguments, "--home", demo[0])
    assert run.returncode == code
    assert said in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr
    if code == 1:
        assert len(run.stderr.strip().splitlines()) == 1
    assert (sorted(demo[0].glob("models/*")), sorted(demo[0].glob("evaluations/*/*"))) == before


def test_a_cell_outside_the_grid_is_trained_and_on_the_leaderboard(demo: Demo, tmp_path: Path) -> None:
    home, cell = copy_home(demo[0], tmp_path / "outside"), ["--variant", "all-MiniLM-L6-v2@64", "--size", "123"]
    for outcome in ("trained", "done"):
        run = verb("grid", *cell, "--json", "--home", home)
        assert [row["outcome"] for row in json.loads(run.stdout)] == [outcome]
    board = json.loads(verb("leaderboard", "--json", "--home", home).stdout)
    assert any((row["variant"], row["size"]) == ("all-MiniLM-L6-v2@64", "123") for row in board)


def test_the_api_baseline_without_a_key_says_what_to_do(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "keyless")
    run = flywheel("champion", "promote", "--home", home, FLYWHEEL_BASELINE__SOURCE="openai")
    assert run.returncode == 1
    assert "OPENAI_API_KEY" in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "interrupted")
    shutil.rmtree(home / "models")
    shutil.rmtree(home / "evaluations")
    sizes = [word for size in ("100", "200", "400") for word in ("--size", size)]
    grid = ["grid", "--variant", "all-MiniLM-L6-v2@256", *sizes, "--home", str(home)]
    command = [sys.executable, "-m", "flywheel.cli", *grid]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not list(home.glob("models/[!.]*/flywheel.json")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # CPython's choice where it met the signal; 130 both, says a shell
    assert "the same command goes on" in errors
    assert 0 < len(list(home.glob("models/[!.]*/flywheel.json"))) < 3
    assert verb(*grid).returncode == 0
    assert len(list(home.glob("models/[!.]*/flywheel.json"))) == 3


def test_the_demo_spends_no_money_whatever_key_lies_about(demo: Demo) -> None:
    home, run = demo
    assert run.returncode == 0, run.stderr
    assert "not text-embedding-3-small" in run.stdout
    assert not list((home / "cache").glob("text-embedding-3-small*"))


def test_promote_shows_the_reigning_champion_and_says_when_nothing_was_judged(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "promoting")
    shown = json.loads(verb("champion", "show", "--json", "--home", home).stdout)
    promoted = json.loads(verb("champion", "promote", "--json", "--home", home).stdout)
    assert (promoted["model"], promoted["judged"]) == (shown["model"], False)
    said = verb("champion", "promote", "--home", home).stdout
    assert said.startswith("The champion is already the best candidate of this snapshot: nothing was judged.\n")
    assert "Decision 1 on pairs of this test set" in said


@pytest.mark.parametrize("damage", ["{}", "not json"])
def test_a_damaged_snapshot_is_one_sentence_and_made_anew(demo: Demo, tmp_path: Path, damage: str) -> None:
    home = copy_home(demo[0], tmp_path / "damaged")
    (manifest,) = [
        path for path in home.glob("snapshots/*/manifest.json")
        if path.parent.name == json.loads((home / "snapshots" / "latest.json").read_text())
    ]  # fmt: skip
    manifest.write_text(damage)
    run = verb("leaderboard", "--home", home)
    assert run.returncode == 1
    assert "flywheel snapshot" in run.stderr
    assert "Traceback" not in run.stderr
    assert verb("snapshot", "--home", home).returncode == 0
    assert verb("leaderboard", "--home", home).returncode == 0


@pytest.mark.parametrize("name", ["demo", "snapshot", "leaderboard", "up"])
def test_a_home_that_is_a_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    run = verb(name, "--home", tmp_path / "file")
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
    assert "--home" in run.stderr


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    run = flywheel("config", "--home", tmp_path, FLYWHEEL_SPLITS__SEED_TEST_SHARE="2")
    assert run.returncode == 1
    assert "FLYWHEEL_SPLITS__SEED_TEST_SHARE" in run.stderr
    run = flywheel("config", "--home", tmp_path, FLYWHEEL_SPLITS__SEED_TEST_SHAR="0.2")
    assert run.returncode == 1
    assert "FLYWHEEL_SPLITS__SEED_TEST_SHARE" in run.stderr
    run = flywheel("config", "--home", tmp_path, FLYWHEEL_NOSUCH="2")
    assert run.returncode == 0
    assert run.stderr.startswith("FLYWHEEL_NOSUCH is no setting and is ignored")


def test_help_and_config_never_show_the_key(tmp_path: Path) -> None:
    run = flywheel("config", "--json", "--home", tmp_path, OPENAI_API_KEY="sk-very-secret")
    assert json.loads(run.stdout)["retraining"]["after"] == {"value": 2000, "origin": "default"}
    assert "sk-very-secret" not in run.stdout + run.stderr


def test_a_damaged_record_is_one_sentence_whose_remedy_works(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "damaged-record")
    champion = json.loads(verb("champion", "show", "--json", "--home", home).stdout)
    (record,) = home.glob(f"evaluations/*/{Path(champion['model']).name}/evaluation.json")
    before = json.loads(record.read_text())
    record.write_text("{")
    refused = verb("leaderboard", "--home", home)
    assert refused.returncode == 1
    assert f"{record} is damaged" in refused.stderr
    assert "Delete its folder and run `flywheel grid`" in refused.stderr
    shutil.rmtree(record.parent)
    assert verb("grid", "--variant", champion["variant"], "--size", champion["size"], "--home", home).returncode == 0
    assert json.loads(record.read_text()) == before
    assert verb("leaderboard", "--home", home).returncode == 0


def test_a_cell_that_fails_is_named_and_the_demo_goes_on_when_it_is_put_right(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "in-the-way")
    champion = json.loads(verb("champion", "show", "--json", "--home", home).stdout)["model"]
    folder = next(path for path in sorted(home.glob("models/*/")) if path.name not in (".locks", Path(champion).name))
    shutil.rmtree(folder)
    shutil.rmtree(next(home.glob(f"evaluations/*/{folder.name}")))
    folder.write_text("in the way")
    refused = verb("demo", "--home", home)
    assert refused.returncode == 1
    assert str(folder.parent) in refused.stderr
    assert "Some cells failed" in refused.stderr
    assert "run `flywheel demo` again" in refused.stderr
    folder.unlink()
    again = verb("demo", "--home", home)
    assert again.returncode == 0, again.stderr
    assert "1 cells to train, 13 already finished" in again.stdout
    assert (folder / "model.safetensors").exists()


def test_a_champion_whose_model_is_gone_is_restored_when_its_folder_is_put_back(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "model-gone")
    folder = Path(json.loads(verb("champion", "show", "--json", "--home", home).stdout)["model"])
    folder.rename(tmp_path / "aside")
    refused = verb("champion", "rollback", "1", "--home", home)
    assert refused.returncode == 1
    assert f"The model folder {folder} of entry 1 is gone. Put a copy of it back" in refused.stderr
    (tmp_path / "aside").rename(folder)
    assert verb("champion", "rollback", "1", "--home", home).returncode == 0


def test_where_there_is_no_champion_the_verbs_that_are_named_make_one(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "no-champion")
    shutil.rmtree(home / "registry")
    refused = verb("champion", "--home", home)
    assert refused.returncode == 1
    assert "Run `flywheel grid`, then `flywheel champion promote`." in refused.stderr
    assert verb("grid", "--variant", "all-MiniLM-L6-v2@256", "--size", "all", "--home", home).returncode == 0
    assert verb("champion", "promote", "--home", home).returncode == 0
    assert verb("champion", "--home", home).returncode == 0


def test_where_no_model_was_proven_better_the_evidence_says_what_next(demo: Demo, tmp_path: Path) -> None:
    home = copy_home(demo[0], tmp_path / "not-proven")
    shutil.rmtree(home / "registry")
    for row in json.loads(verb("leaderboard", "--json", "--home", home).stdout):
        if row["kind"] == "tuned" and row["size"] != "100":
            shutil.rmtree(home / "evaluations" / row["test_id"] / row["record"])
    assert verb("champion", "promote", "--home", home).returncode == 0
    refused = verb("champion", "--home", home)
    assert refused.returncode == 1
    assert "No model was proven better" in refused.stderr
    told = verb("evidence", "--home", home)
    assert told.returncode == 0, told.stderr
    assert "Next" in told.stdout
