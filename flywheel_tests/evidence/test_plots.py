"""The learning curve carries the data, marks the champion and stands whatever records there are."""

import re
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from flywheel.errors import FlywheelError
from flywheel.evaluation.curve import LearningCurve, fit_curve
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.metrics import PairMetrics
from flywheel.evaluation.records import Evaluation, OwnLabels, Terms
from flywheel.evaluation.statistics import ErrorParts
from flywheel.evidence.figures.images import learning_curve, learning_curve_svg, reliability_svg
from flywheel.evidence.figures.learning_curve import draw_learning_curve
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.retrieval import Retrieval
from flywheel.scoring.thresholds import ScoreFit

SIZES = [100 * 2**step for step in range(11)]
MINI, BGE, MPNET, JINA = "all-MiniLM-L6-v2", "bge-base-en-v1.5", "all-mpnet-base-v2", "jina-embeddings-v2-small-en"

FIT = ScoreFit((0.0, 1.0), 0.8, 0.1, 0.37, 0.0, 1.0, 0.8)


def make(kind: Any, variant: str, error: float, half: float | None = 0.012, **changed: Any) -> Evaluation:
    interval = Interval(error - half, error + half) if half is not None else None
    record = Evaluation(
        record_id=f"{kind} {variant}",
        kind=kind,
        variant=variant,
        size=None,
        recipe=None,
        random_seed=None,
        snapshot_id="snapshot",
        test_id="test",
        error=error,
        interval=interval,
        rule=DecisionRule(FIT, FIT),
        terms=Terms(40),
        calibration_set_error=error + 0.1,
        own_labels=OwnLabels(error + 0.1, Interval(error + 0.05, error + 0.15), 0.7, None),
        metrics=PairMetrics(error, 0.8, 0.8, 0.8, 0.6, 0.85, 0.9, 0.02, 2914, 1071),
        retrieval=Retrieval(0.7, 0.8, 500),
        slices=(),
        parts=ErrorParts(error, 0.0, 0.0),
        components=2410,
        rough=False,
        no_verdict=None if interval else "31 components are fewer than the 40 a verdict needs",
        findings=(),
        contamination=None,
        train_pairs=None,
        train_seconds=None,
        start=None,
        place=None,
        kept_start=None,
    )
    return replace(record, **changed)


def cell(variant: str, size: int | str, error: float, half: float | None = 0.012, **changed: Any) -> Evaluation:
    fields = {"size": str(size), "train_pairs": size, "recipe": "head", "random_seed": 0, **changed}
    record_id = f"{variant} {size} {fields['recipe']} {fields['random_seed']}"
    return make("tuned", variant, error, half, **{"record_id": record_id, **fields})


def curve(variant: str, sizes: list[int], first: float, last: float, **changed: Any) -> list[Evaluation]:
    """Errors that fall evenly over the doublings."""
    errors = np.linspace(first, last, len(sizes))
    return [cell(variant, size, float(error), **changed) for size, error in zip(sizes, errors, strict=True)]


BASELINE = make("baseline", "text-embedding-3-small@1536", 0.172)
STARTER = [
    BASELINE,
    make("untuned", f"{MINI}@256", 0.21),
    make("untuned", f"{MINI}@384", 0.2),
    *curve(f"{MINI}@256", SIZES[:5], 0.22, 0.165),
    cell(f"{MINI}@256", "all", 0.162, train_pairs=2931),
    *curve(f"{MINI}@384", SIZES[:5], 0.205, 0.16),
    cell(f"{MINI}@384", "all", 0.155, train_pairs=2931),
]
CHAMPION = STARTER[-1].record_id


