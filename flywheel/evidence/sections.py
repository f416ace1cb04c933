"""The sections of the page, each from the part of the evidence that it shows."""

from collections.abc import Iterable

from flywheel.evaluation.comparison import FlippedPair, SliceDifference
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.paired import detectable_difference
from flywheel.evaluation.published import PUBLISHED
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.cost import ModelCost, Prices, api_corpus
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Fact, Facts, Picture, Section, Table, Text
from flywheel.evidence.words import difference_text, duration, interval_text, marked_name, money, pairs_text, percent, points
from flywheel.models.catalogue import CATALOGUE
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.registry.champions import Champion, Entry
from flywheel.registry.decisions import spending
from flywheel.scoring.thresholds import MIN_INTERACTION_LABELS

SEEN = "† The base model had trained on the data that these test pairs are from: no clean evidence for few examples."
_LEVEL = 0.05  # where a Holm-adjusted p-value earns a row its label
_ONE_SIDED = 0.025  # one end of a 95 % interval


def board_section(
    board: Leaderboard, champion_id: str | None, better: dict[str, float] | None = None, baseline: Evaluation | None = None
) -> Section:
    """The leaderboard, published figures apart from measured ones. `better` are adjusted p-values against `baseline`."""
    columns = ["model", "train pairs", "error", "95 % interval", "shared", "MRR@10"] + (["better"] if better else [])
    rows = []
    for row in board.rows:
        star = "★ " if row.record_id == champion_id else ""
        old = ", older snapshot" if row.record_id in board.stale else ""
        cells = (
            star + marked_name(row, board) + old, pairs_text(row), percent(row.error), interval_text(row.interval),
            percent(row.calibrated_error), f"{row.retrieval.mrr_at_10:.3f}",
        )  # fmt: skip
        label = (better or {}).get(row.record_id)
        said = "yes" if label is not None and label <= _LEVEL else "-" if label is None else "no"
        rows.append((*cells, said) if better else cells)
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
            f"better: fewer errors than {marked_name(baseline, board)} at the shared threshold, 5 % level, by Holm's rule for "
            "all rows together; a label, not a promotion."
        )
    about += [SEEN] if any(map(board.seen, board.rows)) else []
    if any(row.kept_start for row in board.rows):
        about.append("start kept: training brought no proven gain, so the untrained start ships.")
    about += ["★ champion."] if strong else []
    if board.on_other_terms:
        about.append(
            f"{board.on_other_terms} more rows were made under another target_prior or min_components; `flywheel grid` makes "
            "them anew."
        )
    if any(row.rough for row in board.rows):
        about.append(f"Rough: {test.components} components in test; from 100 on the intervals are firm.")
    published = [
        f"{each.variant}: {percent(each.published_error)} on {each.n:,} pairs of {each.data}. {each.note}" for each in PUBLISHED
    ]
    blocks = (
        Table(tuple(columns), tuple(rows), frozenset({"model", "better"}), strong, quiet),
        Text(" ".join(about)),
        Text(f"Published elsewhere, on other pairs, and not to be compared with the rows above: {' '.join(published)}"),
    )
    return Section("Leaderboard", blocks)


def decision_section(entry: Entry | None, reigning: Entry | None, on_quora: bool) -> Section:
    """Who is champion, by the figures of its promotion, and what was decided."""
    said = "No champion yet."
    if reigning and (champion := reigning.champion):
        said = (
            f"Champion: {champion.variant}, size {champion.size}, error {percent(champion.error)} on {champion.n:,} test "
            f"pairs, threshold {champion.threshold:.4f}{_of_seed_pairs(champion)}."
        )
    return Section("The decision", (Text(said), *decision(entry, on_quora)))


def _of_seed_pairs(champion: Champion) -> str:
    if champion.seed_threshold in (None, champion.threshold):
        return ""
    return f" for interaction pairs and {champion.seed_threshold:.4f} for seed pairs, each judged at its own"


