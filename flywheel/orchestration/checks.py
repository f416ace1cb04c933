"""Checks: what would make a number wrong. Blocking where a wrong number would follow, else a warning."""

import dagster as dg

from flywheel.evaluation.comparison import Baseline, unsound_text
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.words import percent
from flywheel.pairs.snapshots.leak_probe import LeakProbe
from flywheel.pairs.snapshots.snapshot import Snapshot, SplitSummary
from flywheel.pairs.store.contradictions import Contradictions
from flywheel.pairs.store.labels import PairCounts
from flywheel.pairs.store.overview import Embargo

_MAX_CONFLICTS = 0.05
_MAX_PRIOR_SHIFT = 0.10
# Cached features may be bfloat16's and a served folder's are float32; heads widen the difference.
_MAX_COSINE_DIFFERENCE = 0.01

_MAX_CONTRADICTIONS = 0.05
_MAX_LEAK = 0.05

ALL_LINES_KEPT = dg.AssetCheckSpec(
    "all_lines_kept", asset="interaction_pairs", blocking=True,
    description="Accepted, duplicate and quarantined lines add up to the lines read, and all of them are in the store.",
)  # fmt: skip
EMBARGO_SHARE = dg.AssetCheckSpec(
    "embargo_share", asset="interaction_pairs", description="Few new interactions are linked to test or calibration questions."
)
CONTRADICTIONS = dg.AssetCheckSpec(
    "contradictory_triangles", asset="pairs", description="Few pairs are in a triangle A = B, B = C, A unlike C."
)
LEAK_PROBE = dg.AssetCheckSpec(
    "leak_probe", asset="snapshot",
    description="A classifier that sees no text, only graph position and lengths, does little better than chance.",
)  # fmt: skip
LABEL_CONFLICTS = dg.AssetCheckSpec("label_conflicts", asset="pairs", description="Few pairs have both labels.")
NO_LEAKAGE = dg.AssetCheckSpec("no_leakage", asset="snapshot", blocking=True, description="No question is in two splits.")
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

BASELINE_IS_SANE = dg.AssetCheckSpec(
    "baseline_is_sane", asset="baseline_scores",
    description="Baseline and champion tell texts apart, and what they decide and find is not chance.",
)  # fmt: skip
CELL_IS_SANE = dg.AssetCheckSpec(
    "cell_is_sane", asset="evaluation", description="The model tells texts apart, and what it decides and finds is not chance."
)
SIDES_ARE_SANE = dg.AssetCheckSpec(
    "sides_are_sane", asset="leaderboard", blocking=True,
    description="The two models that the next decision compares are sane, so that its verdict means something.",
)  # fmt: skip


def label_conflicts(counts: PairCounts) -> dg.AssetCheckResult:
    """Warn when more than 5 % of the pairs have both labels."""
    share = counts.conflicting / max(1, counts.pairs)
    return _warning("label_conflicts", share <= _MAX_CONFLICTS, f"{percent(share)} of the pairs have both labels")


def all_lines_kept(wrong: list[str], batches: int) -> dg.AssetCheckResult:
    """Fail when a batch's lines do not add up, or the store holds other lines than it counted."""
    return dg.AssetCheckResult(
        check_name="all_lines_kept", passed=not wrong, description="; ".join(wrong) or f"{batches} batches add up"
    )


def embargo_share(embargo: Embargo | None) -> dg.AssetCheckResult:
    """Warn when so much is embargoed that a new test version is due."""
    if embargo is None:
        return _warning("embargo_share", True, "nothing has come in since the draw")
    share = f"{percent(embargo.newest)} of the newest interactions, {percent(embargo.first)} at first"
    return _warning("embargo_share", embargo.advice is None, embargo.advice or share)


def contradictory_triangles(contradictions: Contradictions) -> dg.AssetCheckResult:
    """Warn when more than 5 % of the pairs are in a contradictory triangle."""
    share = percent(contradictions.share)
    description = f"{contradictions.pairs:,} pairs, {share} of all; `flywheel pairs contradictions` names the worst"
    return _warning("contradictory_triangles", contradictions.share <= _MAX_CONTRADICTIONS, description)


