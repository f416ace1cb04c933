"""Decide who is champion: the rules, the choice of a challenger, the comparison, and the error budget of a test set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flywheel.errors import FlywheelError, NoVerdictError
from flywheel.evaluation.comparison import check_same_test, unsound, unsound_text
from flywheel.evaluation.cross_fitted import paired
from flywheel.evaluation.failures import both_decided, way_on
from flywheel.evaluation.paired import FALSE_PROMOTIONS, alpha_for, detectable_difference
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.scores import chosen_in_folds, decisions, tested_pairs
from flywheel.pairs.snapshots.snapshot import DRAW_AGAIN, DRAW_ANEW, SET_ASIDE
from flywheel.registry.champions import Champion, Entry, Registry, Verdict
from flywheel.registry.options import PromotionOptions
from flywheel.scoring.retrieval import Retrieval

# Below this level for the next decision, the test set's error budget is nearly spent.
SPENT_BELOW = 0.002


def choose_challenger(candidates: Sequence[Evaluation]) -> Evaluation:
    """The candidate with the lowest error on calibration; ties go to the smaller model. `test` is not looked at.

    Raises FlywheelError when there is none.
    """
    tuned = [candidate for candidate in candidates if candidate.kind == "tuned"]
    if not tuned:
        raise FlywheelError(
            "No cell of this snapshot has been evaluated under the present settings; `flywheel grid` trains what is missing "
            "and evaluates the rest."
        )
    return min(tuned, key=lambda c: (c.calibration_set_error, int(c.variant.split("@")[1]), c.train_pairs or 0, c.record_id))


def find_decision(registry: Registry, challenger: Evaluation, reference: Evaluation) -> Entry | None:
    """The entry that judged these two on this test split and for this share of duplicates, if there is one."""
    entries = registry.history()
    return next((entry for entry in entries if entry.verdict and same_match(entry.verdict, challenger, reference)), None)


def count_decisions(registry: Registry, test_id: str, evaluations: Path) -> int:
    """How many decisions were made on pairs of this test split: on it, or on another that shares pairs with it.

    Drawing again, or a label that joins, gives another `test_id` to much the same pairs, and what they have decided counts.
    A split of which no record is left counts as sharing pairs, since nothing shows the opposite.
    """
    made = Counter(entry.verdict.test_id for entry in registry.history() if entry.verdict)
    ours = tested_pairs(evaluations, test_id) or frozenset()
    others = {other: tested_pairs(evaluations, other) for other in made if other != test_id}
    separate = sum(made[other] for other, theirs in others.items() if theirs is not None and ours.isdisjoint(theirs))
    return made.total() - separate


def was_decided(registry: Registry, evaluations: Path, pairs: frozenset[str]) -> bool:
    """Whether a decision was made on some of these pairs; one of whose test set no record is left counts as made on them."""
    made = {entry.verdict.test_id for entry in registry.history() if entry.verdict}
    tested = (tested_pairs(evaluations, test_id) for test_id in made)
    return any(theirs is None or not pairs.isdisjoint(theirs) for theirs in tested)


def decide(
    registry: Registry,
    challenger: Evaluation,
    reference: Evaluation,
    evaluations: Path,
    rules: PromotionOptions,
    reigning: str | None,
    snapshot_id: str,
    candidates: Sequence[Evaluation] = (),
) -> tuple[Entry, bool]:
    """Judge the challenger, add the verdict to the history, and swap the pointer if it won.

    Returns the entry and whether it is new: the same two are judged once a `test_id`, so asking again spends nothing and
    promotes nobody twice; it ends a promotion that was killed before the swap. `reigning` is the champion's model when the
    reference was chosen, `snapshot_id` the snapshot that the challenger was chosen on, and `candidates` those among which a
    cross-fitted one was. Raises NoVerdictError when there is no verdict (see `judge`), FlywheelError when another one reigns by
    now.
    """
    with registry.locked():
        history = registry.history()
        if entry := find_decision(registry, challenger, reference):
            if entry.champion and not any(later.champion for later in history[entry.number :]):
                registry.point_to(entry)
            return entry, False
        present = registry.current()
        champion = present.champion.model if present and present.champion else None
        if champion != reigning:
            raise FlywheelError(
                f"{challenger.name} was to be compared with {reference.name}, but the champion has changed meanwhile. "
                "Run `flywheel champion promote` again."
            )
        number = 1 + count_decisions(registry, challenger.test_id, evaluations)
        against_champion = reference.kind == "tuned"
        verdict = judge(challenger, reference, evaluations, rules, number, against_champion, candidates)
        previous = present.number if present else None
        if not verdict.promoted:
            return registry.append("kept", None, verdict, previous, snapshot_id), True
        return registry.append("promoted", champion_of(challenger), verdict, previous, snapshot_id), True


def judge(
    challenger: Evaluation,
    reference: Evaluation,
    evaluations: Path,
    rules: PromotionOptions,
    decision: int,
    against_champion: bool,
    candidates: Sequence[Evaluation] = (),
) -> Verdict:
    """Compare the two on the same test pairs, each by its own decision rule; changes nothing.

    Where the pairs are cross-fitted, the verdict is on the procedure that gave the challenger, its choice among `candidates`
    included: each fold is decided by the candidate that the other folds chose. Raises NoVerdictError when the split carries no
    verdict or one of them is not sane, FlywheelError when they were scored on different pairs.
    """
    check_same_test(challenger, reference)
    if reason := challenger.no_verdict or reference.no_verdict:
        raise NoVerdictError(f"No verdict is possible: {reason}. {way_on(reason, DRAW_AGAIN)}")
    if side := unsound(challenger, reference):
        raise NoVerdictError(f"No verdict is possible: {unsound_text(side)}")
    chosen = chosen_in_folds(evaluations, candidates) if challenger.is_cross_fitted and candidates else None
    ours = decisions(evaluations, challenger) if chosen is None else chosen
    theirs = decisions(evaluations, reference)
    if challenger.failures or reference.failures:
        ours, theirs = both_decided(ours, theirs)
    test = paired(
        *(side["wrong"].to_numpy() for side in (ours, theirs)),
        *(ours[name].to_numpy() for name in ("component", "fold")),
    )
    right = ~theirs["wrong"]
    broken = float((ours["wrong"] & right).sum() / max(1, right.sum())) if against_champion else None
    found, found_before = _retrieval(challenger), _retrieval(reference)
    mrr = found.mrr_at_10 - found_before.mrr_at_10
    recall = found.recall_at_10 - found_before.recall_at_10
    alpha = alpha_for(decision)
    against = []
    if test.p_value > alpha:
        against.append(f"not provably better (p = {test.p_value:.3g}, needed {alpha:.3g})")
    if broken is not None and broken >= rules.max_broken_share:
        against.append(f"breaks {broken:.1%} of the pairs {reference.name} had right, allowed {rules.max_broken_share:.1%}")
    if min(mrr, recall) < -rules.max_retrieval_loss:
        against.append(f"retrieval got worse (MRR@10 {mrr:+.3f}, recall@10 {recall:+.3f})")
    if (allowed := rules.max_retention_loss) is not None:
        against += [
            f"loses {-each.difference:.3f} on {each.domain} (average precision, against untuned), allowed {allowed:.3f}"
            for each in challenger.retention
            if each.difference < -allowed
        ]
    reason = "; ".join(against) or f"fewer errors (p = {test.p_value:.3g}, needed {alpha:.3g}) and retrieval kept"
    return Verdict(
        challenger=challenger.record_id,
        challenger_name=challenger.name,
        reference=reference.record_id,
        reference_name=reference.name,
        test_id=challenger.test_id,
        decision=decision,
        difference=test.difference,
        ci_low=test.interval.low,
        ci_high=test.interval.high,
        p_value=test.p_value,
        alpha=alpha,
        broken_share=broken,
        mrr_change=mrr,
        recall_change=recall,
        promoted=not against,
        reason=reason,
        detectable=detectable_difference(test, alpha),
        components=test.components,
        pairs=test.pairs,
        target_prior=challenger.terms.target_prior,
        folds=len(challenger.fold_errors),
    )


def _retrieval(side: Evaluation) -> Retrieval:
    """What its search finds, without the texts that it could not embed: nobody wins by these."""
    return (side.failures and side.failures.retrieval_without) or side.retrieval


def alpha_left(decisions: int) -> float:
    """What is left of the 0.05 for all later decisions on a `test_id` after so many."""
    return FALSE_PROMOTIONS - sum(alpha_for(decision) for decision in range(1, decisions + 1))


def spending(verdict: Verdict) -> str:
    """What a decision took of its test set's chance of a false promotion, what is left, and what to do when little is."""
    following = alpha_for(verdict.decision + 1)
    words = (
        f"Decision {verdict.decision} on pairs of this test set: {_percent(verdict.alpha)} of the "
        f"{_percent(FALSE_PROMOTIONS)} was to spend on it, {_percent(alpha_left(verdict.decision))} is left for all later "
        f"ones; the next one may spend {_percent(following)}."
    )
    if following < SPENT_BELOW:
        words += f" For a fresh test set: {SET_ASIDE if verdict.folds else DRAW_ANEW}"
    return words


