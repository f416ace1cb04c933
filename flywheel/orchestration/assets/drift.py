"""Checks of how what came in differs from what the champion knows, and of what its test set can still decide."""

from collections.abc import Callable
from typing import NamedTuple

import dagster as dg

from flywheel.evaluation.drift import Drift
from flywheel.evaluation.options import DriftOptions
from flywheel.orchestration import checks
from flywheel.orchestration.flywheel import Flywheel
from flywheel.orchestration.lineage import snapshot_of_run
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline import drift
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.decisions import count_decisions


class _Look(NamedTuple):
    asset: str
    check: str
    about: str
    find: Callable[[Workspace, Snapshot], Drift]
    limits: Callable[[DriftOptions], dict[str, float]]


_LOOKS = (
    _Look("snapshot", "label_drift", "labels", drift.find_label_drift, lambda most: {"difference": most.max_label}),
    _Look(
        "snapshot", "text_drift", "texts", drift.find_text_drift,
        lambda most: {"length_distance": most.max_length, "script_distance": most.max_script},
    ),
    _Look("champion", "score_drift", "scores", drift.find_score_drift, lambda most: {"distance": most.max_score}),
    _Look("champion", "far_questions", "questions", drift.find_far_questions, lambda most: {"share": most.max_far}),
)  # fmt: skip


def drift_checks(flywheel: Flywheel) -> list[dg.AssetChecksDefinition]:
    """The checks of drift; those of `champion` come when its vectors are made."""
    return [_drift(flywheel, look) for look in _LOOKS]


def _drift(flywheel: Flywheel, look: _Look) -> dg.AssetChecksDefinition:
    @flywheel.check(look.asset, look.check)
    def drifted(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            found = look.find(workspace, snapshot_of_run(flywheel, context, workspace))
            return checks.drifted(look.check, found, look.about, look.limits(workspace.settings.drift))

    return drifted


def budget_left(flywheel: Flywheel) -> dg.AssetChecksDefinition:
    """The check that warns before a test set can decide nothing any more."""

    @flywheel.check("champion", "budget_left")
    def budget_left(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        with flywheel.at_work(context) as workspace:
            snapshot = snapshot_of_run(flywheel, context, workspace)
            made = count_decisions(workspace.registry, snapshot.test_id, workspace.home.evaluations)
            return checks.budget_left(made, snapshot.is_cross_fitted)

    return budget_left
