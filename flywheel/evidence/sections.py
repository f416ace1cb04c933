"""The page, built from the evidence: an answer, what to do next, and the sections that a sceptic checks."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from flywheel.evaluation.comparison import FlippedPair
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.published import PUBLISHED
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.statistics import alpha_for, detectable_difference
from flywheel.evidence.cost import api_corpus
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Fact, Facts, Page, Picture, Section, Table, Text
from flywheel.evidence.words import (
    SEEN_MARK,
    difference_text,
    duration,
    interval_text,
    model_name,
    money,
    pairs_text,
    percent,
    points,
)
from flywheel.models.catalogue import CATALOGUE
from flywheel.pairs.snapshots import Snapshot
from flywheel.registry.champions import Entry, spending

_LEVEL = 0.05  # where a Holm-adjusted p-value earns a row its label
_SEEN = f"{SEEN_MARK.strip()} the base model had trained on the data that these test pairs are from"


def build_page(evidence: Evidence, curve: Picture | None, reliability: Picture | None) -> Page:
    """The whole page; pictures are drawn by the caller."""
    answer, tone = _answer(evidence)
    step, command = _next_step(evidence)
    found = [
        Section("At a glance", _glance(evidence)),
        Section("Error against training pairs", _curve(evidence, curve)),
        board_section(evidence.board, evidence.champion_id, evidence.better, evidence.baseline.evaluation),
        *([decision_section(evidence.decided, evidence.reigning)] if evidence.decided else []),
        Section("Kinds of pairs", _kinds(evidence)),
        Section("What breaks and what is mended", _flips(evidence)),
        Section("Where the errors come from", _parts(evidence, reliability)),
        Section("Cost", _cost(evidence)),
        Section("On whose data", _data(evidence)),
    ]
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, snapshot {evidence.board.snapshot.snapshot_id[:12]}"
    return Page("Evidence", answer, tone, step, command, made, tuple(section for section in found if section.blocks))


def board_section(
    board: Leaderboard, champion_id: str | None, better: dict[str, float] | None = None, baseline: Evaluation | None = None
) -> Section:
    """The leaderboard, published figures apart from measured ones. `better` are adjusted p-values against `baseline`."""
    columns = ["", "model", "train pairs", "error", "95 % interval", "shared", "MRR@10"] + (["better"] if better else [])
    rows = []
    for row in board.rows:
        mark = "★" if row.record_id == champion_id else "old" if row.record_id in board.stale else ""
        seen = SEEN_MARK if row.record_id in board.seen else ""
        cells = [
            mark, model_name(row), pairs_text(row), percent(row.error) + seen, interval_text(row.interval),
            percent(row.calibrated_error) + seen, f"{row.retrieval.mrr_at_10:.3f}{seen}",
        ]  # fmt: skip
        label = (better or {}).get(row.record_id)
        rows.append((*cells, "yes" if label is not None and label <= _LEVEL else "") if better else tuple(cells))
    strong = frozenset(i for i, row in enumerate(board.rows) if row.record_id == champion_id)
    quiet = frozenset(i for i, row in enumerate(board.rows) if row.record_id in board.stale)
    test = board.snapshot.test
    about = [
        f"Error rate on {test.pairs:,} unseen test pairs in {test.components:,} components; lower is better.",
        "error: a head's threshold spends only its own labels up to 1,600 pairs; shared: all calibration labels.",
    ]
    if any(row.recipe in ("top", "full") for row in board.rows):
        about.append("top and full: calibration labels gave the threshold and chose among the weights, in both columns.")
    if better and baseline:
        about.append(
            f"better: fewer errors than {model_name(baseline)} at the 5 % level by Holm's rule for all rows together; a label, "
            "not a promotion."
        )
    about += [_SEEN + "."] if board.seen else []
    about += ["★ champion" + ("; old: trained on an older snapshot." if board.stale else ".")] if strong or quiet else []
    if any(row.rough for row in board.rows):
        about.append(f"Rough: {test.components} components in test; from 100 on the intervals are firm.")
    published = [(each.variant, percent(each.published_error), f"{each.n:,}", each.data, each.note) for each in PUBLISHED]
    blocks = (
        Table(tuple(columns), tuple(rows), frozenset({"", "model", "better"}), strong, quiet),
        Text(" ".join(about)),
        Text("Published elsewhere, on other pairs, and not to be compared with the rows above:"),
        Table(("model", "published", "pairs", "data", "note"), tuple(published), frozenset({"model", "data", "note"})),
    )
    return Section("Leaderboard", blocks)


def decision_section(entry: Entry | None, reigning: Entry | None) -> Section:
    """What was decided, and who is champion now."""
    said = ["No champion yet."]
    if reigning and (champion := reigning.champion):
        said = [
            f"Champion: {champion.variant}, size {champion.size}, error {percent(champion.error)} on {champion.n:,} test "
            f"pairs, threshold {champion.threshold:.4f}."
        ]
    if entry and (verdict := entry.verdict):
        said.append(
            f"{verdict.challenger_name} against {verdict.reference_name}: difference in error {points(verdict.difference)} "
            f"points (95 % {points(verdict.ci_low)} to {points(verdict.ci_high)}), p = {verdict.p_value:.2g}, needed "
            f"{verdict.alpha:.2g}: {'promoted' if verdict.promoted else 'kept out'}, {verdict.reason}."
        )
        said.append(spending(verdict))
        if verdict.detectable is not None:
            said.append(
                f"A true difference of {100 * verdict.detectable:.1f} points would have been found in four of five such tests."
            )
    return Section("The decision", tuple(Text(each) for each in said))


def _answer(evidence: Evidence) -> tuple[str, Literal["proven", "not proven", "open"]]:
    model, versus, baseline = evidence.model, evidence.versus_baseline, evidence.baseline
    if model is None or versus is None:
        return "Nothing has been trained on this snapshot yet, so there is nothing to compare.", "open"
    if versus.test is None:
        return f"No verdict is possible on these pairs: {model.no_verdict}.", "open"
    reigns = model.record_id == evidence.champion_id
    who = "The champion" if reigns else "The best candidate"
    said = (
        f"{who}, {model_name(model)} trained on {model.train_pairs or 0:,} pairs, is wrong on "
        f"{percent(model.calibrated_error)} of unseen pairs, {model_name(baseline.evaluation)} on "
        f"{percent(baseline.evaluation.calibrated_error)}: {points(versus.difference)} points "
        f"({difference_text(versus.test.interval)})."
    )
    if not baseline.is_api:
        said += f" Whether it beats {evidence.api_model} has not been measured."
    return said, "proven" if reigns and versus.test.interval.high < 0 else "not proven"


def _next_step(evidence: Evidence) -> tuple[str, str | None]:
    model, challenger, advice = evidence.model, evidence.next_challenger, evidence.advice
    if model is None:
        return "Train the cells that the data fills.", "flywheel grid"
    if model.no_verdict:
        return f"Bring more labelled pairs: {model.no_verdict}.", "flywheel ingest FILE"
    if challenger:
        return f"Promote: let {model_name(challenger)} | {challenger.size} be judged.", "flywheel champion promote"
    step, command = evidence.curve if isinstance(evidence.curve, str) else "", "flywheel grid"
    if advice:
        commands = {"collect more": "flywheel ingest FILE", "stop collecting": "flywheel grid --recipe top"}
        step, command = advice.sentence, commands.get(advice.action, "flywheel grid")
    else:
        step = f"Measure more sizes: {step}."
    if not evidence.baseline.is_api:
        step += " To learn whether the API is beaten: set OPENAI_API_KEY and run `flywheel baseline embed`."
    return step, command


def _glance(evidence: Evidence) -> tuple[Block, ...]:
    versus = evidence.versus_baseline
    if versus is None:
        return ()
    ours, theirs = versus.ours, versus.theirs
    facts = [
        _error_fact(f"{model_name(ours)} is wrong on", ours, evidence),
        _error_fact(f"{model_name(theirs)} is wrong on", theirs, evidence),
    ]
    if versus.test:
        level = alpha_for(evidence.decisions + 1)
        seen_difference = detectable_difference(versus.test.standard_error, level)
        facts += [
            Fact("Difference", f"{points(versus.difference)} points", difference_text(versus.test.interval)),
            Fact(
                "Smallest difference to be seen", f"{100 * seen_difference:.1f} points",
                f"four times in five, at {percent(level)}, the level of the next decision",
            ),
        ]  # fmt: skip
    if ours.calibrated_error < theirs.calibrated_error:
        avoided = 1 - ours.calibrated_error / theirs.calibrated_error
        facts.append(Fact("Mistakes avoided", f"{100 * avoided:.0f} %", "of those the baseline makes"))
    mrr = ours.retrieval.mrr_at_10 - theirs.retrieval.mrr_at_10
    facts.append(Fact("Search, MRR@10", f"{ours.retrieval.mrr_at_10:.3f}", f"{mrr:+.3f} against the baseline"))
    blocks: list[Block] = [Facts(tuple(facts))]
    if ours.rough:
        blocks.append(Text(f"Rough: {ours.components} components are fewer than the 100 that make intervals firm."))
    return (*blocks, *([Text(_SEEN + ".")] if {ours.record_id, theirs.record_id} & evidence.board.seen else []))


def _error_fact(label: str, row: Evaluation, evidence: Evidence) -> Fact:
    seen = SEEN_MARK if row.record_id in evidence.board.seen else ""
    interval = f"95 % {interval_text(row.calibrated_interval)}, " if row.calibrated_interval else "no interval, "
    return Fact(
        label, percent(row.calibrated_error) + seen, f"{interval}{row.metrics.n:,} pairs, {row.components:,} components"
    )


def _curve(evidence: Evidence, picture: Picture | None) -> tuple[Block, ...]:
    said = evidence.advice.sentence if evidence.advice else f"No curve is fitted: {evidence.curve}."
    return (*([picture] if picture else []), Text(said))


def _kinds(evidence: Evidence) -> tuple[Block, ...]:
    versus = evidence.versus_baseline
    if versus is None:
        return ()
    rows = [
        (each.name, f"{each.n:,}", f"{each.components:,}", percent(each.ours), percent(each.theirs),
         f"{points(each.difference)} ({difference_text(each.test.interval)})" if each.test
         else f"{points(each.difference)} (too few components for an interval)")
        for each in versus.slices
    ]  # fmt: skip
    columns = "kind", "pairs", "components", model_name(versus.ours), model_name(versus.theirs), "difference in points"
    about = (
        "A pair may be of several kinds. No question of the test pairs, nor any question linked to one, stands in the training "
        "pairs: all are unseen. Kinds are told by cheap rules: at most 8 words in both texts, more than 16 in one; a digit, "
        "a word such as not, or a capitalised word inside a sentence in either."
    )
    return Table(columns, tuple(rows), frozenset({"kind"})), Text(about)


def _flips(evidence: Evidence) -> tuple[Block, ...]:
    versus = evidence.versus_reference or evidence.versus_baseline
    if versus is None:
        return ()
    allowed = f"; at most {percent(evidence.max_broken_share)} are allowed against a champion"
    said = (
        f"{versus.ours.name} instead of {versus.theirs.name}: {versus.broken:,} pairs break, {percent(versus.broken_share)} of "
        f"those that were right{allowed}, and {versus.mended:,} are mended. Those it is surest of, with the probability "
        "that each gives to the pair's being the same:"
    )
    return (
        Text(said),
        Text("Broken: right before, wrong now."),
        _pairs_table(versus.worst_broken),
        Text("Mended: wrong before, right now."),
        _pairs_table(versus.best_mended),
    )


def _pairs_table(pairs: Iterable[FlippedPair]) -> Table:
    rows = (
        (pair.text_a, pair.text_b, "same" if pair.label else "different", f"{pair.theirs:.2f}", f"{pair.ours:.2f}")
        for pair in pairs
    )
    columns = "text", "other text", "they are", "before", "now"
    return Table(columns, tuple(rows), frozenset({"text", "other text", "they are"}))


def _parts(evidence: Evidence, reliability: Picture | None) -> tuple[Block, ...]:
    if evidence.model is None:
        return ()
    both = [evidence.model, evidence.baseline.evaluation]
    parts = [
        (model_name(row), percent(row.calibrated_error), percent(row.parts.ranking), points(row.parts.threshold),
         points(row.parts.prior))
        for row in both
    ]  # fmt: skip
    about = (
        "ranking: what the best threshold in hindsight would leave, so only better scores lower it; threshold: what choosing "
        "it on calibration pairs costs; prior: what another share of duplicates in test than in calibration costs. "
        "The three add up to the error; the last two may be below zero by chance."
    )
    figures = {
        "precision": [row.metrics.precision for row in both],
        "recall": [row.metrics.recall for row in both],
        "F1": [row.metrics.f1 for row in both],
        "Matthews' correlation": [row.metrics.mcc for row in both],
        "average precision": [row.metrics.average_precision for row in both],
        "area under the ROC curve": [row.metrics.roc_auc for row in both],
        "expected calibration error": [row.metrics.calibration_error for row in both],
        "MRR@10": [row.retrieval.mrr_at_10 for row in both],
        "recall@10": [row.retrieval.recall_at_10 for row in both],
    }
    names = tuple(model_name(row) for row in both)
    return (
        Table(("model", "error", "ranking", "threshold", "prior"), tuple(parts), frozenset({"model"})),
        Text(about),
        Table(("figure", *names), tuple((k, *(f"{v:.3f}" for v in vs)) for k, vs in figures.items()), frozenset({"figure"})),
        *([reliability] if reliability else []),
    )


def _cost(evidence: Evidence) -> tuple[Block, ...]:
    prices, model = evidence.prices, evidence.model
    facts = [
        Fact(
            f"{prices.corpus_texts:,} texts through the API", money(api_corpus(prices)),
            f"{money(prices.api_million)} a million tokens, {prices.tokens_a_text:.0f} tokens a text ({prices.counted_by})",
        )
    ]  # fmt: skip
    if model and model.train_seconds is not None:
        spent = (
            "price_per_hour is not set"
            if prices.machine_hour is None
            else money(prices.machine_hour / 3600 * model.train_seconds)
        )
        facts.insert(0, Fact("Training it took", duration(model.train_seconds), f"{spent}; encoding, done once, not counted"))
    rows = [
        (each.base, f"{each.texts_a_second:,.0f}", duration(each.corpus_seconds), *map(_money, (each.million, each.corpus)),
         _break_even(each.million, each.break_even))
        for each in evidence.costs
    ]  # fmt: skip
    columns = "base model", "texts a second", "the corpus takes", "a million tokens", "the corpus costs", "pays from"
    said = (
        "Measured on this machine by encoding questions of the test pairs. "
        + (
            "Money: set price_per_hour to what an hour of the machine costs. "
            if prices.machine_hour is None
            else f"An hour of it costs {money(prices.machine_hour)} (price_per_hour). "
        )
        + "pays from: what a machine that runs all the time would have to embed in a month to cost less than the API."
    )
    return Facts(tuple(facts)), Table(columns, tuple(rows), frozenset({"base model", "pays from"})), Text(said)


def _money(dollars: float | None) -> str:
    return "-" if dollars is None else money(dollars)


def _break_even(million: float | None, tokens: float | None) -> str:
    if million is None:
        return "-"
    return (
        "never: the API is cheaper than this machine at full load"
        if tokens is None
        else f"{tokens / 1e6:,.0f} M tokens a month"
    )


def _data(evidence: Evidence) -> tuple[Block, ...]:
    snapshot, model = evidence.board.snapshot, evidence.model
    blocks: list[Block] = [_splits(snapshot)]
    if model:
        rows = [(source, f"{fit.threshold:.4f}", percent(fit.prior)) for source, fit in model.fits.items()]
        blocks.append(Table(("pairs", "threshold", "share of duplicates it is made for"), tuple(rows), frozenset({"pairs"})))
        blocks.append(Text(_prior_text(model)))
    seen = sorted({row.variant.split("@")[0] for row in evidence.board.rows} & set(CATALOGUE))
    blocks.append(Text(_seen_text(evidence)))
    blocks.append(
        Table(
            ("base model", "what it had seen"),
            (
                *((base, CATALOGUE[base].contamination) for base in seen),
                (evidence.api_model, "What it was trained on is not published."),
            ),
            frozenset({"base model", "what it had seen"}),
        )
    )
    return tuple(blocks)


def _splits(snapshot: Snapshot) -> Table:
    rows = []
    for name, split in (("train", snapshot.train), ("calibration", snapshot.calibration), ("test", snapshot.test)):
        priors = [("-" if each is None else percent(each)) for each in (split.prior_seed, split.prior_interaction)]
        components = "-" if split.components is None else f"{split.components:,}"
        rows.append((name, f"{split.seed:,}", f"{split.interaction:,}", *priors, components))
    columns = "split", "seed pairs", "interaction pairs", "duplicates among seed", "duplicates among interaction", "components"
    return Table(columns, tuple(rows), frozenset({"split"}))


def _prior_text(model: Evaluation) -> str:
    if model.target_prior is None:
        return (
            "The threshold for interaction pairs is that of seed pairs until 500 of their own labels stand in calibration. If "
            "your users meet another share of duplicates, say which: target_prior."
        )
    return (
        f"Until 500 labels of interaction pairs stand in calibration, their threshold is that of seed pairs moved to "
        f"{percent(model.target_prior)} of duplicates (target_prior)."
    )


def _seen_text(evidence: Evidence) -> str:
    if evidence.seed == "quora":
        return "These test pairs are Quora's. Base models that trained on them had a start that your own data would not give:"
    if evidence.seed == "starter":
        return "These test pairs were written for this project. Should you evaluate on Quora's, mind what base models had seen:"
    return "These test pairs are your own. Should you evaluate on Quora's, mind what base models had seen:"
