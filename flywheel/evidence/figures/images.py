"""Figures as files: PNG for the home, SVG for a page."""

import re
from collections.abc import Sequence
from hashlib import sha256
from io import BytesIO, StringIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from flywheel.errors import FlywheelError
from flywheel.evaluation.curve import LearningCurve
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.figures.learning_curve import COLOURS, GRID, draw_learning_curve
from flywheel.evidence.figures.legend import INK, QUIET, title_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# A bin of fewer pairs says little; more bins than this say no more.
_BIN_PAIRS, _MOST_BINS = 20, 10


def learning_curve(
    evaluations: Sequence[Evaluation], champion_id: str | None, curves: Sequence[LearningCurve] = (), note: str = ""
) -> bytes:
    """PNG of `draw_learning_curve`: equal bytes for equal input and library versions. Raises what that raises."""
    return _png(draw_learning_curve(evaluations, champion_id, curves, note=note), dpi=130)


def learning_curve_svg(
    evaluations: Sequence[Evaluation],
    champion_id: str | None,
    curves: Sequence[LearningCurve] = (),
    narrow: bool = False,
    note: str = "",
) -> str:
    """`draw_learning_curve` as an `<svg>` element for a page: equal text for equal input. Raises what that raises."""
    figure = draw_learning_curve(evaluations, champion_id, curves, narrow, note)
    return _svg(figure, f"{title_of(evaluations)}, against the number of training pairs")


def reliability_svg(probabilities: ArrayLike, labels: ArrayLike) -> str:
    """`draw_reliability` as an `<svg>` element, narrow enough for a phone. Raises what that raises."""
    title = "Reliability diagram: share of pairs that are the same, against the probability given to it"
    return _svg(draw_reliability(probabilities, labels), title)


def draw_reliability(probabilities: ArrayLike, labels: ArrayLike) -> "Figure":
    """How often pairs (n,) given a probability of "same" are the same.

    `labels` are 0 or 1. Each point is a bin of equally many pairs (sklearn.calibration.calibration_curve, strategy
    "quantile"); beneath, how the probabilities are spread. Raises FlywheelError without pairs or when lengths differ.
    """
    from matplotlib.figure import Figure
    from sklearn.calibration import calibration_curve

    given, same = np.asarray(probabilities, np.float64), np.asarray(labels)
    if not len(given) or len(given) != len(same):
        raise FlywheelError(f"There are {len(given)} probabilities for {len(same)} labels: give one for each of some pairs.")
    bins = int(np.clip(len(given) // _BIN_PAIRS, 1, _MOST_BINS))
    measured, given_probability = calibration_curve(same, given, n_bins=bins, strategy="quantile")
    figure = Figure((4.2, 4.6), facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 100], [0, 100], color=QUIET, linestyle="--", linewidth=1.2, label="as it should be")
    upper.plot(
        100 * given_probability, 100 * measured, color=COLOURS[0], marker="o", markersize=5, linewidth=1.8, label="measured"
    )
    upper.set_ylim(-3, 103)
    upper.set_title(f"Probabilities against what is true, {len(given):,} pairs", loc="left", fontsize=10, color=INK)
    upper.set_ylabel("Pairs that are the same", fontsize=9, color=INK)
    upper.legend(frameon=False, fontsize=9, loc="upper left")
    lower.hist(100 * given, bins=20, range=(0, 100), color=COLOURS[0], alpha=0.5)
    lower.set_xlim(-3, 103)
    lower.set_ylabel("Pairs", fontsize=9, color=INK)
    lower.set_xlabel("Probability given to “same”", fontsize=9, color=INK)
    for panel in (upper, lower):
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.tick_params(labelsize=8.5, labelcolor=INK)
        panel.set_axisbelow(True)
    upper.yaxis.set_major_formatter("{x:g} %")
    lower.xaxis.set_major_formatter("{x:g} %")
    return figure


def _png(figure: "Figure", dpi: int) -> bytes:
    png = BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    return png.getvalue()


def _svg(figure: "Figure", title: str) -> str:
    """An `<svg>` element that fits the width it is given; its text is text, in the reader's sans-serif font.

    Identifiers begin with a digest of the figure and its style names its own elements only, so that several figures can be
    in one page.
    """
    from matplotlib import rc_context

    text = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": "flywheel", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={**nothing, "Title": title})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    prefix = f"f{sha256(svg.encode()).hexdigest()[:8]}-"
    svg = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\1{prefix}", svg)
    svg = svg.replace('type="text/css">*{', f'type="text/css">#{prefix}figure_1 *{{', 1)
    return svg.replace("<svg ", '<svg role="img" style="max-width: 100%; height: auto" ', 1)
