"""The sections of the page, each from the part of the evidence that it shows."""

from collections.abc import Iterable, Sequence

from flywheel.evaluation.comparison import FlippedPair, SliceDifference, unsound_text
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.paired import detectable_difference
from flywheel.evaluation.published import PUBLISHED
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.retention import Retention
from flywheel.evidence.gather import Evidence
from flywheel.evidence.page import Block, Picture, Section, Table, Text
from flywheel.evidence.words import difference_text, interval_text, marked_name, pairs_text, percent, points
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.registry.champions import Champion, Entry
from flywheel.registry.decisions import in_words, spending
from flywheel.training.readable import cut_in_words
from flywheel.training.starts import UNTUNED, start_in_words

SEEN = (
    "† The base model has trained, or may have, on the data that these test pairs are from: no clean evidence for few examples."
)
_LEVEL = 0.05  # where a Holm-adjusted p-value earns a row its label
_ONE_SIDED = 0.025  # one end of a 95 % interval
_ALARM = "\u00a0‡"
_GUESS = "always the commoner label"
_SHOWN = 5  # alarms and remarks on the board


def board_section(
    board: Leaderboard, champion_id: str | None, better: dict[str, float] | None = None, baseline: Evaluation | None = None
) -> Section:
    """The leaderboard, published figures apart from measured ones. `better` are adjusted p-values against `baseline`."""
    columns = ["model", "train pairs", "error", "95 % interval", "MRR@10"] + (["better"] if better else [])
    rows = []
    for row in board.rows:
        star = "★ " if row.record_id == champion_id else ""
        old = ", older snapshot" if row.record_id in board.stale else ""
        name = star + marked_name(row, board) + (_ALARM if row.alarm else "") + old
        cells = (
            name, pairs_text(row), percent(row.error), interval_text(row.interval), f"{row.retrieval.mrr_at_10:.3f}",
        )  # fmt: skip
        label = (better or {}).get(row.record_id)
        text = "yes" if label is not None and label <= _LEVEL else "-" if label is None else "no"
        rows.append((*cells, text) if better else cells)
    if board.guess:
        cells = (_GUESS, "guess", percent(board.guess.error), interval_text(board.guess.interval), "-")
        rows.append((*cells, "-") if better else cells)
    strong = frozenset(i for i, row in enumerate(board.rows) if row.record_id == champion_id)
    quiet = frozenset(i for i, row in enumerate(board.rows) if row.record_id in board.stale)
    about = list(_how_judged(board.snapshot))
    judging, folded = board.snapshot.judging, board.snapshot.is_cross_fitted
    reasons = dict.fromkeys(row.no_verdict for row in board.rows if row.interval is None and row.no_verdict)
    about += [f"No interval: {reason}." for reason in reasons]
    if board.guess:
        where = "other folds" if folded else "calibration pairs"
        about.append(f"guess: no model; always the label that is commoner in the {where}.")
    if any(row.recipe in ("top", "full") for row in board.rows):
        about.append("top and full: calibration labels chose the decision rule and among the weights.")
    if better and baseline:
        about.append(
            f"better: fewer errors than {marked_name(baseline, board)}, 5 % level, by Holm's rule for "
            "all rows together; a label, not a promotion."
        )
    about += [SEEN] if any(map(board.seen, board.rows)) else []
    if kept := sorted({start_in_words(row.start or UNTUNED) for row in board.rows if row.kept_start}):
        about.append(f"start kept: training did not help, and {' or '.join(kept)} is used.")
    about += ["★ champion."] if strong else []
    if board.on_other_terms:
        about.append(
            f"{board.on_other_terms} more rows were made under other settings of [evaluation]; "
            "`flywheel grid` or `flywheel train`, whichever made them, makes them again."
        )
    if any(row.rough for row in board.rows):
        about.append(
            f"Rough: {judging.components} components{'' if folded else ' in test'}; from 100 on the intervals are firm."
        )
    published = [
        f"{each.variant}: {percent(each.published_error)} on {each.n:,} pairs of {each.data}. {each.note}" for each in PUBLISHED
    ]
    blocks: tuple[Block, ...] = (
        Table(tuple(columns), tuple(rows), frozenset({"model", "better"}), strong, quiet),
        Text(" ".join(about)),
        *_failures(board),
        *_alarms(board),
        Text(f"Published elsewhere, on other pairs, and not to be compared with the rows above: {' '.join(published)}"),
    )
    return Section("Leaderboard", blocks)


