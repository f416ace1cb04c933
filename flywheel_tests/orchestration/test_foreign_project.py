"""Somebody else's Dagster project, with storage, executor and daemon of its own, runs the two flywheels that it names."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import psutil
import pytest

from flywheel.pipeline.ingest import ingest_paths
from flywheel.training.options import GridOptions
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.homes import make_workspace, write_a_pair
from flywheel_tests.helpers.postgres import DATABASE, USER, Postgres

pytestmark = [pytest.mark.slow, pytest.mark.long]

INSTANCE = """
storage:
  postgres:
    postgres_db: {{hostname: {host}, port: {port}, username: {user}, password: "", db_name: {database},
                  scheme: postgresql+psycopg2}}
concurrency: {{pools: {{default_limit: 1, granularity: op}}}}
telemetry: {{enabled: false}}
"""
PROJECT = """
[project]
name = "their-project"
version = "0.1"
requires-python = ">=3.11"
[tool.dg]
directory_type = "project"
[tool.dg.project]
root_module = "their_project"
code_location_name = "their_project.definitions"
"""
DEFINITIONS = """
from pathlib import Path

import dagster as dg

@dg.definitions
def defs():
    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
# Names that flywheel uses too; and a cell of the help desk's grid that they ask for themselves.
OWN = """
import dagster as dg

@dg.asset
def pairs(): ...

@dg.definitions
def own():
    help_desk = [dg.AssetKey(["help_desk", name]) for name in ("finetuned_model", "evaluation")]

    @dg.sensor(job_name="one_cell", default_status=dg.DefaultSensorStatus.RUNNING, minimum_interval_seconds=5)
    def ask_for_a_cell():
        return dg.RunRequest(run_key="once", partition_key="%s")

    return dg.Definitions(
        assets=[pairs],
        jobs=[dg.define_asset_job("ingest", selection=[pairs]), dg.define_asset_job("one_cell", selection=help_desk)],
        sensors=[ask_for_a_cell],
        executor=dg.multiprocess_executor.configured({"max_concurrent": 1}),
    )
"""
SETTINGS = """
[pairs]
seed_pairs = "starter"
[compute]
run_in = "inline"
[retraining]
after = 1
[grid]
variants = ["{variant}"]
"""


def write_project(folder: Path, homes: Path, cell: str) -> None:
    source = folder / "src" / "their_project"
    files = {
        folder / "pyproject.toml": PROJECT,
        source / "__init__.py": "",
        source / "definitions.py": DEFINITIONS,
        source / "defs" / "__init__.py": "",
        source / "defs" / "own.py": OWN % cell,
    }
    for name, sensors in (("search", "true"), ("help_desk", "false")):
        attributes = (
            f"home: {homes / name}, key_prefix: [{name}], group_prefix: {name}/, owners: [team:{name}], sensors: {sensors}"
        )
        files[source / "defs" / name / "defs.yaml"] = f"type: flywheel.FlywheelComponent\nattributes: {{{attributes}}}\n"
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def make_home(home: Path, demo: Path) -> str:
    """The demo's home with a new pair and a grid without the champion's variant, which is what it returns."""
    copy_home(demo, home)
    shutil.rmtree(home / "dagster")
    workspace = make_workspace(home)
    champion = workspace.registry.champion()
    assert champion is not None
    (variant,) = {*GridOptions().variants} - {champion.variant}
    workspace.home.settings_file.write_text(SETTINGS.format(variant=variant))
    ingest_paths(workspace, [write_a_pair(workspace)])
    return champion.variant


@contextmanager
def daemon(project: Path, environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "dagster._daemon", "run", "-m", "their_project.definitions"]
    with log.open("w") as output, subprocess.Popen(
        command, cwd=project, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            started = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGINT)
            for left in psutil.wait_procs([*started, psutil.Process(process.pid)], timeout=60)[1]:
                left.kill()


def test_a_cell_and_a_retraining_run_through_their_own_daemon(
    demo: tuple[Path, object], postgres: Postgres, tmp_path: Path
) -> None:
    homes, project, dagster_home = tmp_path / "homes", tmp_path / "project", tmp_path / "their-dagster"
    homes.mkdir()
    outside = {name: make_home(homes / name, demo[0]) for name in ("search", "help_desk")}["search"]
    inside = f"100|{make_workspace(homes / 'help_desk').settings.grid.variants[0]}"
    write_project(project, homes, inside)
    dagster_home.mkdir()
    settings = INSTANCE.format(host=postgres.host, port=postgres.port, user=USER, database=DATABASE)
    (dagster_home / "dagster.yaml").write_text(settings)
    before = {name: {path.name for path in (homes / name).iterdir()} for name in ("search", "help_desk")}
    python_path = os.pathsep.join([str(project / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "DAGSTER_HOME": str(dagster_home), "PYTHONPATH": python_path}

    dg_command = [str(Path(sys.executable).with_name("dg")), "check", "defs"]
    checked = subprocess.run(dg_command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "All definitions loaded successfully" in checked.stdout
    assert {name: {path.name for path in (homes / name).iterdir()} for name in before} == before, "looking writes nothing"

    log = tmp_path / "daemon.log"
    with daemon(project, environment, log) as process, dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        jobs, deadline = ("one_cell", "search_retrain"), time.monotonic() + 1800
        while True:
            ended = {job: [run.status for run in instance.get_runs(dg.RunsFilter(job_name=job))] for job in jobs}
            if all(statuses and statuses[0].value in ("SUCCESS", "FAILURE") for statuses in ended.values()):
                break
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{ended}\n{log.read_text()[-3000:]}"
            time.sleep(1)
        assert ended == {job: [dg.DagsterRunStatus.SUCCESS] for job in jobs}, failures(instance)
        evaluated = instance.get_latest_materialization_event(dg.AssetKey(["help_desk", "evaluation"]))
        retrained = instance.get_latest_materialization_event(dg.AssetKey(["search", "retrained_model"]))
        assert evaluated is not None
        assert evaluated.asset_materialization is not None
        assert evaluated.asset_materialization.partition == inside
        assert retrained is not None
        assert retrained.asset_materialization is not None
        assert retrained.asset_materialization.metadata["variant"].value == outside
        assert instance.get_latest_materialization_event(dg.AssetKey(["search", "champion"])) is not None
        assert not instance.get_runs(dg.RunsFilter(job_name="help_desk_retrain")), "its sensors are off"
    assert (dagster_home / "dagster.yaml").read_text() == settings
    for name in before:
        assert not (homes / name / "dagster").exists(), "their Dagster is the only one"


def failures(instance: dg.DagsterInstance) -> list[str]:
    return [
        f"{event.step_key}: {event.message}"
        for run in instance.get_runs()
        for entry in instance.all_logs(run.run_id)
        if (event := entry.dagster_event) and event.is_failure
    ]
