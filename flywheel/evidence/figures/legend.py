"""The words of the learning curve's figure: title, legend, the notes below, and the room that they take."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from textwrap import fill
from typing import TYPE_CHECKING, Any

from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.statistics import ROUGH_BELOW_COMPONENTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure


INK, QUIET = "#222222", "#555555"
BASELINE_STYLES: tuple[Any, ...] = ("-", "-.", ":")
# Inches: the margin of title and subtitle.
_EDGE = 0.12
# How each thing looks, by what it is called: an artist, or several that matplotlib lays over each other.
Keys = dict[str, Any]


@dataclass(frozen=True)
class FigureLayout:
    """The room a figure has: inches, but sizes of text in points and lengths of lines in characters."""

    width: float
    columns: int
    first_row: float
    row: float
    # Share of what the errors span that is left free above and below them.
    room: float
    # Whether the figure grows by its words, or the panels take what these leave.
    grows: bool
    title_size: float
    title_line: float
    title_length: int
    text_size: float
    text_line: float
    text_length: int
    fine_size: float


WIDE = FigureLayout(9.0, 3, 5.0, 3.0, 0.12, False, 14, 0.32, 1_000, 9.5, 0.30, 1_000, 9)
# A phone shows 4.2 inches some 360 of its points wide, where text of 8 points is still read.
NARROW = FigureLayout(4.2, 1, 2.8, 2.5, 0.25, True, 12, 0.22, 38, 9, 0.19, 55, 8.5)


@dataclass(frozen=True)
class Words:
    """Title and what it means, broken into lines, and the lines below the panels."""

    title: str
    meaning: str
    below: str


def title_of(evaluations: Sequence[Evaluation]) -> str:
    """The figure's title: what was measured, on how much."""
    return f"Error rate on {evaluations[0].metrics.n:,} unseen test pairs ({evaluations[0].components:,} components)"


def words_of(evaluations: Sequence[Evaluation], fitted: bool, note: str, page: FigureLayout) -> Words:
    """What the figure says besides its legend; `note` last."""
    meaning = "Share of wrong same/different decisions: lower is better. A component is a group of linked questions."
    sized = any(record.size is not None for record in evaluations)
    below = ["Number of training pairs (log scale)" if sized else "no tuned model has been evaluated yet"]
    if any(record.interval for record in evaluations):
        below.append("bars and grey band: 95 % intervals")
    if fitted:
        below.append("dotted: power law up to twice the largest size")
    if any(record.rough for record in evaluations):
        below.append(f"rough: fewer than {ROUGH_BELOW_COMPONENTS} components")
    below += sorted({f"no 95 % interval: {record.no_verdict}" for record in evaluations if record.no_verdict})
    below += [note] if note else []
    return Words(
        fill(title_of(evaluations), page.title_length),
        fill(meaning, page.text_length),
        "\n".join(fill(line, page.text_length) for line in below),
    )


def keys_of(
    looks: Mapping[str, dict[str, Any]], untuned: bool, baselines: Sequence[Evaluation], fitted: bool, page: FigureLayout
) -> Keys:
    """The entries of the legend: how each thing looks, by what it is called; `looks` are those of the lines."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys: Keys = {label: Line2D([], [], **look) for label, look in looks.items()}
    if untuned:
        keys["the same model, untuned"] = Line2D([], [], color=QUIET, linestyle="--")
    for record, style in zip(baselines, cycle(BASELINE_STYLES), strict=False):
        model, _, dimension = record.variant.rpartition("@")
        keys[f"baseline: {model}, {dimension} dimensions (measured)"] = Line2D([], [], color=INK, linestyle=style)
    if fitted:
        dots = Line2D([], [], color=QUIET, linestyle=":", linewidth=1.2)
        keys["power law, 95 % band"] = (Patch(color=QUIET, alpha=0.15, linewidth=0), dots)
    # A handle takes some six characters of a line.
    return {fill(label, page.text_length - 6): key for label, key in keys.items()}


def height_of(page: FigureLayout, rows: int, words: Words, keys: Iterable[str]) -> float:
    """Inches of the whole figure."""
    height = page.first_row + page.row * (rows - 1)
    if page.grows:
        height += page.title_line * _count(words.title)
        height += page.text_line * sum(map(_count, [words.meaning, words.below, *keys]))
    return height


def _count(text: str) -> int:
    return text.count("\n") + 1


def write_words(figure: "Figure", words: Words, page: FigureLayout) -> float:
    """Title and meaning above the panels, the rest below; returns the inches from the top that these leave free."""
    left, height = _EDGE / page.width, figure.get_figheight()
    below_title = _EDGE + page.title_line * _count(words.title)
    figure.text(left, 1 - _EDGE / height, words.title, va="top", fontsize=page.title_size, weight="bold", color=INK)
    figure.text(left, 1 - below_title / height, words.meaning, va="top", fontsize=page.text_size, color=QUIET)
    figure.supxlabel(words.below, fontsize=page.fine_size, color=INK)
    return below_title + page.text_line * _count(words.meaning)


def write_legend(figure: "Figure", keys: Keys, top: float, page: FigureLayout) -> None:
    """Above the panels, `top` inches down, in as few rows as the width allows; the panels get the height that is left."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    corner = (_EDGE / page.width, 1 - top / figure.get_figheight())
    look: dict[str, Any] = {"frameon": False, "fontsize": page.fine_size, "borderpad": 0, "borderaxespad": 0}
    for columns in range(len(keys) if page.columns > 1 else 1, 0, -1):
        legend = figure.legend(
            keys.values(), keys.keys(), ncols=columns, loc="upper left", bbox_to_anchor=corner, columnspacing=1.6, **look
        )
        box = legend.get_window_extent().transformed(figure.transFigure.inverted())
        if box.x1 < 1 or columns == 1:
            break
        legend.remove()
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, box.y0 - 0.015)))
