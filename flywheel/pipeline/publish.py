"""What a person looks at when the work is done, from the records that are there: the figure, and the page of evidence."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from flywheel.errors import FlywheelError
from flywheel.evaluation.leaderboard import Leaderboard
from flywheel.evaluation.records import Evaluation
from flywheel.evaluation.scores import decisions
from flywheel.evaluation.speed import read_speeds
from flywheel.evidence.build import build_page
from flywheel.evidence.cost import ModelCost, Prices, model_cost
from flywheel.evidence.figures.images import learning_curve, learning_curve_svg, reliability_svg
from flywheel.evidence.gather import Evidence, gather
from flywheel.evidence.page import Page, Picture
from flywheel.evidence.render.html import render_html
from flywheel.evidence.sections import SEEN
from flywheel.files import write_bytes
from flywheel.models.catalogue import Variant
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.evaluation import leaderboard, read_baseline, read_champion
from flywheel.pipeline.promotion import decided_pairs, next_match
from flywheel.pipeline.workspace import Workspace
from flywheel.registry.decisions import find_decision
from flywheel.training.model import TrainedModel


def save_figure(workspace: Workspace, board: Leaderboard) -> Path:
    """Draw the board's figure into the home. Raises FlywheelError when nothing has been evaluated on its snapshot."""
    rows, champion = list(board.rows), workspace.registry.champion()
    if not rows:
        raise FlywheelError(
            f"Nothing has been evaluated on snapshot {board.snapshot.snapshot_id[:12]} yet. Run `flywheel grid`, or "
            "materialise `baseline_scores`."
        )
    picture = learning_curve(rows, champion.model if champion else None, note=_note(board))
    write_bytes(workspace.home.figure, picture)
    return workspace.home.figure


def save_page(workspace: Workspace, snapshot: Snapshot) -> tuple[Page, Path]:
    """The page of evidence, and its HTML file in the home."""
    evidence = find_evidence(workspace, snapshot)
    page = build_page(evidence, _curve_picture(evidence), _reliability_picture(workspace, evidence.model))
    write_bytes(workspace.home.evidence_page, render_html(page).encode())
    return page, workspace.home.evidence_page


def find_evidence(workspace: Workspace, snapshot: Snapshot) -> Evidence:
    """Read what the page needs. Raises FlywheelError when the baseline or the champion is not measured on this snapshot."""
    snapshot.check_judges()
    baseline, champion = read_baseline(workspace, snapshot), read_champion(workspace, snapshot)
    board = leaderboard(workspace, snapshot)
    match = next_match(workspace, board, baseline.evaluation, champion) if board.tuned else None
    model = champion or (match.challenger if match else None)
    if model is None:
        raise FlywheelError(
            f"No model has been evaluated on snapshot {snapshot.snapshot_id[:12]} under the present settings. Run "
            "`flywheel grid`, which trains and evaluates what is missing."
        )
    judged = match is not None and find_decision(workspace.registry, *match[:2]) is not None
    prices = _prices(workspace, snapshot)
    return gather(
        registry=workspace.registry,
        evaluations=decided_pairs(workspace),
        board=board,
        baseline=baseline,
        model=model,
        challenger=match.challenger if match and not judged else None,
        costs=_costs(workspace, board, prices),
        prices=prices,
        options=workspace.settings.evidence,
        rules=workspace.settings.promotion,
        api_model=workspace.settings.baseline.model,
        grid_sizes=workspace.settings.grid.sizes,
        cut=_cut(workspace, model),
    )


def _cut(workspace: Workspace, model: Evaluation) -> Mapping[str, float]:
    with suppress(FlywheelError):  # its folder is gone: nothing is known
        return TrainedModel.load(workspace.home.models / model.record_id).cut
    return {}


def _prices(workspace: Workspace, snapshot: Snapshot) -> Prices:
    settings, tokens = workspace.settings, workspace.api.tokens
    texts = unique_texts(snapshot.judging_pairs())
    return Prices(
        machine_hour=settings.compute.price_per_hour,
        api_million=settings.baseline.price,
        corpus_texts=settings.evidence.corpus_texts,
        tokens_a_text=tokens.estimate(texts) / max(1, len(texts)),
        counted_by=tokens.counted_by,
    )


def _costs(workspace: Workspace, board: Leaderboard, prices: Prices) -> list[ModelCost]:
    speeds = read_speeds(workspace.home.speeds)
    bases = sorted({Variant.parse(row.variant).base for row in board.tuned})
    return [model_cost(base, speeds[base], prices) for base in bases if base in speeds]


def _note(board: Leaderboard) -> str:
    return SEEN.replace("† The", "The") if any(map(board.seen, board.rows)) else ""


def _curve_picture(evidence: Evidence) -> Picture | None:
    rows = list(evidence.board.rows)
    if not rows:
        return None
    drawn, note = (rows, evidence.champion_id, evidence.curves), _note(evidence.board)
    alt = "Error rate against the number of training pairs, one panel per base model, with the baseline's line and its band"
    wide, narrow = (learning_curve_svg(*drawn, narrow=narrow, note=note) for narrow in (False, True))
    return Picture(alt, wide, narrow)


def _reliability_picture(workspace: Workspace, model: Evaluation) -> Picture:
    test = decisions(workspace.home.evaluations, model)
    drawn = test["probability"].to_numpy(), test["label"].to_numpy()
    svg = reliability_svg(*drawn)
    return Picture("Share of pairs that are the same against the probability given to it", svg, svg)
