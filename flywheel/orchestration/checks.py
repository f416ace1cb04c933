"""Checks: what would make a number wrong. Blocking where a wrong number would follow, else a warning."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from flywheel.evaluation.comparison import Baseline, unsound_text
from flywheel.evaluation.drift import Drift
from flywheel.evaluation.paired import FALSE_PROMOTIONS, alpha_for
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.words import percent
from flywheel.models.foreign import Portability
from flywheel.orchestration.metadata import table
from flywheel.pairs.inbox import Rejected
from flywheel.pairs.snapshots.leak_probe import LeakProbe
from flywheel.pairs.snapshots.snapshot import DRAW_ANEW, SET_ASIDE, Snapshot, SplitSummary
from flywheel.pairs.store.contradictions import Contradictions
from flywheel.pairs.store.labels import PairCounts
from flywheel.pairs.store.overview import Embargo, Quarantine
from flywheel.pipeline.evaluation import Served
from flywheel.registry.decisions import SPENT_BELOW, alpha_left

_MAX_CONFLICTS = 0.05
_MAX_PRIOR_SHIFT = 0.10
_MAX_CONTRADICTIONS = 0.05
_MAX_LEAK = 0.05
_NAMED = 5  # deliveries in a sentence

# What each check says of itself; a check in _BLOCKING stops what depends on the asset.
DESCRIPTIONS = {
    "all_lines_kept": "Accepted, duplicate and quarantined lines add up to the lines read, and all of them are in the store.",
    "rejected_files": "No delivery that could not be read lies in the inbox's folder `rejected`.",
    "quarantine_share": "Few records of the newest deliveries are quarantined.",
    "embargo_share": "Few new interactions are linked to test or calibration questions.",
    "contradictory_triangles": "Few pairs are in a triangle A = B, B = C, A unlike C.",
    "label_conflicts": "Few pairs have both labels.",
    "no_leakage": "No question is in two splits.",
    "prior_shift": "Calibration and test hold the same share of duplicates as train.",
    "challengers_trained": "Every challenger that the settings name could be trained.",
    "label_drift": "New pairs are the same as often as those that the champion was trained on.",
    "text_drift": "New texts are as long, and of the same scripts, as those that the champion was trained on.",
    "score_drift": "The champion scores new pairs as it scored those that were set aside from its training.",
    "far_questions": "Few new questions are far from all that the champion was trained on.",
    "budget_left": "The test set's chance of a false promotion is not nearly spent.",
    "leak_probe": "A classifier that sees no text, only graph position and lengths, does little better than chance.",
    "served_vectors": "The saved folder, loaded by sentence-transformers alone, gives the vectors that are evaluated.",
    "folder_portability": "The saved folder loads as its card says, by the keys that other programs read.",
    "baseline_is_api": "The baseline is the API itself, on every test pair.",
    "baseline_is_sane": "Baseline and champion tell texts apart, and what they decide and find is not chance.",
    "enough_components": "The test split is large enough for an interval and a verdict.",
    "cell_is_sane": "The model tells texts apart, and what it decides and finds is not chance.",
    "sides_are_sane": "The two models that the next decision compares are sane, so that its verdict means something.",
}
_BLOCKING = {"all_lines_kept", "no_leakage", "served_vectors", "folder_portability", "sides_are_sane"}


def about(name: str) -> dict[str, Any]:
    """Name, description, and whether it blocks: the arguments of a check's spec or decorator."""
    return {"name": name, "description": DESCRIPTIONS[name], "blocking": name in _BLOCKING}


def label_conflicts(counts: PairCounts) -> dg.AssetCheckResult:
    """Warn when more than 5 % of the pairs have both labels."""
    share = counts.conflicting / max(1, counts.pairs)
    said = f"{percent(share)} of the pairs have both labels"
    return _warning("label_conflicts", share <= _MAX_CONFLICTS, said, {"share": share, "pairs": counts.pairs})


def all_lines_kept(wrong: list[str], batches: int) -> dg.AssetCheckResult:
    """Fail when a batch's lines do not add up, or the store holds other lines than it counted."""
    return dg.AssetCheckResult(
        check_name="all_lines_kept",
        passed=not wrong,
        description="; ".join(wrong) or f"{batches} batches add up",
        metadata={"batches": batches, "wrong": len(wrong)},
    )


