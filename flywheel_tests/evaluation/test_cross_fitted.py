"""Verdicts from cross-fitted decisions: the variance of shared training, what folds must be, and how often both hold."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import norm

from flywheel.errors import FlywheelError
from flywheel.evaluation.cross_fitted import cross_fitted_interval, cross_fitted_test
from flywheel.evaluation.intervals import Clusters, wilson
from flywheel.evaluation.paired import alpha_for, detectable_difference, paired_test, quick_p_value
from flywheel.scoring.power import SHARED_TRAINING

IDS = np.repeat(np.arange(100), 2)
FOLDS = IDS % 10


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("cross_fitting_world")


@pytest.fixture
def study(world: ModuleType) -> ModuleType:
    return importlib.import_module("cross_fitting")


def decisions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(200) < 0.2, rng.random(200) < 0.3


def test_the_quick_p_value_counts_shared_training_too() -> None:
    ours, theirs = decisions(1)
    fitted = cross_fitted_test(ours, theirs, IDS, FOLDS).p_value
    assert quick_p_value(ours, theirs, IDS, SHARED_TRAINING) == pytest.approx(fitted, abs=0.01)
    assert quick_p_value(ours, theirs, IDS) < 0.8 * fitted


def test_shared_training_widens_everything_by_one_factor() -> None:
    ours, theirs = decisions(1)
    plain = paired_test(ours, theirs, IDS)
    fitted = cross_fitted_test(ours, theirs, IDS, FOLDS)
    assert fitted.difference == plain.difference
    assert fitted.standard_error == pytest.approx(plain.standard_error * np.sqrt(SHARED_TRAINING))
    assert norm.isf(fitted.p_value) == pytest.approx(norm.isf(plain.p_value) / np.sqrt(SHARED_TRAINING))
    wider = (fitted.interval.high - fitted.interval.low) / (plain.interval.high - plain.interval.low)
    assert wider == pytest.approx(np.sqrt(SHARED_TRAINING), rel=0.03)
    assert fitted.effective_pairs == pytest.approx(plain.effective_pairs / SHARED_TRAINING)
    more, less = (detectable_difference(test, alpha_for(1)) for test in (fitted, plain))
    assert more is not None
    assert less is not None
    assert more == pytest.approx(less * np.sqrt(SHARED_TRAINING), rel=0.01)


def test_decisions_that_never_differ_are_no_proof_and_leave_a_wide_interval() -> None:
    ours, _ = decisions(2)
    same = cross_fitted_test(ours, ours, IDS, FOLDS)
    assert same.p_value == 1.0
    assert same.interval.low < -0.02 < 0.02 < same.interval.high
    # Of components that all point one way, 2^-n is the exact p-value, which the factor brings nearer to one half.
    moved = IDS < 6
    assert paired_test(~moved & False, moved, IDS).p_value == pytest.approx(2.0**-6)
    fitted = cross_fitted_test(~moved & False, moved, IDS, FOLDS).p_value
    assert fitted == pytest.approx(norm.sf(norm.isf(2.0**-6) / np.sqrt(SHARED_TRAINING)))


def test_interval_of_one_side_is_wilsons_with_the_factor_only_where_something_was_trained() -> None:
    wrong, ids = np.arange(400) % 5 == 0, np.arange(400)
    clusters = Clusters.of(ids)
    plain = cross_fitted_interval(wrong, ids, ids % 5, trained=False)
    trained = cross_fitted_interval(wrong, ids, ids % 5, trained=True)
    assert plain is not None
    assert trained is not None
    assert (plain.low, plain.high) == pytest.approx(wilson(0.2, 399, clusters.quantile()))
    assert (trained.low, trained.high) == pytest.approx(wilson(0.2, 399 / SHARED_TRAINING, clusters.quantile()))
    none = cross_fitted_interval(wrong & False, ids, ids % 5, trained=True)
    assert none is not None
    assert none.low == 0.0 < none.high
    assert cross_fitted_interval(wrong[:39], ids[:39], ids[:39] % 5, trained=True) is None


def test_folds_hold_whole_components() -> None:
    ours, theirs = decisions(3)
    with pytest.raises(FlywheelError, match="100 components stand in more than one fold: deal out whole components"):
        cross_fitted_test(ours, theirs, IDS, np.arange(200) % 10)
    with pytest.raises(FlywheelError, match="All pairs are in one fold"):
        cross_fitted_interval(ours, IDS, FOLDS * 0, trained=True)
    with pytest.raises(FlywheelError, match="199 folds for 200 pairs"):
        cross_fitted_test(ours, theirs, IDS, FOLDS[1:])
    with pytest.raises(FlywheelError, match="100 decisions and the champion 200"):
        cross_fitted_test(ours[:100], theirs, IDS, FOLDS)
    with pytest.raises(FlywheelError, match="200 component ids for 100 pairs"):
        cross_fitted_interval(ours[:100], IDS, FOLDS, trained=True)


def test_the_simulated_procedure_decides_no_pair_by_its_own_fold(study: ModuleType) -> None:
    rng = np.random.default_rng(4)
    texts, dealt, seen = study.draw(study.WORLDS["much to learn"], "pareto", 200, 5, rng)
    assert len(set(zip(texts.components, dealt, strict=True))) == len(np.unique(texts.components))
    told = texts.labels.copy()
    told[dealt == 2] = 1 - told[dealt == 2]  # another truth in one fold changes what is wrong there, and no decision
    before, after = (study.procedure(seen, labels, dealt, 5).wrong for labels in (texts.labels, told))
    np.testing.assert_array_equal(before[dealt == 2], ~after[dealt == 2])
    assert (before[dealt != 2] != after[dealt != 2]).any(), "the other folds have learned from it"


def test_the_simulated_models_have_left_out_both_folds(world: ModuleType) -> None:
    rng = np.random.default_rng(5)
    products, labels, folds = rng.normal(0, 0.1, (120, world.WIDTH)), rng.integers(0, 2, 120), np.arange(120) % 4
    added, weights = world.train(products, labels, folds, 4)
    kept = (folds != 1) & (folds != 3)
    rest = world.train(products[kept], labels[kept], np.zeros(60, int), 2)[1][1]  # without a second fold, which is empty
    np.testing.assert_allclose(added[folds == 1][:, 1], products[folds == 1] @ weights[1])
    np.testing.assert_allclose(added[folds == 1][:, 3], products[folds == 1] @ rest)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(("name", "tail"), [("nothing to learn", "even"), ("much to learn", "pareto")])
def test_verdicts_of_the_whole_procedure_hold(study: ModuleType, name: str, tail: str) -> None:
    simulations = 300
    found = study.simulate(name, tail, 200, 10, simulations)
    flywheel = study.METHODS.index("flywheel")
    slack = np.sqrt(0.05 * 0.95 / simulations)
    assert 0.93 - slack <= found.covered()[:, flywheel].mean() <= 0.97 + slack
    equal, *_, eight, _ = found.found(alpha_for(1))[:, flywheel]
    assert equal <= alpha_for(1) + slack
    assert eight > 0.25
    assert np.mean(found.naive <= alpha_for(1)) > alpha_for(1), "the best by its own decisions is no honest choice"


@pytest.mark.long
@pytest.mark.slow
def test_verdicts_between_two_trained_procedures_hold(study: ModuleType) -> None:
    simulations = 300
    found = study.simulate_trained("much to learn", "even", 200, 10, simulations)
    flywheel = study.METHODS.index("flywheel")
    slack = np.sqrt(0.05 * 0.95 / simulations)
    held = np.mean((found[:, flywheel, 0] <= 0.0) & (found[:, flywheel, 1] >= 0.0))
    assert 0.93 - slack <= held <= 0.97 + slack
    assert np.mean(found[:, flywheel, 2] <= alpha_for(1)) <= alpha_for(1) + slack
