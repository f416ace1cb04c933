"""The figure a person looks at first: error rate against the number of training pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from math import ceil, log
from statistics import fmean
from typing import TYPE_CHECKING, Any

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.statistics import ROUGH_BELOW_COMPONENTS, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform

# Inches: a figure with one row of panels, each further row, title and subtitle, their margin, a tick label (25.6k).
_WIDTH, _HEIGHT, _ROW_HEIGHT, _HEADER_HEIGHT, _EDGE, _TICK_LABEL = 9.0, 5.0, 3.0, 0.74, 0.12, 0.38
_INK, _QUIET, _BAND, _AXIS, _GRID = "#222222", "#555555", "#e4e4e4", "#999999", "#eeeeee"
# Okabe and Ito, "Color Universal Design", the darkest first and without yellow; near black is the baseline's.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v")
# How much of a marker is filled says how much of the model stayed as it was.
_FILLS = {"head": "full", "top": "bottom", "full": "none"}
_BASELINE_STYLES: tuple[Any, ...] = ("-", "-.", ":")


def loss_curve(losses: Sequence[tuple[int, float]]) -> bytes:
    """PNG of a training's loss against its steps, from (step, loss)."""
    from matplotlib.figure import Figure

    figure = Figure((6.0, 2.6), facecolor="white", layout="constrained")
    panel = figure.subplots()
    panel.plot(*zip(*losses, strict=True), color=_COLOURS[0], linewidth=1.4)
    panel.set(xlabel="training step", ylabel="loss")
    panel.set_ylim(bottom=0)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", color=_GRID)
    png = BytesIO()
    figure.savefig(png, format="png", dpi=110, metadata={"Software": None})
    return png.getvalue()


@dataclass(frozen=True)
class _Line:
    """One output dimension of one recipe (None: untuned only), with the look of its markers in matplotlib's words."""

    dimension: int
    recipe: str | None
    label: str
    look: dict[str, Any]


def learning_curve(evaluations: Sequence[Evaluation], champion_id: str | None) -> bytes:
    """PNG of `draw_learning_curve`: equal bytes for equal records and library versions. Raises what that raises."""
    png = BytesIO()
    draw_learning_curve(evaluations, champion_id).savefig(png, format="png", dpi=130, metadata={"Software": None})
    return png.getvalue()


def draw_learning_curve(evaluations: Sequence[Evaluation], champion_id: str | None) -> "Figure":
    """Error rates in % with 95 % intervals against training pairs, one panel per base model, both axes shared.

    A size `all` stands at its number of pairs. Where a cell has several records (random seeds), the line goes through
    their mean. The tuned record with id `champion_id` carries the star. Raises FlywheelError without evaluations, with
    those of several test splits, or when a tuned record does not say how many pairs it trained on.
    """
    from matplotlib.figure import Figure

    tests = len({record.test_id for record in evaluations})
    if tests != 1:
        raise FlywheelError(f"There are evaluations of {tests} test splits: a figure takes those of exactly one.")
    tuned, untuned, baselines = (
        [record for record in evaluations if record.kind == kind] for kind in ("tuned", "untuned", "baseline")
    )
    lines = _lines(tuned, untuned)
    bases = sorted({_base(record) for record in tuned + untuned}) or [""]
    columns = min(len(bases), 3)
    rows = ceil(len(bases) / columns)
    figure = Figure((_WIDTH, _HEIGHT + _ROW_HEIGHT * (rows - 1)), facecolor="white")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for spare in grid[len(bases) :]:
        spare.remove()
    low, high = _reach(evaluations)
    # The height is for what differs, with room for a word, but for 4 points at least: less would magnify noise.
    room = max(0.12 * (high - low), (4.0 - (high - low)) / 2)
    grid[0].set_ylim(max(0.0, low - room), min(100.0, high + room))
    for number, (panel, base) in enumerate(zip(grid, bases, strict=False)):
        _dress(panel, base, leftmost=number % columns == 0, lowest=number + columns >= len(bases))
        if tuned:
            _scale_sizes(panel, tuned, _WIDTH / columns - 0.45)
        for record, style in zip(baselines, cycle(_BASELINE_STYLES), strict=False):
            panel.axhline(100 * record.error, color=_INK, linestyle=style, linewidth=1.6, zorder=2)
            if record.interval:
                panel.axhspan(*_percent(record.interval), color=_BAND, linewidth=0, zorder=0.5)
        for record in untuned:
            if _base(record) == base:
                colour = next(line.look["color"] for line in lines if line.dimension == _dimension(record))
                panel.axhline(100 * record.error, color=colour, linestyle="--", linewidth=1.4, zorder=2.5)
        _draw_lines(panel, lines, [record for record in tuned if _base(record) == base], champion_id)
    _write_words(figure, evaluations)
    _write_legend(figure, lines, bool(untuned), baselines)
    return figure


