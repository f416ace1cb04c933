"""Leaderboard and decisions as Markdown, for the UI."""

from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.published import PUBLISHED
from flywheel.evaluation.records import Evaluation
from flywheel.registry.champions import Entry


def percent(share: float) -> str:
    """`0.1234` as `12.3 %`."""
    return f"{100 * share:.1f} %"


def interval_text(row: Evaluation) -> str:
    """The 95 % interval of a row, or why it has none."""
    return f"{100 * row.interval.low:.1f} to {100 * row.interval.high:.1f} %" if row.interval else "none"


def leaderboard_markdown(board: Leaderboard) -> str:
    """The measured table, then the published figures apart from it."""
    lines = [
        f"Error rate on {board.snapshot.test.pairs:,} unseen test pairs ({board.snapshot.test.components} components); "
        "lower is better.",
        "",
        "| | variant | size | recipe | error | 95 % interval | error, shared threshold | MRR@10 | |",
        "|---|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for row in board.rows:
        stale = "of an older snapshot" if row.record_id in board.stale else ""
        lines.append(
            f"| {row.kind} | {row.variant} | {row.size or '-'} | {row.recipe or '-'} | {percent(row.error)} "
            f"| {interval_text(row)} | {percent(row.calibrated_error)} | {row.retrieval.mrr_at_10:.3f} | {stale} |"
        )
    lines += ["", "Published elsewhere, on other pairs, and not to be compared with the rows above:", ""]
    lines += [f"- {p.variant}: {percent(p.published_error)} on {p.n:,} pairs of {p.data}. {p.note}" for p in PUBLISHED]
    notes = sorted({f"- {row.variant.split('@')[0]}: {row.contamination}" for row in board.rows if row.contamination})
    return "\n".join([*lines, "", "What the base models had seen before:", "", *notes])


def champion_markdown(entry: Entry, present: Entry | None) -> str:
    """What was decided, and who is champion now."""
    lines = []
    if present and present.champion:
        champion = present.champion
        lines.append(
            f"**Champion: {champion.variant}, size {champion.size}**, error {percent(champion.error)} "
            f"on {champion.n:,} test pairs, threshold {champion.threshold:.4f}."
        )
    else:
        lines.append("**No champion yet.**")
    if verdict := entry.verdict:
        lines += [
            "",
            f"Decision {verdict.decision} on this test set: {verdict.challenger_name} against {verdict.reference_name}.",
            f"Difference in error {100 * verdict.difference:+.1f} points "
            f"(95 % {100 * verdict.ci_low:+.1f} to {100 * verdict.ci_high:+.1f}), p = {verdict.p_value:.2g}, "
            f"needed {verdict.alpha:.2g}: {'promoted' if verdict.promoted else 'kept out'}, {verdict.reason}.",
        ]
    return "\n".join(lines)
