"""What tuning costs elsewhere: the general pairs, a user's second domain, and how both are measured."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation, list_evaluations
from flywheel.evaluation.retention import Retention, general_domain, retention, weighted_average_precision
from flywheel.evidence.page import Table, Text
from flywheel.evidence.sections import elsewhere
from flywheel.models.catalogue import Variant
from flywheel.pairs.labelled import labelled_id, read_labelled
from flywheel.pairs.options import PairOptions
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pipeline.evaluation import evaluate_cell, leaderboard
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import TrainedModel
from flywheel_tests.helpers.clumps import World, clump_world, embed, six_texts
from flywheel_tests.helpers.homes import with_options

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

V32 = Variant.parse("all-MiniLM-L6-v2@32")
CLUMPS, ELSEWHERE = 120, range(120, 180)
FOREIGN = {"columns": {"text_a": "q1", "text_b": "q2", "label": "dup"}, "labels": {"ja": 1, "nein": 0}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A home whose second domain is other clumps, under column names of its own."""
    home = tmp_path_factory.mktemp("world")
    world = clump_world(home, CLUMPS, evaluation={"min_components": 5}, compute={"run_in": "inline"})
    world.vectors.cache.get([text for clump in ELSEWHERE for text in six_texts(clump)], embed)
    return world


@pytest.fixture(scope="module")
def trained(world: World) -> TrainedModel:
    return train_cell(world.workspace, world.snapshot, Cell(V32, "400"), "head")


@pytest.fixture(scope="module")
def general(encoder: "SentenceTransformer") -> dict[str, np.ndarray]:
    """What untuned MiniLM makes of the general pairs' texts."""
    texts = unique_texts(general_domain().read())
    return dict(zip(texts, encoder.encode(texts, show_progress_bar=False), strict=True))


def rows_of(clumps: Sequence[int]) -> list[tuple[str, str, str]]:
    """Of each clump a pair that is the same and one that is not."""
    texts = [six_texts(clump) for clump in clumps]
    return [row for six in texts for row in ((six[0], six[1], "ja"), (six[2], six[3], "nein"))]


def write(file: Path, rows: Sequence[Sequence[str]], header: Sequence[str] = ("q1", "q2", "dup")) -> Path:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])
    return file


def with_second(world: World, file: str | Path) -> Workspace:
    return with_options(world.workspace, pairs=FOREIGN, evaluation={"second_domain": file})


def second(world: World, trained: TrainedModel, file: str | Path) -> Retention:
    record = evaluate_cell(with_second(world, file), trained, world.snapshot)
    assert len(record.retention) == 2
    return record.retention[1]


def shown(found: Retention) -> str:
    """The words of the page's section."""
    table, text = elsewhere([found])
    assert isinstance(table, Table)
    assert isinstance(text, Text)
    return "\n".join([*(" | ".join(row) for row in (table.columns, *table.rows)), text.text])


def test_the_general_pairs_are_half_same_and_no_two_share_a_text() -> None:
    pairs = general_domain().read()
    assert pairs["label"].value_counts().to_dict() == {1: 150, 0: 150}
    assert pairs["component"].nunique() == len(pairs) == 300
    assert pd.concat([pairs["question_a"], pairs["question_b"]]).is_unique


def test_on_the_general_pairs_an_untuned_model_has_room_to_fall_and_to_rise(general: dict[str, np.ndarray]) -> None:
    pairs = general_domain().read()
    scores = [general[a] @ general[b] for a, b in zip(pairs["text_a"], pairs["text_b"], strict=True)]
    assert 0.80 < average_precision_score(pairs["label"], scores) < 0.93


def test_a_model_that_has_collapsed_elsewhere_shows_a_fall_beyond_its_interval(general: dict[str, np.ndarray]) -> None:
    def untuned(texts: list[str]) -> np.ndarray:
        return np.stack([general[text] for text in texts])

    def collapsed(texts: list[str]) -> np.ndarray:
        few = untuned(texts)[:, :4]
        return few / np.linalg.norm(few, axis=1, keepdims=True)

    found = retention(general_domain(), collapsed, untuned, frozenset(), 40)
    assert found.interval is not None
    assert found.interval.low < found.difference < found.interval.high < -0.05
    assert f"general pairs | {found.untuned:.3f} | {found.tuned:.3f} | {found.difference:+.3f} (95 % -0." in shown(found)
    same = retention(general_domain(), untuned, untuned, frozenset(), 40)
    assert (same.difference, same.n, same.left_out) == (0, 300, 0)
    assert same.interval is not None
    assert (same.interval.low, same.interval.high) == (0, 0)


