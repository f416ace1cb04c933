"""The page, built from the evidence: an answer, what to do next, and under it what a sceptic checks."""

from datetime import UTC, datetime

from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.statistics import alpha_for, detectable_difference
from flywheel.evidence import sections
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Fact, Facts, Page, Picture, Section, Text, Tone
from flywheel.evidence.words import difference_text, interval_text, model_name, percent, points


def build_page(evidence: Evidence, curve: Picture | None, reliability: Picture | None) -> Page:
    """The whole page; pictures are drawn by the caller."""
    answer, tone = _answer(evidence)
    step, command = _next_step(evidence)
    found = [
        Section("At a glance", _glance(evidence)),
        Section("Error against training pairs", _curve(evidence, curve)),
        sections.board_section(evidence.board, evidence.champion_id, evidence.better, evidence.baseline.evaluation),
        sections.decision_section(evidence.decided, evidence.reigning, evidence.seed == "quora"),
        Section("Kinds of pairs", sections.kinds(evidence)),
        Section("What breaks and what is mended", sections.flips(evidence)),
        Section("Where the errors come from", sections.parts(evidence, reliability)),
        Section("Cost", sections.costs(evidence)),
        Section("What each training took", sections.trainings(evidence), folded=True),
        Section("On whose data", sections.data(evidence)),
    ]
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, snapshot {evidence.board.snapshot.snapshot_id[:12]}"
    return Page("Evidence", answer, tone, step, command, made, tuple(section for section in found if section.blocks))


def _answer(evidence: Evidence) -> tuple[str, Tone]:
    model, versus = evidence.model, evidence.versus_baseline
    if model is None or versus is None:
        return "Nothing has been trained on this snapshot yet, so there is nothing to compare.", "open"
    if versus.test is None:
        return f"No verdict is possible on these pairs: {model.no_verdict}.", "open"
    reigns = model.record_id == evidence.champion_id
    said = (
        f"{'The champion' if reigns else 'The best candidate'}, {evidence.name(model)} trained on {model.train_pairs or 0:,} "
        f"pairs, is wrong on {percent(model.calibrated_error)} of unseen pairs, {_baseline(evidence)} on "
        f"{percent(versus.theirs.calibrated_error)}: {points(versus.difference)} points "
        f"({difference_text(versus.test.interval)})."
    )
    if not evidence.baseline.is_api:
        said += f" Whether it beats {evidence.api_model} has not been measured."
    return said, "proven" if reigns and versus.test.interval.high < 0 else "not proven"


def _baseline(evidence: Evidence) -> str:
    name = evidence.name(evidence.baseline.evaluation)
    return name if evidence.baseline.is_api else f"the untuned {name}"


def _next_step(evidence: Evidence) -> tuple[str, str | None]:
    model, challenger, advice = evidence.model, evidence.next_challenger, evidence.advice
    if model is None:
        return "Train the cells that the data fills.", "flywheel grid"
    if model.no_verdict:
        return f"Bring more labelled pairs: {model.no_verdict}.", "flywheel ingest FILE"
    if challenger:
        return f"Promote: let {model_name(challenger)} | {challenger.size} be judged.", "flywheel champion promote"
    if advice is None:
        step, command = f"Measure more sizes: {evidence.curve}.", "flywheel grid"
    else:
        commands = {"collect more": "flywheel ingest FILE", "stop collecting": "flywheel grid --recipe top"}
        step, command = advice.sentence, commands.get(advice.action, "flywheel grid")
    if not evidence.baseline.is_api:
        step += " To learn whether the API is beaten: set OPENAI_API_KEY and run `flywheel baseline embed`."
    return step, command


def _glance(evidence: Evidence) -> tuple[Block, ...]:
    versus = evidence.versus_baseline
    if versus is None:
        return ()
    ours, theirs = versus.ours, versus.theirs
    facts = [_error_fact(f"{evidence.name(row)} is wrong on", row) for row in (ours, theirs)]
    if versus.test:
        level = alpha_for(evidence.decisions + 1)
        smallest = detectable_difference(versus.test.standard_error, level)
        seen_at = f"would be found four times in five at {percent(level)}, the level of the next decision"
        facts += [
            Fact("Difference", f"{points(versus.difference)} points", difference_text(versus.test.interval)),
            Fact("Smallest difference", f"{100 * smallest:.1f} points", seen_at),
        ]
    if ours.calibrated_error < theirs.calibrated_error:
        avoided = 1 - ours.calibrated_error / theirs.calibrated_error
        facts.append(Fact("Mistakes avoided", f"{100 * avoided:.0f} %", "of those the baseline makes"))
    mrr = ours.retrieval.mrr_at_10 - theirs.retrieval.mrr_at_10
    facts.append(Fact("Search, MRR@10", f"{ours.retrieval.mrr_at_10:.3f}", f"{mrr:+.3f} against the baseline"))
    said = [sections.SEEN] if {ours.record_id, theirs.record_id} & evidence.board.seen else []
    said += [f"Rough: {ours.components} components are fewer than the 100 that make intervals firm."] if ours.rough else []
    return (Facts(tuple(facts)), *([Text(" ".join(said))] if said else []))


def _error_fact(label: str, row: Evaluation) -> Fact:
    interval = f"95 % {interval_text(row.calibrated_interval)}, " if row.calibrated_interval else "no interval, "
    return Fact(label, percent(row.calibrated_error), f"{interval}{row.metrics.n:,} pairs, {row.components:,} components")


def _curve(evidence: Evidence, picture: Picture | None) -> tuple[Block, ...]:
    if evidence.model is None:
        return ()
    said = f"No power law is fitted: {evidence.curve}."
    if evidence.advice:
        said = (
            f"{evidence.advice.sentence} By a power law through the sizes of {evidence.name(evidence.model)}; its band "
            "says what other test pairs would have changed, not whether the law goes on to hold."
        )
        if evidence.board.snapshot.train.interaction:
            said += " The size all holds interaction pairs too, the others seed pairs only."
    seen = [Text(sections.SEEN)] if evidence.board.seen else []
    return (*([picture] if picture else []), *seen, Text(said))
