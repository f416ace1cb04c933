"""The paid baseline by hand: what of the current snapshot its API has embedded, what the rest would cost, and paying for it."""

from dataclasses import dataclass
from pathlib import Path

from flywheel.models.api.exchange import Imported, export_vectors, import_vectors
from flywheel.models.api.ledger import Paid
from flywheel.models.api.vectors import ApiVectors, api_vectors
from flywheel.models.features import OnProgress
from flywheel.orchestration.steps import current_snapshot
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.settings import Settings


@dataclass(frozen=True)
class Coverage:
    """How many texts of some splits have a vector, and about what the others would cost: tokens and US dollars."""

    cached: int
    missing: int
    tokens: int
    money: float


@dataclass(frozen=True)
class BaselineStatus:
    """Where the API's vectors stand: of the texts that are judged (calibration and test) and of those of `train`."""

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


def baseline_status(settings: Settings) -> BaselineStatus:
    """Look at cache, snapshot and ledger; asks nobody. Raises FlywheelError when there is no snapshot."""
    api, on = api_vectors(settings), current_snapshot(settings)
    judged, train = (_coverage(settings, api, _texts(on, splits)) for splits in (("calibration", "test"), ("train",)))
    paid = api.paid
    return BaselineStatus(
        model=api.model,
        dimensions=api.dimensions,
        endpoint=api.base_url,
        family=api.family,
        folder=str(api.cache.folder),
        snapshot_id=on.snapshot_id,
        judged=judged,
        train=train,
        counted_by=api.tokens.counted_by,
        paid=paid,
        paid_money=paid.money(settings.baseline_price),
        key_set=bool(api.api_key),
        next=_next(bool(api.api_key), judged),
    )


def texts_to_embed(settings: Settings, train: bool) -> list[str]:
    """The calibration and test questions of the current snapshot, and those of `train` if asked for."""
    return _texts(current_snapshot(settings), ("calibration", "test", "train") if train else ("calibration", "test"))


def estimate(settings: Settings, texts: list[str]) -> tuple[Coverage, str]:
    """What of `texts` is missing and about what it would cost, and how that was counted."""
    api = api_vectors(settings)
    return _coverage(settings, api, texts), api.tokens.counted_by


def embed(settings: Settings, texts: list[str], progress: OnProgress | None = None) -> Paid:
    """Pay for what is missing of `texts`, and for nothing else. Raises FlywheelError as `ApiVectors.fill` does."""
    return api_vectors(settings).fill(texts, progress)


def export_baseline(settings: Settings, target: Path) -> int:
    """Write the API's cached vectors to a Parquet file; returns how many."""
    api = api_vectors(settings)
    return export_vectors(api.cache, api.origin, target)


def import_baseline(settings: Settings, source: Path) -> Imported:
    """Add an exported file's vectors to the cache. Needs no key, no network and no snapshot."""
    api = api_vectors(settings)
    return import_vectors(api.cache, api.origin, source)


def _texts(on: Snapshot, splits: tuple[str, ...]) -> list[str]:
    return unique_texts(*(on.pairs(split) for split in splits))


def _coverage(settings: Settings, api: ApiVectors, texts: list[str]) -> Coverage:
    unknown = api.cache.unknown(texts)
    tokens = api.tokens.estimate(unknown)
    return Coverage(len(texts) - len(unknown), len(unknown), tokens, tokens * settings.baseline_price / 1e6)


def _next(key_set: bool, judged: Coverage) -> str:
    if not judged.missing + judged.cached:
        return "flywheel ingest FILE, until there are calibration and test pairs"
    if not judged.missing:
        return "flywheel leaderboard"
    return (
        "flywheel baseline embed"
        if key_set
        else "set OPENAI_API_KEY, then flywheel baseline embed; or flywheel baseline import FILE"
    )