def markers(panel: Axes) -> dict[tuple[str, str], dict[int, float]]:
    """Error rate in % by size, of every colour and marker drawn."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in panel.lines:
        if line.get_marker() != "None":
            points = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
            found.setdefault((line.get_color(), line.get_marker()), {}).update(points)
    return found


def lines(panel: Axes, style: str) -> list[Line2D]:
    """Lines without markers over more than one size, or from edge to edge."""
    return [line for line in panel.lines if line.get_linestyle() == style and len(set(line.get_xdata())) > 1]


def bars(panel: Axes, size: int) -> list[tuple[float, float]]:
    return [tuple(line.get_ydata()) for line in panel.lines if list(line.get_xdata()) == [size, size]]


def legend(figure: Figure) -> dict[str, Any]:
    (only,) = figure.legends
    return {text.get_text(): line for text, line in zip(only.get_texts(), only.legend_handles, strict=True)}


def words(figure: Figure) -> str:
    return "\n".join([*(text.get_text() for text in figure.texts), figure.get_supxlabel()])


def test_png_of_nine_by_five_inches_has_the_same_bytes_every_time() -> None:
    from PIL import Image

    png = learning_curve(STARTER, CHAMPION)
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert Image.open(BytesIO(png)).size == (1170, 650)
    assert png == learning_curve(STARTER, CHAMPION)
    assert png != learning_curve(STARTER, None)


def test_every_tuned_error_stands_at_its_number_of_pairs_on_a_log_axis() -> None:
    figure = draw_learning_curve(STARTER, None)
    (panel,) = figure.axes
    assert panel.get_xscale() == "log"
    drawn = sorted((size, error) for points in markers(panel).values() for size, error in points.items())
    assert drawn == sorted((r.train_pairs, 100 * r.error) for r in STARTER if r.kind == "tuned")
    assert [len(line.get_xdata()) for line in lines(panel, "-")[1:]] == [6, 6]


def test_errors_on_calibration_pairs_and_by_own_labels_are_not_what_is_drawn() -> None:
    (panel,) = draw_learning_curve([cell(f"{MINI}@256", 100, 0.2)], None).axes
    assert panel.get_ylim()[1] < 30


def test_bars_span_the_interval_even_where_it_leaves_out_the_error() -> None:
    odd = cell(f"{MINI}@256", 400, 0.2, interval=Interval(0.21, 0.25))
    (panel,) = draw_learning_curve([odd, cell(f"{MINI}@256", 100, 0.3, half=None)], None).axes
    assert bars(panel, 400) == [(21.0, 25.0)]
    assert bars(panel, 100) == []
    low, high = panel.get_ylim()
    assert low < 20
    assert high > 30


def test_bars_of_two_dimensions_at_one_size_stand_side_by_side() -> None:
    figure = draw_learning_curve(STARTER, None)
    (panel,) = figure.axes
    figure.draw_without_rendering()
    at_400 = [line for line in panel.lines if list(line.get_xdata()) == [400, 400]]
    across = sorted(line.get_transform().transform(line.get_xydata())[0, 0] for line in at_400)
    tick = panel.transData.transform((400, 20))[0]
    assert np.allclose(np.array(across) - tick, np.array([-2, 2]) * figure.dpi / 72)


def test_untuned_models_are_dashed_in_the_colour_of_their_dimension() -> None:
    figure = draw_learning_curve(STARTER, None)
    (panel,) = figure.axes
    colours = {label: line.get_color() for label, line in legend(figure).items()}
    drawn = {line.get_color(): line.get_ydata()[0] for line in lines(panel, "--")}
    assert drawn == {colours["256 dimensions"]: 21.0, colours["384 dimensions"]: 20.0}
    assert colours["256 dimensions"] != colours["384 dimensions"]


def test_baseline_is_a_solid_dark_line_with_a_light_band_in_every_panel() -> None:
    figure = draw_learning_curve([*STARTER, *curve(f"{BGE}@256", SIZES, 0.2, 0.1)], None)
    assert len(figure.axes) == 2
    key = legend(figure)["baseline: text-embedding-3-small, 1536 dimensions (measured)"]
    for panel in figure.axes:
        (line,) = (line for line in lines(panel, "-") if line.get_color() == key.get_color())
        assert list(line.get_ydata()) == [100 * BASELINE.error] * 2
        (band,) = (patch for patch in panel.patches if isinstance(patch, Rectangle))
        assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((16.0, 18.4))
        assert int(to_hex(band.get_facecolor())[1:3], 16) > 200 > 60 > int(key.get_color()[1:3], 16)


def test_two_baselines_differ_in_their_dashes() -> None:
    figure = draw_learning_curve([BASELINE, make("baseline", f"{MINI}@384", 0.2)], None)
    styles = {label: line.get_linestyle() for label, line in legend(figure).items()}
    assert list(styles) == [
        "baseline: text-embedding-3-small, 1536 dimensions (measured)",
        f"baseline: {MINI}, 384 dimensions (measured)",
    ]
    assert len(set(styles.values())) == 2


@pytest.mark.parametrize("record", [r for r in STARTER if r.kind == "tuned"], ids=lambda r: r.name)
def test_champion_has_the_star_and_the_word_inside_the_figure(record: Evaluation) -> None:
    figure = draw_learning_curve(STARTER, record.record_id)
    (panel,) = figure.axes
    stars = {key: points for key, points in markers(panel).items() if key[1] == "*"}
    assert list(stars.values()) == [{record.train_pairs: 100 * record.error}]
    (word,) = panel.texts
    assert word.get_text() == "champion"
    figure.draw_without_rendering()
    box, inside = word.get_window_extent(), panel.get_window_extent()
    assert inside.x0 < box.x0 < box.x1 < inside.x1
    assert inside.y0 < box.y0 < box.y1 < inside.y1


@pytest.mark.parametrize("champion_id", [None, "of another test split", BASELINE.record_id])
def test_without_a_tuned_champion_there_is_no_star(champion_id: str | None) -> None:
    (panel,) = draw_learning_curve(STARTER, champion_id).axes
    assert "*" not in {marker for _, marker in markers(panel)}
    assert not panel.texts


def test_sizes_are_the_tick_labels_and_all_stands_at_its_pairs() -> None:
    (panel,) = draw_learning_curve(STARTER, None).axes
    labels = dict(zip(panel.get_xticks(), (text.get_text() for text in panel.get_xticklabels()), strict=True))
    assert labels == {100: "100", 200: "200", 400: "400", 800: "800", 1600: "1.6k", 2931: "\nall (2.93k)"}


@pytest.mark.parametrize("sizes", [SIZES, [100, 110, 120, 130, 5000, 5200], [7], [100, 1_250_000]])
@pytest.mark.parametrize("bases", [1, 3])
def test_tick_labels_do_not_run_into_each_other(sizes: list[int], bases: int) -> None:
    records = [
        record
        for base in (MINI, BGE, MPNET)[:bases]
        for record in (
            *curve(f"{base}@256", sizes, 0.2, 0.1),
            cell(f"{base}@256", "all", 0.1, train_pairs=sizes[-1] + 5),
            cell(f"{base}@256", "all", 0.1, train_pairs=sizes[-1] + 9, record_id="older"),
        )
    ]
    figure = draw_learning_curve(records, None)
    figure.draw_without_rendering()
    for panel in figure.axes:
        assert set(panel.get_xticks()) == {*sizes, sizes[-1] + 5, sizes[-1] + 9}
        labels = [text for text in panel.get_xticklabels() if text.get_text()]
        assert any("all" in text.get_text() for text in labels)
        for row in ([t for t in labels if "all" not in t.get_text()], [t for t in labels if "all" in t.get_text()]):
            boxes = [text.get_window_extent() for text in row]
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_base_models_share_the_y_axis_at_most_three_in_a_row() -> None:
    records = [record for base in (MPNET, MINI, JINA, BGE) for record in curve(f"{base}@256", SIZES, 0.2, 0.1)]
    figure = draw_learning_curve([*records, make("untuned", f"{MINI}@256", 0.4)], None)
    assert [panel.get_title(loc="left") for panel in figure.axes] == [MINI, MPNET, BGE, JINA]
    assert len({panel.get_ylim() for panel in figure.axes}) == 1
    assert [panel.get_subplotspec().rowspan.start for panel in figure.axes] == [0, 0, 0, 1]
    assert [len(lines(panel, "--")) for panel in figure.axes] == [1, 0, 0, 0]
    labelled = [any(text.get_text() for text in panel.get_xticklabels()) for panel in figure.axes]
    assert labelled == [False, True, True, True]


def test_words_say_what_is_measured_on_how_much_and_which_way_is_better() -> None:
    figure = draw_learning_curve(STARTER, CHAMPION)
    assert figure.texts[0].get_text().startswith("Error rate on 2,914 unseen test pairs (2,410 components)")
    assert "lower is better" in words(figure)
    assert "95 % intervals" in words(figure)
    assert "training pairs" in figure.get_supxlabel()
    assert "rough" not in words(figure)


def test_rough_figures_and_missing_intervals_are_explained_under_the_axis() -> None:
    rough = [replace(record, components=71, rough=True) for record in STARTER]
    assert "rough: fewer than 100 components" in draw_learning_curve(rough, None).get_supxlabel()
    without = draw_learning_curve([cell(f"{MINI}@256", 100, 0.2, half=None)], None).get_supxlabel()
    assert "no 95 % interval: 31 components are fewer than the 40 a verdict needs" in without
    assert "bars" not in without


@pytest.mark.parametrize("several", [1, 3])
def test_legend_and_words_cover_neither_panels_nor_each_other(several: int) -> None:
    variants = [f"{base}@{dimension}" for base in (MINI, BGE, MPNET)[:several] for dimension in (128, 256, 384)]
    records = [record for variant in variants for record in curve(variant, SIZES[:3], 0.2, 0.1)]
    records += [BASELINE, make("baseline", f"{MINI}@384", 0.2), make("untuned", f"{MINI}@256", 0.2)]
    figure = draw_learning_curve(records, None)
    figure.draw_without_rendering()
    key = figure.legends[0].get_window_extent()
    title, meaning, *_ = (text.get_window_extent() for text in figure.texts)
    assert title.y0 > meaning.y1 > meaning.y0 > key.y1
    assert all(panel.get_tightbbox().y1 < key.y0 for panel in figure.axes)
    assert max(title.x1, meaning.x1, key.x1) < figure.bbox.x1


def test_recipes_are_lines_of_their_own_named_in_the_legend() -> None:
    records = [r for recipe in ("head", "full") for r in curve(f"{MINI}@256", SIZES[:3], 0.2, 0.15, recipe=recipe)]
    figure = draw_learning_curve(records, None)
    key = legend(figure)
    assert list(key) == ["256 dimensions, full", "256 dimensions, head"]
    assert len({line.get_fillstyle() for line in key.values()}) == 2
    assert len({line.get_color() for line in key.values()}) == 1
    assert len(lines(figure.axes[0], "-")) == 2


def test_random_seeds_of_one_cell_are_points_around_their_mean() -> None:
    records = [cell(f"{MINI}@256", 100, error, random_seed=seed) for seed, error in enumerate((0.2, 0.22))]
    (panel,) = draw_learning_curve([*records, cell(f"{MINI}@256", 200, 0.18)], None).axes
    (line,) = lines(panel, "-")
    assert list(line.get_xdata()) == [100, 200]
    assert list(line.get_ydata()) == pytest.approx([21.0, 18.0])
    points = [drawn.get_ydata()[0] for drawn in panel.lines if list(drawn.get_xdata()) == [100]]
    assert sorted(points) == [20.0, 22.0]


def test_y_axis_spends_its_height_on_what_differs_but_never_magnifies_noise_or_leaves_the_possible() -> None:
    def limits(*errors: float) -> tuple[float, float]:
        records = [cell(f"{MINI}@256", 100 * (n + 1), error, half=None) for n, error in enumerate(errors)]
        return draw_learning_curve(records, None).axes[0].get_ylim()

    low, high = limits(0.2, 0.1)
    assert 5 < low < 10
    assert 20 < high < 25
    low, high = limits(0.2, 0.2001)
    assert high - low > 2
    assert limits(0.0, 1.0) == (0.0, 100.0)


@pytest.mark.parametrize(
    "records",
    [
        [BASELINE],
        [replace(BASELINE, interval=None)],
        [make("untuned", f"{MINI}@256", 0.2)],
        [cell(f"{MINI}@256", 400, 0.19)],
        [cell(f"{MINI}@256", "all", 0.19, train_pairs=1, half=None)],
        [cell(f"{MINI}@256", 400, 0.0, half=None), make("untuned", f"{BGE}@512", 1.0, half=None)],
        [record for d in range(1, 21) for record in curve(f"{MINI}@{d}", SIZES[:2], 0.3, 0.1)],
    ],
    ids=["baseline", "baseline without interval", "untuned", "one point", "one pair", "extremes", "many dimensions"],
)
def test_odd_sets_of_records_make_a_figure(records: list[Evaluation]) -> None:
    assert learning_curve(records, records[0].record_id).startswith(b"\x89PNG")


def test_many_dimensions_all_look_different() -> None:
    figure = draw_learning_curve([cell(f"{MINI}@{d}", 100, 0.2) for d in range(1, 21)], None)
    assert len({(line.get_color(), line.get_marker()) for line in legend(figure).values()}) == 20


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(FlywheelError, match="0 test splits"):
        draw_learning_curve([], None)
    with pytest.raises(FlywheelError, match="2 test splits"):
        draw_learning_curve([BASELINE, replace(BASELINE, test_id="other")], None)
    with pytest.raises(FlywheelError, match=r"all-MiniLM-L6-v2@256 \| all names no number of training pairs"):
        draw_learning_curve([cell(f"{MINI}@256", "all", 0.2, train_pairs=None)], None)


def fit(variant: str = f"{MINI}@384") -> LearningCurve:
    """A curve of the starter line's sizes, its errors falling from 20 % to 15 %."""
    sizes = [*SIZES[:5], 2931]
    wrong = {size: np.arange(200) < 40 - 2 * number for number, size in enumerate(sizes)}
    return fit_curve(variant, "head", wrong, np.arange(200), replicates=20)


