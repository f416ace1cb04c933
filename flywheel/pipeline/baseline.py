"""The paid baseline by hand: what of a snapshot its API has embedded, what the rest would cost, and paying for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flywheel.models.api.exchange import Imported, export_vectors, import_vectors
from flywheel.models.api.ledger import Paid
from flywheel.models.features import OnProgress
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace


@dataclass(frozen=True)
class Coverage:
    """How many texts of some splits have a vector, and about what the others would cost: tokens and US dollars."""

    cached: int
    missing: int
    tokens: int
    money: float


@dataclass(frozen=True)
class BaselineStatus:
    """How many of the API's vectors are here: of the texts that are judged (calibration and test), and of those of `train`."""

    model: str
    dimensions: int
    endpoint: str
    family: str
    folder: str
    snapshot_id: str
    judged: Coverage
    train: Coverage
    counted_by: str
    paid: Paid
    paid_money: float
    key_set: bool
    next: str


def baseline_status(workspace: Workspace, snapshot: Snapshot) -> BaselineStatus:
    """Look at the cache, a snapshot and the ledger; the API is not asked."""
    api = workspace.api
    judged, train = (estimate(workspace, _texts(snapshot, splits)) for splits in (("calibration", "test"), ("train",)))
    paid = api.paid
    return BaselineStatus(
        model=api.model,
        dimensions=api.dimensions,
        endpoint=api.base_url,
        family=api.family,
        folder=str(api.cache.folder),
        snapshot_id=snapshot.snapshot_id,
        judged=judged,
        train=train,
        counted_by=api.tokens.counted_by,
        paid=paid,
        paid_money=paid.money(workspace.settings.baseline.price),
        key_set=bool(api.api_key),
        next=_next(bool(api.api_key), judged, snapshot),
    )


def texts_to_embed(snapshot: Snapshot, train: bool) -> list[str]:
    """The calibration and test questions of a snapshot, and those of `train` if asked for."""
    return _texts(snapshot, ("calibration", "test", "train") if train else ("calibration", "test"))


def estimate(workspace: Workspace, texts: list[str]) -> Coverage:
    """How many of `texts` are missing and about what they would cost, as `workspace.api.tokens` counts."""
    api = workspace.api
    unknown = api.cache.unknown(texts)
    tokens = api.tokens.estimate(unknown)
    return Coverage(len(texts) - len(unknown), len(unknown), tokens, tokens * workspace.settings.baseline.price / 1e6)


def embed(workspace: Workspace, texts: list[str], progress: OnProgress | None = None) -> Paid:
    """Pay for what is missing of `texts`, and for nothing else. Raises FlywheelError as `ApiVectors.fill` does."""
    return workspace.api.fill(texts, progress)


def export_baseline(workspace: Workspace, target: Path) -> int:
    """Write the API's cached vectors to a Parquet file; returns how many."""
    return export_vectors(workspace.api.cache, workspace.api.origin, target)


def import_baseline(workspace: Workspace, source: Path) -> Imported:
    """Add an exported file's vectors to the cache. Needs no key, no network and no snapshot."""
    return import_vectors(workspace.api.cache, workspace.api.origin, source)


def _texts(snapshot: Snapshot, splits: Sequence[str]) -> list[str]:
    return unique_texts(*(snapshot.pairs(split) for split in splits))


def _next(key_set: bool, judged: Coverage, snapshot: Snapshot) -> str:
    if not snapshot.is_drawn:
        return snapshot.way_to_a_draw
    if not judged.missing:
        return "flywheel grid, then flywheel leaderboard"
    return (
        "flywheel baseline embed"
        if key_set
        else "set OPENAI_API_KEY, then flywheel baseline embed; or flywheel baseline import FILE"
    )
