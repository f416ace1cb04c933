"""What is in a home beside its results: cached work of encoders, and trained layers; what of it may be deleted."""

import logging
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.files import locked
from flywheel.models.api.set_aside import SetAside
from flywheel.models.cache import EmbeddingCache, drop, keep_only
from flywheel.models.shared import SENT
from flywheel.models.vectors import FEATURES_NAME
from flywheel.models.weights import find_weights
from flywheel.pairs.snapshots.snapshot import SPLITS, Snapshot, unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.training.checkpoints import HEAD_FILE, JOB_FILE
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
    items += [CachedItem(f"layers {folder.name[:12]}", None, folder_bytes(folder)) for folder in _layers(workspace)]
    return sorted(items, key=lambda item: -item.bytes)


def prune(workspace: Workspace, states: bool) -> int:
    """Delete what neither a snapshot nor the pairs from elsewhere need, what encoders that are no longer here left, and trained
    layers of no model.

    `states` deletes all token states as well: they are large, and made again where the recipe top needs them. Vectors of
    an API are never deleted, since they were paid for. At the root, texts that nothing needs are deleted, and no whole cache:
    another machine may have its encoder. Returns the bytes freed here.
    """
    frames = (taken.pairs(split) for taken in workspace.snapshots.all() for split in SPLITS)
    texts = unique_texts(*frames, *(domain.read() for domain in workspace.domains))
    before = sum(item.bytes for item in list_cached(workspace))
    remove_layers(workspace, set())
    here, kept = _encoders_here(workspace)
    shared = _shared_caches(workspace)
    for name in sorted({folder.name for folder in _caches(workspace)} | shared.keys()):
        folder, made = workspace.home.cache / name, FEATURES_NAME.fullmatch(name)
        if made is None or made["model"] not in {*workspace.models.known, *here}:
            continue
        if folder.exists() and ((states and made["layer"]) or _is_left_behind(made, here, kept)):
            with FileLock(folder / "lock"):
                for path in (*folder.glob("*.npy"), folder / SENT):
                    path.unlink(missing_ok=True)
        keep_only(folder, texts, shared.get(name))
    return before - sum(item.bytes for item in list_cached(workspace))


def prunable_bytes(workspace: Workspace, gone: Collection[str]) -> int:
    """About how many bytes of the caches here `prune` would free, token states kept, once the folders of snapshots and models
    named `gone` are deleted.
    """
    remaining = (taken for taken in workspace.snapshots.all() if taken.snapshot_id not in gone)
    frames = (taken.pairs(split) for taken in remaining for split in SPLITS)
    texts = unique_texts(*frames, *(domain.read() for domain in workspace.domains))
    here, kept = _encoders_here(workspace)
    freed = 0
    for folder, cache in _caches(workspace).items():
        made = FEATURES_NAME.fullmatch(folder.name)
        if cache is None or made is None or made["model"] not in {*workspace.models.known, *here}:
            continue
        held, left = cache.texts(), len(texts) - cache.missing(texts)
        freed += cache.size() if _is_left_behind(made, here, kept) else cache.size() * (held - left) // max(1, held)
    used = {each.job.tuning_id for each in readable_models(workspace) if each.tuned_encoder and each.name not in gone}
    unused = [folder for folder in _layers(workspace) if folder.name not in used and not (folder / "checkpoints").exists()]
    return freed + sum(folder_bytes(folder) for folder in unused)


def _is_left_behind(made: re.Match[str], here: Mapping[str, bool], kept: Collection[str]) -> bool:
    """Whether a cache, by the parts of its name, is of an encoder that is no longer here, or of an older version."""
    return not made["dtype"] or not (made["id"] in kept or here.get(made["model"]) is False)


def folder_bytes(folder: Path) -> int:
    """The bytes that a folder takes: of files that it shares, its part."""
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(file.st_size // max(1, file.st_nlink) for file in files)


def forget_texts(workspace: Workspace, texts: set[str]) -> None:
    """Delete what encoders made of these texts, here and at the root; vectors of an API too, and what it could not embed."""
    shared = _shared_caches(workspace)
    for name in sorted({folder.name for folder in _caches(workspace)} | shared.keys()):
        drop(workspace.home.cache / name, texts, shared.get(name))
        SetAside(workspace.home.cache / name).drop(texts)


def texts_of_pairs(snapshots: Mapping[str, Snapshot], pair_ids: frozenset[str]) -> set[str]:
    """The texts of some pairs, as the snapshots have them."""
    frames = (taken.pairs(split) for taken in snapshots.values() for split in SPLITS)
    return set(unique_texts(*(frame[frame["pair_id"].isin(pair_ids)] for frame in frames)))


def remove_layers(workspace: Workspace, snapshots: set[str]) -> None:
    """Delete trained layers that no model uses, unless their training goes on or may; those of `snapshots` in any case, at the
    root too, once a training of theirs here has ended.

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
    if workspace.root.models is not None and snapshots:
        _remove_shared_layers(f"{workspace.root.models}/{workspace.home.trained_layers.name}", snapshots)


def _remove_shared_layers(uri: str, snapshots: set[str]) -> None:
    for path in storage.files(uri):
        name, _, file = path.partition("/")
        if file == JOB_FILE and (content := storage.read(f"{uri}/{path}")) is not None:
            with suppress(FlywheelError):  # what cannot be read may be of them
                if TrainingJob.from_json(content).snapshot_id not in snapshots:
                    continue
            storage.delete_folder(f"{uri}/{name}", HEAD_FILE)


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


def _shared_caches(workspace: Workspace) -> dict[str, str]:
    """The address of each cache at the root, by its name."""
    root = workspace.root.cache
    names = {path.partition("/")[0] for path in storage.files(root)} if root is not None else set()
    return {name: f"{root}/{name}" for name in sorted(names)}


def _layers(workspace: Workspace) -> list[Path]:
    return sorted(folder for folder in workspace.home.trained_layers.glob("*") if folder.is_dir())


def _snapshot_of(layers: Path) -> str | None:
    job = _job_of(layers)
    return job.snapshot_id if job else None


def _job_of(layers: Path) -> TrainingJob | None:
    try:
        return TrainingJob.from_json((layers / JOB_FILE).read_bytes())
    except (OSError, FlywheelError):
        return None


def _encoders_here(workspace: Workspace) -> tuple[dict[str, bool], set[str]]:
    """Whether each base model is at hand, so that its present id is known, and the ids of all encoders that are."""
    here, ids = {}, set()
    for name, model in workspace.models.known.items():
        vectors = workspace.vectors(name)
        try:
            here[name] = find_weights(model) is not None
            ids |= {vectors.weights_id} if here[name] else set()
        except FlywheelError as error:
            here[name] = False
            log.warning("%s", error)
    for trained in readable_models(workspace):
        tuned = replace(workspace.vectors_of(trained.job), model=trained.job.base, tuned=trained.folder)
        ids |= {trained.job.weights, tuned.weights_id}
    for folder in _layers(workspace):
        ids |= _ids_of_layers(workspace, folder)
    return here, ids


def _ids_of_layers(workspace: Workspace, folder: Path) -> set[str]:
    job = _job_of(folder)
    if job is None:
        return set()
    tuned = replace(workspace.vectors_of(job), model=job.base, tuned=folder / "encoder")
    return {job.weights, *({tuned.weights_id} if (folder / "encoder").exists() else ())}