def rejected_files(rejected: Sequence[Rejected], inbox: Path) -> dg.AssetCheckResult:
    """Warn while deliveries that could not be read wait for a person."""
    description = "every delivery could be read"
    if rejected:
        named = (each.reason if each.name in each.reason else f"{each.name}: {each.reason}" for each in rejected[:_NAMED])
        described = " ".join(named)
        more = f" And {len(rejected) - _NAMED} more." if len(rejected) > _NAMED else ""
        description = (
            f"{len(rejected)} could not be read. Fix each and move it from {inbox / 'rejected'} back into {inbox}, or delete "
            f"it; then run this check again. {described}{more}"
        )
    rows = [{"file": each.name, "reason": each.reason} for each in rejected]
    return _warning("rejected_files", not rejected, description, {"rejected": len(rejected), "files": table(rows)})


def quarantine_share(found: Quarantine, allowed: float) -> dg.AssetCheckResult:
    """Warn when more than `allowed` of the newest records are quarantined."""
    description = (
        f"{percent(found.share)} of the newest {found.records:,} records are quarantined (deliveries: {found.deliveries:,}); "
        f"pairs.max_quarantined is {percent(allowed)}"
    )
    if found.share > allowed and found.reasons:
        description += f". Most often: {found.reasons[0][0]}. Correct these lines and deliver them again"
    rows = [{"reason": reason, "lines": lines} for reason, lines in found.reasons]
    figures = {"share": found.share, "records": found.records, "quarantined": found.quarantined, "reasons": table(rows)}
    return _warning("quarantine_share", found.share <= allowed, description, figures)


def embargo_share(embargo: Embargo | None) -> dg.AssetCheckResult:
    """Warn when so much is embargoed that a new test version is due."""
    if embargo is None:
        return _warning("embargo_share", True, "nothing has come in since the draw", {"batches": 0})
    share = f"{percent(embargo.newest)} of the newest interactions, {percent(embargo.first)} at first"
    figures = {"newest": embargo.newest, "first": embargo.first, "batches": embargo.batches}
    return _warning("embargo_share", embargo.advice is None, embargo.advice or share, figures)


def contradictory_triangles(contradictions: Contradictions) -> dg.AssetCheckResult:
    """Warn when more than 5 % of the pairs are in a contradictory triangle."""
    share = percent(contradictions.share)
    description = f"{contradictions.pairs:,} pairs, {share} of all; `flywheel pairs contradictions` names the worst"
    figures = {"share": contradictions.share, "pairs": contradictions.pairs}
    return _warning("contradictory_triangles", contradictions.share <= _MAX_CONTRADICTIONS, description, figures)


def leak_probe(probe: LeakProbe) -> dg.AssetCheckResult:
    """Warn when graph and lengths alone decide more than 5 points better than always giving the commoner label."""
    if probe.advantage is None or probe.auc is None or probe.accuracy is None:
        return _warning("leak_probe", True, f"no figure: {probe.why_not}", {"test_pairs": probe.test_pairs})
    description = (
        f"right on {percent(probe.accuracy)} of {probe.test_pairs:,} test pairs without reading them, "
        f"{100 * probe.advantage:+.1f} points against the commoner label; area under the ROC curve {probe.auc:.3f}"
    )
    found = {"advantage": probe.advantage, "area_under_roc_curve": probe.auc, "test_pairs": probe.test_pairs}
    return _warning("leak_probe", probe.advantage <= _MAX_LEAK, description, found)


def no_leakage(snapshot: Snapshot) -> dg.AssetCheckResult:
    """Fail when a question is in two splits of the files that were written."""
    shared = snapshot.shared_questions()
    return dg.AssetCheckResult(
        check_name="no_leakage",
        passed=not shared,
        description=f"{shared} questions are in two splits",
        metadata={"shared_questions": shared},
    )


def prior_shift(snapshot: Snapshot) -> dg.AssetCheckResult:
    """Warn when the share of duplicates differs by more than 10 points between splits."""
    splits = {"train": snapshot.train, "calibration": snapshot.calibration, "test": snapshot.test}
    priors = {name: split.prior for name, split in splits.items() if split.prior is not None}
    description = ", ".join(f"{name} {_priors(split)}" for name, split in splits.items() if split.prior is not None)
    apart = max(priors.values(), default=0.0) - min(priors.values(), default=0.0)
    figures = {**priors, "largest_difference": apart}
    return _warning("prior_shift", apart <= _MAX_PRIOR_SHIFT, f"share of duplicates: {description}", figures)


def _priors(split: SplitSummary) -> str:
    by_source = [
        f"{name} {percent(prior)}"
        for name, prior in (("seed", split.prior_seed), ("interaction", split.prior_interaction))
        if prior is not None
    ]
    return f"{percent(split.prior or 0.0)} ({', '.join(by_source)})"


