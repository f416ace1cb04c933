"""Drift of what comes in is seen in each of its kinds, and only where there is any; without a figure the reason is said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.evaluation.drift import FEWEST, Drift, far_share, score_drift, some
from flywheel.evaluation.options import DriftOptions
from flywheel.orchestration import checks
from flywheel.pairs.events.json_rows import json_batch
from flywheel.pairs.ingest import ingest
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.drift import find_far_questions, find_label_drift, find_score_drift, find_text_drift
from flywheel.pipeline.ingest import take_snapshot
from flywheel.pipeline.promotion import decide_champion
from flywheel.pipeline.workspace import Workspace
from flywheel_tests.helpers.clumps import clump_world, embed
from flywheel_tests.pairs.test_ingest import line
from flywheel_tests.pipeline.test_turns import V32, measure

Find = Callable[[Workspace, Snapshot], Drift]
ALL: dict[str, Find] = {
    "label": find_label_drift, "text": find_text_drift, "score": find_score_drift, "far": find_far_questions,
}  # fmt: skip
LIMITS = DriftOptions()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A home with a champion."""
    folder = tmp_path_factory.mktemp("drift")
    home = clump_world(folder, clumps=240, baseline={"local_variant": str(V32)}, compute={"run_in": "inline"}).workspace
    measure(home, home.current_snapshot(), "400")
    assert decide_champion(home, home.current_snapshot())[0].action == "promoted"
    return home


def bring_alike(workspace: Workspace, count: int) -> Snapshot:
    """The next snapshot, with pairs of a question that trains and a new wording, of its intent in two of five."""
    trained = sorted(set(workspace.current_snapshot().pairs("train")["text_a"]))
    known = [str(text) for text in np.random.default_rng(0).choice(trained, count, replace=False)]
    lines, texts = [], []
    for number, text in enumerate(known):
        clump, intent, _ = text.split()
        same = number % 5 < 2
        texts.append(f"{clump} {intent if same else 'intentb' if intent == 'intenta' else 'intenta'} wording{number % 3 + 5}")
        lines.append(line(text, texts[-1], int(same)))
    ingest(workspace.store, json_batch(f"{count} alike", "interaction", "test", lines))
    workspace.vectors(V32.base).cache.get(texts, embed)
    return take_snapshot(workspace)


def look(workspace: Workspace, snapshot: Snapshot) -> dict[str, Drift]:
    return {name: find(workspace, snapshot) for name, find in ALL.items()}


def test_what_is_alike_is_found_alike_and_what_is_not_is_seen_in_every_kind(workspace: Workspace) -> None:
    before = look(workspace, workspace.current_snapshot())
    assert {each.why_not for each in before.values()} == {"nothing has come in since a champion was trained"}

    alike = look(workspace, bring_alike(workspace, 250))
    assert all(each.why_not is None for each in alike.values()), alike
    assert abs(alike["label"].figures["difference"]) <= LIMITS.max_label
    assert alike["text"].figures["length_distance"] <= LIMITS.max_length
    assert alike["text"].figures["script_distance"] == pytest.approx(0, abs=1e-9)
    assert alike["score"].figures["distance"] <= LIMITS.max_score
    assert alike["far"].figures["share"] <= LIMITS.max_far

    known = sorted(set(workspace.current_snapshot().pairs("train")["text_a"]))[:250]
    texts = [f"совсем другой вопрос номер {number} о чём-то ещё" for number in range(2000)]
    lines = [line(known[number % 250], text, 1) for number, text in enumerate(texts)]
    ingest(workspace.store, json_batch("others", "interaction", "test", lines))
    snapshot = take_snapshot(workspace)
    uncached = look(workspace, snapshot)
    for name in ("score", "far"):
        assert "texts have no cached vector" in str(uncached[name].why_not)
    far = np.zeros((1, 384), dtype=np.float32)
    far[0, 383] = 1
    workspace.vectors(V32.base).cache.get(texts, lambda some: np.repeat(far, len(some), axis=0))
    other = look(workspace, snapshot)
    assert other["label"].figures["difference"] > LIMITS.max_label
    assert other["text"].figures["length_distance"] > LIMITS.max_length
    assert other["text"].figures["script_distance"] > LIMITS.max_script
    assert other["score"].figures["distance"] > LIMITS.max_score
    assert other["far"].why_not is None, "in a world of clumps that know nothing of each other, nothing is far"


def test_few_new_pairs_give_no_figure(tmp_path: Path) -> None:
    home = clump_world(tmp_path, clumps=240, baseline={"local_variant": str(V32)}, compute={"run_in": "inline"}).workspace
    assert find_label_drift(home, home.current_snapshot()).why_not == "there is no champion yet"
    measure(home, home.current_snapshot(), "400")
    decide_champion(home, home.current_snapshot())
    few = look(home, bring_alike(home, 60))
    assert {each.why_not for each in few.values()} == {f"60 new interaction pairs, and a comparison needs {FEWEST}"}


def test_scores_and_distances_are_measured_as_said() -> None:
    sides: Any = type("Sides", (), {"found": lambda _, figures: figures, "nothing": lambda _, why: why})()
    moved = score_drift(sides, np.full(200, 0.7), np.full(200, 0.5))
    assert moved == pytest.approx({"distance": 1.0, "moved": 0.2, "median_new": 0.7, "median_before": 0.5})
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    same = far_share(sides, rows[:500], rows[500:2000], rows[2000:])
    assert 0.02 < same["share"] < 0.09, "5 % by construction"
    narrow = rows * np.array([1] * 8 + [0.01] * 8, dtype=np.float32)
    narrow /= np.linalg.norm(narrow, axis=1, keepdims=True)
    outside = np.roll(narrow[:500], 8, axis=1)
    assert far_share(sides, outside, narrow[500:2000], narrow[2000:])["share"] > 0.9
    assert some([str(number) for number in range(5000)], 2000)[:3] == ["0", "3", "6"]


@pytest.mark.parametrize(("difference", "passed"), [(0.05, True), (-0.05, True), (0.2, False), (-0.2, False)])
def test_a_check_warns_on_either_side_and_its_figures_are_numbers(difference: float, passed: bool) -> None:
    found = checks.drifted("label_drift", Drift({"difference": difference}, 500, 900), "labels", {"difference": 0.1})
    assert found.passed == passed
    assert {name: value.value for name, value in found.metadata.items()} == {
        "difference": difference, "new_pairs": 500, "pairs_before": 900,
    }  # fmt: skip
    nothing = checks.drifted("label_drift", Drift({}, 3, 900, "3 are too few"), "labels", {"difference": 0.1})
    assert (nothing.passed, nothing.description) == (True, "no figure: 3 are too few")


def test_the_budget_warns_when_little_is_left() -> None:
    plenty, spent = checks.budget_left(0, False), checks.budget_left(4, False)
    assert (plenty.passed, spent.passed) == (True, False)
    assert "flywheel snapshot --new-test" in str(spent.description)
    assert str(plenty.description).startswith(
        "0 decisions were made on pairs of this test set; the next one may spend 3 % of the 5 %"
    )
