"""How the figure a person looks at first is drawn: error rate against the number of training pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil, log
from statistics import fmean
from typing import TYPE_CHECKING, Any

from flywheel.errors import FlywheelError
from flywheel.evaluation.curve import LearningCurve, trained_pairs
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.figures.legend import (
    BASELINE_STYLES,
    INK,
    NARROW,
    WIDE,
    FigureLayout,
    height_of,
    keys_of,
    words_of,
    write_legend,
    write_words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Transform


GRID = "#eeeeee"
_BAND, _AXIS, _GREY = "#e4e4e4", "#999999", "#777777"
# Okabe and Ito, "Color Universal Design", the darkest first and without yellow; near black is the baseline's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = ("o", "s", "^", "D", "v")
# How much of a marker is filled says how much of the model stayed as it was.
_FILLS = {"head": "full", "top": "bottom", "full": "none"}
_BASELINE_MARKERS = ("P", "X", "p")
# Inches of a tick label (25.6k).
_TICK_LABEL = 0.38


@dataclass(frozen=True)
class _Line:
    """One output dimension of one recipe (None: untuned only), of any base or of one, with its look in matplotlib's words."""

    dimension: int
    recipe: str | None
    label: str
    look: dict[str, Any]
    base: str | None = None

    def covers(self, item: Evaluation | LearningCurve) -> bool:
        """Whether the item belongs to this line."""
        return (_dimension(item), item.recipe) == (self.dimension, self.recipe) and self.base in (None, _base(item))


def draw_learning_curve(
    evaluations: Sequence[Evaluation],
    champion_id: str | None,
    curves: Sequence[LearningCurve] = (),
    narrow: bool = False,
    note: str = "",
) -> "Figure":
    """Error rates in % with 95 % intervals against training pairs, one panel per base model, both axes shared.

    A size `all` is drawn at its number of pairs. Where a cell has several records (random seeds), the line goes through their
    mean. The tuned record with id `champion_id` carries the star. Baselines are in every panel: level lines, or grey curves
    where they have sizes (a head on the API's vectors). `curves` of lines drawn go on, dotted, to twice their largest size.
    `narrow` is for a phone: one panel a row. `note` is written below. Raises FlywheelError without evaluations, with those of
    several test splits, or when a record with a size does not say how many pairs it trained on.
    """
    from matplotlib.figure import Figure

    tests = len({record.test_id for record in evaluations})
    if tests != 1:
        raise FlywheelError(f"There are evaluations of {tests} test splits: a figure takes those of exactly one.")
    page = NARROW if narrow else WIDE
    tuned = [record for record in evaluations if record.kind == "tuned"]
    untuned = [record for record in evaluations if record.kind == "untuned"]
    baselines = [record for record in evaluations if record.kind == "baseline" and record.size is None]
    heads = [record for record in evaluations if record.kind == "baseline" and record.size is not None]
    drawn = {(record.variant, record.recipe) for record in tuned + heads}
    curves = [curve for curve in curves if (curve.variant, curve.recipe) in drawn]
    lines, head_lines = _lines(tuned, untuned), _head_lines(heads)
    bases = sorted({_base(record) for record in tuned + untuned}) or [""]
    columns = min(len(bases), page.columns)
    rows = ceil(len(bases) / columns)
    words = words_of(evaluations, bool(curves), note, page)
    looks = {line.label: line.look for line in [*lines, *head_lines]}
    keys = keys_of(looks, bool(untuned), baselines, bool(curves), page)
    figure = Figure((page.width, height_of(page, rows, words, keys)), facecolor="white")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel().tolist()
    for spare in grid[len(bases) :]:
        spare.remove()
    low, high = _reach(evaluations, curves)
    # The height is for what differs, with room for a word, but for 4 points at least: less would magnify noise.
    room = max(page.room * (high - low), (4.0 - (high - low)) / 2)
    grid[0].set_ylim(max(0.0, low - room), min(100.0, high + room))
    for number, (panel, base) in enumerate(zip(grid, bases, strict=False)):
        _dress(panel, base, page, leftmost=number % columns == 0, lowest=number + columns >= len(bases))
        if tuned or heads:
            _scale_sizes(panel, tuned + heads, curves, page.width / columns - 0.45)
        for record, style in zip(baselines, cycle(BASELINE_STYLES), strict=False):
            panel.axhline(100 * record.error, color=INK, linestyle=style, linewidth=1.6, zorder=2)
            if record.interval:
                panel.axhspan(*_percent(record.interval), color=_BAND, linewidth=0, zorder=0.5)
        for record in untuned:
            if _base(record) == base:
                colour = next(line.look["color"] for line in lines if line.dimension == _dimension(record))
                panel.axhline(100 * record.error, color=colour, linestyle="--", linewidth=1.4, zorder=2.5)
        _draw_lines(panel, head_lines, heads, curves, None)
        fitted = [curve for curve in curves if _base(curve) == base]
        _draw_lines(panel, lines, [record for record in tuned if _base(record) == base], fitted, champion_id)
    top = write_words(figure, words, page)
    write_legend(figure, keys, top, page)
    return figure


