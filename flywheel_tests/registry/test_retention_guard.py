"""What a challenger may lose elsewhere, where the settings bound it."""

from pathlib import Path

import pytest

from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.retention import Retention
from flywheel.registry import decisions
from flywheel.registry.options import PromotionOptions
from flywheel_tests.registry.test_registry import registry, step


@pytest.mark.parametrize(("second", "allowed", "wins"), [(0.781, 0.02, True), (0.77, 0.02, False), (0.77, None, True)])
def test_winner_that_loses_too_much_elsewhere_is_kept_out_where_that_is_asked_for(
    tmp_path: Path, second: float, allowed: float | None, wins: bool
) -> None:
    """Against its untuned model, on each domain, by the figure that the page shows."""
    domains = (("general pairs", 0.81), ("ours.csv", second))
    kept = tuple(Retention(name, name, tuned, 0.8, Interval(-0.1, 0.1), 300, 0) for name, tuned in domains)
    challenger, reference = step(tmp_path, 2, retention=kept), step(tmp_path, 0, kind="baseline")
    rules = PromotionOptions(max_retention_loss=allowed)
    entry, _ = decisions.decide(registry(tmp_path), challenger, reference, tmp_path / "evaluations", rules, None, "s1")
    assert entry.verdict.promoted == wins
    reason = "loses 0.030 on ours.csv (average precision, against untuned), allowed 0.020"
    assert wins or entry.verdict.reason == reason
