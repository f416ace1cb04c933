"""Checks: what would make a number wrong. Blocking where a wrong number would follow, else a warning."""

import dagster as dg

from flywheel.evaluation.records import Evaluation
from flywheel.orchestration.steps import BaselineResult
from flywheel.orchestration.tables import percent
from flywheel.pairs.derive import PairCounts
from flywheel.pairs.snapshots import Snapshot

_MAX_CONFLICTS = 0.05
_MAX_PRIOR_SHIFT = 0.10
_MAX_VECTOR_DIFFERENCE = 1e-4

LABEL_CONFLICTS = dg.AssetCheckSpec("label_conflicts", asset="pairs", description="Few pairs have both labels.")
NO_LEAKAGE = dg.AssetCheckSpec("no_leakage", asset="snapshot", blocking=True, description="No question stands in two splits.")
PRIOR_SHIFT = dg.AssetCheckSpec(
    "prior_shift", asset="snapshot", description="Calibration and test hold the same share of duplicates as train."
)
SERVED_VECTORS = dg.AssetCheckSpec(
    "served_vectors", asset="finetuned_model", blocking=True,
    description="The saved folder, loaded by sentence-transformers alone, gives the vectors that are evaluated.",
)  # fmt: skip
BASELINE_IS_API = dg.AssetCheckSpec(
    "baseline_is_api", asset="baseline_scores", description="The baseline is the API itself, on every test pair."
)
ENOUGH_COMPONENTS = dg.AssetCheckSpec(
    "enough_components", asset="evaluation", description="The test split is large enough for an interval and a verdict."
)


def label_conflicts(counts: PairCounts) -> dg.AssetCheckResult:
    """Warn when more than 5 % of the pairs have both labels."""
    share = counts.conflicting / max(1, counts.pairs)
    return _warning("label_conflicts", share <= _MAX_CONFLICTS, f"{percent(share)} of the pairs have both labels")


def no_leakage(snapshot: Snapshot) -> dg.AssetCheckResult:
    """Fail when a question stands in two splits of the files that were written."""
    shared = snapshot.shared_questions()
    return dg.AssetCheckResult(
        check_name="no_leakage", passed=not shared, description=f"{shared} questions stand in two splits"
    )


def prior_shift(snapshot: Snapshot) -> dg.AssetCheckResult:
    """Warn when the share of duplicates differs by more than 10 points between splits."""
    priors = [split.prior for split in (snapshot.train, snapshot.calibration, snapshot.test) if split.prior is not None]
    said = ", ".join(percent(prior) for prior in priors)
    near = max(priors, default=0.0) - min(priors, default=0.0) <= _MAX_PRIOR_SHIFT
    return _warning("prior_shift", near, f"share of duplicates in train, calibration, test: {said}")


def served_vectors(difference: float) -> dg.AssetCheckResult:
    """Fail when the saved folder gives other vectors than those that are evaluated."""
    return dg.AssetCheckResult(
        check_name="served_vectors",
        passed=difference <= _MAX_VECTOR_DIFFERENCE,
        description=f"largest difference {difference:.2g}, allowed {_MAX_VECTOR_DIFFERENCE:.0g}",
    )


def baseline_is_api(result: BaselineResult) -> dg.AssetCheckResult:
    """Warn when a local model stands in for the API."""
    return _warning("baseline_is_api", result.is_api, result.advice or f"{result.evaluation.variant}, measured")


def enough_components(record: Evaluation) -> dg.AssetCheckResult:
    """Warn when the test split carries no interval."""
    said = record.no_verdict or f"{record.components} components" + (", rough below 100" if record.rough else "")
    return _warning("enough_components", record.no_verdict is None, said)


def _warning(name: str, passed: bool, description: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=description)
