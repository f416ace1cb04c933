"""Challengers train beside the champion's variant; the best of all is judged, and one that cannot be trained is left out."""

from pathlib import Path

import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.orchestration import checks
from flywheel.pipeline.challengers import next_challengers, train_challengers
from flywheel.pipeline.evaluation import evaluate_cell
from flywheel.pipeline.promotion import decide_champion
from flywheel.pipeline.training import train_cell
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.decisions import count_decisions
from flywheel.training.job import Cell
from flywheel.training.options import Challengers, RetrainingOptions
from flywheel_tests.helpers.clumps import clump_world
from flywheel_tests.helpers.homes import with_options
from flywheel_tests.pipeline.test_turns import V32, measure

BASE = V32.base


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A home without a champion, which retrains a weak variant."""
    return clump_world(
        tmp_path, clumps=240, baseline={"local_variant": str(V32)}, compute={"run_in": "inline"},
        retraining={"variant": f"{BASE}@8"},
    ).workspace  # fmt: skip


def names(workspace: Workspace, *challengers: str) -> list[str]:
    found = next_challengers(with_options(workspace, retraining={"challengers": challengers}))
    return [f"{cell.variant} {cell.size} {recipe}" for cell, recipe in found]


def test_challengers_are_named_or_the_best_that_were_trained_before(workspace: Workspace) -> None:
    snapshot = workspace.current_snapshot()
    assert names(workspace, "best 3") == []
    for dim, size in ((64, "400"), (16, "100"), (8, "100")):
        train_cell(workspace, snapshot, Cell(Variant(BASE, dim), size), "head")
    assert names(workspace, f"{BASE}@32 top", f"{BASE}@64") == [f"{BASE}@32 all top", f"{BASE}@64 all head"]
    assert names(workspace, "best 1", f"{BASE}@32") == [f"{BASE}@32 all head", f"{BASE}@64 all head"]
    assert len(names(workspace, "best 5", f"{BASE}@64")) == 2, "the champion's own variant is trained anyway, and none twice"


@pytest.mark.parametrize("wrong", ["best", "best 0", f"{BASE}@64 upside", "nonsense", f"{BASE}@64 top now"])
def test_what_is_no_challenger_is_one_sentence(wrong: str) -> None:
    with pytest.raises(FlywheelError):
        Challengers.parse((wrong,))
    with pytest.raises(ValueError, match=r"is no challenger|is not a variant|Unknown recipe"):
        RetrainingOptions(challengers=(wrong,))


def test_a_turn_trains_them_all_and_judges_the_best_one(workspace: Workspace) -> None:
    workspace = with_options(workspace, retraining={"challengers": [f"{BASE}@64", "gone-model@64", f"{BASE}@16"]})
    snapshot = workspace.current_snapshot()
    said: list[str] = []
    found = train_challengers(workspace, snapshot, said.append)
    assert list(found.trained) == [f"{BASE}@64 head", f"{BASE}@16 head"]
    assert list(found.failed) == ["gone-model@64 head"]
    assert any(line.startswith("gone-model@64 head: ") for line in said)
    measure(workspace, snapshot, "50")
    records = [evaluate_cell(workspace, model, snapshot) for model in found.trained.values()]
    entry, new = decide_champion(workspace, snapshot)
    assert new
    assert entry.verdict is not None
    best = min(records, key=lambda record: record.calibration_set_error)
    assert entry.verdict.challenger == best.record_id, "it was chosen on calibration pairs"
    assert count_decisions(workspace.registry, snapshot.test_id, workspace.home.evaluations) == 1


def test_a_check_warns_of_a_challenger_that_was_not_trained() -> None:
    found = checks.challengers_trained(2, {"gone-model@64 head": "There is no such model."})
    assert (found.passed, found.description) == (False, "gone-model@64 head: There is no such model.")
    assert {name: value.value for name, value in found.metadata.items()} == {"trained": 2, "failed": 1}