def _base(record: Evaluation) -> str:
    return record.variant.rpartition("@")[0]


def _dimension(record: Evaluation) -> int:
    return int(record.variant.rpartition("@")[2])


def _pairs(record: Evaluation) -> int:
    if not record.train_pairs:
        raise FlywheelError(f"The record of {record.name} names no number of training pairs: evaluate it again.")
    return record.train_pairs


def _reach(records: Sequence[Evaluation]) -> tuple[float, float]:
    """Lowest and highest error rate that the records' points and intervals reach, in %."""
    ends = [100 * record.error for record in records]
    ends += [end for record in records if record.interval for end in _percent(record.interval)]
    return min(ends), max(ends)


def _percent(interval: Interval) -> tuple[float, float]:
    return 100 * interval.low, 100 * interval.high


def _lines(tuned: Sequence[Evaluation], untuned: Sequence[Evaluation]) -> list[_Line]:
    """What stands in the legend: a dimension looks the same in every panel, its recipes differ in the filling."""
    keys = {(_dimension(record), record.recipe) for record in tuned}
    dimensions = sorted({_dimension(record) for record in [*tuned, *untuned]})
    keys |= {(dimension, None) for dimension in dimensions if dimension not in {key[0] for key in keys}}
    several_recipes = len({record.recipe for record in tuned}) > 1
    lines = []
    for dimension, recipe in sorted(keys, key=lambda key: (key[0], key[1] or "")):
        rank = dimensions.index(dimension)
        look = {"color": _COLOURS[rank % len(_COLOURS)], "marker": _MARKERS[rank % len(_MARKERS)], "markersize": 5}
        look |= {"fillstyle": _FILLS.get(recipe or "", "full"), "markerfacecoloralt": "white"}
        label = f"{dimension} dimensions" + (f", {recipe}" if recipe and several_recipes else "")
        lines.append(_Line(dimension, recipe, label, look))
    return lines


def _dress(panel: "Axes", base: str, leftmost: bool, lowest: bool) -> None:
    panel.set_title(base, fontsize=10, color=_INK, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_AXIS)
    panel.yaxis.set_major_formatter("{x:g} %")
    panel.grid(axis="y", color=_GRID, linewidth=0.8)
    panel.tick_params(labelsize=8, labelcolor=_INK, color=_AXIS)
    panel.tick_params(axis="x", labelbottom=lowest)
    panel.set_xticks([])
    panel.set_ylabel("Error rate (lower is better)" if leftmost else "", fontsize=9.5, color=_INK)


def _scale_sizes(panel: "Axes", tuned: Sequence[Evaluation], inches: float) -> None:
    """A tick at every size of any panel, labels where they fit; `all` on a line of its own below the numbers."""
    sizes = sorted({_pairs(record) for record in tuned})
    margin = max(1.5, (sizes[-1] / sizes[0]) ** 0.07)
    panel.set_xscale("log")
    panel.set_xlim(sizes[0] / margin, sizes[-1] * margin)
    panel.minorticks_off()
    gap = log(margin**2 * sizes[-1] / sizes[0]) * _TICK_LABEL / inches
    numbered = _apart(sorted(_pairs(record) for record in tuned if record.size != "all"), gap)
    labels = {size: _short(size) if size in numbered else "" for size in sizes}
    for size in _apart(sorted((_pairs(record) for record in tuned if record.size == "all"), reverse=True), 2 * gap):
        labels[size] += f"\nall ({_short(size)})"
    panel.set_xticks(list(labels), list(labels.values()))


def _apart(sizes: Iterable[int], gap: float) -> list[int]:
    """The sizes, in the order given, that stand at least `gap` (natural logarithm) from the one kept before."""
    kept: list[int] = []
    for size in sizes:
        if not kept or abs(log(size / kept[-1])) >= gap:
            kept.append(size)
    return kept


def _short(size: int) -> str:
    return str(size) if size < 1000 else f"{float(f'{size / 1000:.3g}'):g}k"