def heads(variant: str = "text-embedding-3-small@1536") -> list[Evaluation]:
    """Heads trained on an API's vectors."""
    return [
        make(
            "baseline", variant, 0.16 - 0.01 * n, size=str(size), train_pairs=size, recipe="head", record_id=f"{variant}{size}"
        )
        for n, size in enumerate(SIZES[:3])
    ]


def test_fitted_curve_goes_on_dotted_in_a_light_band_from_the_largest_size_to_twice_that() -> None:
    curve = fit()
    (panel,) = draw_learning_curve(STARTER, CHAMPION, [curve]).axes
    (dotted,) = lines(panel, ":")
    drawn = dict(zip(dotted.get_xdata(), dotted.get_ydata(), strict=True))
    assert (min(drawn), max(drawn)) == (2931, 5862)
    assert drawn[2931] - drawn[5862] == pytest.approx(100 * curve.next_doubling.estimate)
    (band,) = panel.collections
    corners = band.get_paths()[0].vertices
    (last,) = (point for point in curve.band if point.train_pairs == 5862)
    ends = corners[corners[:, 0] == 5862, 1]
    assert (ends.min(), ends.max()) == pytest.approx((100 * last.interval.low, 100 * last.interval.high))
    assert to_hex(band.get_facecolor()[0]) == to_hex(dotted.get_color())
    assert band.get_alpha() < 0.3
    low, high = panel.get_ylim()
    assert low < ends.min() < ends.max() < high
    assert panel.get_xlim()[1] > 5862


