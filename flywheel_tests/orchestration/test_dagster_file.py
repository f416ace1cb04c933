"""A home's dagster.yaml is ours only while it is as we wrote it, and somebody else's files are never written over."""

import json
import shutil
from pathlib import Path

import duckdb
import pytest
import yaml

from flywheel.errors import FlywheelError
from flywheel.home import Home
from flywheel.orchestration.dagster_file import instance_config, is_ours
from flywheel.orchestration.instance import open_session, prepare_home
from flywheel.settings import load_settings
from flywheel_tests.conftest import flywheel, verb

THEIRS = "storage:\n  sqlite:\n    base_dir: {base}\n# a comment of ours\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("DAGSTER_HOME", "FLYWHEEL_HOME"):  # opening a home sets them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home")


def opened(home: Home) -> int:
    """How many runs the home's Dagster knows."""
    with open_session(load_settings(home.root)) as session:
        return session.instance.get_runs_count()


def test_a_new_home_gets_one_and_a_moved_home_has_its_paths_brought_up_to_date(
    home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_home(home)
    assert yaml.safe_load(home.dagster_file.read_text()) == instance_config(home.dagster)
    before = home.dagster_file.stat().st_mtime_ns
    prepare_home(home)
    assert home.dagster_file.stat().st_mtime_ns == before
    moved = Home(home.root.rename(home.root.with_name("moved")))
    assert opened(moved) == 0
    assert yaml.safe_load(moved.dagster_file.read_text()) == instance_config(moved.dagster)
    assert not home.root.exists()
    assert caplog.messages == []


@pytest.mark.parametrize("text", [THEIRS, "", "{{}}\n", "# only a comment\n", "run_monitoring:\n  enabled: true\n"])
def test_one_of_somebody_elses_is_used_as_it_is_and_said(home: Home, caplog: pytest.LogCaptureFixture, text: str) -> None:
    theirs = text.format(base=home.root / "their-runs")
    home.dagster.mkdir()
    home.dagster_file.write_text(theirs)
    opened(home)
    opened(home)
    assert home.dagster_file.read_text() == theirs
    line = caplog.messages[0]
    assert line.startswith(f"{home.dagster_file} is your own and is used as it is: runs and events go to ")
    assert ("run_monitoring" in line) == ("run_monitoring" not in theirs)
    assert len(caplog.messages) == 2
    if "their-runs" in theirs:
        assert f"SQLite in {home.root}/their-runs" in line
        assert list((home.root / "their-runs").rglob("*.db"))
    assert not (home.dagster / "storage").exists()


def test_the_one_that_flywheel_wrote_is_its_owners_from_the_first_edit_on(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    prepare_home(home)
    edited = home.dagster_file.read_text().replace("max_concurrent_runs: 4", "max_concurrent_runs: 9")
    home.dagster_file.write_text(edited)
    assert opened(home) == 0
    assert home.dagster_file.read_text() == edited
    assert "is your own and is used as it is" in caplog.text
    assert "lacks" not in caplog.text
    home.dagster_file.unlink()  # to have flywheel's again
    prepare_home(home)
    assert is_ours(home.dagster_file)


@pytest.mark.parametrize(
    "text",
    [
        "storage: [\n", "- a\n- b\n", "nonsense_key: 1\n", "storage:\n  postgres:\n    postgres_url: {env: NO_SUCH_VARIABLE}\n",
        "storage:\n  module: no_such_module\n  class: Nothing\n  config: {}\n",
    ],
)  # fmt: skip
def test_one_that_dagster_cannot_use_is_one_sentence_and_moving_it_away_leads_on(tmp_path: Path, text: str) -> None:
    home = tmp_path / "home"
    file = Home(home).dagster_file
    file.parent.mkdir(parents=True)
    file.write_text(text)
    run = verb("grid", "--size", "100", "--home", home)
    assert run.returncode == 1
    assert run.stderr.startswith(f"flywheel: {file} is your own, and Dagster cannot use it: ")
    assert len(run.stderr.splitlines()) == 1
    assert file.read_text() == text
    file.rename(tmp_path / "dagster.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", "")
        assert opened(Home(home)) == 0


def test_a_dagster_home_that_is_another_is_said_and_left_alone(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "theirs"
    other.mkdir()
    no_seeds = {"FLYWHEEL_PAIRS__SEED_PAIRS": "none"}
    run = flywheel("snapshot", "--json", "--home", home.root, DAGSTER_HOME=str(other), **no_seeds)
    lines = [line for line in run.stderr.splitlines() if "DAGSTER_HOME" in line]
    said = f"DAGSTER_HOME is {other}, but this command keeps its runs in {home.dagster}, which `flywheel up` shows."
    assert lines == [said]
    assert run.stdout == "" or json.loads(run.stdout)
    assert list(other.iterdir()) == []
    (other / "dagster.yaml").write_text(theirs := "storage:\n  postgres:\n    postgres_url: postgresql://...\n")
    again = flywheel("snapshot", DAGSTER_HOME=str(other), FLYWHEEL_HOME=str(other), **no_seeds)
    assert "DAGSTER_HOME" in again.stderr
    assert (other / "dagster.yaml").read_text() == theirs
    assert (other / "dagster" / "dagster.yaml").exists()


@pytest.mark.parametrize(
    "name", ["models/theirs.bin", "cache/pip", "snapshots/monday", "evaluations", "evidence.html", "staging/a.sql"]
)
def test_a_folder_with_somebody_elses_files_is_no_home_until_it_is_made_one(tmp_path: Path, name: str) -> None:
    place = tmp_path / "project"
    (place / name).parent.mkdir(parents=True)
    (place / name).write_text("theirs")
    (place / "README.md").write_text("a project")
    for arguments in (["grid", "--size", "100"], ["pairs"], ["cache", "prune", "--states"]):
        run = verb(*arguments, "--home", place)
        assert run.returncode == 1
        assert f"{place} is no home of flywheel and holds {name.partition('/')[0]}, to which flywheel would write" in run.stderr
    assert sorted(path.name for path in place.iterdir()) == sorted(["README.md", name.partition("/")[0]])
    command = run.stderr.rpartition("make this one a home with `flywheel ")[2].partition("`")[0].split()
    assert verb(*command).returncode == 0
    assert verb("pairs", "--home", place).returncode == 0
    assert (place / name).read_text() == "theirs"


def test_a_folder_with_other_files_or_an_inbox_may_become_a_home(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / "events.jsonl").write_text("")
    (tmp_path / "models").mkdir()  # empty, as a volume that is mounted there
    Home(tmp_path).refuse_others_files()


def test_a_database_of_somebody_elses_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "flywheel.duckdb"
    with duckdb.connect(str(file)) as theirs:
        theirs.execute("CREATE TABLE customers AS SELECT 1 AS id")
    before = file.read_bytes()
    run = verb("pairs", "--home", tmp_path)
    assert run.returncode == 1
    assert f"{file} is somebody else's database: it holds customers and no table of flywheel's. Choose another" in run.stderr
    assert file.read_bytes() == before
    file.rename(tmp_path / "customers.duckdb")
    assert verb("pairs", "--home", tmp_path).returncode == 0


def test_a_home_that_is_copied_keeps_its_runs_apart(home: Home) -> None:
    prepare_home(home)
    copied = Home(shutil.copytree(home.root, home.root.with_name("copied")))
    prepare_home(copied)
    for each in (home, copied):
        assert yaml.safe_load(each.dagster_file.read_text()) == instance_config(each.dagster)


def test_a_link_that_leads_nowhere_is_kept_and_said(home: Home, tmp_path: Path) -> None:
    home.dagster.mkdir()
    home.dagster_file.symlink_to(tmp_path / "shared.yaml")
    with pytest.raises(FlywheelError, match=r"dagster\.yaml is your own, and Dagster cannot use it: .*No such file"):
        opened(home)
    assert home.dagster_file.is_symlink()
    assert not (tmp_path / "shared.yaml").exists()