def _how_judged(snapshot: Snapshot) -> tuple[str, ...]:
    """On what the error rates are, and how each decision came about."""
    judging = snapshot.judging
    if snapshot.is_cross_fitted:
        return (
            f"Error rate on all {judging.pairs:,} labelled pairs in {judging.components:,} components; lower is better.",
            f"Cross-fitted: each pair is judged by a model that was trained without its fold, one of {snapshot.folds}, by a "
            "rule that was chosen without it. What ships is trained on all pairs.",
        )
    return (
        f"Error rate on {judging.pairs:,} unseen test pairs in {judging.components:,} components; lower is better.",
        "Each model decides by its own rule, chosen on the calibration pairs.",
    )


def _failures(board: Leaderboard) -> list[Text]:
    """Rows whose model could not embed some texts."""
    found = [(row.name, row.failures) for row in board.rows if row.failures]
    return [Text(f"{name}: {failures.sentence(percent(failures.error_without))}") for name, failures in found]


def _alarms(board: Leaderboard) -> list[Text]:
    """What is odd about rows: alarms, and remarks."""
    alarms = [f"‡ {unsound_text(row)}" for row in board.rows if row.alarm]
    remarks = [f"{row.name}: {each.sentence}" for row in board.rows for each in row.findings if not each.alarm]
    more = len(alarms) + len(remarks) - _SHOWN
    return [Text(each) for each in [*alarms, *remarks][:_SHOWN]] + ([Text(f"{more} more such rows.")] if more > 0 else [])


def decision_section(entry: Entry | None, present: Entry | None, on_quora: bool, now: Evaluation | None = None) -> Section:
    """Who is champion, by the figures of its promotion and by those on the present test pairs (`now`), and what was decided."""
    text = "No champion yet."
    if present and (champion := present.champion):
        judged = "cross-fitted" if present.verdict and present.verdict.folds else "test"
        text = (
            f"Champion: {champion.variant}, size {champion.size}, error {percent(champion.error)} on {champion.n:,} {judged} "
            f"pairs, threshold {champion.threshold:.4f}{_of_seed_pairs(champion)}."
        )
        if now and now.test_id != champion.test_id:
            text += f" On the present {now.metrics.n:,} test pairs its error is {percent(now.error)}."
    return Section("The decision", (Text(text), *decision(entry, on_quora)))


def _of_seed_pairs(champion: Champion) -> str:
    if champion.seed_threshold in (None, champion.threshold):
        return ""
    return f" for interaction pairs and {champion.seed_threshold:.4f} for seed pairs, each judged at its own"


def decision(entry: Entry | None, on_quora: bool) -> tuple[Block, ...]:
    """What became of a turn, in words; `on_quora` says that the test pairs are Quora's, which base models saw."""
    if entry is not None and entry.turn:
        return (Text(in_words(entry)),)
    if entry is None or (verdict := entry.verdict) is None:
        return ()
    text = [
        f"{verdict.challenger_name} against {verdict.reference_name}: difference in error {points(verdict.difference)} "
        f"points (95 % {points(verdict.ci_low)} to {points(verdict.ci_high)}), p = {verdict.p_value:.2g}, needed "
        f"{verdict.alpha:.2g}: {'promoted' if verdict.promoted else 'not promoted'}, {verdict.reason}.",
        spending(verdict),
    ]
    if verdict.detectable is not None:
        text.append(
            f"A true difference of {100 * verdict.detectable:.1f} points would have been found in four of five such tests."
        )
    if verdict.folds:
        text.append(
            f"Cross-fitted: each of the {verdict.pairs:,} pairs was judged by a model that was trained without its fold, one "
            f"of {verdict.folds}. The verdict is on the procedure; the model that ships was trained on all pairs."
        )
    return tuple(Text(each) for each in [*text, *([SEEN] if on_quora else [])])