def _percent(share: float) -> str:
    """Two significant digits, however small."""
    return f"{np.format_float_positional(100 * share, precision=2, fractional=False, trim='-')} %"


def in_words(entry: Entry) -> str:
    """What an entry says became of a turn, in a sentence."""
    if entry.verdict:
        return f"{entry.verdict.challenger_name} against {entry.verdict.reference_name}: {entry.verdict.reason}."
    if entry.turn:
        turn = entry.turn
        text = f"{turn.candidate_name}, trained on {turn.train_pairs or 0:,} pairs: {100 * turn.error:.1f} %."
        if turn.champion_error is not None:
            text += f" The champion has {100 * turn.champion_error:.1f} % on the same pairs."
        return f"{text} {turn.reason}"
    return f"{entry.champion.variant}, size {entry.champion.size}, is champion again." if entry.champion else ""


def same_match(verdict: Verdict, challenger: Evaluation, reference: Evaluation) -> bool:
    """Whether a verdict is about these two on this test split and for this share of duplicates."""
    judged = verdict.challenger, verdict.reference, verdict.test_id, verdict.target_prior
    return judged == (challenger.record_id, reference.record_id, challenger.test_id, challenger.terms.target_prior)


def champion_of(evaluation: Evaluation) -> Champion:
    """The champion that a promoted model's evaluation makes."""
    assert evaluation.size is not None
    assert evaluation.recipe is not None
    interval = evaluation.interval
    return Champion(
        model=evaluation.record_id,
        variant=evaluation.variant,
        size=evaluation.size,
        recipe=evaluation.recipe,
        threshold=evaluation.rule.threshold,
        snapshot_id=evaluation.snapshot_id,
        test_id=evaluation.test_id,
        error=evaluation.error,
        ci_low=interval.low if interval else None,
        ci_high=interval.high if interval else None,
        n=evaluation.metrics.n,
        seed_threshold=evaluation.rule.seed.threshold,
    )
