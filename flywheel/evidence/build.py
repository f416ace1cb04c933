"""The page, built from the evidence: an answer, what to do next, and under it what a sceptic checks."""

from datetime import UTC, datetime

from flywheel.evaluation.comparison import unsound, unsound_text
from flywheel.evaluation.curve import MIN_SIZES
from flywheel.evaluation.failures import EMBED_AGAIN, way_on
from flywheel.evaluation.paired import PairedTest, alpha_for, detectable_difference
from flywheel.evaluation.records import Evaluation
from flywheel.evidence import cost_sections, sections
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Fact, Facts, Page, Picture, Section, Text, Tone
from flywheel.evidence.words import baseline_name, difference_text, interval_text, model_name, percent, points
from flywheel.pairs.snapshots.snapshot import ALL, COLLECT, DRAW_AGAIN, DRAW_ANEW, SET_ASIDE
from flywheel.registry.decisions import SPENT_BELOW
from flywheel.training.job import SIZES


def build_page(evidence: Evidence, curve: Picture | None, reliability: Picture | None) -> Page:
    """The whole page; pictures are drawn by the caller."""
    answer, tone = _answer(evidence)
    step, command = _next_step(evidence)
    found = [
        Section("At a glance", _glance(evidence)),
        Section("Error against training pairs", _curve(evidence, curve)),
        sections.board_section(evidence.board, evidence.champion_id, evidence.better, evidence.baseline.evaluation),
        Section("The decision", _decision(evidence)),
        Section("Kinds of pairs", sections.kinds(evidence)),
        Section("Elsewhere", sections.elsewhere(evidence.model.retention)),
        Section("What breaks and what is fixed", sections.flips(evidence)),
        Section("Where the errors come from", sections.parts(evidence, reliability)),
        Section("Cost", cost_sections.costs(evidence)),
        Section("Each training", cost_sections.trainings(evidence), folded=True),
        Section("On whose data", cost_sections.data(evidence)),
    ]
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, snapshot {evidence.board.snapshot.snapshot_id[:12]}"
    shown = tuple(section for section in found if section.blocks)
    return Page("Evidence", answer, tone, _baseline(evidence), step, command, made, shown)


def _decision(evidence: Evidence) -> tuple[Block, ...]:
    """The latest decision on this test set, and before it what became of a later turn without one."""
    entries = [evidence.unjudged, *evidence.decided[-1:]]
    return tuple(block for entry in entries for block in sections.decision(entry, evidence.board.snapshot.on_quora))


def _answer(evidence: Evidence) -> tuple[str, Tone]:
    model, versus = evidence.model, evidence.versus_baseline
    if side := versus.unsound:
        return f"No verdict is possible: {unsound_text(side, remedy=False)}", "open"
    if versus.test is None:
        reason = versus.ours.no_verdict or versus.theirs.no_verdict
        return f"No verdict is possible on these pairs: {reason}.", "open"
    is_champion = model.record_id == evidence.champion_id
    subject = "The champion" if is_champion else "The best candidate"
    text = (
        f"{subject}, {evidence.name(model)} trained on {model.train_pairs or 0:,} pairs, is wrong on {percent(model.error)} of "
        f"unseen pairs, {_baseline(evidence)} on {percent(versus.theirs.error)}: {points(versus.difference)} points "
        f"({difference_text(versus.test.interval)})."
    )
    if not evidence.baseline.is_api:
        text += f" Whether it beats {evidence.api_model} has not been measured."
    if evidence.champion_id is None and evidence.challenger:
        return text, "not decided"
    return text, "proven" if is_champion and _proven(evidence, versus.test) else "not proven"


def _proven(evidence: Evidence, test: PairedTest) -> bool:
    """Whether the champion is better than the baseline at the level that was to spend on it.

    A cross-fitted one was chosen by the very pairs that judge it, so that only the verdict counts, which allows for that.
    """
    if not evidence.model.is_cross_fitted:
        return test.p_value <= evidence.level
    verdicts = (entry.verdict for entry in evidence.decided if entry.verdict)
    return any(each.promoted and each.challenger == evidence.champion_id for each in verdicts)


def _baseline(evidence: Evidence) -> str:
    name = evidence.name(evidence.baseline.evaluation)
    return name if evidence.baseline.is_api else baseline_name(evidence.baseline.evaluation, name)


def _next_step(evidence: Evidence) -> tuple[str, str | None]:
    challenger = evidence.challenger
    ours, theirs = _next_sides(evidence)
    if reason := ours.no_verdict or theirs.no_verdict:
        way = way_on(reason, DRAW_AGAIN)
        return f"No verdict is possible: {reason}. {way}", "flywheel ingest FILE" if way == DRAW_AGAIN else EMBED_AGAIN
    if side := unsound(ours, theirs):
        assert side.alarm
        return f"{side.alarm.remedy}.", None
    if alpha_for(evidence.decisions + 1) < SPENT_BELOW:
        fresh = SET_ASIDE if ours.is_cross_fitted else DRAW_ANEW
        return f"Little of this test set's 5 % is left for further decisions. {fresh}", "flywheel ingest FILE"
    if challenger:
        return f"Promote: let {model_name(challenger)} | {challenger.size} be judged.", "flywheel champion promote"
    step, command = _advised(evidence)
    if evidence.baseline.advice:
        step += f" {evidence.baseline.advice}"
    return step, command