def test_fitted_curve_has_the_colour_of_its_line_and_is_named_in_the_legend() -> None:
    figure = draw_learning_curve(STARTER, None, [fit()])
    key = legend(figure)
    assert lines(figure.axes[0], ":")[0].get_color() == key["384 dimensions"].get_color()
    assert isinstance(key["power law, 95 % band"], Rectangle)
    assert "power law, 95 % band" not in legend(draw_learning_curve(STARTER, None))


def test_curves_of_lines_that_are_not_drawn_change_nothing() -> None:
    assert learning_curve(STARTER, CHAMPION, [fit(f"{BGE}@256")]) == learning_curve(STARTER, CHAMPION)
    assert learning_curve(STARTER, CHAMPION, [fit()]) != learning_curve(STARTER, CHAMPION)


def test_heads_on_the_vectors_of_the_api_are_a_grey_curve_in_every_panel() -> None:
    records = [*STARTER, *curve(f"{BGE}@256", SIZES, 0.2, 0.1), *heads()]
    figure = draw_learning_curve(records, heads()[0].record_id)
    key = legend(figure)["baseline: text-embedding-3-small@1536 + head"]
    for panel in figure.axes:
        assert markers(panel)[key.get_color(), key.get_marker()] == pytest.approx({100: 16.0, 200: 15.0, 400: 14.0})
        (line,) = (line for line in lines(panel, "-") if line.get_color() == key.get_color())
        assert list(line.get_xdata()) == SIZES[:3]
    red, green, blue = (int(to_hex(key.get_color())[at : at + 2], 16) for at in (1, 3, 5))
    assert red == green == blue


