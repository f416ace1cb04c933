"""The pieces of the benchmarks that a wrong figure could come from without anyone noticing."""

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from flywheel.models.catalogue import CATALOGUE, Variant
from flywheel.models.weights import locate_weights
from flywheel.training.job import TUNING
from flywheel_tests.helpers.clumps import clump_world

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def original(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("original")


def test_at_100_pairs_the_originals_warm_up_outlasts_its_training(original: ModuleType) -> None:
    import torch

    def rates(pairs: int) -> list[float]:
        optimizer = original.optimizer_of(torch.nn.Linear(2, 2))
        steps = original.EPOCHS * -(-pairs // original.BATCH_SIZE)
        schedule, seen = original.schedule(optimizer, steps), []
        for _ in range(steps):
            seen.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return seen

    assert max(rates(100)) == rates(100)[-1] == pytest.approx(1e-4 * 31 / 500)
    assert max(rates(3200)) == pytest.approx(1e-4)
    assert rates(3200)[-1] < 1e-6


@pytest.mark.slow
def test_the_originals_recipe_trains_the_same_head_as_the_loop_it_was_written_for(original: ModuleType) -> None:
    rows = [(f"how do i change setting {n}?", f"where is the switch for {n}?", n % 2) for n in range(40)]
    pairs = pd.DataFrame(rows, columns=["text_a", "text_b", "label"])
    weights = locate_weights(CATALOGUE["all-MiniLM-L6-v2"])
    encoder = original.load_states(weights, "cpu")
    (dense,) = original.new_heads(encoder, [16], random_seed=3)
    start = original.TanhHead.of(dense)
    model = original.SentenceTransformer(modules=[*encoder, dense], device="cpu")
    model.old_fit(
        [(original.batches(pairs), original.OnlineContrastiveLoss(model))],
        epochs=2, scheduler="warmuplinear", warmup_steps=500, optimizer_params={"lr": 1e-4}, show_progress_bar=False,
    )  # fmt: skip

    head = original.train_heads(weights, [16], pairs, random_seed=3, device="cpu", epochs=2)[16][-1]

    assert np.abs(head.weight - start.weight).max() > 1e-7
    np.testing.assert_allclose(head.weight, original.TanhHead.of(dense).weight, atol=1e-9)
    np.testing.assert_allclose(head.bias, original.TanhHead.of(dense).bias, atol=1e-9)


def test_the_plan_counts_sentences_as_one_does_by_hand(original: ModuleType) -> None:
    forwards = importlib.import_module("forwards")
    distinct = forwards.growth({2: 4, 4: 7, 6: 9})

    assert [distinct(size) for size in (2, 6, 10)] == [4, 9, 13]
    # Two cells a size. Training: 8 epochs x 2 sentences x (2 + 4) pairs. Evaluation: 5 texts x 8 epochs x 2 sizes.
    # Threshold: 4 + 5 texts at 2 pairs, 7 + 5 at 4.
    theirs = forwards.original_forwards([2, 4], distinct, evaluation=5, cells_per_size=2)
    assert (theirs.training, theirs.evaluation, theirs.threshold, theirs.total) == (2 * 96, 2 * 80, 2 * 21, 394)
    # One base model: 7 texts at the largest size, 8 of calibration and test.
    assert forwards.flywheel_forwards([2, 4], distinct, evaluation=8, bases=1).total == 15


def test_the_interval_of_the_difference_knows_components_and_redraws(original: ModuleType) -> None:
    tables = importlib.import_module("tables")
    components = np.repeat(np.arange(200), 2)
    same = tables.difference_interval(np.full((3, 400), 0.25), components)
    assert (same.low, same.high) == pytest.approx((0.25, 0.25))

    redraws = tables.difference_interval(np.repeat([[-1.0], [0.0], [1.0]], 400, axis=1), components)
    assert redraws.low < -0.5 < 0.5 < redraws.high

    wrong = np.random.default_rng(0).random(403) < 0.3
    assert (tables.unpacked(tables.packed(wrong), 403) == wrong).all()


def test_a_row_of_the_tuning_study_trains_what_it_says_once(original: ModuleType, tmp_path: Path) -> None:
    study = importlib.import_module("tuning_study")
    world = clump_world(tmp_path, 40, splits={"max_component_pairs": 100}, evaluation={"min_components": 2})
    variant = Variant("all-MiniLM-L6-v2", 16)

    job = study.job_of_row(world.workspace, world.snapshot, variant, "all", 'top {"layers": 3}')
    assert (job.recipe, job.tuning.layers, job.tuning.epochs, job.dims) == ("top", 3, TUNING["top"].epochs, (16,))
    job = study.job_of_row(world.workspace, world.snapshot, variant, "all", 'head {"epochs": 2}')
    first, again = (study.measured(world.workspace, world.snapshot, job, tested=True) for _ in range(2))
    assert first == again
    assert first.cpu > 0
    assert len(study.judging_pairs(world.snapshot)) < world.snapshot.calibration.pairs
    assert study.line("head", [first]).startswith("| `head` | 0.")