def leak_probe(probe: LeakProbe) -> dg.AssetCheckResult:
    """Warn when graph and lengths alone decide more than 5 points better than always giving the commoner label."""
    if probe.advantage is None or probe.auc is None or probe.accuracy is None:
        return _warning("leak_probe", True, f"no figure: {probe.why_not}")
    description = (
        f"right on {percent(probe.accuracy)} of {probe.test_pairs:,} test pairs without reading them, "
        f"{100 * probe.advantage:+.1f} points against the commoner label; area under the ROC curve {probe.auc:.3f}"
    )
    return _warning("leak_probe", probe.advantage <= _MAX_LEAK, description)


def no_leakage(snapshot: Snapshot) -> dg.AssetCheckResult:
    """Fail when a question is in two splits of the files that were written."""
    shared = snapshot.shared_questions()
    return dg.AssetCheckResult(check_name="no_leakage", passed=not shared, description=f"{shared} questions are in two splits")


def prior_shift(snapshot: Snapshot) -> dg.AssetCheckResult:
    """Warn when the share of duplicates differs by more than 10 points between splits."""
    splits = {"train": snapshot.train, "calibration": snapshot.calibration, "test": snapshot.test}
    priors = [split.prior for split in splits.values() if split.prior is not None]
    description = ", ".join(f"{name} {_priors(split)}" for name, split in splits.items() if split.prior is not None)
    near = max(priors, default=0.0) - min(priors, default=0.0) <= _MAX_PRIOR_SHIFT
    return _warning("prior_shift", near, f"share of duplicates: {description}")


def _priors(split: SplitSummary) -> str:
    by_source = [
        f"{name} {percent(prior)}"
        for name, prior in (("seed", split.prior_seed), ("interaction", split.prior_interaction))
        if prior is not None
    ]
    return f"{percent(split.prior or 0.0)} ({', '.join(by_source)})"


def served_vectors(difference: float) -> dg.AssetCheckResult:
    """Fail when the saved folder gives other cosines than those that are evaluated."""
    return dg.AssetCheckResult(
        check_name="served_vectors",
        passed=difference <= _MAX_COSINE_DIFFERENCE,
        description=f"largest difference of a cosine {difference:.2g}, allowed {_MAX_COSINE_DIFFERENCE:g}",
    )


def baseline_is_api(result: Baseline) -> dg.AssetCheckResult:
    """Warn when a local model takes the API's place, or the API failed on pairs."""
    failures = result.evaluation.failures
    told = failures.sentence(percent(failures.error_without)) if failures else f"{result.evaluation.variant}, measured"
    return _warning("baseline_is_api", result.is_api and not failures, result.advice or told)


def enough_components(record: Evaluation) -> dg.AssetCheckResult:
    """Warn when the test split carries no interval."""
    description = record.no_verdict or f"{record.components} components" + (", rough below 100" if record.rough else "")
    return _warning("enough_components", record.no_verdict is None, description)


def baseline_is_sane(*records: Evaluation | None) -> dg.AssetCheckResult:
    """Fail when the baseline or the champion cannot be compared with anything."""
    return _sane("baseline_is_sane", *records)


def cell_is_sane(record: Evaluation) -> dg.AssetCheckResult:
    """Fail when a cell's model cannot be compared with anything."""
    return _sane("cell_is_sane", record)


def sides_are_sane(side: Evaluation | None) -> dg.AssetCheckResult:
    """Fail when one `side` of the next decision cannot be compared with anything."""
    return _sane("sides_are_sane", side, prefix="No verdict is possible: ")


def _sane(name: str, *records: Evaluation | None, prefix: str = "") -> dg.AssetCheckResult:
    alarms = [unsound_text(record) for record in records if record and record.alarm]
    remarks = [f"{each.name}: {found.sentence}" for each in records if each for found in each.findings if not found.alarm]
    description = prefix * bool(alarms) + (" ".join([*alarms, *remarks]) or "nothing odd")
    return dg.AssetCheckResult(check_name=name, passed=not alarms, description=description)


def _warning(name: str, passed: bool, description: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=description)
