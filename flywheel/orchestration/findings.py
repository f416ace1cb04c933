"""What a person looks at when the work is done: the figure, and the page of evidence."""

from pathlib import Path

from flywheel.evaluation.evaluate import decisions
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation
from flywheel.evidence.build import build_page
from flywheel.evidence.cost import ModelCost, Prices, model_cost, texts_a_second
from flywheel.evidence.figures.images import learning_curve, learning_curve_svg, reliability, reliability_svg
from flywheel.evidence.gather import Evidence, gather
from flywheel.evidence.page import Page, Picture
from flywheel.evidence.render.html import render_html
from flywheel.evidence.sections import SEEN
from flywheel.files import write_bytes
from flywheel.models.api.vectors import api_vectors
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.vectors import vectors_of
from flywheel.orchestration import steps
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.settings import Settings


def save_figure(settings: Settings, board: Leaderboard) -> Path:
    """Draw the board's figure to `<home>/error_versus_size.png`."""
    target = settings.home / "error_versus_size.png"
    write_bytes(target, learning_curve(_drawn(board), steps.champion_id(settings), note=_note(board)))
    return target


def _note(board: Leaderboard) -> str:
    return SEEN.replace("† The", "The") if any(map(board.seen, board.rows)) else ""


def find_evidence(settings: Settings) -> Evidence:
    """Measure what the page needs and nobody has measured yet: the baseline, heads on the API's vectors, the champion on this
    snapshot, speeds.
    """
    baseline, champion = steps.measure_baseline(settings), steps.evaluate_champion(settings)
    steps.evaluate_opponents(settings)
    board = steps.leaderboard(settings)
    match = steps.next_match(settings, lambda: baseline.evaluation) if board.tuned else None
    candidate = match[0] if match else None
    challenger = candidate if match and not steps.registry(settings).judged(*match) else None
    texts = unique_texts(board.snapshot.pairs("test"))
    tokens = api_vectors(settings).tokens
    prices = Prices(
        settings.price_per_hour,
        settings.baseline_price,
        settings.corpus_texts,
        tokens.estimate(texts) / len(texts),
        tokens.counted_by,
    )
    return gather(settings, board, baseline, champion or candidate, challenger, _costs(settings, board, texts, prices), prices)


def save_page(settings: Settings) -> tuple[Page, Path]:
    """The page of evidence, and its HTML file in the home."""
    evidence = find_evidence(settings)
    page = build_page(evidence, _curve_picture(evidence), _reliability_picture(settings, evidence.model))
    target = settings.home / "evidence.html"
    write_bytes(target, render_html(page).encode())
    return page, target


def _costs(settings: Settings, board: Leaderboard, texts: list[str], prices: Prices) -> list[ModelCost]:
    bases = sorted({row.variant.split("@")[0] for row in board.tuned})
    speeds = {base: texts_a_second(vectors_of(CATALOGUE[base], settings), texts) for base in bases}
    return [model_cost(base, speed, prices) for base, speed in speeds.items() if speed is not None]


def _drawn(board: Leaderboard) -> list[Evaluation]:
    return [row for row in board.rows if row.record_id not in board.stale]


def _curve_picture(evidence: Evidence) -> Picture | None:
    rows = _drawn(evidence.board)
    if not rows:
        return None
    drawn, note = (rows, evidence.champion_id, evidence.curves), _note(evidence.board)
    alt = "Error rate against the number of training pairs, one panel per base model, with the baseline's line and its band"
    wide, narrow = (learning_curve_svg(*drawn, narrow=narrow, note=note) for narrow in (False, True))
    return Picture(alt, wide, narrow, learning_curve(*drawn, note=note))


def _reliability_picture(settings: Settings, model: Evaluation | None) -> Picture | None:
    if model is None:
        return None
    test = decisions(settings.evaluations, model)
    drawn = test["probability"].to_numpy(), test["label"].to_numpy()
    svg = reliability_svg(*drawn)
    return Picture("Share of pairs that are the same against the probability given to it", svg, svg, reliability(*drawn))
