"""One decision rule a model: made once, from calibration pairs, and the same wherever a threshold is shown or decides."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.records import Evaluation, evaluation_folder
from flywheel.evaluation.scores import SCORES, decisions
from flywheel.evaluation.subjects import tuned_subject
from flywheel.evidence.page import Table, Text
from flywheel.models.catalogue import Variant
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.evaluation import evaluate_cell, leaderboard, measure_baseline, measure_champion
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.promotion import decide_champion
from flywheel.pipeline.publish import save_page
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel_tests.conftest import verb
from flywheel_tests.helpers.clumps import MINILM, clump_lines, clump_world, embed, six_texts

CELL = Cell(Variant.parse("all-MiniLM-L6-v2@32"), "400")
USERS = range(1000, 1200)
TARGET = 0.1
# Nine pairs of each of 200 clumps: a quarter of them is below the 500 that carry a fit of their own, 35 % are above.
SHARES = {"moved": 0.25, "own": 0.35}


def open_world(home: Path, calibration_share: float, **evaluation: Any) -> Workspace:
    """A home with 200 clumps of seed pairs and a snapshot of them."""
    splits = {"interaction_test_share": 0.25, "interaction_calibration_share": calibration_share}
    local = {"local_variant": str(CELL.variant)}
    options = {"splits": splits, "baseline": local, "compute": {"run_in": "inline"}, "evaluation": evaluation}
    return clump_world(home, clumps=200, **options).workspace


def deliver(workspace: Workspace) -> Snapshot:
    """What users leave: pairs of new clumps, two in three of them the same, where two in five of the seed pairs are."""
    events = [json.loads(line) for line in clump_lines(USERS)]
    kept = [event for event in events if event["label"] or event["text_a"].split()[2] == event["text_b"].split()[2]]
    lines = [json.dumps(event).encode() for event in kept]
    ingest(workspace.store, json_batch("users", "interaction", "users.jsonl", lines))
    workspace.vectors(MINILM.name).cache.get([text for clump in USERS for text in six_texts(clump)], embed)
    return take_snapshot(workspace)


@dataclass(frozen=True)
class Turn:
    """A cell that was trained, evaluated and promoted; `kind` says how its rule for interaction pairs came to be."""

    kind: str
    workspace: Workspace
    snapshot: Snapshot
    model: TrainedModel
    record: Evaluation


def turn_the_wheel(kind: str, workspace: Workspace, snapshot: Snapshot) -> Turn:
    model = train_cell(workspace, snapshot, CELL, "head")
    record = evaluate_cell(workspace, model, snapshot)
    measure_baseline(workspace, snapshot, pay=False)
    assert decide_champion(workspace, snapshot)[0].action == "promoted"
    measure_champion(workspace, snapshot)
    return Turn(kind, workspace, snapshot, model, record)


@pytest.fixture(scope="module", params=list(SHARES))
def turn(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Turn:
    workspace = open_world(tmp_path_factory.mktemp(request.param), SHARES[request.param], target_prior=TARGET)
    return turn_the_wheel(request.param, workspace, deliver(workspace))


def stored_scores(workspace: Workspace, record: Evaluation, split: str, snapshot: Snapshot) -> pd.DataFrame:
    """The scores beside a record, with the source of each pair."""
    table = pd.read_parquet(evaluation_folder(workspace.home.evaluations, record.test_id, record.record_id) / SCORES)
    sources = snapshot.pairs(split).set_index("pair_id")["source"]
    return table[table["split"] == split].assign(source=lambda rows: rows["pair_id"].map(sources))


def shown_json(workspace: Workspace, *words: str) -> Any:
    prior = workspace.settings.evaluation.target_prior
    environment = {} if prior is None else {"FLYWHEEL_EVALUATION__TARGET_PRIOR": str(prior)}
    answer = verb(*words, "--json", "--home", workspace.home.root, **environment)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def data_section(workspace: Workspace, snapshot: Snapshot) -> str:
    page, _ = save_page(workspace, snapshot)
    (section,) = (section for section in page.sections if section.title == "On whose data")
    rows = [" | ".join(row) for block in section.blocks if isinstance(block, Table) for row in block.rows]
    return "\n".join([*rows, *(block.text for block in section.blocks if isinstance(block, Text))])


def test_the_world_holds_what_makes_the_two_kinds_differ(turn: Turn) -> None:
    assert (turn.snapshot.calibration.interaction >= 500) == (turn.kind == "own")
    assert turn.snapshot.test.interaction > 300
    assert (turn.model.rule.is_shared, turn.model.rule.moved_to) == ((True, TARGET) if turn.kind == "moved" else (False, None))
    assert abs(turn.model.rule.interaction.threshold - turn.model.rule.seed.threshold) > 0.05


def test_folder_card_evaluation_board_and_champion_name_the_same_thresholds_and_errors(turn: Turn) -> None:
    workspace, model, record = turn.workspace, turn.model, turn.record
    in_folder = json.loads((model.folder / "flywheel.json").read_text())
    rule = DecisionRule.from_json(in_folder["decision_rule"])
    assert TrainedModel.load(model.folder).rule == model.rule == record.rule == rule
    assert in_folder["calibration_set_error"] == model.calibration_set_error == record.calibration_set_error

    card = (model.folder / "README.md").read_text()
    assert f"at least **{rule.interaction.threshold:.4f}**" in card
    assert f"For seed pairs the threshold is {rule.seed.threshold:.4f}." in card
    assert f"{100 * model.calibration_set_error:.2f} %" in card

    evaluated = evaluation_folder(workspace.home.evaluations, record.test_id, model.name) / "evaluation.json"
    assert json.loads(evaluated.read_text())["rule"] == in_folder["decision_rule"]

    figures = {"threshold": rule.interaction.threshold, "error": record.error}
    board = leaderboard(workspace, turn.snapshot).to_json()
    for rows in (board, shown_json(workspace, "leaderboard")):
        (row,) = (row for row in rows if row.get("record") == model.name)
        assert {name: row[name] for name in figures} == figures
        assert row["calibration_set_error"] == model.calibration_set_error

    champion = workspace.registry.champion()
    assert champion is not None
    assert champion.model == model.name
    assert (champion.threshold, champion.seed_threshold) == (rule.interaction.threshold, rule.seed.threshold)
    assert champion.error == record.error
    shown = shown_json(workspace, "champion", "show")
    assert {name: shown[name] for name in figures} == figures
    assert shown["seed_threshold"] == rule.seed.threshold

    words = data_section(workspace, turn.snapshot)
    for source, fit in rule.by_source.items():
        assert f"{source} | {fit.threshold:.4f} | {100 * fit.prior:.1f} %" in words


def test_card_and_page_claim_a_move_to_the_target_prior_only_where_there_was_one(turn: Turn) -> None:
    card, words = (turn.model.folder / "README.md").read_text(), data_section(turn.workspace, turn.snapshot)
    for text in (card, words):
        assert ("moved to 10.0 % of duplicates" in text) == (turn.kind == "moved")
    assert ("Interaction pairs have enough labels in calibration" in words) == (turn.kind == "own")


def test_every_decision_probability_and_error_is_by_that_rule(turn: Turn) -> None:
    rule, wrong = turn.model.rule, {}
    for split in ("calibration", "test"):
        table = stored_scores(turn.workspace, turn.record, split, turn.snapshot)
        scores, sources = table["score"].to_numpy(), table["source"].to_numpy()
        cut = np.where(sources == "interaction", rule.interaction.threshold, rule.seed.threshold)
        assert (table["same"].to_numpy() == (scores >= cut)).all()
        assert table["probability"].to_numpy() == pytest.approx(rule.probability(scores, sources))
        wrong[split] = ((scores >= cut) != table["label"].to_numpy(), sources)
    errors = {split: made.mean() for split, (made, _) in wrong.items()}
    assert errors == {"calibration": turn.model.calibration_set_error, "test": turn.record.error}
    assert turn.record.metrics.error == turn.record.error
    by_kind = {part.name: part.error for part in turn.record.slices}
    made, sources = wrong["test"]
    for source in ("seed", "interaction"):
        assert by_kind[f"{source} pairs"] == made[sources == source].mean()
    assert decisions(turn.workspace.home.evaluations, turn.record)["wrong"].mean() == turn.record.error
    assert turn.record.interval is not None
    assert turn.record.interval.low < turn.record.error < turn.record.interval.high
    # The one threshold for all that a reader of the board might take decides otherwise.
    table = stored_scores(turn.workspace, turn.record, "test", turn.snapshot)
    assert ((table["score"] >= rule.threshold) != table["label"]).mean() != turn.record.error


@pytest.mark.parametrize("target_prior", [None, 0.8])
def test_the_target_prior_of_the_day_changes_no_figure_of_a_trained_model(
    turn: Turn, tmp_path: Path, target_prior: float | None
) -> None:
    terms = replace(turn.record.terms, target_prior=target_prior)
    subject = tuned_subject(turn.model, turn.workspace.vectors(MINILM.name))
    record = evaluate(subject, turn.snapshot, tmp_path, terms, turn.workspace.domains)
    assert record.terms == terms
    assert replace(record, terms=turn.record.terms) == turn.record


def test_a_champion_decides_by_its_stored_rule_on_a_later_snapshot_whose_pairs_would_give_another(tmp_path: Path) -> None:
    workspace = open_world(tmp_path / "home", SHARES["own"])
    first = turn_the_wheel("seed alone", workspace, workspace.current_snapshot())
    assert first.model.rule.is_shared
    later = deliver(workspace)
    assert later.test_id != first.snapshot.test_id

    again = measure_champion(workspace, later)
    assert again is not None
    assert (again.record_id, again.snapshot_id, again.test_id) == (first.model.name, first.snapshot.snapshot_id, later.test_id)
    stored = TrainedModel.load(first.model.folder).rule
    assert again.rule == stored == first.record.rule
    table, made_of = (stored_scores(workspace, again, split, later) for split in ("test", "calibration"))
    scores, sources, labels = (table[name].to_numpy() for name in ("score", "source", "label"))
    assert (table["same"].to_numpy() == stored.decide(scores, sources)).all()
    assert again.error == (stored.decide(scores, sources) != labels).mean()
    assert again.interval is not None
    assert again.interval.low < again.error < again.interval.high

    fresh = DecisionRule.fit(*(made_of[name].to_numpy() for name in ("score", "label", "source")), None)
    assert not fresh.is_shared
    assert abs(fresh.threshold - stored.threshold) > 0.02
    assert (fresh.decide(scores, sources) != labels).mean() != again.error
    champion = workspace.registry.champion()
    assert champion is not None
    assert champion.threshold == stored.threshold

    # The page says so, and its remedy gives a model whose rule is made of the pairs of today.
    measure_baseline(workspace, later, pay=False)
    assert "`flywheel grid` trains models that have one for each." in data_section(workspace, later)
    renewed = train_cell(workspace, later, CELL, "head")
    assert not renewed.rule.is_shared
    assert evaluate_cell(workspace, renewed, later).rule == renewed.rule
