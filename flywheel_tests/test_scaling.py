"""The simulation behind docs/scaling.md adds up, and the page shows what the script gives."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scaling.md"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("scaling")


def one_of(scaling: ModuleType, **fields: float | bool | None) -> object:
    usual = {
        "name": "made up", "slots": 1, "start": 0.0, "notice": 0.0, "wait": 0.0, "dollars": 3600.0, "least": 0.0, "step": 1.0,
        "whole": False, "losses": 0.0,
    }  # fmt: skip
    return scaling.Engine(**{**usual, **fields})


def test_without_losses_slots_share_the_work_and_starts_are_paid_for(scaling: ModuleType) -> None:
    random, seconds, never = np.random.default_rng(0), np.full(8, 10.0), np.full(8, np.inf)
    for slots, start, makespan in ((1, 0.0, 80.0), (4, 0.0, 20.0), (4, 5.0, 30.0), (100, 5.0, 15.0)):
        found = scaling.simulate(one_of(scaling, slots=slots, start=start), seconds, never, random)
        assert (found.makespan, found.lost, found.given_up) == (makespan, 0, 0)
        assert found.dollars == 8 * (10 + start)
    whole = scaling.simulate(one_of(scaling, slots=5, whole=True), seconds, never, random)
    assert whole.dollars == 5 * whole.makespan == 100
    least = scaling.simulate(one_of(scaling, slots=1, least=60.0), seconds, never, random)
    assert least.dollars == 8 * 60


def test_a_lost_cell_goes_on_from_its_checkpoint_and_without_one_starts_over(scaling: ModuleType) -> None:
    engine, seconds = one_of(scaling, losses=60.0, notice=5.0, wait=7.0), np.full(200, 100.0)
    kept, over = (scaling.simulate(engine, seconds, np.full(200, every), np.random.default_rng(1)) for every in (10.0, np.inf))
    assert kept.lost > 50
    # A loss costs the slot 5 s and at most 10 s of the work, and the last cell waits 7 s more; starting over costs all of it.
    assert 200 * 100 + 5 * kept.lost <= kept.makespan <= 200 * 100 + 15 * kept.lost + 7
    assert over.makespan > 2 * kept.makespan
    # Attempts of 100 s survive with exp(-100 / 60): so many are lost for each that is not.
    assert over.lost / 200 == pytest.approx(np.exp(100 / 60) - 1, rel=0.25)


def test_what_waits_too_long_in_a_queue_is_given_up(scaling: ModuleType) -> None:
    engine = one_of(scaling, slots=2, queue=900.0)
    found = scaling.simulate(engine, np.full(30, 100.0), np.full(30, np.inf), np.random.default_rng(0))
    assert (found.given_up, found.makespan) == (10, 1000.0)  # two start at 0, 100, ... 900 s


def test_lines_go_through_points_that_lie_on_one(scaling: ModuleType) -> None:
    line = scaling.Line.through({n: 7 + 0.5 * n for n in (1, 10, 1000)})
    assert (line.fixed, line.each, line.worst) == pytest.approx((7, 0.5, 1))


def test_the_page_shows_the_lines_and_what_follows_from_them(scaling: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for table in (scaling.line_table(), scaling.pairs_table(), scaling.texts_table()):
        assert table in page, "run python benchmarks/scaling.py and bring docs/scaling.md up to date"


@pytest.mark.slow
def test_the_page_shows_the_simulated_grids(scaling: ModuleType) -> None:
    results = {(each.name, cells): scaling.simulated(each, cells, 20) for each in scaling.ENGINES for cells in scaling.GRIDS}
    assert scaling.grid_table(results) in PAGE.read_text(encoding="utf-8")
