"""What a run trained is what it evaluates, on the snapshot it was trained on, whatever others do meanwhile."""

import json
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.comparison import Baseline
from flywheel.files import locked
from flywheel.models.catalogue import Variant
from flywheel.orchestration.instance import POOL, Session, open_session
from flywheel.orchestration.materialise import materialise
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline import evaluation as measuring
from flywheel.pipeline.ingest import ingest_paths, take_snapshot
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel_tests.helpers.clumps import World, take_world
from flywheel_tests.helpers.homes import make_workspace

CELL = Cell(Variant.parse("all-MiniLM-L6-v2@256"), "100")


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A home with a snapshot of real questions, too few for an interval."""
    workspace = make_workspace(tmp_path / "home", evaluation={"min_components": 2}, pairs={"seed_pairs": "none"})
    return take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-8 * 48 :])


def take_another(workspace: Workspace, tmp_path: Path) -> str:
    """One more pair, and a snapshot with it; returns the snapshot's id."""
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"text_a": "where is my invoice", "text_b": "my invoice, where is it", "label": 1}))
    ingest_paths(workspace, [more])
    return take_snapshot(workspace).snapshot_id


def evaluations(session: Session) -> list[dg.AssetMaterialization]:
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey("evaluation"), asset_partitions=[session.grid.key(CELL)])
    records = session.instance.fetch_materializations(wanted, limit=10).records
    return [record.asset_materialization for record in records if record.asset_materialization]


def test_a_cell_is_evaluated_on_the_snapshot_it_was_trained_on(world: World, tmp_path: Path) -> None:
    with open_session(world.workspace.settings) as session:
        trained = materialise(session, ["finetuned_model"], CELL)["finetuned_model"]
        assert take_another(world.workspace, tmp_path) != trained["snapshot_id"] == world.snapshot.snapshot_id
        evaluated = materialise(session, ["evaluation"], CELL)["evaluation"]
        assert evaluated["snapshot_id"] == world.snapshot.snapshot_id
        assert evaluated["test_id"] == world.snapshot.test_id
    records = list(world.workspace.home.evaluations.glob(f"{world.snapshot.test_id}/{trained['model']}/evaluation.json"))
    assert len(records) == 1


def test_a_cell_that_is_not_trained_is_one_sentence_whose_remedy_works(world: World) -> None:
    with open_session(world.workspace.settings) as session:
        with pytest.raises(FlywheelError, match=r"100\|all-MiniLM-L6-v2@256 has no trained model.*`finetuned_model` first"):
            materialise(session, ["evaluation"], CELL)
        materialise(session, ["finetuned_model"], CELL)
        assert materialise(session, ["evaluation"], CELL)["evaluation"]["snapshot_id"] == world.snapshot.snapshot_id


@pytest.mark.slow
def test_two_runs_of_a_cell_that_overlap_each_evaluate_their_own_model(world: World, tmp_path: Path) -> None:
    workspace = world.workspace
    job = training_job(workspace, world.snapshot, CELL, "head")
    settings = workspace.home.settings_file
    settings.write_text('[pairs]\nseed_pairs = "none"\n[evaluation]\nmin_components = 2\n')
    command = [sys.executable, "-m", "flywheel.cli", "train", str(CELL.variant), CELL.size, "--json"]

    def train() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, "--home", str(workspace.home.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    with open_session(workspace.settings) as session:
        pool = session.instance.event_log_storage
        with locked(workspace.home.models, job.job_id):
            first = train()
            while not pool.get_concurrency_info(POOL).active_slot_count:  # it has found its snapshot and waits for its job
                assert first.poll() is None, first.communicate()
                time.sleep(0.1)
            later = take_another(workspace, tmp_path)
            second = train()
        answers = [json.loads(process.communicate(timeout=300)[0]) for process in (first, second)]
        assert [answer["snapshot_id"] for answer in answers] == [world.snapshot.snapshot_id, later]
        named = {evaluation.metadata["snapshot_id"].value for evaluation in evaluations(session)}
        assert named == {world.snapshot.snapshot_id, later}
    for answer in answers:
        record = json.loads((Path(answer["model"]) / "flywheel.json").read_text())
        assert record["job"]["snapshot_id"] == answer["snapshot_id"]


def test_a_run_stays_on_the_snapshot_it_began_with(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, later = measuring.measure_baseline, []

    def measure_while_another_is_taken(workspace: Workspace, snapshot: Snapshot, pay: bool) -> Baseline:
        later.append(take_another(world.workspace, tmp_path))
        return measure(workspace, snapshot, pay)

    monkeypatch.setattr(measuring, "measure_baseline", measure_while_another_is_taken)
    with open_session(world.workspace.settings) as session:
        done = materialise(session, ["baseline_scores", "api_heads", "leaderboard"])
        assert later != [world.snapshot.snapshot_id]
        assert {done[name]["snapshot_id"] for name in ("baseline_scores", "leaderboard")} == {world.snapshot.snapshot_id}
        monkeypatch.undo()
        with pytest.raises(FlywheelError, match=r"Nothing has been evaluated on snapshot .* materialise `baseline_scores`"):
            materialise(session, ["leaderboard"])
        assert materialise(session, ["baseline_scores", "leaderboard"])["leaderboard"]["snapshot_id"] == later[0]
