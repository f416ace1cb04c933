"""Machines without a shared disk: all that one needs of another is at the root, an S3-compatible server between them."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import numpy as np
import pytest

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation
from flywheel.home import Home
from flywheel.models.catalogue import Variant
from flywheel.models.folder import open_model
from flywheel.orchestration.build import build_defs
from flywheel.pairs.forget import Selection
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pipeline.cleanup import prune
from flywheel.pipeline.evaluation import evaluate_cell, leaderboard, measure_baseline, measure_champion
from flywheel.pipeline.exporting import export_folder, model_to_export
from flywheel.pipeline.forgetting import forget
from flywheel.pipeline.ingest import ingest_paths, take_snapshot
from flywheel.pipeline.promotion import decide_champion, decided_pairs, rollback
from flywheel.pipeline.publish import save_page
from flywheel.pipeline.training import train_cell, training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.decisions import count_decisions
from flywheel.training.checkpoints import KeptLayers
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel.training.progress import ignore_progress
from flywheel.training.shared import TrainedModels
from flywheel_tests.conftest import copy_home, flywheel, verb
from flywheel_tests.helpers.clumps import clump_world, noise
from flywheel_tests.helpers.homes import make_workspace, with_options, write_a_pair
from flywheel_tests.helpers.s3 import s3, served

__all__ = ["s3"]  # a fixture

REPOSITORY = Path(__file__).parents[2]
RETRAINING = {"after": 1, "first": True, "variant": "all-MiniLM-L6-v2@256"}  # as the demo promotes it
REMEMBERS = 'printf "%s\\n" "$@" > command.txt; exec "$@"'


def elsewhere(disk: Path) -> list[str]:
    """A command that starts a process with another disk: its own home, cache and working directory."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = [f"HOME={disk}", f"XDG_CACHE_HOME={disk}", f"PYTHONPATH={REPOSITORY}", f"PATH={path}"]
    return ["env", "-C", str(disk), *variables, "sh", "-c", REMEMBERS, "remembers"]


def undecided(demo: Path, home: Path, root: str, disk: Path) -> Workspace:
    """The demo's home without models, figures and decisions; its trainings run elsewhere."""
    copy_home(demo, home)
    for folder in (Home(home).models, Home(home).evaluations, Home(home).registry):
        shutil.rmtree(folder)
    disk.mkdir()
    compute = {"through": elsewhere(disk)}
    return make_workspace(home, storage={"root": root}, compute=compute, retraining=RETRAINING)


def retrain(workspace: Workspace) -> dg.ExecuteInProcessResult:
    """The retraining that the sensor asks for, in this process."""
    made, instance = build_defs(workspace.settings, workspace=workspace), dg.DagsterInstance.ephemeral()
    context = dg.build_sensor_context(instance=instance, definitions=made, resources={"workspace": workspace})
    (request,) = made.resolve_sensor_def("retrain_sensor").evaluate_tick(context).run_requests or ()
    return made.resolve_job_def("retrain").execute_in_process(instance=instance, tags=request.tags)


V32 = Variant.parse("all-MiniLM-L6-v2@32")
SHARED = {"evaluation": {"min_components": 5}, "baseline": {"local_variant": str(V32)}, "compute": {"run_in": "inline"}}


class Machines:
    """Two homes and nothing between them but a root; the first has pairs, models and a champion."""

    def __init__(self, folder: Path) -> None:
        self.root, self.folder = f"file://{folder}/root", folder
        self.here = clump_world(folder / "here", clumps=120, storage={"root": self.root}, **SHARED).workspace
        for size in ("50", "400"):
            self.measure(self.here, size)
        assert decide_champion(self.here, self.here.current_snapshot())[0].action == "promoted"

    def another(self, name: str) -> Workspace:
        """A machine with an empty home; it can encode nothing."""
        return make_workspace(self.folder / name, storage={"root": self.root}, encoding={"device": "gone"}, **SHARED)

    def measure(self, workspace: Workspace, size: str) -> Evaluation:
        snapshot = workspace.current_snapshot()
        measure_baseline(workspace, snapshot, pay=False)
        measure_champion(workspace, snapshot)
        return evaluate_cell(workspace, train_cell(workspace, snapshot, Cell(V32, size), "head"), snapshot)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    Machines(folder)
    return folder


@pytest.fixture
def machines(made: Path, tmp_path: Path) -> Machines:
    """A copy of two machines' folders for each test."""
    copied = object.__new__(Machines)
    copied.folder = copy_home(made, tmp_path / "machines")
    copied.root = f"file://{copied.folder}/root"
    copied.here = make_workspace(
        copied.folder / "here", storage={"root": copied.root}, encoding={"device": "gone"}, splits={"frozen_from": 0}, **SHARED
    )
    return copied


