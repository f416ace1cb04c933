"""The paid baseline by hand: what of a snapshot its API has embedded, what the rest would cost, and paying for it."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flywheel.errors import FlywheelError
from flywheel.evaluation.records import evaluation_folder, list_evaluations
from flywheel.models.api.exchange import Imported, export_vectors, import_vectors
from flywheel.models.api.ledger import Paid
from flywheel.models.features import OnProgress
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace

_BEGINS = 60


@dataclass(frozen=True)
class Coverage:
    """How many texts of some splits have a vector, and about what the missing ones would cost: tokens and US dollars. `failed`
    are set aside, because the API could not embed them.
    """

    cached: int
    missing: int
    tokens: int
    money: float
    failed: int


@dataclass(frozen=True)
class FailedText:
    """How a text begins that the API could not embed, and why."""

    begins: str
    reason: str


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
    failed: list[FailedText]
    next: str


def baseline_status(workspace: Workspace, snapshot: Snapshot) -> BaselineStatus:
    """Look at the cache, a snapshot and the ledger; the API is not asked."""
    api = workspace.api
    judged = estimate(workspace, texts_to_embed(snapshot, train=False))
    train = estimate(workspace, unique_texts(snapshot.pairs("train")))
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
        failed=failed_texts(workspace, texts_to_embed(snapshot, train=True)),
        next=_next(bool(api.api_key), judged, snapshot),
    )


def texts_to_embed(snapshot: Snapshot, train: bool) -> list[str]:
    """The questions of a snapshot that are judged or calibrate, and those of `train` if asked for."""
    frames = [snapshot.judging_pairs(), snapshot.pairs("calibration")]
    return unique_texts(*frames, *([snapshot.pairs("train")] if train else []))


def estimate(workspace: Workspace, texts: list[str]) -> Coverage:
    """How many of `texts` are missing and about what they would cost, as `workspace.api.tokens` counts."""
    api = workspace.api
    unknown, failed = api.unknown(texts), len(api.failed(texts))
    tokens = api.tokens.estimate(unknown)
    money = tokens * workspace.settings.baseline.price / 1e6
    return Coverage(len(texts) - len(unknown) - failed, len(unknown), tokens, money, failed)


def embed(workspace: Workspace, texts: list[str], progress: OnProgress | None = None) -> Paid:
    """Pay for what is missing of `texts`, and for nothing else. Raises FlywheelError as `ApiVectors.fill` does.

    Texts that the API fails on are set aside; `failed_texts` names them.
    """
    return workspace.api.fill(texts, progress)


def failed_texts(workspace: Workspace, texts: list[str]) -> list[FailedText]:
    """Those of `texts` that the API could not embed."""
    return [FailedText(text[:_BEGINS], reason) for text, reason in workspace.api.failed(texts).items()]


def retry(workspace: Workspace) -> None:
    """Forget which texts the API could not embed, and what was learned of its requests: both are tried again."""
    workspace.api.retry()


def drop(workspace: Workspace, snapshot: Snapshot, texts: list[str]) -> int:
    """Drop the cached vectors of `texts`, which an endpoint got wrong, and what was measured with them on the snapshot's test
    pairs; returns how many vectors. Without a key nothing is dropped.

    Raises FlywheelError when there is no key to buy them again.
    """
    api = workspace.api
    if not api.api_key:
        raise FlywheelError(
            "OPENAI_API_KEY is not set, so nothing was dropped. Set it and run `flywheel baseline embed --again`."
        )
    evaluations = workspace.records.pull(snapshot.test_id)
    for record in list_evaluations(evaluations, snapshot.test_id):
        if record.kind == "baseline" and record.variant.partition("@")[0] == api.model:
            workspace.records.remove(snapshot.test_id, record.record_id)
            shutil.rmtree(evaluation_folder(evaluations, snapshot.test_id, record.record_id))
    return api.cache.drop(texts)


def export_baseline(workspace: Workspace, target: Path) -> int:
    """Write the API's cached vectors to a Parquet file, over an earlier export only; returns how many.

    Raises FlywheelError where another file is, or when nothing can be exported.
    """
    if target.is_file() and not _is_export(target):
        raise FlywheelError(f"{target} is there and no export of flywheel's, so it is kept. Give the export another name.")
    api = workspace.api
    return export_vectors(api.cache, api.origin, target, api.set_aside.entries())


def _is_export(file: Path) -> bool:
    try:
        return b"flywheel.model" in (pq.read_schema(file).metadata or {})
    except (OSError, pa.ArrowException):
        return False


def import_baseline(workspace: Workspace, source: Path) -> Imported:
    """Add an exported file's vectors to the cache, and what its API could not embed. Needs no key, no network, no snapshot."""
    api = workspace.api
    imported = import_vectors(api.cache, api.origin, source)
    known = api.set_aside.entries()
    if new := {key: reason for key, reason in imported.set_aside.items() if key not in known}:
        api.set_aside.add_entries(new)
    return imported


def _next(key_set: bool, judged: Coverage, snapshot: Snapshot) -> str:
    if not snapshot.can_judge:
        return snapshot.way_to_a_draw
    if not judged.missing:
        return "flywheel grid, then flywheel leaderboard"
    return (
        "flywheel baseline embed"
        if key_set
        else "set OPENAI_API_KEY, then flywheel baseline embed; or flywheel baseline import FILE"
    )
