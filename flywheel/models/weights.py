"""Where a base model's weights are found: a local folder, an installed package or the hub, checked against their hash."""

import importlib.util
import logging
from collections.abc import Mapping
from functools import cache
from hashlib import file_digest
from pathlib import Path

from flywheel.errors import FlywheelError, one_line
from flywheel.models.catalogue import BaseModel

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
_REQUIRED_FILES = (WEIGHTS_FILE, "modules.json")

# Enough for a Sentence Transformers folder and its tokenizer. Pickled weights are never asked for: they can run code.
_HUB_FILES = [WEIGHTS_FILE, "*.json", "*.txt"]
_OTHER_RUNTIMES = ["onnx/*", "openvino/*"]


def locate_weights(model: BaseModel, model_paths: Mapping[str, Path]) -> Path:
    """Find the Sentence Transformers folder of `model`, downloading it only when nothing local has it.

    Looks in `model_paths[model.name]`, then in the installed package, then in the hub's cache and on the hub, at the
    pinned commit. Raises FlywheelError when the local folder is incomplete, when nothing gives the weights, and, from
    wherever they came, when their hash is not the catalogue's.
    """
    folder = _local_folder(model, model_paths) or _package_folder(model) or _hub_folder(model)
    found = hash_weights(folder)
    if model.weights_sha256 not in (None, found):
        raise FlywheelError(
            f"{folder / WEIGHTS_FILE} is not the {model.name} that flywheel knows: its sha256 is {found}, "
            f"expected {model.weights_sha256}. Replace it with the hub's file of {model.hub_id} at {model.revision}."
        )
    return folder


def hash_weights(folder: Path) -> str:
    """Give the sha256, in hex, of the weights file in `folder`; a file that has not changed is read once a process."""
    path = (folder / WEIGHTS_FILE).resolve()
    stat = path.stat()
    return _hash_file(path, stat.st_mtime_ns, stat.st_size)


@cache
def _hash_file(path: Path, mtime_ns: int, size: int) -> str:
    """Hash `path`; time and size are in the signature so that a changed file is hashed again."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _missing_files(folder: Path) -> list[str]:
    return [name for name in _REQUIRED_FILES if not (folder / name).is_file()]


def _local_folder(model: BaseModel, model_paths: Mapping[str, Path]) -> Path | None:
    if model.name not in model_paths:
        return None
    folder = model_paths[model.name].expanduser()
    if missing := _missing_files(folder):
        what = f"holds no {' and no '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise FlywheelError(
            f"The setting models.paths sends {model.name} to {folder}, which {what}. "
            "Point it at a complete Sentence Transformers folder or remove it."
        )
    return folder


def _package_folder(model: BaseModel) -> Path | None:
    """Find the weights that an installed package carries, without running a line of the package."""
    spec = importlib.util.find_spec(model.package) if model.package else None
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / "model"
        if not _missing_files(folder):
            return folder
    return None


def _hub_folder(model: BaseModel) -> Path:
    from huggingface_hub import snapshot_download

    logger.info("Looking for %s in the hub's cache and on the hub.", model.name)
    try:
        folder = Path(
            snapshot_download(model.hub_id, revision=model.revision, allow_patterns=_HUB_FILES, ignore_patterns=_OTHER_RUNTIMES)
        )
    # The client's errors (offline, no such host, proxy, HTTP status, broken transfer, disk) have no common base.
    except Exception as error:
        raise _unavailable(model, f"{type(error).__name__}: {one_line(error)}") from error
    if missing := _missing_files(folder):
        raise _unavailable(model, f"its folder {folder} lacks {' and '.join(missing)}")
    return folder


def _unavailable(model: BaseModel, reason: str) -> FlywheelError:
    package = "run pip install 'flywheel[demo]', " if model.package else ""
    return FlywheelError(
        f"{model.name} is not on this machine and the hub did not give it ({reason}). "
        f"Set models.paths in the home's flywheel.toml to a folder that holds it, {package}or use a machine that reaches the "
        "hub."
    )