def decision(entry: Entry | None, on_quora: bool) -> tuple[Block, ...]:
    """A verdict in words; `on_quora` says that the test pairs are Quora's, which base models saw."""
    if entry is None or (verdict := entry.verdict) is None:
        return ()
    said = [
        f"{verdict.challenger_name} against {verdict.reference_name}: difference in error {points(verdict.difference)} "
        f"points (95 % {points(verdict.ci_low)} to {points(verdict.ci_high)}), p = {verdict.p_value:.2g}, needed "
        f"{verdict.alpha:.2g}: {'promoted' if verdict.promoted else 'kept out'}, {verdict.reason}.",
        spending(verdict),
    ]
    if verdict.detectable is not None:
        said.append(
            f"A true difference of {100 * verdict.detectable:.1f} points would have been found in four of five such tests."
        )
    return tuple(Text(each) for each in [*said, *([SEEN] if on_quora else [])])


def kinds(evidence: Evidence) -> tuple[Block, ...]:
    """Error rates on kinds of pairs, beside the baseline's."""
    versus = evidence.versus_baseline
    if versus is None:
        return ()
    rows = [
        (each.name, percent(each.ours), percent(each.theirs), *_difference(each), f"{each.n:,}", f"{each.components:,}")
        for each in versus.slices
    ]
    columns = (
        "kind",
        evidence.name(versus.ours),
        evidence.name(versus.theirs),
        "difference in points",
        "smallest to be seen",
        "pairs",
        "components",
    )
    about = (
        "Error rates. A pair may be of several kinds, and each interval stands for itself; where components are too few or one "
        "is too large, there is none; the smallest difference to be seen is found four times in five, one-sided at 2.5 %. "
        "No question of the test pairs, nor any question linked to one, stands in the training pairs: all are unseen. Kinds "
        "are told by cheap rules: at most 8 words in both texts, more than 16 in one; a digit, a word such as not, or a "
        "capitalised word inside a sentence in either."
    )
    return Table(columns, tuple(rows), frozenset({"kind"})), Text(about)


def _difference(each: SliceDifference) -> tuple[str, str]:
    if each.test is None:
        return f"{points(each.difference)} (no interval)", "-"
    smallest = detectable_difference(each.test, _ONE_SIDED)
    said = f"{points(each.difference)} ({difference_text(each.test.interval)})"
    return said, "-" if smallest is None else f"{100 * smallest:.1f}"


def flips(evidence: Evidence) -> tuple[Block, ...]:
    """What the latest challenger breaks and mends, word for word: against whom it met, or the baseline."""
    versus = evidence.versus_reference or evidence.versus_baseline
    if versus is None:
        return ()
    allowed = f" (at most {percent(evidence.max_broken_share)} are allowed)" if versus.theirs.kind == "tuned" else ""
    ours, theirs = (f"{evidence.name(row)} | {row.size or row.kind}" for row in (versus.ours, versus.theirs))
    said = (
        f"{ours} instead of {theirs}: {versus.broken:,} pairs break, {percent(versus.broken_share)} of those that were "
        f"right{allowed}, and {versus.mended:,} are mended. Shown are those it is surest of, with the probability that each "
        "gives to the pair's being the same."
    )
    blocks: list[Block] = [Text(said)]
    if versus.worst_broken:
        blocks += [Text("Broken: right before, wrong now."), _pairs_table(versus.worst_broken)]
    if versus.best_mended:
        blocks += [Text("Mended: wrong before, right now."), _pairs_table(versus.best_mended)]
    return tuple(blocks)


def _pairs_table(pairs: Iterable[FlippedPair]) -> Table:
    rows = (
        (pair.text_a, pair.text_b, "same" if pair.label else "different", f"{pair.theirs:.2f}", f"{pair.ours:.2f}")
        for pair in pairs
    )
    columns = "text", "other text", "they are", "before", "now"
    return Table(columns, tuple(rows), frozenset({"text", "other text", "they are"}))