def _next_sides(evidence: Evidence) -> tuple[Evaluation, Evaluation]:
    """Whom the next decision compares; where there is none to make, whom the answer does."""
    reigns = evidence.model.record_id == evidence.champion_id and not evidence.model.alarm
    if evidence.challenger and reigns:
        return evidence.challenger, evidence.model
    return evidence.challenger or evidence.model, evidence.baseline.evaluation


def _advised(evidence: Evidence) -> tuple[str, str | None]:
    if evidence.advice is None:
        return _more_sizes(evidence)
    if evidence.advice.action == "collect more":
        return evidence.advice.sentence, "flywheel ingest FILE"
    moved = any(row.recipe != "head" for row in evidence.board.trained)
    if evidence.advice.action == "stop collecting" and not moved:
        return f"{evidence.advice.sentence} Try to move layers too.", "flywheel grid --recipe top"
    if evidence.advice.action == "unclear":
        if command := _command_for_more_sizes(evidence):
            return evidence.advice.sentence, command
        larger = COLLECT if evidence.model.is_cross_fitted else DRAW_ANEW
        return f"{evidence.advice.sentence} For a larger one: {larger}", "flywheel ingest FILE"
    return evidence.advice.sentence, None


def _more_sizes(evidence: Evidence) -> tuple[str, str]:
    """What gives the model's line a learning curve: sizes that have not been measured, or else more pairs to fill some."""
    snapshot, command = evidence.board.snapshot, _command_for_more_sizes(evidence)
    largest = snapshot.largest_size(0.0)
    different = {*_fitting(largest), *(() if snapshot.mixed else (largest,))}
    if command is None or len(different) < MIN_SIZES:
        return f"Bring more pairs: {evidence.curve}, and {largest:,} training pairs fill too few sizes.", "flywheel ingest FILE"
    return f"Measure more sizes: {evidence.curve}.", command


def _command_for_more_sizes(evidence: Evidence) -> str | None:
    """What trains sizes of the model's line that have not been measured; None where the pairs fill no others."""
    model, largest = evidence.model, evidence.board.snapshot.largest_size(0.0)
    measured = {row.size for row in evidence.board.trained if (row.variant, row.recipe) == (model.variant, model.recipe)}
    missing = [size for size in _fitting(largest) if str(size) not in measured]
    if not missing:
        return None
    recipe = f" --recipe {model.recipe}" if model.recipe != "head" else ""
    unasked = {str(size) for size in missing} <= set(evidence.grid_sizes)
    sizes = "" if unasked else "".join(f" --size {size}" for size in missing)
    return f"flywheel grid --variant {model.variant}{sizes}{recipe}"


def _fitting(largest: int) -> list[int]:
    return [int(size) for size in SIZES if size != ALL and int(size) <= largest]


def _glance(evidence: Evidence) -> tuple[Block, ...]:
    versus = evidence.versus_baseline
    ours, theirs = versus.ours, versus.theirs
    facts = [_error_fact(f"{evidence.name(row)} is wrong on", row) for row in (ours, theirs)]
    if versus.test:
        text = f"{difference_text(versus.test.interval)}, p = {versus.test.p_value:.2g}, needed {evidence.level:.2g}"
        facts.append(Fact("Difference", f"{points(versus.difference)} points", text))
        smallest = detectable_difference(versus.test, evidence.level)
        if smallest is not None:
            found = Fact("Smallest difference", f"{100 * smallest:.1f} points", "that would be found four times in five")
            facts.append(found)
    mrr = ours.retrieval.mrr_at_10 - theirs.retrieval.mrr_at_10
    searched = f"{mrr:+.3f} against the baseline, {ours.retrieval.queries:,} questions, no interval"
    facts.append(Fact("Search, MRR@10", f"{ours.retrieval.mrr_at_10:.3f}", searched))
    notes = [sections.SEEN] if evidence.board.seen(ours) or evidence.board.seen(theirs) else []
    if versus.test:
        notes.append(
            "The difference takes each pair at its source's threshold; the intervals of the error rates also allow for what "
            "other calibration pairs would have chosen."
        )
    if ours.is_cross_fitted:
        notes.append(
            f"Cross-fitted in {len(ours.fold_errors)} folds: each pair is judged by a model that was trained without its fold. "
            "What ships is trained on all pairs. Where several models were trained, the one shown was chosen by these pairs; "
            "the decision allows for that, the figures here do not."
        )
    if ours.rough:
        notes.append(f"Rough: {ours.components} components are fewer than the 100 that make intervals firm.")
    return (Facts(tuple(facts)), *([Text(" ".join(notes))] if notes else []))


def _error_fact(label: str, row: Evaluation) -> Fact:
    interval = f"95 % {interval_text(row.interval)}, " if row.interval else "no interval, "
    return Fact(label, percent(row.error), f"{interval}{row.metrics.n:,} pairs, {row.components:,} components")


def _curve(evidence: Evidence, picture: Picture | None) -> tuple[Block, ...]:
    text = f"No power law is fitted: {evidence.curve}."
    if evidence.advice:
        text = (
            f"{evidence.advice.sentence} By a power law through the sizes of {evidence.name(evidence.model)}; its band "
            "says what other test pairs would have changed, not whether the law goes on to hold."
        )
        if evidence.board.snapshot.mixed:
            text += " The size all is left out of the law: it holds interaction pairs too."
    return (*([picture] if picture else []), Text(text))
