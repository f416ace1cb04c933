"""The demo's grid on two Ray nodes, more cells than they have room for, and one of the nodes killed half way."""

import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from flywheel.home import Home
from flywheel.orchestration import grid
from flywheel.orchestration.instance import Session, open_session
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import Cell
from flywheel.training.model import finished_models
from flywheel.training.progress import Notice, Progress
from flywheel_tests.conftest import copy_home
from flywheel_tests.helpers.clusters import Heard, cluster_options
from flywheel_tests.helpers.homes import make_workspace
from flywheel_tests.helpers.ray_cluster import DASHBOARD, RayCluster, own_network
from flywheel_tests.training.test_training import contents

__all__ = ["own_network"]  # a fixture


def without_results(demo: Path, home: Path) -> Path:
    """A copy of the demo's home that has its snapshot and vectors only."""
    copy_home(demo, home)
    for folder in (Home(home).models, Home(home).evaluations, Home(home).registry):
        shutil.rmtree(folder)
    return home


def listening(session: Session, heard: Heard) -> Session:
    return replace(session, workspace=session.workspace.with_listener(heard))


@pytest.mark.long
@pytest.mark.slow
def test_every_cell_of_the_demo_finishes_once_and_as_at_home_though_a_node_is_lost(
    demo: tuple[Path, object], own_network: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    options = cluster_options(tmp_path / "disk", engine="ray", gpus=0, gpu_slots=6, ray={"address": DASHBOARD})
    home = without_results(demo[0], tmp_path / "home")
    workspace = make_workspace(home, storage={"root": f"file://{tmp_path}/root"}, compute=options)
    snapshot = workspace.current_snapshot()
    cluster, numbers = RayCluster(tmp_path / "ray"), count(1)

    def lose_a_node(event: Progress) -> None:
        # Two of the six that are away have ended then; the others run, or wait for a processor.
        if isinstance(event, Notice) and event.text.startswith("Started") and next(numbers) == 8:
            cluster.kill(cluster.node_of_newest_training())

    heard = Heard(lose_a_node)
    try:
        for _ in range(2):
            cluster.add_node(cpus=2)
        with open_session(workspace.settings) as session:
            plan = grid.plan_cells(session, snapshot, workspace.settings.grid.cells, "head")
            cells = [planned.cell for planned in plan if planned.state == "to do"]
            assert len(cells) == 14
            finished = list(grid.run_cells(listening(session, heard), snapshot, cells, "head"))
            assert grid.plan_cells(session, snapshot, cells, "head") == [grid.PlannedCell(cell, "done") for cell in cells]
            assert list(grid.run_cells(session, snapshot, [], "head")) == []
    finally:
        cluster.end()
    assert [done.failure for done in finished] == [None] * 14
    assert {done.cell for done in finished} == set(cells)
    assert any("A lost machine is no fault of the training" in each for each in heard.notices), "the node had nothing to lose"
    assert of_cells(workspace, cells) == of_cells(make_workspace(demo[0]), cells)


def of_cells(workspace: Workspace, cells: list[Cell]) -> dict[str, object]:
    """What the models of some cells hold, by their names."""
    variants = {(str(cell.variant), cell.size) for cell in cells}
    models = {folder.name: contents(folder) for folder in finished_models(workspace.home.models)}
    return {name: each for name, each in models.items() if (each["job"]["variant"], each["job"]["size"]) in variants}
