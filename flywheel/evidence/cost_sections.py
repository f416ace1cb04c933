"""The sections of the page on what models cost and on whose data they were measured."""

from flywheel.evaluation.records import Evaluation
from flywheel.evidence.cost import ModelCost, Prices, api_corpus
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Fact, Facts, Table, Text
from flywheel.evidence.words import duration, interval_text, money, pairs_text, percent
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.scoring.thresholds import MIN_INTERACTION_LABELS


def costs(evidence: Evidence) -> tuple[Block, ...]:
    """Training, a corpus, and from which traffic on a machine of one's own pays."""
    prices, model = evidence.prices, evidence.model
    facts = [
        Fact(
            f"{prices.corpus_texts:,} texts through the API", money(api_corpus(prices)),
            f"{money(prices.api_million)} a million tokens, {prices.tokens_a_text:.0f} tokens a text ({prices.counted_by})",
        )
    ]  # fmt: skip
    if model.train_seconds is not None:
        spent = _training_money(model.train_seconds, prices)
        facts.insert(0, Fact("Training it took", duration(model.train_seconds), f"{spent}; encoding, done once, not counted"))
    rows = [
        (each.base, f"{each.texts_a_second:,.0f}", duration(each.corpus_seconds), *map(_money, (each.million, each.corpus)),
         _break_even(each, prices))
        for each in evidence.costs
    ]  # fmt: skip
    columns = "base model", "texts a second", "the corpus takes", "a million tokens", "the corpus costs", "pays from"
    text = (
        "Measured on this machine by encoding questions of the test pairs in float32, or by the last `flywheel reembed`. "
        + (
            "Money: set compute.price_per_hour to what an hour of the machine costs. "
            if prices.machine_hour is None
            else f"An hour of it costs {money(prices.machine_hour)} (compute.price_per_hour). "
        )
        + "pays from: what a machine that runs all the time would have to embed in a month to cost less than the API."
    )
    return Facts(tuple(facts)), Table(columns, tuple(rows), frozenset({"base model", "pays from"})), Text(text)


def trainings(evidence: Evidence) -> tuple[Block, ...]:
    """What each cell's training took, and what its own labels can do without any of calibration."""
    rows = [
        (
            evidence.name(row), pairs_text(row), duration(row.train_seconds),
            _training_money(row.train_seconds, evidence.prices), percent(row.error), *_own_labels(row),
        )
        for row in evidence.board.rows
        if row.train_seconds is not None
    ]  # fmt: skip
    if not rows:
        return ()
    columns = "model", "train pairs", "training", "money", "error", "error by its own labels alone", "95 % interval"
    about = (
        "error by its own labels alone: the same model with a threshold from its own training pairs, scored out of fold, so "
        "that no calibration label is spent. It is measured for heads of up to 1,600 pairs."
    )
    return Table(columns, tuple(rows), frozenset({"model"})), Text(about)


def _own_labels(row: Evaluation) -> tuple[str, str]:
    own = row.own_labels
    return ("-", "-") if own is None else (percent(own.error), interval_text(own.interval))


def _training_money(seconds: float, prices: Prices) -> str:
    return "compute.price_per_hour is not set" if prices.machine_hour is None else money(prices.machine_hour / 3600 * seconds)


def _money(dollars: float | None) -> str:
    return "-" if dollars is None else money(dollars)


def _break_even(cost: ModelCost, prices: Prices) -> str:
    if cost.million is None:
        return "-"
    if cost.break_even is None:
        as_much = "as much as" if cost.million == prices.api_million else "more than"
        return f"never: at full load this machine costs {as_much} the API"
    return f"{cost.break_even / 1e6:,.0f} M tokens a month"


def data(evidence: Evidence) -> tuple[Block, ...]:
    """Splits, thresholds by source, and what base models had seen before."""
    snapshot, model = evidence.board.snapshot, evidence.model
    blocks: list[Block] = [_splits(snapshot), *_thresholds(model, snapshot)]
    seen = {row.variant.split("@")[0]: row.contamination for row in evidence.board.rows if row.contamination}
    blocks.append(Text(_seen_text(evidence)))
    blocks.append(
        Table(
            ("base model", "what it had seen"),
            (
                *sorted(seen.items()),
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


def _thresholds(model: Evaluation, snapshot: Snapshot) -> list[Block]:
    rows = [
        (source, f"{fit.threshold:.4f}", percent(fit.prior))
        for source, fit in sorted(model.rule.by_source.items(), reverse=True)
    ]
    table = Table(("pairs", "threshold", "share of duplicates it is made for"), tuple(rows), frozenset({"pairs"}))
    return [table, Text(_about_thresholds(model, snapshot))]


def _about_thresholds(model: Evaluation, snapshot: Snapshot) -> str:
    """How the model's rule decides interaction pairs, and whether one made now would decide otherwise."""
    moved_to, target = model.rule.moved_to, model.terms.target_prior
    if not model.rule.is_shared:
        return "Interaction pairs have enough labels in calibration for a threshold of their own."
    if snapshot.calibration.interaction >= MIN_INTERACTION_LABELS:
        return (
            f"The rule was made before {MIN_INTERACTION_LABELS} labels of interaction pairs were in calibration, so theirs is "
            "that of seed pairs. `flywheel grid` trains models that have one for each."
        )
    if not snapshot.calibration.seed:
        return f"Below {MIN_INTERACTION_LABELS} labels in calibration all pairs share one threshold."
    moved = "" if moved_to is None else f", moved to {percent(moved_to)} of duplicates (evaluation.target_prior)"
    text = (
        f"Until {MIN_INTERACTION_LABELS} labels of interaction pairs are in calibration, theirs is that of seed pairs{moved}."
    )
    if moved_to != target:
        now = "is not set" if target is None else f"is {percent(target)}"
        return f"{text} Now target_prior {now}: `flywheel grid` trains models for that."
    if target is None:
        return f"{text} If your users meet another share of duplicates, set target_prior to it."
    return text


def _seen_text(evidence: Evidence) -> str:
    seeds = evidence.board.snapshot.seeds
    if evidence.board.snapshot.on_quora:
        return "These test pairs are Quora's. Base models that trained on them had a start that your own data would not give:"
    if seeds == ("starter",):
        return "These test pairs were written for this project. Should you evaluate on Quora's, mind what base models had seen:"
    return "These test pairs are your own. Should you evaluate on Quora's, mind what base models had seen:"