def kinds(evidence: Evidence) -> tuple[Block, ...]:
    """Error rates on kinds of pairs, beside the baseline's."""
    versus = evidence.versus_baseline
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
        "Error rates. A pair may be of several kinds, and each interval is for that kind alone; where components are too few "
        "or one is too large, there is none. The smallest difference to be seen is found in four of five tests, one-sided at "
        "2.5 %. "
        "No question of a pair, nor any question linked to one, was in the training pairs of the model that judges it: all are "
        "unseen. Kinds are found by simple rules: at most 8 words in both texts, more than 16 in one; a digit, a word such as "
        "not, or a capitalised word inside a sentence in either."
    )
    base = Variant.parse(evidence.model.variant).base
    cut = [Text(cut_in_words(source, share, base)) for source, share in evidence.cut.items()]
    return Table(columns, tuple(rows), frozenset({"kind"})), *cut, Text(about)


def _difference(each: SliceDifference) -> tuple[str, str]:
    if each.test is None:
        return f"{points(each.difference)} (no interval)", "-"
    smallest = detectable_difference(each.test, _ONE_SIDED)
    text = f"{points(each.difference)} ({difference_text(each.test.interval)})"
    return text, "-" if smallest is None else f"{100 * smallest:.1f}"


def elsewhere(found: Sequence[Retention]) -> tuple[Block, ...]:
    """What is left of the base model on pairs of other topics; nothing where that is not measured."""
    rows = [(each.domain, f"{each.untuned:.3f}", f"{each.tuned:.3f}", _change(each), f"{each.n:,}") for each in found]
    text = (
        "Average precision of the cosine on pairs that nothing trains on: how well it puts those that mean the same above the "
        "others. An interval wholly below zero says that tuning has cost the model there, which matters where it is used for "
        "more than your own kind of pairs."
    )
    text += "".join(
        f" Of {each.domain}, {each.left_out:,} more are left out: a question of theirs trains."
        for each in found
        if each.left_out
    )
    columns = ("pairs from elsewhere", "untuned", "tuned", "difference", "pairs")
    return (Table(columns, tuple(rows), frozenset({"pairs from elsewhere"})), Text(text)) if found else ()


def _change(each: Retention) -> str:
    interval = f"95 % {each.interval.low:+.3f} to {each.interval.high:+.3f}" if each.interval else "no interval"
    return f"{each.difference:+.3f} ({interval})"


def flips(evidence: Evidence) -> tuple[Block, ...]:
    """Pairs that the latest challenger breaks and fixes, against the model it was compared with, or the baseline."""
    versus = evidence.versus_reference or evidence.versus_baseline
    allowed = f" (at most {percent(evidence.max_broken_share)} are allowed)" if versus.theirs.kind == "tuned" else ""
    ours, theirs = (f"{evidence.name(row)} | {row.size or row.kind}" for row in (versus.ours, versus.theirs))
    text = (
        f"{ours} instead of {theirs}: {versus.broken:,} pairs break, {percent(versus.broken_share)} of those that were "
        f"right{allowed}, and {versus.fixed:,} are fixed. Shown are those it is surest of, with the probability that each "
        "gives to the pair's being the same."
    )
    blocks: list[Block] = [Text(text)]
    if versus.worst_broken:
        blocks += [Text("Broken: right before, wrong now."), _pairs_table(versus.worst_broken)]
    if versus.best_fixed:
        blocks += [Text("Fixed: wrong before, right now."), _pairs_table(versus.best_fixed)]
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
    both = [evidence.model, evidence.baseline.evaluation]
    made_of = [
        (evidence.name(row), *(f"{100 * part:.2f}" for part in (
            row.error, row.parts.ranking, row.parts.threshold, row.parts.prior)))
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
        "expected calibration error (ECE)": [row.metrics.ece for row in both],
        "error on the calibration pairs": [row.calibration_set_error for row in both],
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