def _base(item: Evaluation | LearningCurve) -> str:
    return item.variant.rpartition("@")[0]


def _dimension(item: Evaluation | LearningCurve) -> int:
    return int(item.variant.rpartition("@")[2])


def _reach(records: Sequence[Evaluation], curves: Sequence[LearningCurve] = ()) -> tuple[float, float]:
    """Lowest and highest error rate that points, intervals and bands reach, in %."""
    ends = [100 * record.error for record in records]
    ends += [end for record in records if record.interval for end in _percent(record.interval)]
    ends += [end for curve in curves for point in _beyond(curve) for end in _percent(point.interval)]
    return min(ends), max(ends)


def _percent(interval: Interval) -> tuple[float, float]:
    return 100 * interval.low, 100 * interval.high


def _beyond(curve: LearningCurve) -> list[Any]:
    """The band from the largest size measured to twice that."""
    gain = curve.next_doubling
    return [point for point in curve.band if gain.now <= point.train_pairs <= gain.then]


def _lines(tuned: Sequence[Evaluation], untuned: Sequence[Evaluation]) -> list[_Line]:
    """The entries of the legend: a dimension looks the same in every panel, its recipes differ in the filling."""
    keys = {(_dimension(record), record.recipe) for record in tuned}
    dimensions = sorted({_dimension(record) for record in [*tuned, *untuned]})
    keys |= {(dimension, None) for dimension in dimensions if dimension not in {key[0] for key in keys}}
    several_recipes = len({record.recipe for record in tuned}) > 1
    lines = []
    for dimension, recipe in sorted(keys, key=lambda key: (key[0], key[1] or "")):
        rank = dimensions.index(dimension)
        look = {"color": COLOURS[rank % len(COLOURS)], "marker": _MARKERS[rank % len(_MARKERS)], "markersize": 5}
        look |= {"fillstyle": _FILLS.get(recipe or "", "full"), "markerfacecoloralt": "white"}
        label = f"{dimension} dimensions" + (f", {recipe}" if recipe and several_recipes else "")
        lines.append(_Line(dimension, recipe, label, look))
    return lines


def _head_lines(heads: Sequence[Evaluation]) -> list[_Line]:
    lines = []
    trained = {(record.variant, record.recipe): record for record in heads}
    for record, marker in zip(trained.values(), cycle(_BASELINE_MARKERS), strict=False):
        look = {"color": _GREY, "marker": marker, "markersize": 5}
        label = f"baseline: {record.variant} + {record.recipe}"
        lines.append(_Line(_dimension(record), record.recipe, label, look, _base(record)))
    return lines


