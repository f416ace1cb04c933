"""Housekeeping: what is in use stays, what is not goes, and a home in which the wheel turns stays as large as it is."""

import json
from pathlib import Path

import pytest

from flywheel.errors import FlywheelError
from flywheel.files import locked
from flywheel.models.catalogue import Variant
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pipeline.cleanup import list_cached
from flywheel.pipeline.evaluation import carry_along, evaluate_cell, leaderboard, measure_baseline, measure_champion
from flywheel.pipeline.housekeeping import find_leftovers, tidy
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.promotion import decide_champion, rollback
from flywheel.pipeline.publish import save_page
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.decisions import champion_of, count_decisions
from flywheel.training.job import Cell
from flywheel_tests.conftest import examples, verb
from flywheel_tests.helpers.clumps import clump_world, embed
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.pairs.test_ingest import line

V32 = Variant.parse("all-MiniLM-L6-v2@32")
TURNS = examples(15)


def new_home(folder: Path, **groups: dict[str, object]) -> Workspace:
    return clump_world(
        folder, clumps=60, baseline={"local_variant": str(V32)}, compute={"run_in": "inline"},
        evaluation={"min_components": 10}, **groups,
    ).workspace  # fmt: skip


def turn(workspace: Workspace, number: int) -> None:
    """A whole retraining with one more pair, as the job does it."""
    text = f"clump0 intenta wording{number + 9}"
    if number:
        known = workspace.current_snapshot().pairs("train")["text_a"][0]
        ingest(workspace.store, json_batch(f"turn {number}", "interaction", "test", [line(known, text, number % 2)]))
        workspace.vectors(V32.base).cache.get([text], embed)
    snapshot = take_snapshot(workspace)
    measure_baseline(workspace, snapshot, pay=False)
    measure_champion(workspace, snapshot)
    carry_along(workspace, snapshot)
    for size in ("all", *(() if number else ("50", "100"))):
        record = evaluate_cell(workspace, train_cell(workspace, snapshot, Cell(V32, size), "head"), snapshot)
    if number:
        decide_champion(workspace, snapshot)
    else:
        workspace.registry.append("promoted", champion_of(record), None, None, snapshot.snapshot_id)


def used(workspace: Workspace) -> int:
    home = workspace.home
    folders = (home.snapshots, home.models, home.evaluations, home.cache)
    files = (file.stat() for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum({file.st_ino: file.st_size for file in files}.values())


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[int]]:
    """A home after many turns with housekeeping after each, and how large it was after each."""
    workspace = new_home(tmp_path_factory.mktemp("turned"), housekeeping={"snapshots": 2})
    sizes = []
    for number in range(TURNS):
        turn(workspace, number)
        tidy(workspace)
        sizes.append(used(workspace))
    return workspace, sizes


def test_a_home_in_which_the_wheel_turns_stays_as_large_as_it_is(turned: tuple[Workspace, list[int]]) -> None:
    workspace, sizes = turned
    assert sizes[-1] < 1.1 * sizes[3], sizes
    assert len(list(workspace.home.snapshots.glob("*/manifest.json"))) <= 4
    assert find_leftovers(workspace) == []


def test_what_people_look_at_and_go_back_to_is_still_there(turned: tuple[Workspace, list[int]]) -> None:
    workspace, _ = turned
    history = workspace.registry.history()
    champions = [entry for entry in history if entry.champion]
    assert champions
    assert len(history) > len(champions)
    for entry in champions:
        assert entry.champion is not None
        assert (workspace.home.models / entry.champion.model / "model.safetensors").exists()
        workspace.snapshots.load(entry.champion.snapshot_id)
    board = leaderboard(workspace, workspace.current_snapshot())
    assert {row.size for row in board.rows if row.kind == "tuned"} == {"50", "100", "all"}, "the learning curve is whole"
    made = sum(entry.verdict is not None for entry in history)
    assert count_decisions(workspace.registry, board.snapshot.test_id, workspace.home.evaluations) == made, (
        "nothing is forgotten"
    )
    save_page(workspace, workspace.current_snapshot())
    turn(workspace, TURNS)
    assert rollback(workspace, champions[0].number).champion == champions[0].champion


def test_what_would_go_is_said_and_goes_whole(tmp_path: Path) -> None:
    workspace = new_home(tmp_path)
    for number in range(3):
        turn(workspace, number)
    tight = with_options(workspace, housekeeping={"snapshots": 1})
    workspace.vectors(V32.base).cache.get([f"clump0 intenta wording{n}" for n in range(1000, 1300)], embed)  # of no snapshot
    before = used(workspace)
    leftovers = find_leftovers(tight)
    assert {each.kind for each in leftovers} == {"snapshot", "model", "evaluation"}
    assert used(workspace) == before
    said = verb("housekeeping", "--dry-run", "--home", tmp_path, FLYWHEEL_HOUSEKEEPING__SNAPSHOTS="1")
    assert said.returncode == 0
    assert "would go" in said.stdout
    said = verb("housekeeping", "--dry-run", "--json", "--home", tmp_path, FLYWHEEL_HOUSEKEEPING__SNAPSHOTS="1")
    cached, held = json.loads(said.stdout)["cached_bytes"], sum(each.bytes for each in list_cached(workspace))
    assert used(workspace) == before, "nothing went"
    (model, *_) = (each.folder for each in leftovers if each.kind == "model")
    with locked(workspace.home.models, model.name):  # as a training does
        tidy(tight)
        assert model.exists()
    assert tidy(tight) > 0
    assert held - sum(each.bytes for each in list_cached(workspace)) == pytest.approx(cached, rel=0.1)
    assert not any(each.folder.exists() for each in leftovers)
    assert find_leftovers(tight) == []


def test_a_damaged_record_or_model_stays_and_stops_nothing(tmp_path: Path) -> None:
    workspace = new_home(tmp_path, housekeeping={"snapshots": 1})
    for number in range(2):
        turn(workspace, number)
    record = next(workspace.home.evaluations.glob("*/*/evaluation.json"))
    record.write_text("{")
    model = workspace.home.models / "damaged"
    model.mkdir()
    (model / "flywheel.json").write_text("{")
    try:
        tidy(workspace)
    except FlywheelError as error:
        pytest.fail(str(error))
    assert record.exists()
    assert model.exists()