@pytest.mark.parametrize("distinct", [3, 1_000])
def test_the_bootstraps_average_precision_is_scikit_learns_with_ties_and_weights(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    scores, labels = rng.integers(0, distinct, 60) / distinct, rng.integers(0, 2, 60)
    weights = rng.multinomial(60, np.full(60, 1 / 60), size=20)
    expected = [average_precision_score(labels, scores, sample_weight=row) for row in weights]
    assert weighted_average_precision(scores, labels, weights) == pytest.approx(expected)


def test_the_interval_takes_the_pairs_of_a_component_together(general: dict[str, np.ndarray]) -> None:
    """Every pair four times over says nothing new."""

    def few(texts: list[str]) -> np.ndarray:
        return untuned(texts)[:, :64]

    def untuned(texts: list[str]) -> np.ndarray:
        return np.stack([general[text] for text in texts])

    once = general_domain()
    fourfold = pd.concat([once.read()] * 4)
    a, b = (
        retention(domain, few, untuned, frozenset(), 40).interval for domain in (once, type(once)("4", "4", lambda: fourfold))
    )
    assert a == b


def test_a_second_domain_is_read_by_the_mapping_of_the_pairs_and_measured_beside_the_general_ones(
    world: World, trained: TrainedModel
) -> None:
    write(world.workspace.home.root / "other.csv", rows_of(ELSEWHERE))
    record = evaluate_cell(with_second(world, "other.csv"), trained, world.snapshot)
    first, other = record.retention
    assert (first.domain, first.n) == ("general pairs", 300)
    assert (other.domain, other.n, other.left_out) == ("other.csv", 120, 0)
    assert other.tuned > other.untuned, "the clumps are alike, so what was learned holds there too"
    assert other.interval is not None
    assert other.interval.low < other.difference < other.interval.high
    assert Evaluation.from_json(record.to_json()) == record
    untuned = [
        row for row in list_evaluations(world.workspace.home.evaluations, world.snapshot.test_id) if row.kind == "untuned"
    ]
    assert untuned
    assert not any(row.retention for row in untuned)


def test_a_changed_file_evaluates_again_and_an_unchanged_one_does_not(
    world: World, trained: TrainedModel, tmp_path: Path
) -> None:
    file = write(tmp_path / "changing.csv", rows_of(ELSEWHERE[:20]))
    before = second(world, trained, file)
    kept = world.workspace.home.evaluations / world.snapshot.test_id / trained.name / "evaluation.json"
    written = (kept.stat().st_ino, kept.stat().st_mtime_ns)
    assert second(world, trained, file) == before
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == written
    write(file, rows_of(ELSEWHERE[:30]))
    assert leaderboard(with_second(world, file), world.snapshot).on_other_terms, "until it is evaluated again"
    after = second(world, trained, file)
    assert (before.n, after.n) == (40, 60)
    assert before.domain_id != after.domain_id


def test_pairs_with_a_question_that_trains_are_left_out_and_counted(
    world: World, trained: TrainedModel, tmp_path: Path
) -> None:
    question = world.snapshot.pairs("train")["text_a"][0]
    others = rows_of(ELSEWHERE)
    world.vectors.cache.get([question.upper()], lambda texts: embed([text.lower() for text in texts]))
    found = second(world, trained, write(tmp_path / "overlap.csv", [(f"  {question.upper()}", others[0][0], "ja"), *others]))
    assert (found.n, found.left_out) == (120, 1)
    assert "Of overlap.csv, 1 more are left out" in shown(found)
    trains = [(a, b, "ja") for a, b in world.snapshot.pairs("train")[["text_a", "text_b"]].to_numpy()[:3]]
    with pytest.raises(FlywheelError, match=r"0 of 60 pairs of one\.csv, without 3 .* Name another file in evaluation\.second"):
        second(world, trained, write(tmp_path / "one.csv", [*trains, *[row for row in others if row[2] == "nein"]]))


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("gone.csv", None, r"evaluation\.second_domain: .*gone\.csv is not a file\..* give the path of"),
        ("empty.csv", [], r"evaluation\.second_domain: empty\.csv is empty"),
        ("bare.csv", [("q1", "q2"), ("a", "b")], r"evaluation\.second_domain: bare\.csv:2: dup is empty; 1 of 1 lines"),
        (
            "clicks.csv",
            [("type", "query", "shown"), ("click", "a", "b")],
            r"clicks\.csv holds clicks.* Give a file of labelled",
        ),
    ],
)
def test_a_file_that_is_missing_or_has_no_labels_is_named_with_what_to_do(
    world: World, trained: TrainedModel, tmp_path: Path, name: str, lines: list[tuple[str, ...]] | None, message: str
) -> None:
    file = tmp_path / name
    if lines is not None:
        write(file, lines[1:], lines[0]) if lines else file.touch()
    with pytest.raises(FlywheelError, match=message):
        second(world, trained, file)


def test_part_files_are_one_domain_and_a_pairs_newest_label_counts(tmp_path: Path) -> None:
    header = ("text_a", "text_b", "label", "time")
    folder = tmp_path / "parts"
    folder.mkdir()
    write(folder / "1.csv", [("one", "two", "1", "2026-01-01"), ("three", "four", "0", "2026-01-01")], header)
    write(folder / "2.csv", [("TWO", "one", "0", "2026-01-02"), ("four", "five", "1", "2026-01-02")], header)
    pairs = read_labelled(folder, PairOptions(), "512MB")
    assert sorted(pairs["label"]) == [0, 0, 1]
    assert sorted(pairs["component"].value_counts()) == [1, 2]
    name = labelled_id(folder, PairOptions())
    assert labelled_id(folder, PairOptions(labels={"1": 0, "0": 1})) != name
    write(folder / "2.csv", [("four", "five", "1", "2026-01-02")], header)
    assert labelled_id(folder, PairOptions()) != name