def test_an_empty_home_with_the_root_sees_champion_board_and_page_and_exports_the_model(machines: Machines) -> None:
    here, there = machines.here, machines.another("there")
    assert there.registry.current() == here.registry.current()
    boards = [leaderboard(each, each.current_snapshot()).to_json() for each in (here, there)]
    assert boards[0] == boards[1]
    pages = [save_page(each, each.current_snapshot())[0] for each in (here, there)]
    assert pages[0].answer == pages[1].answer
    export_folder(there, model_to_export(there, None), machines.folder / "exported")
    assert (machines.folder / "exported" / "modules.json").exists()


def test_no_machine_trains_evaluates_or_encodes_what_another_has_done(machines: Machines) -> None:
    here, there = machines.here, machines.another("there")  # whose device is gone: what is encoded fails
    snapshot = there.current_snapshot()
    model = train_cell(there, snapshot, Cell(V32, "400"), "head")
    assert model.reused
    theirs, ours = (machines.measure(each, "400") for each in (there, here))
    assert theirs == ours
    new = machines.measure(there, "100")
    assert new in leaderboard(here, snapshot).tuned
    assert here.trained.load(new.record_id).job.size == "100"


def test_no_level_of_a_test_set_is_spent_twice(machines: Machines) -> None:
    here, there = machines.here, machines.another("there")
    snapshot = there.current_snapshot()
    counted = [
        count_decisions(each.registry, snapshot.test_id, decided_pairs(each)) for each in (here, there, machines.another("3"))
    ]
    assert counted == [1, 1, 1]
    entry, new = decide_champion(there, snapshot)
    assert (entry.number, new) == (1, False), "the same two are judged once"


def test_a_rollback_on_one_machine_restores_the_model_on_another(machines: Machines) -> None:
    here, there = machines.here, machines.another("there")
    with here.registry.locked():
        present = here.registry.current()
        assert present is not None
        assert present.champion is not None
        other = replace(present.champion, model=next(name for name in here.trained.names() if name != present.champion.model))
        here.registry.append("promoted", other, None, present.number)
    assert rollback(there, None).champion == present.champion
    assert (there.home.models / present.champion.model / "flywheel.json").exists()
    assert here.registry.champion() == present.champion


def test_what_is_forgotten_on_one_machine_is_nowhere_and_comes_back_from_nowhere(machines: Machines) -> None:
    here, there = machines.here, machines.another("there")
    copy = there.current_snapshot()
    machines.measure(there, "400")
    text = copy.pairs("train")["text_a"].iloc[0]
    assert there.vectors(V32.base).missing([text]) == 0
    report = forget(here, Selection(text=text))
    assert report.snapshots == (copy.snapshot_id,)
    assert report.models
    assert report.champion
    assert there.vectors(V32.base).missing([text, "a text that is nowhere"]) == 2, "it follows when it looks there"
    with pytest.raises(FlywheelError, match="is deleted"):
        there.snapshots.share(copy)
    assert not copy.folder.exists()
    for workspace in (here, there, machines.another("later")):
        workspace.vectors(V32.base).cache.share()
        assert workspace.vectors(V32.base).missing([text]) == 1
        assert workspace.snapshots.all() == []


def test_a_model_that_only_the_root_has_is_named_when_its_pairs_are_forgotten(machines: Machines) -> None:
    for folder in (machines.here.home.models, machines.here.home.snapshots, machines.here.home.cache):
        shutil.rmtree(folder)
    champion = machines.here.registry.champion()
    assert champion is not None
    report = forget(machines.here, Selection(text="clump0 "))
    assert champion.model in (*report.models, *report.unknown)
    assert len(report.snapshots) == 1
    assert not (machines.here.home.models / champion.model).exists(), "no weights are fetched for that"


def test_layers_at_the_root_go_with_the_pairs_that_trained_them(machines: Machines) -> None:
    here, snapshot_id = machines.here, machines.here.current_snapshot().snapshot_id
    job = training_job(here, here.current_snapshot(), Cell(V32, "100"), "full")
    of_it, of_another = (
        KeptLayers(here.home.root / name, f"{here.root.models}/.tuned/{name}", ignore_progress) for name in "ab"
    )
    for kept, whose in ((of_it, snapshot_id), (of_another, "another")):
        checkpoint = kept.checkpoints / "checkpoint-1"
        checkpoint.mkdir(parents=True)
        (checkpoint / "trainer_state.json").write_text("{}")
        (kept.target / "job.json").write_text(replace(job, snapshot_id=whose).to_json())
        kept.keep_checkpoints()
    forget(here, Selection(text="clump0 "))
    assert {path.partition("/")[0] for path in storage.files(f"{here.root.models}/.tuned")} == {"b"}
    assert of_another.last_checkpoint() is not None


