"""What a person finds on the pages of the UI, and launches there: metadata, cells that are skipped, jobs with a form."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from flywheel.errors import FlywheelError
from flywheel.orchestration import columns
from flywheel.orchestration.build import build_defs
from flywheel.orchestration.checks import served_vectors
from flywheel.orchestration.grid import train_one
from flywheel.orchestration.instance import Session, open_session
from flywheel.orchestration.materialise import materialise
from flywheel.orchestration.metadata import errors_by_size, rounded
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pipeline.evaluation import Served, evaluate_cell, leaderboard, measure_baseline
from flywheel.pipeline.training import train_cell
from flywheel.training.job import Cell
from flywheel_tests.helpers.clumps import clump_world
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.pipeline.test_turns import V32

CELL = Cell(V32, "100")


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A home with two evaluated cells."""
    home = tmp_path_factory.mktemp("pages") / "home"
    workspace = clump_world(home, clumps=240, baseline={"local_variant": str(V32)}).workspace
    workspace = with_options(workspace, grid={"variants": [str(V32)], "sizes": ["50", "100", "102400", "all"]})
    snapshot = workspace.current_snapshot()
    measure_baseline(workspace, snapshot, pay=False)
    for size in ("50", "100"):
        evaluate_cell(workspace, train_cell(workspace, snapshot, Cell(V32, size), "head"), snapshot)
    with open_session(workspace.settings) as opened:
        yield opened


def test_a_cell_that_cannot_be_filled_is_skipped_with_its_reason_and_a_verb_refuses_it(session: Session) -> None:
    workspace = session.workspace
    made = build_defs(workspace.settings, workspace=workspace, executor=dg.in_process_executor)
    cell = "102400|all-MiniLM-L6-v2@32"
    keys = [dg.AssetKey(name) for name in ("finetuned_model", "evaluation")]
    result = dg.materialize(
        [*(made.assets or ()), *(made.asset_checks or ())], selection=keys, instance=session.instance, partition_key=cell,
        resources={"workspace": workspace}, raise_on_error=False,
    )  # fmt: skip
    assert result.success
    assert not result.get_asset_materialization_events()
    assert not result.get_asset_check_evaluations()
    said = [record.user_message for record in session.instance.all_logs(result.run_id)]
    assert any("@32 | 102400 is skipped: sizes above" in line for line in said)
    with pytest.raises(FlywheelError, match=r"@32 \| 102400: sizes above [\d,]+ cannot be filled, since `train` holds"):
        train_one(session, workspace.current_snapshot(), Cell(V32, "102400"), "head")


def test_a_verbs_run_is_named_after_what_it_makes_and_names_its_assets(session: Session) -> None:
    materialise(session, ["leaderboard"])
    run = session.instance.get_runs(limit=1)[0]
    assert run.job_name == "leaderboard_by_verb"
    assert run.asset_selection == {dg.AssetKey("leaderboard")}
    assert not [tag for tag in run.tags if not tag.startswith((".dagster/", "dagster/"))]


def test_errors_are_a_table_of_size_by_variant_and_the_board_is_one_too(session: Session) -> None:
    board = leaderboard(session.workspace, session.workspace.current_snapshot())
    table = errors_by_size(board)
    assert isinstance(table, dg.TableMetadataValue)
    rows = [record.data for record in table.records]
    errors = {str(row.size): f"{100 * row.error:.1f} %" for row in board.trained}
    assert rows == [{"size": size, str(V32): errors[size]} for size in ("50", "100")]
    shown = materialise(session, ["leaderboard"])["leaderboard"]
    assert len(shown["board"].records) == len(board.rows) + (board.guess is not None)
    assert {tuple(record.data) for record in shown["board"].records} == {("model", "train pairs", "error (95 %)", "MRR@10")}
    assert re.fullmatch(r"[\d.]+ % \([\d.]+ to [\d.]+ %\)", shown["board"].records[0].data["error (95 %)"])
    assert "unseen test pairs" in shown["board_in_words"]


def test_an_evaluation_stands_beside_the_untuned_model_and_the_baseline(session: Session) -> None:
    made = build_defs(session.workspace.settings, workspace=session.workspace)
    train_one_cell = materialise_cell(made, session)
    assert train_one_cell["error_untuned"] == train_one_cell["error_baseline"], "they are one model here"
    below = 100 * (train_one_cell["error_untuned"] - train_one_cell["error"])
    assert train_one_cell["points_below_untuned"] == pytest.approx(below, abs=0.011)


def materialise_cell(made: dg.Definitions, session: Session) -> dict[str, Any]:
    """The metadata of the evaluation of a cell that is trained already, without the checks that load its weights."""
    assets = [each for each in made.assets or () if isinstance(each, dg.AssetsDefinition)]
    wanted = [each for each in assets if each.key.path[-1] in ("finetuned_model", "evaluation")]
    result = dg.materialize(
        wanted, instance=session.instance, partition_key="100|all-MiniLM-L6-v2@32", resources={"workspace": session.workspace}
    )
    (event,) = result.asset_materializations_for_node("evaluation")
    return {name: value.value for name, value in event.metadata.items()}


def test_an_operator_forgets_only_after_saying_so(tmp_path: Path) -> None:
    workspace = clump_world(tmp_path / "home", clumps=30).workspace
    job = build_defs(workspace.settings, workspace=workspace).resolve_job_def("forget")

    def launch(**config: Any) -> bool:
        run = {"ops": {"forget_pairs": {"config": config}}}
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(run, instance=instance, raise_on_error=False).success

    text = pairs_of(workspace.store)[0]
    assert launch(text_contains=text)
    assert text in pairs_of(workspace.store)
    assert not launch(really=True), "it says what to forget"
    assert launch(text_contains=text, really=True)
    assert text not in pairs_of(workspace.store)


def pairs_of(store: Store) -> list[str]:
    with store.transaction() as db:
        return [row[0] for row in db.execute("SELECT text_a FROM observations ORDER BY event, item").fetchall()]


def test_the_described_columns_are_those_of_the_tables(session: Session) -> None:
    with session.workspace.store.transaction() as db:
        for table, schema in (("observations", columns.OBSERVATIONS), ("pairs", columns.PAIRS)):
            held = [(name, kind) for name, kind, *_ in db.execute(f"DESCRIBE {table}").fetchall()]
            assert [(column.name, column.type) for column in schema.columns] == held, table
        file = next(Path(session.workspace.current_snapshot().folder).glob("calibration.parquet"))
        held = [(name, kind) for name, kind, *_ in db.execute("DESCRIBE FROM read_parquet(?)", [str(file)]).fetchall()]
    assert [(column.name, column.type) for column in columns.SNAPSHOT.columns] == held


def test_numbers_are_rounded_wherever_they_stand() -> None:
    assert rounded({"a": 0.123456, "b": [1.98761, "x"], "c": 3, "d": True}) == {
        "a": 0.1235,
        "b": [1.9876, "x"],
        "c": 3,
        "d": True,
    }


def test_how_far_served_vectors_may_be_depends_on_what_features_are_computed_in() -> None:
    assert served_vectors({"a": Served(0.02, 0.03)}).passed
    found = served_vectors({"a": Served(0.02, 0.03), "b": Served(0.011, 0.01)})
    assert not found.passed
    assert "0.011, in b; allowed 0.01" in str(found.description)
