"""The sections of the page, each from the part of the evidence that it shows."""

from collections.abc import Iterable

from flywheel.evaluation.comparison import FlippedPair, SliceDifference
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.published import PUBLISHED
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.cost import ModelCost, Prices, api_corpus
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Fact, Facts, Picture, Section, Table, Text
from flywheel.evidence.words import difference_text, duration, interval_text, marked_name, money, pairs_text, percent, points
from flywheel.models.catalogue import CATALOGUE
from flywheel.pairs.snapshots import Snapshot
from flywheel.registry.champions import Entry, spending

SEEN = "† The base model had trained on the data that these test pairs are from: no clean evidence for few examples."
_LEVEL = 0.05  # where a Holm-adjusted p-value earns a row its label


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
        rows.append((*cells, "yes" if label is not None and label <= _LEVEL else "") if better else cells)
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
            f"better: fewer errors than {marked_name(baseline, board)} at the 5 % level by Holm's rule for all rows "
            "together; a label, not a promotion."
        )
    about += [SEEN] if board.seen else []
    about += ["★ champion."] if strong else []
    if any(row.rough for row in board.rows):
        about.append(f"Rough: {test.components} components in test; from 100 on the intervals are firm.")
    published = [(each.variant, percent(each.published_error), f"{each.n:,}", each.data, each.note) for each in PUBLISHED]
    blocks = (
        Table(tuple(columns), tuple(rows), frozenset({"model", "better"}), strong, quiet),
        Text(" ".join(about)),
        Text("Published elsewhere, on other pairs, and not to be compared with the rows above:"),
        Table(("model", "published", "pairs", "data", "note"), tuple(published), frozenset({"model", "data", "note"})),
    )
    return Section("Leaderboard", blocks)


def decision_section(entry: Entry | None, reigning: Entry | None, on_quora: bool) -> Section:
    """What was decided, and who is champion now; `on_quora` says that the test pairs are Quora's, which base models saw."""
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
    if on_quora and len(said) > 1:
        said.append(SEEN)
    return Section("The decision", tuple(Text(each) for each in said))


def kinds(evidence: Evidence) -> tuple[Block, ...]:
    """Error rates on kinds of pairs, beside the baseline's."""
    versus = evidence.versus_baseline
    if versus is None:
        return ()
    rows = [
        (each.name, percent(each.ours), percent(each.theirs), _difference(each), f"{each.n:,}", f"{each.components:,}")
        for each in versus.slices
    ]
    columns = "kind", evidence.name(versus.ours), evidence.name(versus.theirs), "difference in points", "pairs", "components"
    about = (
        "Error rates. A pair may be of several kinds, and each interval stands for itself; where components are too few or one "
        "is too large, there is none. No question of the test pairs, nor any question linked to one, stands in the "
        "training pairs: all are unseen. Kinds are told by cheap rules: at most 8 words in both texts, more than 16 in one; a "
        "digit, a word such as not, or a capitalised word inside a sentence in either."
    )
    return Table(columns, tuple(rows), frozenset({"kind"})), Text(about)


def _difference(each: SliceDifference) -> str:
    interval = difference_text(each.test.interval) if each.test else "no interval"
    return f"{points(each.difference)} ({interval})"


def flips(evidence: Evidence) -> tuple[Block, ...]:
    """What the latest challenger breaks and mends, word for word: against whom it met, or the baseline."""
    versus = evidence.versus_reference or evidence.versus_baseline
    if versus is None:
        return ()
    against_champion = versus.theirs.kind == "tuned"
    allowed = f" (at most {percent(evidence.max_broken_share)} are allowed)" if against_champion else ""
    said = (
        f"{versus.ours.name} instead of {versus.theirs.name}: {versus.broken:,} pairs break, {percent(versus.broken_share)} of "
        f"those that were right{allowed}, and {versus.mended:,} are mended. Shown are those it is surest of, with the "
        "probability that each gives to the pair's being the same."
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


def parts(evidence: Evidence, reliability: Picture | None) -> tuple[Block, ...]:
    """What the errors are made of, and the usual figures, beside the baseline's."""
    if evidence.model is None:
        return ()
    both = [evidence.model, evidence.baseline.evaluation]
    made_of = [
        (evidence.name(row), percent(row.calibrated_error), percent(row.parts.ranking), points(row.parts.threshold),
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
    names = tuple(evidence.name(row) for row in both)
    return (
        Table(("model", "error", "ranking", "threshold", "prior"), tuple(made_of), frozenset({"model"})),
        Text(about),
        Table(("figure", *names), tuple((k, *(f"{v:.3f}" for v in vs)) for k, vs in figures.items()), frozenset({"figure"})),
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
         _break_even(each))
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


def _break_even(cost: ModelCost) -> str:
    if cost.million is None:
        return "-"
    if cost.break_even is None:
        return "never: at full load this machine costs more than the API"
    return f"{cost.break_even / 1e6:,.0f} M tokens a month"


def data(evidence: Evidence) -> tuple[Block, ...]:
    """Splits, thresholds by source, and what base models had seen before."""
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