def test_heads_on_two_apis_differ_in_their_markers_and_stand_without_any_tuned_model() -> None:
    figure = draw_learning_curve([*heads(), *heads("text-embedding-3-large@1536"), BASELINE], None, [])
    key = legend(figure)
    assert len({line.get_marker() for label, line in key.items() if "+ head" in label}) == 2
    assert figure.get_supxlabel().startswith("Number of training pairs")


def test_curve_of_heads_goes_on_in_grey_in_every_panel() -> None:
    figure = draw_learning_curve([*STARTER, *heads(), cell(f"{BGE}@256", 100, 0.2)], None, [fit(heads()[0].variant)])
    assert [len(lines(panel, ":")) for panel in figure.axes] == [1, 1]


MANY = [record for base in (MINI, BGE, MPNET) for d in (256, 384) for record in curve(f"{base}@{d}", SIZES, 0.2, 0.1)]
MANY += [BASELINE, *heads(), make("untuned", f"{MINI}@256", 0.21), make("baseline", f"{MINI}@384", 0.2)]


@pytest.mark.parametrize("records", [STARTER, MANY, [BASELINE], [replace(r, rough=True, components=71) for r in MANY]])
def test_narrow_figure_stacks_panels_and_words_that_a_phone_can_show(records: list[Evaluation]) -> None:
    figure = draw_learning_curve(records, records[-1].record_id, [fit(), fit(f"{BGE}@256")], narrow=True)
    figure.draw_without_rendering()
    assert figure.get_figwidth() == 4.2
    assert {panel.get_subplotspec().colspan.start for panel in figure.axes} == {0}
    title, meaning, *_ = (text.get_window_extent() for text in figure.texts)
    key = figure.legends[0].get_window_extent()
    assert title.y0 > meaning.y1 > meaning.y0 > key.y1
    assert all(panel.get_tightbbox().y1 < key.y0 for panel in figure.axes)
    assert all(above.get_tightbbox().y0 > below.get_tightbbox().y1 for above, below in pairwise(figure.axes))
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 8
    for text in texts:
        assert 0 <= text.get_window_extent().x0 < text.get_window_extent().x1 <= figure.bbox.x1
    assert all(panel.get_window_extent().height > 1.2 * figure.dpi for panel in figure.axes)