def served_vectors(found: Mapping[str, Served]) -> dg.AssetCheckResult:
    """Fail when a saved folder gives other cosines than those that are evaluated; by the folder's name."""
    if not found:
        return dg.AssetCheckResult(check_name="served_vectors", passed=True, description="no model is there to look at")
    name, (largest, allowed) = max(found.items(), key=lambda item: item[1].difference / item[1].allowed)
    return dg.AssetCheckResult(
        check_name="served_vectors",
        passed=largest <= allowed,
        description=f"largest difference of a cosine {largest:.2g}, in {name}; allowed {allowed:g}",
        metadata={"largest_difference": largest, "models": len(found)},
    )


def folder_portability(found: Mapping[str, Portability]) -> dg.AssetCheckResult:
    """Fail when other programs would refuse or misread a saved folder; by the folder's name."""
    faults = [f"{name}: {fault}" for name, each in found.items() for fault in each.faults]
    loaders = dict.fromkeys(each.loaders for each in found.values())
    return dg.AssetCheckResult(
        check_name="folder_portability",
        passed=not faults,
        description="; ".join(faults) or " ".join(loaders) or "no model is there to look at",
        metadata={"faults": len(faults), "models": len(found)},
    )


def baseline_is_api(result: Baseline) -> dg.AssetCheckResult:
    """Warn when a local model takes the API's place, or the API failed on pairs."""
    failures = result.evaluation.failures
    told = failures.sentence(percent(failures.error_without)) if failures else f"{result.evaluation.variant}, measured"
    figures = {"is_api": int(result.is_api), "failed_pairs": failures.test if failures else 0}
    return _warning("baseline_is_api", result.is_api and not failures, result.advice or told, figures)


def enough_components(record: Evaluation) -> dg.AssetCheckResult:
    """Warn when the test split carries no interval."""
    description = record.no_verdict or f"{record.components} components" + (", rough below 100" if record.rough else "")
    figures = {"components": record.components, "pairs": record.metrics.n}
    return _warning("enough_components", record.no_verdict is None, description, figures)


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
    figures = {"alarms": len(alarms), "remarks": len(remarks)}
    return dg.AssetCheckResult(check_name=name, passed=not alarms, description=description, metadata=figures)


def challengers_trained(trained: int, failed: Mapping[str, str]) -> dg.AssetCheckResult:
    """Warn when a challenger could not be trained; by its name."""
    description = "; ".join(f"{name}: {reason}" for name, reason in failed.items()) or f"{trained} were trained"
    return _warning("challengers_trained", not failed, description, {"trained": trained, "failed": len(failed)})


def drifted(name: str, drift: Drift, about: str, limits: Mapping[str, float]) -> dg.AssetCheckResult:
    """Warn where a figure is beyond its limit, on either side of 0; pass where there is no figure."""
    counts = {"new_pairs": drift.new, "pairs_before": drift.before}
    if drift.why_not:
        return _warning(name, True, f"no figure: {drift.why_not}", counts)
    figures = ", ".join(f"{each.replace('_', ' ')} {value:.3g}" for each, value in drift.figures.items())
    allowed = ", ".join(f"{each.replace('_', ' ')} {limit:g}" for each, limit in limits.items())
    description = f"{about} of {drift.new:,} new pairs: {figures}; allowed: {allowed}"
    passed = all(abs(drift.figures[each]) <= limit for each, limit in limits.items())
    return _warning(name, passed, description, {**drift.figures, **counts})


def budget_left(decisions: int, cross_fitted: bool) -> dg.AssetCheckResult:
    """Warn when the next decision on the test set has little left to spend."""
    following = alpha_for(decisions + 1)
    description = (
        f"{decisions} decisions were made on pairs of this test set; the next one may spend {100 * following:.2g} % of the "
        f"{100 * FALSE_PROMOTIONS:g} % chance of a false promotion"
    )
    spent = following < SPENT_BELOW
    if spent:
        description += f". For a fresh test set: {SET_ASIDE if cross_fitted else DRAW_ANEW}"
    figures = {"decisions": decisions, "next_level": following, "level_left": alpha_left(decisions)}
    return _warning("budget_left", not spent, description, figures)


def _warning(name: str, passed: bool, description: str, metadata: Mapping[str, Any]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name, passed=passed, severity=dg.AssetCheckSeverity.WARN, description=description, metadata=metadata
    )
