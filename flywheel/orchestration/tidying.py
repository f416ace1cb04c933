"""What lies in a home beside its results: cached work of encoders and layers that were trained; what of it may go."""

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from flywheel.errors import FlywheelError
from flywheel.files import locked
from flywheel.models.cache import EmbeddingCache
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.vectors import FEATURES_NAME
from flywheel.models.weights import WEIGHTS_FILE, hash_weights
from flywheel.pairs.snapshots.snapshot import Snapshot, unique_texts
from flywheel.settings import Settings
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.train import TUNED

log = logging.getLogger(__name__)

_SPLITS = ("train", "calibration", "test")


@dataclass(frozen=True)
class Kept:
    """Something kept: how many texts it knows, if it is of texts, and its bytes on disk."""

    name: str
    texts: int | None
    bytes: int


def list_kept(settings: Settings) -> list[Kept]:
    """What encoders made of texts, and trained layers that models share; largest first."""
    found = [Kept(folder.name, cache.texts(), cache.size()) for folder, cache in _caches(settings).items() if cache is not None]
    for folder in _layers(settings):
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        found.append(Kept(f"layers {folder.name[:12]}", None, sum(file.st_size // max(1, file.st_nlink) for file in files)))
    return sorted(found, key=lambda entry: -entry.bytes)


def prune(settings: Settings, states: bool) -> int:
    """Remove what no snapshot's texts need, what encoders that are gone have left, and trained layers that no model holds;
    returns the bytes freed.

    `states` removes all token states as well: they are large, and made again where the recipe top needs them. Vectors of
    an API are never removed, since they were paid for.
    """
    before = sum(entry.bytes for entry in list_kept(settings))
    remove_layers(settings, set())
    weights = _weights_in_use(settings)
    snapshots = [Snapshot.load(manifest.parent) for manifest in settings.snapshots.glob("*/manifest.json")]
    texts = unique_texts(*(taken.pairs(split) for taken in snapshots for split in _SPLITS))
    for folder, cache in _caches(settings).items():
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
    return before - sum(entry.bytes for entry in list_kept(settings))


def forget_texts(settings: Settings, texts: set[str]) -> None:
    """Remove what encoders made of these texts; vectors of an API too."""
    for cache in _caches(settings).values():
        if cache is not None:
            cache.drop(texts)


def texts_of_pairs(snapshots: Mapping[str, Snapshot], pair_ids: frozenset[str]) -> set[str]:
    """The texts of some pairs, as the snapshots have them."""
    frames = (taken.pairs(split) for taken in snapshots.values() for split in _SPLITS)
    return set(unique_texts(*(frame[frame["pair_id"].isin(pair_ids)] for frame in frames)))


def remove_layers(settings: Settings, snapshots: set[str]) -> None:
    """Remove trained layers that no model holds, unless their training goes on or may; those of `snapshots` in any case, once
    a training of theirs has ended.

    Models keep their own link to the weights.
    """
    held = {model.job.tuning_id for model in finished_models(settings) if model.tuned_encoder}
    for folder in _layers(settings):
        on = _snapshot_of(folder)
        with suppress(Timeout), locked(settings.models, folder.name, -1 if on in snapshots else 0):
            abandoned = on is None or not (settings.snapshots / on).exists()
            ended = not (folder / "checkpoints").exists()
            if on in snapshots or (folder.name not in held and (ended or abandoned)):
                shutil.rmtree(folder)


def finished_models(settings: Settings) -> list[TrainedModel]:
    """The home's model folders, without those that cannot be read."""
    found = []
    for record in sorted(settings.models.glob("*/flywheel.json")):
        try:
            found.append(TrainedModel.load(record.parent))
        except FlywheelError as error:
            log.warning("%s", error)
    return found


def _caches(settings: Settings) -> dict[Path, EmbeddingCache | None]:
    return {folder: EmbeddingCache.open(folder) for folder in sorted(settings.cache.glob("*")) if folder.is_dir()}


def _layers(settings: Settings) -> list[Path]:
    return sorted(folder for folder in (settings.models / TUNED).glob("*") if folder.is_dir())


def _snapshot_of(layers: Path) -> str | None:
    try:
        return TrainingJob.from_json((layers / "job.json").read_bytes()).snapshot_id
    except (OSError, FlywheelError):
        return None


def _weights_in_use(settings: Settings) -> set[str]:
    """The first digits of the hashes of every encoder that a model or a training holds."""
    found = [*settings.models.glob(f"*/{WEIGHTS_FILE}"), *settings.models.glob(f"{TUNED}/*/{WEIGHTS_FILE}")]
    files = {path.stat().st_ino: path for path in found}  # many are links to one
    return {hash_weights(path.parent)[:12] for path in files.values()}