def test_an_empty_home_prunes_nothing_that_a_snapshot_at_the_root_needs(machines: Machines) -> None:
    there = machines.another("there")
    vectors = machines.here.vectors(V32.base)
    vectors.cache.get(["of no snapshot"], lambda texts: noise(texts, vectors.width))
    texts = unique_texts(machines.here.current_snapshot().pairs("train"))
    prune(there, states=True)
    later = machines.another("later").vectors(V32.base)
    assert (later.missing(texts), later.missing(["of no snapshot"])) == (0, 1)


def test_a_root_that_vanishes_in_mid_run_costs_nothing(machines: Machines) -> None:
    here = machines.here
    away = with_options(here, storage={"root": "nonsense://bucket"})
    with pytest.raises(FlywheelError, match=r"nonsense://bucket/.*storage\.root.*nothing is lost, run the same command again"):
        machines.measure(away, "100")
    record = machines.measure(here, "100")
    assert record in leaderboard(machines.another("there"), here.current_snapshot()).tuned


def test_a_home_that_has_the_root_only_stays_a_home(machines: Machines) -> None:
    shutil.rmtree(machines.folder / "root" / "registry")
    for _ in range(2):
        told = verb("champion", "history", "--home", machines.folder / "there", FLYWHEEL_STORAGE__ROOT=machines.root)
        assert (told.returncode, told.stdout) == (0, "No decision yet.\n"), told.stderr


@pytest.mark.parametrize(
    ("address", "server", "said"),
    [("s3://nobucket/root", None, "FileNotFoundError"), ("s3://pairs/root", "http://127.0.0.1:9", "EndpointConnectionError")],
)
def test_a_root_that_is_not_there_is_one_sentence(s3: str, address: str, server: str | None, said: str, tmp_path: Path) -> None:
    there = {"AWS_ENDPOINT_URL": server} if server else {}
    shown = flywheel("champion", "--home", tmp_path, FLYWHEEL_STORAGE__ROOT=address, **there)
    assert shown.returncode == 1
    assert shown.stderr.count("\n") == 1
    assert shown.stderr.startswith(f"flywheel: {address}/registry cannot be read ({said}: ")
    assert "Check the address (the setting storage.root), the credentials and the network" in shown.stderr


def test_credentials_that_are_refused_are_one_sentence(s3: str, tmp_path: Path) -> None:
    with served(INITIAL_NO_AUTH_ACTION_COUNT="0") as strict:
        shown = flywheel("champion", "--home", tmp_path, FLYWHEEL_STORAGE__ROOT=f"{s3}/root", AWS_ENDPOINT_URL=strict)
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1)
    assert "cannot be read (PermissionError: The AWS Access Key Id you provided does not exist" in shown.stderr


def test_a_command_for_trainings_that_is_not_there_is_one_sentence(machines: Machines) -> None:
    away = with_options(machines.here, compute={"through": ["nosuchcommand", "gpu-box"]})
    with pytest.raises(
        FlywheelError, match=r"^compute\.through cannot be started \(No such file or directory: nosuchcommand\)"
    ):
        machines.measure(away, "200")


# The sixth file kills the process that sends it, so that the upload ends half way however fast the machine is.
KILLED_UPLOAD = """
import os, signal, sys
from pathlib import Path
from s3fs import S3FileSystem
from flywheel import storage

sent, put = [], S3FileSystem.put_file

def put_or_die(self, file, *args, **kwargs):
    sent.append(file)
    if len(sent) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, file, *args, **kwargs)

S3FileSystem.put_file = put_or_die
storage.upload(Path(sys.argv[1]), sys.argv[2], "flywheel.json")
"""


@pytest.mark.slow
def test_an_upload_that_was_killed_is_no_model_and_the_next_one_completes_it(s3: str, machines: Machines) -> None:
    model = TrainedModel.load(machines.here.trained.find(machines.here.trained.names()[0]))
    uri = f"{s3}/killed"
    for number in range(40):
        (model.folder / f"{number}.bin").write_bytes(os.urandom(300_000))
    command = [sys.executable, "-c", KILLED_UPLOAD, str(model.folder), f"{uri}/{model.name}"]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(storage.files(uri)) == 6, "the checksums and five files"
    there = TrainedModels(machines.folder / "there", uri)
    assert (there.names(), there.find(model.name).exists(), list(there.records())) == ([], False, [])
    TrainedModels(model.folder.parent, uri).share(model)
    found = there.load(model.name)
    assert {file.name: file.read_bytes() for file in found.folder.glob("*.*")} == {
        file.name: file.read_bytes() for file in model.folder.glob("*.*")
    }