def identifiers(svg: str) -> list[str]:
    return [element.attrib["id"] for element in ElementTree.fromstring(svg).iter() if "id" in element.attrib]


def test_svgs_are_the_same_every_time_and_stand_in_one_page_without_touching_each_other() -> None:
    drawn = [learning_curve_svg(STARTER, CHAMPION, [fit()], narrow) for narrow in (False, True)]
    drawn.append(reliability_svg(np.linspace(0, 1, 200), np.arange(200) > 90))
    assert drawn[1] == learning_curve_svg(STARTER, CHAMPION, [fit()], narrow=True)
    found = [identifier for svg in drawn for identifier in identifiers(svg)]
    assert len(found) == len(set(found)) > 50
    for svg in drawn:
        used = re.findall(r'(?:href="|url\()#([^")]+)', svg)
        assert used
        assert set(used) <= set(identifiers(svg))
        assert "*{" not in re.sub(r"#\S+figure_1 \*", "", svg)


def test_svg_is_an_element_with_a_title_and_words_that_are_text() -> None:
    svg = learning_curve_svg(STARTER, CHAMPION)
    assert svg.startswith("<svg ")
    root = ElementTree.fromstring(svg)
    assert root.attrib["role"] == "img"
    assert root[0].tag.endswith("title")
    assert root[0].text == "Error rate on 2,914 unseen test pairs (2,410 components), against the number of training pairs"
    texts = {element.text for element in root.iter() if element.tag.endswith("}text")}
    assert {MINI, "256 dimensions"} <= texts
    assert "dc:date" not in svg


def test_names_in_a_figure_cannot_break_out_of_the_page() -> None:
    svg = learning_curve_svg([cell("<script>alert(1)</script>@256", 100, 0.2)], None)
    assert "<script" not in svg
    assert ElementTree.fromstring(svg) is not None


def test_reliability_diagram_says_how_many_pairs_and_fits_a_phone() -> None:
    rng = np.random.default_rng(0)
    given = rng.random(1000)
    svg = reliability_svg(given, rng.random(1000) < given)
    root = ElementTree.fromstring(svg)
    assert float(root.attrib["width"].removesuffix("pt")) <= 4.2 * 72
    assert "1,000 pairs" in svg
    assert svg != reliability_svg(given, rng.random(1000) < given**2)


@pytest.mark.parametrize("labels", [[1], [0, 0, 0], [0, 1] * 30])
def test_reliability_diagram_stands_few_pairs_and_equal_probabilities(labels: list[int]) -> None:
    assert reliability_svg([0.4] * len(labels), labels).startswith("<svg ")


def test_reliability_of_nothing_is_refused() -> None:
    with pytest.raises(FlywheelError, match="0 probabilities for 0 labels"):
        reliability_svg([], [])
    with pytest.raises(FlywheelError, match="2 probabilities for 1 labels"):
        reliability_svg([0.1, 0.2], [1])