def _dress(panel: "Axes", base: str, page: FigureLayout, leftmost: bool, lowest: bool) -> None:
    panel.set_title(base, fontsize=10, color=INK, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(_AXIS)
    panel.yaxis.set_major_formatter("{x:g} %")
    panel.grid(axis="y", color=GRID, linewidth=0.8)
    panel.tick_params(labelsize=8, labelcolor=INK, color=_AXIS)
    panel.tick_params(axis="x", labelbottom=lowest)
    panel.set_xticks([])
    label = "Error rate" if page.grows else "Error rate (lower is better)"
    panel.set_ylabel(label if leftmost else "", fontsize=page.text_size, color=INK)


def _scale_sizes(panel: "Axes", sized: Sequence[Evaluation], curves: Sequence[LearningCurve], inches: float) -> None:
    """A tick at every size of any panel, labels where they fit; `all` on a line of its own below the numbers."""
    sizes = sorted({trained_pairs(record) for record in sized})
    margin = max(1.5, (sizes[-1] / sizes[0]) ** 0.07)
    # A dotted end needs less room than a marker.
    right = max([margin * sizes[-1], *(1.25 * curve.next_doubling.then for curve in curves)])
    panel.set_xscale("log")
    panel.set_xlim(sizes[0] / margin, right)
    panel.minorticks_off()
    gap = log(margin * right / sizes[0]) * _TICK_LABEL / inches
    numbered = _apart(sorted(trained_pairs(record) for record in sized if record.size != "all"), gap)
    labels = {size: _short(size) if size in numbered else "" for size in sizes}
    for size in _apart(sorted((trained_pairs(record) for record in sized if record.size == "all"), reverse=True), 2 * gap):
        labels[size] += f"\nall ({_short(size)})"
    panel.set_xticks(list(labels), list(labels.values()))


def _apart(sizes: Iterable[int], gap: float) -> list[int]:
    """The sizes, in the order given, that are at least `gap` (natural logarithm) from the one kept before."""
    kept: list[int] = []
    for size in sizes:
        if not kept or abs(log(size / kept[-1])) >= gap:
            kept.append(size)
    return kept


def _short(size: int) -> str:
    return str(size) if size < 1000 else f"{float(f'{size / 1000:.3g}'):g}k"


def _draw_lines(
    panel: "Axes",
    lines: Sequence[_Line],
    records: Sequence[Evaluation],
    curves: Sequence[LearningCurve],
    champion_id: str | None,
) -> None:
    """The lines of one panel, each moved a little to the side so that bars at one size do not hide each other."""
    from matplotlib.transforms import ScaledTranslation

    cells = [(line, [record for record in records if line.covers(record)]) for line in lines]
    here = [(line, found) for line, found in cells if found]
    # In points; no more than 9 from the first line to the last, so that sizes a factor of two apart stay apart.
    step = min(4.0, 9.0 / max(1, len(here) - 1))
    for number, (line, found) in enumerate(here):
        shift = step * (number - (len(here) - 1) / 2)
        place = panel.transData + ScaledTranslation(shift / 72, 0, panel.figure.dpi_scale_trans)
        _draw_line(panel, line, found, champion_id, place)
        for curve in curves:
            if line.covers(curve):
                _draw_band(panel, line, curve, place)


def _draw_line(panel: "Axes", line: _Line, records: Sequence[Evaluation], champion_id: str | None, place: "Transform") -> None:
    sizes = sorted({trained_pairs(record) for record in records})
    means = [fmean(100 * record.error for record in records if trained_pairs(record) == size) for size in sizes]
    panel.plot(sizes, means, color=line.look["color"], linewidth=1.8, transform=place, zorder=4)
    for record in records:
        size, error = trained_pairs(record), 100 * record.error
        panel.plot(size, error, transform=place, zorder=5, **line.look)
        # Not `errorbar`, which refuses an interval that leaves out its own figure: percentile intervals may.
        if record.interval:
            ends = _percent(record.interval)
            panel.plot([size, size], ends, color=line.look["color"], linewidth=1.3, transform=place, zorder=3)
        if record.record_id == champion_id:
            star = {**line.look, "marker": "*", "markersize": 15, "fillstyle": "full", "markeredgecolor": INK}
            panel.plot(size, error, transform=place, zorder=7, **star)
            _write_champion(panel, (size, error), _reach([r for r in records if trained_pairs(r) == size]), place)


def _draw_band(panel: "Axes", line: _Line, curve: LearningCurve, place: "Transform") -> None:
    beyond, colour = _beyond(curve), line.look["color"]
    pairs = [point.train_pairs for point in beyond]
    low, high = zip(*(_percent(point.interval) for point in beyond), strict=True)
    panel.fill_between(pairs, low, high, color=colour, alpha=0.15, linewidth=0, transform=place, zorder=1)
    errors = [100 * point.error for point in beyond]
    panel.plot(pairs, errors, color=colour, linestyle=":", linewidth=1.2, transform=place, zorder=4)


def _write_champion(panel: "Axes", star: tuple[int, float], beside: tuple[float, float], place: "Transform") -> None:
    """The word where falling curves leave room, below or (near the left edge) above all that size reaches: `beside`."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import ScaledTranslation

    left, right = panel.get_xlim()
    side = 1 if log(star[0] / left) < 0.35 * log(right / left) else -1
    away = place + ScaledTranslation(-12 * side / 72, 8 * side / 72, panel.figure.dpi_scale_trans)
    look: dict[str, Any] = {"ha": "left", "va": "bottom"} if side > 0 else {"ha": "right", "va": "top"}
    look |= {"color": INK, "weight": "bold", "size": 9, "path_effects": [withStroke(linewidth=3, foreground="white")]}
    look |= {"arrowprops": {"arrowstyle": "-", "color": INK, "linewidth": 0.8}, "in_layout": False, "zorder": 6}
    panel.annotate("champion", star, xycoords=place, xytext=(star[0], beside[side > 0]), textcoords=away, **look)