def parts(evidence: Evidence, reliability: Picture | None) -> tuple[Block, ...]:
    """What the errors are made of, and the usual figures, beside the baseline's."""
    if evidence.model is None:
        return ()
    both = [evidence.model, evidence.baseline.evaluation]
    made_of = [
        (evidence.name(row), *(f"{100 * part:.2f}" for part in (
            row.calibrated_error, row.parts.ranking, row.parts.threshold, row.parts.prior)))
        for row in both
    ]  # fmt: skip
    about = (
        "In points. ranking: what the best threshold in hindsight would leave, so only better scores lower it; threshold: "
        "what choosing it on calibration pairs costs; prior: what another share of duplicates in test than in calibration "
        "costs. The three add up to the error; the last two may be below zero by chance."
    )
    figures = {
        "precision": [row.metrics.precision for row in both],
        "recall": [row.metrics.recall for row in both],
        "F1": [row.metrics.f1 for row in both],
        "Matthews' correlation": [row.metrics.mcc for row in both],
        "average precision": [row.metrics.average_precision for row in both],
        "area under the ROC curve": [row.metrics.roc_auc for row in both],
        "expected calibration error": [row.metrics.expected_calibration_error for row in both],
        "MRR@10": [row.retrieval.mrr_at_10 for row in both],
        "recall@10": [row.retrieval.recall_at_10 for row in both],
    }
    names = tuple(evidence.name(row) for row in both)
    return (
        Table(("model", "error", "ranking", "threshold", "prior"), tuple(made_of), frozenset({"model"})),
        Text(about),
        Table(("figure", *names), tuple((k, *(f"{v:.3f}" for v in vs)) for k, vs in figures.items()), frozenset({"figure"})),
        Text(
            f"On {both[0].metrics.n:,} pairs, {both[0].metrics.positives:,} of them duplicates; MRR and recall@10 on "
            f"{both[0].retrieval.queries:,} questions. These figures have no intervals."
        ),
        *([reliability] if reliability else []),
    )


def costs(evidence: Evidence) -> tuple[Block, ...]:
    """Training, a corpus, and from which traffic on a machine of one's own pays."""
    prices, model = evidence.prices, evidence.model
    facts = [
        Fact(
            f"{prices.corpus_texts:,} texts through the API", money(api_corpus(prices)),
            f"{money(prices.api_million)} a million tokens, {prices.tokens_a_text:.0f} tokens a text ({prices.counted_by})",
        )
    ]  # fmt: skip
    if model and model.train_seconds is not None:
        spent = _training_money(model.train_seconds, prices)
        facts.insert(0, Fact("Training it took", duration(model.train_seconds), f"{spent}; encoding, done once, not counted"))
    rows = [
        (each.base, f"{each.texts_a_second:,.0f}", duration(each.corpus_seconds), *map(_money, (each.million, each.corpus)),
         _break_even(each, prices))
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


def trainings(evidence: Evidence) -> tuple[Block, ...]:
    """What each cell's training took."""
    rows = [
        (evidence.name(row), pairs_text(row), duration(row.train_seconds), _training_money(row.train_seconds, evidence.prices))
        for row in evidence.board.rows
        if row.train_seconds is not None
    ]
    return (Table(("model", "train pairs", "training", "money"), tuple(rows), frozenset({"model"})),) if rows else ()


def _training_money(seconds: float, prices: Prices) -> str:
    return "price_per_hour is not set" if prices.machine_hour is None else money(prices.machine_hour / 3600 * seconds)


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
    blocks: list[Block] = [_splits(snapshot)]
    if model:
        blocks += _thresholds(model, snapshot)
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


def _thresholds(model: Evaluation, snapshot: Snapshot) -> list[Block]:
    rows = [(source, f"{fit.threshold:.4f}", percent(fit.prior)) for source, fit in sorted(model.fits.items(), reverse=True)]
    table = Table(("pairs", "threshold", "share of duplicates it is made for"), tuple(rows), frozenset({"pairs"}))
    target = model.terms.target_prior
    if snapshot.calibration.interaction >= MIN_INTERACTION_LABELS:
        said = "Interaction pairs have enough labels in calibration for a threshold of their own."
    elif not snapshot.calibration.seed:
        said = f"Below {MIN_INTERACTION_LABELS} labels in calibration all pairs share one threshold."
    else:
        moved = f", moved to {percent(target)} of duplicates (target_prior)" if target is not None else ""
        said = (
            f"Until {MIN_INTERACTION_LABELS} labels of interaction pairs stand in calibration, theirs is that of seed "
            f"pairs{moved}."
        )
        if target is None:
            said += " If your users meet another share of duplicates, say which: target_prior."
    return [table, Text(said)]


def _seen_text(evidence: Evidence) -> str:
    seeds = evidence.board.snapshot.seeds
    if evidence.board.snapshot.on_quora:
        return "These test pairs are Quora's. Base models that trained on them had a start that your own data would not give:"
    if seeds == ("starter",):
        return "These test pairs were written for this project. Should you evaluate on Quora's, mind what base models had seen:"
    return "These test pairs are your own. Should you evaluate on Quora's, mind what base models had seen:"
