"""Figures as people read them."""

from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.subjects import GUESS
from flywheel.training.starts import UNTUNED


def percent(share: float) -> str:
    """`0.1234` as `12.3 %`."""
    return f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """`-0.0123` as `-1.2`, in points of a percentage."""
    return f"{100 * difference:+.1f}"


def interval_text(interval: Interval | None) -> str:
    """A 95 % interval of a share, or `none`."""
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %" if interval else "none"


def difference_text(interval: Interval) -> str:
    """A 95 % interval of a difference, in points."""
    return f"95 % {points(interval.low)} to {points(interval.high)}"


def model_name(row: Evaluation) -> str:
    """Base model and dimension, with the recipe where it is not the usual one."""
    if row.kind == "baseline" and row.size:
        return f"{row.variant} + head"
    return row.variant + (f" {row.recipe}" if row.recipe not in (None, "head") else "")


def marked_name(row: Evaluation, board: Leaderboard) -> str:
    """The same with a mark where the base model had seen the data that the test pairs are from: it touches every figure."""
    return model_name(row) + ("\u00a0†" if board.seen(row) else "")


def baseline_name(row: Evaluation, name: str) -> str:
    """What a local baseline is called in a sentence, given its `name` on the page."""
    return f"always giving the {GUESS}" if row.variant == GUESS else f"the untuned {name}"


def pairs_text(row: Evaluation) -> str:
    """How many pairs it was trained on, whether its start was kept and which, or what it is instead."""
    if row.train_pairs is None:
        return row.kind
    redraw = f", random_seed {row.random_seed}" if row.random_seed else ""
    kept = "" if not row.kept_start else ", start kept" if row.start == UNTUNED else f", start on {row.start} kept"
    return f"{row.train_pairs:,}" + (" (all)" if row.size == "all" else "") + redraw + kept


def money(dollars: float) -> str:
    """US dollars, with as many digits as matter."""
    return f"${dollars:,.2f}" if dollars >= 0.1 else f"${dollars:.2g}"


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever suits."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
