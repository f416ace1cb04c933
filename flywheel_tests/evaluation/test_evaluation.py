"""Evaluations: every threshold comes from labels that are not `test`'s, and a record is the whole story of a model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.leaderboard import build_leaderboard
from flywheel.evaluation.records import FORMAT, Evaluation, Terms, evaluation_folder, list_evaluations, load_evaluation
from flywheel.evaluation.scores import SCORES, decisions
from flywheel.evaluation.subjects import Subject, tuned_subject, untuned_subject
from flywheel.models.catalogue import Variant
from flywheel.pairs.events.seeds import STARTER
from flywheel.pairs.events.starter import starter_lines
from flywheel.training.job import HeadRecipe
from flywheel.training.model import TrainedModel
from flywheel.training.progress import ignore_progress
from flywheel.training.train import train
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.clumps import World, clump_world, embed, take_world
from flywheel_tests.helpers.homes import make_workspace

MINIMUM = 30
TERMS = Terms(MINIMUM)
SHARES = {"seed_test_share": 0.2, "seed_calibration_share": 0.2}
SHORT = HeadRecipe(epochs=1, min_steps=1)
V32 = Variant.parse("all-MiniLM-L6-v2@32")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """More than 1,600 pairs to train on, and enough components for an interval."""
    home = tmp_path_factory.mktemp("world")
    return clump_world(home, clumps=185, evaluation={"min_components": MINIMUM}, splits=SHARES)


@pytest.fixture(scope="module")
def few(world: World) -> TrainedModel:
    return train(
        world.job(size="1600", head=SHORT), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress
    )


@pytest.fixture(scope="module")
def many(world: World) -> TrainedModel:
    return train(
        world.job(size="1601", head=SHORT), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress
    )


@pytest.fixture(scope="module")
def few_record(world: World, few: TrainedModel) -> Evaluation:
    return run(world, tuned_subject(few, world.vectors))


def run(world: World, subject: Subject, evaluations: Path | None = None) -> Evaluation:
    return evaluate(subject, world.snapshot, evaluations or world.workspace.home.evaluations, TERMS)


def untuned(world: World) -> Subject:
    return untuned_subject(V32, world.snapshot, world.vectors)


def scores_of(world: World, record: Evaluation) -> pd.DataFrame:
    return pd.read_parquet(
        evaluation_folder(world.workspace.home.evaluations, record.test_id, record.record_id) / "scores.parquet"
    )


def error_at(scores: pd.DataFrame, threshold: float) -> float:
    return float(((scores["score"] >= threshold) != scores["label"]).mean())


def test_a_model_decides_by_its_rule_and_up_to_1600_pairs_its_own_labels_are_measured_beside_it(
    world: World, few: TrainedModel, many: TrainedModel, few_record: Evaluation
) -> None:
    many_record = run(world, tuned_subject(many, world.vectors))
    for model, record in ((few, few_record), (many, many_record)):
        test = scores_of(world, record).query("split == 'test'")
        assert record.rule == model.rule
        assert record.error == error_at(test, model.rule.seed.threshold) == record.metrics.error
    assert few.out_of_fold_fit is not None
    assert many.out_of_fold_fit is many_record.own_labels is None
    own = few_record.own_labels
    assert own is not None
    assert own.threshold == few.out_of_fold_fit.threshold != few.rule.seed.threshold
    assert own.error == error_at(scores_of(world, few_record).query("split == 'test'"), own.threshold)
    assert own.interval is not None
    assert own.interval.low < own.error < own.interval.high
    assert own.interval != few_record.interval
    assert own.note is None


def test_scores_of_every_calibration_and_test_pair_are_stored(world: World, few_record: Evaluation, few: TrainedModel) -> None:
    scores = scores_of(world, few_record)
    for split in ("calibration", "test"):
        pairs, stored = world.snapshot.pairs(split), scores[scores["split"] == split]
        for column in ("pair_id", "label", "component"):
            assert list(stored[column]) == list(pairs[column])
        embed = tuned_subject(few, world.vectors).embed
        expected = (embed(list(pairs["text_a"])) * embed(list(pairs["text_b"]))).sum(1)
        np.testing.assert_allclose(stored["score"], expected, atol=1e-6)
    calibration = scores[scores["split"] == "calibration"]
    assert few_record.calibration_set_error == error_at(calibration, few.rule.seed.threshold) == few.calibration_set_error


def test_decisions_are_the_stored_scores_by_the_rule_of_the_model(world: World, few_record: Evaluation) -> None:
    made = decisions(world.workspace.home.evaluations, few_record)
    assert list(made.index) == sorted(world.snapshot.pairs("test")["pair_id"])
    assert few_record.own_labels is not None
    assert made["wrong"].mean() == few_record.error != few_record.own_labels.error


def test_a_tuned_model_beats_its_untuned_self_the_more_the_longer_it_trains(world: World, few_record: Evaluation) -> None:
    trained = train(world.job(size="1600"), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)
    before, whole = run(world, untuned(world)), run(world, tuned_subject(trained, world.vectors))
    assert whole.error < 0.9 * before.error
    assert whole.error < few_record.error < before.error
    assert (before.kind, before.size, before.recipe, before.train_pairs) == ("untuned", None, None, None)
    assert (few_record.kind, few_record.size, few_record.recipe, few_record.train_pairs) == ("tuned", "1600", "head", 1600)
    assert before.variant == few_record.variant == str(V32)
    assert before.own_labels is None
    for record in (before, few_record):
        assert record.interval is not None
        assert record.interval.low < record.error < record.interval.high
        assert record.no_verdict is None
        assert record.rough
        assert record.components == world.snapshot.test.components
        assert record.parts.ranking + record.parts.threshold + record.parts.prior == pytest.approx(record.error)
        assert {each.name: each.n for each in record.slices} == dict.fromkeys(
            ("seed pairs", "short texts", "numbers"), world.snapshot.test.pairs
        )
        for each in record.slices:
            assert (each.error, each.interval) == (record.error, record.interval)


@pytest.mark.parametrize("trained", [True, False])
def test_no_threshold_has_seen_a_label_of_test(world: World, few: TrainedModel, tmp_path: Path, trained: bool) -> None:
    subject = tuned_subject(few, world.vectors) if trained else untuned(world)
    honest = run(world, subject)
    flipped = replace(world.snapshot, folder=shutil.copytree(world.snapshot.folder, tmp_path / "snapshot"))
    test = flipped.pairs("test")
    test.assign(label=1 - test["label"]).to_parquet(flipped.folder / "test.parquet")
    wrong = run(replace(world, snapshot=flipped), subject, tmp_path / "evaluations")
    assert wrong.rule == honest.rule
    assert wrong.calibration_set_error == honest.calibration_set_error
    assert wrong.error == pytest.approx(1 - honest.error)
    assert (wrong.own_labels is not None) == (honest.own_labels is not None) == trained
    if wrong.own_labels and honest.own_labels:
        assert wrong.own_labels.threshold == honest.own_labels.threshold
        assert wrong.own_labels.error == pytest.approx(1 - honest.own_labels.error)


def refuse(texts: list[str]) -> np.ndarray:
    raise AssertionError(f"{len(texts)} texts are embedded again")


def test_a_second_evaluation_finds_the_first(world: World, few: TrainedModel, few_record: Evaluation) -> None:
    subject = replace(tuned_subject(few, world.vectors), embed=refuse)
    assert evaluate(subject, world.snapshot, world.workspace.home.evaluations, TERMS) == few_record


def test_a_record_survives_json_and_a_damaged_one_is_named(few_record: Evaluation, tmp_path: Path) -> None:
    assert Evaluation.from_json(json.loads(json.dumps(few_record.to_json()))) == few_record
    bare = replace(few_record, interval=None, own_labels=None)
    assert Evaluation.from_json(json.loads(json.dumps(bare.to_json()))) == bare
    assert load_evaluation(tmp_path) is None
    (tmp_path / "evaluation.json").write_text(json.dumps(few_record.to_json() | {"format": FORMAT - 1}))
    assert load_evaluation(tmp_path) is None
    for damage in ("{", "[]", json.dumps({"format": FORMAT}), json.dumps(few_record.to_json() | {"metrics": {}})):
        (tmp_path / "evaluation.json").write_text(damage)
        with pytest.raises(FlywheelError, match=r"evaluation\.json is damaged .* Delete its folder and run `flywheel grid`"):
            load_evaluation(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"error": "x"}, "error: Input should be a valid number"),
        ({"calibration_set_error": float("nan")}, "calibration_set_error: Input should be a finite number"),
        ({"interval": {"low": 0.1, "high": float("inf")}}, "interval.high: Input should be a finite number"),
        ({"rule": {}}, "rule.seed: Field required"),
        (
            {"own_labels": {"error": 0.1, "interval": None, "threshold": float("inf"), "note": None}},
            "own_labels.threshold: Input should be a finite number",
        ),
        ({"retrieval": {"mrr_at_10": None, "recall_at_10": 0.1, "queries": 3}}, "retrieval.mrr_at_10: "),
    ],
)
def test_a_record_with_a_figure_that_is_no_finite_number_is_damaged(
    few_record: Evaluation, tmp_path: Path, damage: dict[str, object], words: str
) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps(few_record.to_json() | damage))
    with pytest.raises(FlywheelError, match="Delete its folder and run `flywheel grid`, which evaluates again") as caught:
        load_evaluation(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'evaluation.json'} is damaged ({words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", ["score", "probability"])
def test_stored_scores_that_are_not_finite_or_not_there_decide_nothing(
    world: World, few_record: Evaluation, tmp_path: Path, column: str
) -> None:
    file = evaluation_folder(tmp_path, few_record.test_id, few_record.record_id) / SCORES
    file.parent.mkdir(parents=True)
    scores, remedy = scores_of(world, few_record), "Delete its folder and run `flywheel grid`"
    scores.assign(**{column: scores[column].where(np.arange(len(scores)) > 2)}).to_parquet(file)
    with pytest.raises(FlywheelError, match=rf"{SCORES} is damaged \(3 of \d+ scores are not finite\)\. {remedy}"):
        decisions(tmp_path, few_record)
    scores.drop(columns=column).to_parquet(file)
    with pytest.raises(FlywheelError, match=rf"{SCORES} cannot be read .*{column}.* {remedy}") as caught:
        decisions(tmp_path, few_record)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_a_split_of_one_label_is_named(world: World, tmp_path: Path, split: str) -> None:
    snapshot = replace(world.snapshot, folder=copy_home(world.snapshot.folder, tmp_path / "snapshot"))
    snapshot.pairs(split).assign(label=1).to_parquet(snapshot.folder / f"{split}.parquet")
    with pytest.raises(FlywheelError, match=rf"(\d+) of \1 pairs in {split} have label 1, and one label alone .* --new-test`;"):
        evaluate(untuned(world), snapshot, tmp_path, TERMS)
    if split == "calibration":
        with pytest.raises(FlywheelError, match="pairs in calibration have label 1"):
            train(world.job(), snapshot, world.vectors, tmp_path, ignore_progress)


def test_an_evaluation_that_breaks_off_leaves_no_record(world: World, tmp_path: Path) -> None:
    broken = replace(untuned(world), embed=lambda texts: np.full((len(texts), 2), np.nan, np.float32))
    with pytest.raises(FlywheelError, match="not finite"):
        run(world, broken, tmp_path)
    assert list_evaluations(tmp_path, world.snapshot.test_id) == []


def test_below_the_least_components_there_is_no_interval_and_a_reason(world: World, tmp_path: Path) -> None:
    record = evaluate(untuned(world), world.snapshot, tmp_path, Terms(1000))
    assert record.interval is None
    assert record.no_verdict == f"in test, {record.components} components are fewer than the 1000 a verdict needs"
    assert record.error > 0


@pytest.mark.parametrize("split", ["calibration", "test"])
def test_one_split_of_few_components_is_enough_to_withhold_the_verdict(world: World, tmp_path: Path, split: str) -> None:
    thin = replace(world.snapshot, folder=shutil.copytree(world.snapshot.folder, tmp_path / "snapshot"))
    pairs = thin.pairs(split)
    pairs[pairs["component"].isin(pairs["component"].unique()[:25])].to_parquet(thin.folder / f"{split}.parquet")
    record = run(replace(world, snapshot=thin), untuned(world), tmp_path)
    assert record.no_verdict == f"in {split}, 25 components are fewer than the 30 a verdict needs"
    assert record.interval is None


def test_an_encoder_that_knows_the_intents_makes_no_error(world: World, tmp_path: Path) -> None:
    def know(texts: list[str]) -> np.ndarray:
        return embed([f"{text.rsplit(' ', 1)[0]} wording" for text in texts])

    record = run(world, replace(untuned(world), embed=know), tmp_path)
    assert (record.error, record.metrics.f1, record.metrics.positives) == (0, 1, world.snapshot.pairs("test")["label"].sum())
    assert (record.retrieval.mrr_at_10, record.retrieval.recall_at_10) == (1, 1)
    assert record.retrieval.queries == 6 * record.components


def test_too_few_pairs_of_its_own_leave_no_threshold_of_its_own_or_a_note_and_no_interval(world: World, tmp_path: Path) -> None:
    own_labels = []
    for size in ("19", "25"):
        model = train(world.job(size=size), world.snapshot, world.vectors, world.workspace.home.models, ignore_progress)
        record = run(world, tuned_subject(model, world.vectors), tmp_path)
        assert record.interval is not None
        assert record.no_verdict is None
        own_labels.append(record.own_labels)
    too_few, few_components = own_labels
    assert too_few is None
    assert few_components is not None
    assert few_components.interval is None
    assert few_components.note is not None
    assert "components are fewer than the 30" in few_components.note


def test_without_a_test_split_there_is_a_reason_and_no_record(tmp_path: Path) -> None:
    world = clump_world(tmp_path, clumps=5)
    with pytest.raises(FlywheelError, match=r"no calibration and test pairs, .* Ingest about \d+ more pairs labelled same"):
        run(world, untuned(world))


def test_a_model_scored_on_a_later_test_keeps_the_snapshot_it_was_trained_on(
    world: World, few: TrainedModel, tmp_path: Path
) -> None:
    later = replace(world.snapshot, snapshot_id="later", test_id="later")
    record = evaluate(tuned_subject(few, world.vectors), later, tmp_path, TERMS)
    assert (record.snapshot_id, record.test_id) == (world.snapshot.snapshot_id, "later")
    assert build_leaderboard(later, tmp_path).stale == {record.record_id}


def test_the_untuned_encoder_finds_the_starter_set_hard(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, encoding={"device": "cpu"}, evaluation={"min_components": 3})
    world = take_world(workspace, list(starter_lines(STARTER / "questions.csv"))[-12 * 48 :])
    subject = untuned_subject(Variant.parse("all-MiniLM-L6-v2@384"), world.snapshot, world.vectors, kind="baseline")
    record = evaluate(subject, world.snapshot, workspace.home.evaluations, Terms(3))
    assert 0.15 < record.error < 0.5
    assert record.metrics.roc_auc > 0.55
    assert record.retrieval.mrr_at_10 > 0.5
    assert record.contamination is not None
