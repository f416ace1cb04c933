"""From few labels to a champion: every labelled pair trains and judges, and the verdict is on the procedure."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.retention import general_domain
from flywheel.evaluation.scores import chosen_in_folds, decisions
from flywheel.models.catalogue import Variant
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.evaluation import evaluate_cell, leaderboard, measure_baseline, measure_champion
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.promotion import decide_champion
from flywheel.pipeline.publish import find_evidence
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel_tests.helpers.clumps import MINILM, clump_lines, embed, noise, six_texts
from flywheel_tests.helpers.homes import make_workspace, with_options

WIDE, NARROW = Variant("all-MiniLM-L6-v2", 48), Variant("all-MiniLM-L6-v2", 32)
CLUMPS = 42  # of fifteen pairs each


def few_labels(home: Path) -> Workspace:
    """A home of a team with labels of its own alone, as many as no test pairs are set aside from."""
    workspace = make_workspace(
        home, pairs={"seed_pairs": "none"}, encoding={"device": "gone"},
        training={"recipes": {"head": {"learning_rate": 0.03, "epochs": 2, "min_steps": 20}}}, compute={"run_in": "inline"},
        baseline={"source": "local", "local_variant": str(WIDE)},
    )  # fmt: skip
    bring(workspace, range(CLUMPS))
    workspace.vectors(MINILM.name).cache.get(unique_texts(general_domain().read()), noise)
    return workspace


def bring(workspace: Workspace, clumps: range) -> None:
    """Ingest the labelled pairs of some clumps; their vectors are cached, and no encoder is there."""
    ingest(workspace.store, json_batch(f"batch {clumps}", "interaction", "test", clump_lines(clumps)))
    texts = [text for clump in clumps for text in six_texts(clump)]
    workspace.vectors(MINILM.name).cache.get(texts, embed)


def trained(workspace: Workspace, snapshot: Snapshot, variant: Variant, size: str = "all") -> tuple[TrainedModel, Evaluation]:
    model = train_cell(workspace, snapshot, Cell(variant, size), "head")
    return model, evaluate_cell(workspace, model, snapshot)


def test_a_model_that_beats_the_baseline_on_pairs_its_folds_have_not_seen_becomes_champion(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    snapshot = take_snapshot(workspace)
    assert snapshot.is_cross_fitted
    baseline = measure_baseline(workspace, snapshot, pay=False).evaluation
    model, record = trained(workspace, snapshot, WIDE)
    judging = snapshot.judging_pairs()
    assert (record.metrics.n, record.components, model.train_pairs) == (len(judging), CLUMPS, len(judging))
    assert record.interval is not None
    assert record.no_verdict is None
    assert record.error < baseline.error - 0.05
    assert sum(getattr(record.parts, part) for part in ("ranking", "threshold", "prior")) == pytest.approx(record.error)
    entry, new = decide_champion(workspace, snapshot)
    assert (new, entry.action) == (True, "promoted")
    assert entry.verdict is not None
    assert entry.verdict.folds == snapshot.folds
    assert decide_champion(workspace, snapshot) == (entry, False)
    evidence = find_evidence(workspace, snapshot)
    assert evidence.champion_id == model.name == record.record_id


def test_what_was_decided_can_be_made_again_from_the_folds_of_the_folder(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    snapshot = take_snapshot(workspace)
    model, record = trained(workspace, snapshot, NARROW)
    pairs, made = snapshot.judging_pairs().set_index("pair_id"), decisions(workspace.home.evaluations, record)
    for fold, (head, chosen) in enumerate(zip(model.fold_heads(), model.folds, strict=True)):
        mine = pairs[pairs["fold"] == fold]
        left, right = (head.apply(embed(list(mine[side]))) for side in ("text_a", "text_b"))
        same = chosen.rule.decide((left * right).sum(1).astype(np.float64), mine["source"].to_numpy())
        pd.testing.assert_series_equal(
            pd.Series(same != mine["label"], mine.index, name="wrong"), made.loc[mine.index, "wrong"], check_dtype=False
        )


def test_a_choice_among_several_is_made_in_each_fold_by_the_others(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    snapshot = take_snapshot(workspace)
    records = [trained(workspace, snapshot, variant)[1] for variant in (NARROW, WIDE)]
    evaluations = workspace.home.evaluations
    # As if the one were chosen by the others in fold 0, the other one elsewhere.
    first = replace(records[0], fold_errors=(0.1,) + (0.3,) * (snapshot.folds - 1))
    second = replace(records[1], fold_errors=(0.2,) * snapshot.folds)
    chosen = chosen_in_folds(evaluations, [first, second])
    ours, theirs = (decisions(evaluations, each) for each in (first, second))
    in_first = chosen["fold"] == 0
    assert 0 < in_first.sum() < len(chosen) == len(ours)
    assert chosen.index.equals(ours.index)
    assert (chosen["wrong"] == ours["wrong"].where(in_first, theirs["wrong"])).all()
    measure_baseline(workspace, snapshot, pay=False)
    entry, _ = decide_champion(workspace, snapshot)
    assert entry.verdict is not None
    composite = chosen_in_folds(evaluations, records)["wrong"].mean()
    baseline = next(row.error for row in leaderboard(workspace, snapshot).rows if row.kind == "baseline")
    assert entry.verdict.difference == pytest.approx(composite - baseline)


def test_when_more_labels_come_the_champions_successor_is_judged_anew(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    first = take_snapshot(workspace)
    measure_baseline(workspace, first, pay=False)
    trained(workspace, first, WIDE)
    champion = decide_champion(workspace, first)[0].champion
    assert champion is not None
    bring(workspace, range(CLUMPS, CLUMPS + 20))
    second = take_snapshot(workspace)
    assert second.is_cross_fitted
    assert second.test_id != first.test_id
    assert measure_champion(workspace, second) is None  # it has trained on pairs that judge now
    measure_baseline(workspace, second, pay=False)
    _, successor = trained(workspace, second, WIDE)
    entry, _ = decide_champion(workspace, second)
    assert entry.verdict is not None
    assert entry.verdict.challenger == successor.record_id
    assert entry.verdict.reference_name.endswith("baseline")
    assert entry.verdict.decision == 2  # the older pairs judge again, and what they have decided counts
    assert entry.action == "promoted"


def test_another_variant_meets_the_champions_successor(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    first = take_snapshot(workspace)
    measure_baseline(workspace, first, pay=False)
    trained(workspace, first, NARROW)
    assert decide_champion(workspace, first)[0].action == "promoted"
    bring(workspace, range(CLUMPS, CLUMPS + 20))
    second = take_snapshot(workspace)
    measure_baseline(workspace, second, pay=False)
    records = {variant: trained(workspace, second, variant)[1] for variant in (NARROW, WIDE)}
    best = min(records.values(), key=lambda record: record.calibration_set_error)
    verdict = decide_champion(workspace, second)[0].verdict
    assert verdict is not None
    assert verdict.challenger == best.record_id
    successor = records[NARROW].record_id
    assert (verdict.reference == successor) == (best.record_id != successor)


def test_once_test_pairs_are_set_aside_a_champion_that_has_seen_them_judges_nothing(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    snapshot = take_snapshot(workspace)
    measure_baseline(workspace, snapshot, pay=False)
    trained(workspace, snapshot, WIDE)
    assert decide_champion(workspace, snapshot)[0].action == "promoted"
    bring(workspace, range(CLUMPS, 4 * CLUMPS))
    drawing = with_options(workspace, splits={"frozen_from": 0})
    drawn = take_snapshot(drawing)
    assert drawn.is_drawn
    assert measure_champion(drawing, drawn) is None
    measure_baseline(drawing, drawn, pay=False)
    _, record = trained(drawing, drawn, WIDE)
    assert not record.is_cross_fitted
    verdict = decide_champion(drawing, drawn)[0].verdict
    assert verdict is not None
    assert verdict.reference_name.endswith("baseline")


def test_sizes_are_measured_and_give_a_learning_curve_where_every_pair_judges(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    snapshot = take_snapshot(workspace)
    assert 400 <= snapshot.largest_size(0.0) < 600
    measure_baseline(workspace, snapshot, pay=False)
    for size in ("100", "200", "400", "all"):
        trained(workspace, snapshot, WIDE, size)
    evidence = find_evidence(workspace, snapshot)
    assert not isinstance(evidence.curve, str)
    # Nine tenths of all pairs trained the models that judged.
    assert [point.train_pairs for point in evidence.curve.points] == [100, 200, 400, round(0.9 * 15 * CLUMPS)]
    errors = [point.error for point in evidence.curve.points]
    assert errors[-1] < errors[0]
    with pytest.raises(FlywheelError, match="without the folds that judge"):
        trained(workspace, snapshot, WIDE, "600")


def test_layers_are_not_moved_without_calibration_pairs(tmp_path: Path) -> None:
    workspace = few_labels(tmp_path)
    with pytest.raises(FlywheelError, match="Choose the recipe head"):
        train_cell(workspace, take_snapshot(workspace), Cell(WIDE, "all"), "top")