def test_a_home_brings_all_it_has_to_another_root_with_its_next_snapshot(machines: Machines) -> None:
    machines.root = f"file://{machines.folder}/later"
    here, there = with_options(machines.here, storage={"root": machines.root}), machines.another("there")
    take_snapshot(here)
    boards = [leaderboard(each, each.current_snapshot()).to_json() for each in (here, there)]
    assert boards[0] == boards[1]
    assert there.trained.names() == here.trained.names()
    assert model_to_export(there, None).name == model_to_export(here, None).name
    assert machines.measure(there, "400") in leaderboard(here, here.current_snapshot()).tuned
    before = storage.files(machines.root)
    take_snapshot(here)
    after = storage.files(machines.root)
    assert {name for name in after if after[name] != before.get(name)} <= {"snapshots/latest.json"}


def test_a_training_process_of_this_machine_works_in_the_home_and_at_the_root(machines: Machines) -> None:
    here = with_options(machines.here, compute={"run_in": "process"})
    kept = {file: file.stat().st_mtime_ns for file in here.home.snapshots.rglob("*.parquet")}
    record = machines.measure(here, "200")
    assert (here.home.models / record.record_id / "flywheel.json").exists()
    assert storage.read(f"{here.root.models}/{record.record_id}/flywheel.json") is not None
    assert {file: file.stat().st_mtime_ns for file in here.home.snapshots.rglob("*.parquet")} == kept, "it is fetched again"
    alone = with_options(machines.here, storage={"root": None})
    shutil.rmtree(here.home.models / record.record_id)
    again = machines.measure(alone, "200")
    assert again.error == record.error


def test_trainings_elsewhere_need_a_root(machines: Machines) -> None:
    alone = with_options(machines.here, storage={"root": None}, compute={"through": ["ssh", "gpu-box"]})
    with pytest.raises(FlywheelError, match=r"^Trainings on other machines .* Set storage\.root to an address"):
        machines.measure(alone, "200")


@pytest.mark.slow
def test_a_retraining_on_another_disk_ends_in_a_promotion_that_a_third_machine_sees(
    demo: tuple[Path, object], s3: str, tmp_path: Path
) -> None:
    root, disk = f"{s3}/two", tmp_path / "disk"
    here = undecided(demo[0], tmp_path / "here", root, disk)
    ingest_paths(here, [write_a_pair(here)])
    assert retrain(here).success
    entry = here.registry.current()
    assert entry is not None
    assert entry.action == "promoted"
    assert entry.champion is not None

    command = (disk / "command.txt").read_text()
    assert str(here.home.root) not in command
    assert command.count(f"{root}/") == 4
    work = Home(disk / "flywheel")
    assert (work.models / entry.champion.model / "flywheel.json").exists(), "it was trained there"
    assert storage.files(f"{root}/jobs") == {}

    third = make_workspace(tmp_path / "third", storage={"root": root})
    assert third.registry.history() == here.registry.history()
    boards = [leaderboard(each, each.current_snapshot()).to_json() for each in (here, third)]
    assert boards[0] == boards[1]
    environment = {"FLYWHEEL_STORAGE__ROOT": root}
    shown = [verb("champion", "--home", each.home.root, "--json", **environment) for each in (here, third)]
    assert [each.returncode for each in shown] == [0, 0], shown[1].stderr
    assert shown[0].stdout.replace(str(here.home.root), str(third.home.root)) == shown[1].stdout
    page = verb("evidence", "--home", third.home.root, "--json", **environment)
    assert page.returncode == 0, page.stderr
    export_folder(third, model_to_export(third, None), tmp_path / "exported")
    texts = third.current_snapshot().pairs("test")["text_a"].tolist()[:8]
    folders = (here.home.models / entry.champion.model, tmp_path / "exported")
    ours, theirs = (open_model(folder, "cpu").encode(texts, show_progress_bar=False) for folder in folders)
    assert np.array_equal(ours, theirs)
    vectors = third.vectors(entry.champion.variant.partition("@")[0])
    assert vectors.missing(texts) == 0, "nothing is encoded twice"
