"""The board shows one snapshot: what belongs to an older one is marked, and what others published stands apart."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.leaderboard import Leaderboard, build_leaderboard
from flywheel.evaluation.records import Evaluation, Terms, evaluation_folder
from flywheel.evaluation.subjects import Subject, guess_subject, tuned_subject, untuned_subject
from flywheel.evidence.render.markdown import render_section
from flywheel.evidence.sections import board_section
from flywheel.evidence.words import percent
from flywheel.files import write_json
from flywheel.models.catalogue import Variant
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train
from flywheel_tests.helpers.clumps import World, clump_world, embed, take_world
from flywheel_tests.pairs.test_ingest import line


def measure(world: World, subject: Subject) -> Evaluation:
    return evaluate(subject, world.snapshot, world.workspace.home.evaluations, Terms(5))


def cell(world: World, size: str) -> Evaluation:
    model = train(world.job(size=size), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)
    return measure(world, tuned_subject(model, world.vectors))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home with a baseline, an untuned model and two cells."""
    world = clump_world(tmp_path_factory.mktemp("world"), clumps=30, evaluation={"min_components": 5})
    variant = Variant.parse("all-MiniLM-L6-v2@32")
    measure(world, untuned_subject(variant, world.snapshot, world.vectors))
    measure(world, untuned_subject(variant, world.snapshot, world.vectors, kind="baseline"))
    cell(world, "100")
    cell(world, "50")
    return world


def board_of(world: World) -> Leaderboard:
    return build_leaderboard(world.snapshot, world.workspace.home.evaluations)


def shown(board: Leaderboard) -> list[tuple[Any, ...]]:
    return [(row["kind"], row["size"], row["stale"]) for row in board.to_json() if "stale" in row]


def test_baseline_and_untuned_come_first_then_cells_by_size(world: World) -> None:
    cells = [("tuned", "50", False), ("tuned", "100", False)]
    assert shown(board_of(world)) == [("baseline", None, False), ("untuned", None, False), *cells]


def test_published_rows_come_last_and_have_a_published_error_and_no_error(world: World) -> None:
    board = board_of(world)
    *measured, guess, published = board.to_json()
    assert guess["kind"] == "guess"
    assert published["kind"] == "published"
    assert published["variant"] == "text-embedding-3-small@1536"
    assert published["published_error"] == pytest.approx(0.1662, abs=1e-4)
    assert published["n"] == 44635
    assert "error" not in published
    assert [row["error"] for row in measured] == [row.error for row in board.rows]
    assert all("published_error" not in row and {"ci_low", "ci_high", "n"} <= row.keys() for row in measured)


def test_cells_of_an_older_snapshot_are_stale_until_they_are_trained_again(world: World) -> None:
    text = "clump0 intenta wording9"
    new = take_world(world.workspace, [line(world.snapshot.pairs("train")["text_a"][0], text, 0)])
    new.vectors.cache.get([text], embed)
    assert new.snapshot.test_id == world.snapshot.test_id
    assert new.snapshot.snapshot_id != world.snapshot.snapshot_id
    assert shown(board_of(new)) == [("tuned", "50", True), ("tuned", "100", True)]
    assert board_of(new).tuned == []
    renewed = cell(new, "50")
    assert shown(board_of(new)) == [("tuned", "50", False), ("tuned", "100", True)]
    assert board_of(new).tuned == [renewed]


def test_the_apis_baseline_comes_first_and_holds_for_every_snapshot_of_a_test(world: World, tmp_path: Path) -> None:
    local = next(row for row in board_of(world).rows if row.kind == "baseline")
    api = replace(local, record_id="api", variant="text-embedding-3-small@1536", contamination=None, snapshot_id="older")
    old = replace(local, record_id="old", snapshot_id="older")
    for record in (local, old, api):
        write_json(evaluation_folder(tmp_path, record.test_id, record.record_id) / "evaluation.json", record.to_json())
    board = build_leaderboard(world.snapshot, tmp_path)
    assert board.rows == (api, local)
    assert not board.stale


def test_an_untuned_model_that_was_measured_again_is_one_row(world: World, tmp_path: Path) -> None:
    untuned, tuned = (next(row for row in board_of(world).rows if row.kind == kind) for kind in ("untuned", "tuned"))
    again = replace(untuned, record_id="a later version's")
    settings_changed = replace(tuned, record_id="with other settings")
    for age, record in enumerate((again, untuned, tuned, settings_changed)):
        file = evaluation_folder(tmp_path, record.test_id, record.record_id) / "evaluation.json"
        write_json(file, record.to_json())
        os.utime(file, (1e9 - age, 1e9 - age))
    assert build_leaderboard(world.snapshot, tmp_path).rows == (again, settings_changed, tuned)


def test_a_record_that_is_being_written_is_not_there_yet(world: World, tmp_path: Path) -> None:
    record = board_of(world).tuned[0]
    for name in (".aside-1-a", record.record_id):
        write_json(evaluation_folder(tmp_path, record.test_id, name) / "evaluation.json", record.to_json())
    assert build_leaderboard(world.snapshot, tmp_path).rows == (record,)


def test_of_several_older_records_of_a_cell_the_newest_is_shown(world: World, tmp_path: Path) -> None:
    template = board_of(world).tuned[0]
    for age, name in enumerate("bca"):
        record = replace(template, record_id=name, snapshot_id=f"older {name}")
        file = evaluation_folder(tmp_path, record.test_id, name) / "evaluation.json"
        write_json(file, record.to_json())
        os.utime(file, (1e9 - age, 1e9 - age))
    assert [row.record_id for row in build_leaderboard(world.snapshot, tmp_path).rows] == ["b"]


def test_the_commoner_label_is_a_row_that_is_neither_candidate_nor_baseline(world: World) -> None:
    board = board_of(world)
    guess = board.guess
    assert guess is not None
    commoner = int(world.snapshot.pairs("calibration")["label"].mean() >= 0.5)
    test = world.snapshot.pairs("test")
    assert guess.error == (test["label"] != commoner).mean()
    assert (guess.n, guess.components) == (len(test), test["component"].nunique())
    assert guess.interval is None, "twelve components or less carry no interval"
    rough = build_leaderboard(world.snapshot, world.workspace.home.evaluations, Terms(5)).guess
    assert rough is not None
    assert rough.interval is not None
    assert rough.interval.low < rough.error < rough.interval.high
    assert "guess" not in {row.kind for row in (*board.rows, *board.tuned)}
    section = render_section(board_section(board, None))
    assert f"| always the commoner label | guess | {percent(guess.error)} | none | " in section
    assert "guess: no model; always the label that is commoner in the calibration pairs." in section


def test_where_it_is_the_baseline_its_row_is_that_of_the_baseline(world: World, tmp_path: Path) -> None:
    record = evaluate(guess_subject(), world.snapshot, tmp_path, world.workspace.terms)
    board = build_leaderboard(world.snapshot, tmp_path)
    assert (board.rows, board.guess) == ((record,), None)
    assert record.error == board_of(world).guess.error  # type: ignore[union-attr]


def test_a_missing_interval_is_explained_by_its_own_split(world: World, tmp_path: Path) -> None:
    strict = Terms(world.snapshot.calibration.components + 1)  # type: ignore[operator]
    record = evaluate(guess_subject(), world.snapshot, tmp_path, strict)
    assert record.interval is None
    few = "test" if world.snapshot.test.components < strict.min_components else "calibration"  # type: ignore[operator]
    section = render_section(board_section(build_leaderboard(world.snapshot, tmp_path), None))
    assert f"No interval: in {few}, {getattr(world.snapshot, few).components} components are fewer than the" in section
