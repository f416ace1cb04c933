"""What is in a home beside its results: cached work of encoders, and trained layers; what of it may be deleted."""

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flywheel.errors import FlywheelError
from flywheel.files import locked
from flywheel.models.api.set_aside import SetAside
from flywheel.models.cache import EmbeddingCache
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.vectors import FEATURES_NAME
from flywheel.models.weights import WEIGHTS_FILE, hash_weights
from flywheel.pairs.snapshots.snapshot import SPLITS, Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel, finished_models

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedItem:
    """A cache or trained layers: how many texts it holds, if it is of texts, and its bytes on disk."""

    name: str
    texts: int | None
    bytes: int


def list_cached(workspace: Workspace) -> list[CachedItem]:
    """What encoders made of texts, and trained layers that models share; largest first."""
    caches = _caches(workspace).items()
    items = [CachedItem(folder.name, cache.texts(), cache.size()) for folder, cache in caches if cache is not None]
    for folder in _layers(workspace):
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        size = sum(file.st_size // max(1, file.st_nlink) for file in files)
        items.append(CachedItem(f"layers {folder.name[:12]}", None, size))
    return sorted(items, key=lambda item: -item.bytes)


def prune(workspace: Workspace, states: bool) -> int:
    """Delete what neither a snapshot nor the pairs from elsewhere need, what encoders that are no longer here left, and trained
    layers of no model.

    `states` deletes all token states as well: they are large, and made again where the recipe top needs them. Vectors of
    an API are never deleted, since they were paid for. Returns the bytes freed.
    """
    frames = (taken.pairs(split) for taken in workspace.snapshots.all() for split in SPLITS)
    texts = unique_texts(*frames, *(domain.read() for domain in workspace.domains))
    before = sum(item.bytes for item in list_cached(workspace))
    remove_layers(workspace, set())
    weights = _weights_in_use(workspace)
    for folder, cache in _caches(workspace).items():
        made = FEATURES_NAME.fullmatch(folder.name)
        if made is None or made["model"] not in CATALOGUE:
            continue
        known = (CATALOGUE[made["model"]].weights_sha256 or made["weights"]).startswith(made["weights"])
        if (states and made["layer"]) or not (known or made["weights"] in weights) or not made["dtype"]:
            with FileLock(folder / "lock"):
                for path in folder.glob("*.npy"):
                    path.unlink()
        elif cache is not None:
            cache.prune(texts)
    return before - sum(item.bytes for item in list_cached(workspace))


def forget_texts(workspace: Workspace, texts: set[str]) -> None:
    """Delete what encoders made of these texts; vectors of an API too, and what it could not embed."""
    for folder, cache in _caches(workspace).items():
        if cache is not None:
            cache.drop(texts)
        SetAside(folder).drop(texts)


def texts_of_pairs(snapshots: Mapping[str, Snapshot], pair_ids: frozenset[str]) -> set[str]:
    """The texts of some pairs, as the snapshots have them."""
    frames = (taken.pairs(split) for taken in snapshots.values() for split in SPLITS)
    return set(unique_texts(*(frame[frame["pair_id"].isin(pair_ids)] for frame in frames)))


def remove_layers(workspace: Workspace, snapshots: set[str]) -> None:
    """Delete trained layers that no model uses, unless their training goes on or may; those of `snapshots` in any case, once
    a training of theirs has ended.

    Models keep their own link to the weights.
    """
    used = {model.job.tuning_id for model in readable_models(workspace) if model.tuned_encoder}
    for folder in _layers(workspace):
        snapshot_id = _snapshot_of(folder)
        of_those = snapshot_id in snapshots
        with suppress(Timeout), locked(workspace.home.models, folder.name, -1 if of_those else 0):
            abandoned = snapshot_id is None or not (workspace.home.snapshots / snapshot_id).exists()
            ended = not (folder / "checkpoints").exists()
            if of_those or (folder.name not in used and (ended or abandoned)):
                shutil.rmtree(folder)


def readable_models(workspace: Workspace) -> list[TrainedModel]:
    """The home's models, without those whose folder cannot be read."""
    models = []
    for folder in finished_models(workspace.home.models):
        try:
            models.append(TrainedModel.load(folder))
        except FlywheelError as error:
            log.warning("%s", error)
    return models


def _caches(workspace: Workspace) -> dict[Path, EmbeddingCache | None]:
    folders = sorted(folder for folder in workspace.home.cache.glob("*") if folder.is_dir())
    return {folder: EmbeddingCache.open(folder) for folder in folders}


def _layers(workspace: Workspace) -> list[Path]:
    return sorted(folder for folder in workspace.home.trained_layers.glob("*") if folder.is_dir())


def _snapshot_of(layers: Path) -> str | None:
    try:
        return TrainingJob.from_json((layers / "job.json").read_bytes()).snapshot_id
    except (OSError, FlywheelError):
        return None


def _weights_in_use(workspace: Workspace) -> set[str]:
    """The first digits of the hashes of every encoder that a model or a training has."""
    home = workspace.home
    weights = [*home.models.glob(f"*/{WEIGHTS_FILE}"), *home.trained_layers.rglob(WEIGHTS_FILE)]
    files = {path.stat().st_ino: path for path in weights}  # many are links to one
    return {hash_weights(path.parent)[:12] for path in files.values()}