def _draw_lines(panel: "Axes", lines: Sequence[_Line], tuned: Sequence[Evaluation], champion_id: str | None) -> None:
    """The lines of one panel, each moved a little to the side so that bars at one size do not hide each other."""
    from matplotlib.transforms import ScaledTranslation

    cells = [(line, [r for r in tuned if (_dimension(r), r.recipe) == (line.dimension, line.recipe)]) for line in lines]
    here = [(line, records) for line, records in cells if records]
    # In points; no more than 9 from the first line to the last, so that sizes a factor of two apart stay apart.
    step = min(4.0, 9.0 / max(1, len(here) - 1))
    for number, (line, records) in enumerate(here):
        shift = step * (number - (len(here) - 1) / 2)
        place = panel.transData + ScaledTranslation(shift / 72, 0, panel.figure.dpi_scale_trans)
        sizes = sorted({_pairs(record) for record in records})
        means = [fmean(100 * record.error for record in records if _pairs(record) == size) for size in sizes]
        panel.plot(sizes, means, color=line.look["color"], linewidth=1.8, transform=place, zorder=4)
        for record in records:
            size, error = _pairs(record), 100 * record.error
            panel.plot(size, error, transform=place, zorder=5, **line.look)
            # Not `errorbar`, which refuses an interval that leaves out its own figure: percentile intervals may.
            if record.interval:
                ends = _percent(record.interval)
                panel.plot([size, size], ends, color=line.look["color"], linewidth=1.3, transform=place, zorder=3)
            if record.record_id == champion_id:
                star = {**line.look, "marker": "*", "markersize": 15, "fillstyle": "full", "markeredgecolor": _INK}
                panel.plot(size, error, transform=place, zorder=7, **star)
                _write_champion(panel, (size, error), _reach([r for r in tuned if _pairs(r) == size]), place)


def _write_champion(panel: "Axes", star: tuple[int, float], beside: tuple[float, float], place: "Transform") -> None:
    """The word where falling curves leave room, below or (near the left edge) above all that size reaches: `beside`."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import ScaledTranslation

    left, right = panel.get_xlim()
    side = 1 if log(star[0] / left) < 0.35 * log(right / left) else -1
    away = place + ScaledTranslation(-12 * side / 72, 8 * side / 72, panel.figure.dpi_scale_trans)
    look: dict[str, Any] = {"ha": "left", "va": "bottom"} if side > 0 else {"ha": "right", "va": "top"}
    look |= {"color": _INK, "weight": "bold", "size": 9, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    look |= {"arrowprops": {"arrowstyle": "-", "color": _INK, "linewidth": 0.8}, "in_layout": False, "zorder": 6}
    panel.annotate("champion", star, xycoords=place, xytext=(star[0], beside[side > 0]), textcoords=away, **look)


def _write_words(figure: "Figure", evaluations: Sequence[Evaluation]) -> None:
    left, height = _EDGE / _WIDTH, figure.get_figheight()
    title = f"Error rate on {evaluations[0].metrics.n:,} unseen test pairs ({evaluations[0].components:,} components)"
    meaning = "Share of wrong same/different decisions: lower is better. A component is a group of linked questions."
    figure.text(left, 1 - _EDGE / height, title, va="top", fontsize=14, weight="bold", color=_INK)
    figure.text(left, 1 - (_EDGE + 0.32) / height, meaning, va="top", fontsize=9.5, color=_QUIET)
    tuned = any(record.kind == "tuned" for record in evaluations)
    below = ["Number of training pairs (log scale)" if tuned else "no tuned model has been evaluated yet"]
    if any(record.interval for record in evaluations):
        below.append("bars and grey band: 95 % intervals")
    if any(record.rough for record in evaluations):
        below.append(f"rough: fewer than {ROUGH_BELOW_COMPONENTS} components")
    below += sorted({f"no 95 % interval: {record.no_verdict}" for record in evaluations if record.no_verdict})
    figure.supxlabel("\n".join(below), fontsize=9, color=_INK)


def _write_legend(figure: "Figure", lines: Sequence[_Line], untuned: bool, baselines: Sequence[Evaluation]) -> None:
    """Above the panels, in as few rows as the width allows; the panels get the height that is left."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], label=line.label, **line.look) for line in lines]
    keys += [Line2D([], [], color=_QUIET, linestyle="--", label="the same model, untuned")] if untuned else []
    for record, style in zip(baselines, cycle(_BASELINE_STYLES), strict=False):
        label = f"baseline: {_base(record)}, {_dimension(record)} dimensions (measured)"
        keys.append(Line2D([], [], color=_INK, linestyle=style, label=label))
    corner = (_EDGE / _WIDTH, 1 - _HEADER_HEIGHT / figure.get_figheight())
    look: dict[str, Any] = {"frameon": False, "fontsize": 9, "borderpad": 0, "borderaxespad": 0, "columnspacing": 1.6}
    for columns in range(len(keys), 0, -1):
        legend = figure.legend(handles=keys, ncols=columns, loc="upper left", bbox_to_anchor=corner, **look)
        box = legend.get_window_extent().transformed(figure.transFigure.inverted())
        if box.x1 < 1 or columns == 1:
            break
        legend.remove()
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, box.y0 - 0.015)))
