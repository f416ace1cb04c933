"""Where a base model's weights are found: a local folder, an installed package or the hub, checked against their hash."""

import importlib.util
import json
import logging
from functools import cache
from hashlib import file_digest
from pathlib import Path

from flywheel.errors import FlywheelError, one_line
from flywheel.models.catalogue import BaseModel

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
_MODULES_FILE = "modules.json"

# Enough for a Sentence Transformers folder and its tokenizer. Pickled weights are never asked for: they can run code.
_HUB_FILES = [WEIGHTS_FILE, f"?_*/{WEIGHTS_FILE}", "*.json", "*.txt"]
_OTHER_RUNTIMES = ["onnx/*", "openvino/*"]


def locate_weights(model: BaseModel) -> Path:
    """Find the folder of `model`, downloading it only when nothing local has it.

    Looks in `model.path`, then in the installed package, then in the hub's cache and on the hub, at the given revision.
    Raises FlywheelError when the local folder is incomplete, when nothing gives the weights, and, from wherever they came,
    when their hash is not the one that is said of the model.
    """
    folder = find_weights(model) or _hub_folder(model)
    found = hash_weights(folder)
    if model.weights_sha256 not in (None, found):
        raise FlywheelError(
            f"{encoder_file(folder)} is not the {model.name} that flywheel knows: its sha256 is {found}, "
            f"expected {model.weights_sha256}. Replace it with the hub's file of {model.origin} at {model.revision}, or "
            "describe yours under another name."
        )
    return folder


def find_weights(model: BaseModel) -> Path | None:
    """The folder of `model` where a setting or an installed package has it, or else the hub's cache; asks no hub.

    Raises FlywheelError when the folder of the setting is incomplete.
    """
    return _local_folder(model) or _package_folder(model) or _cached_folder(model)


def encoder_file(folder: Path) -> Path:
    """The weights of the encoder in a model's folder: beside modules.json, or in the folder that it names first."""
    try:
        first = json.loads((folder / _MODULES_FILE).read_text(encoding="utf-8"))[0]["path"]
    except (OSError, ValueError, LookupError, TypeError):
        first = ""
    return folder / str(first) / WEIGHTS_FILE


def hash_weights(folder: Path) -> str:
    """Give the sha256, in hex, of the encoder's weights in `folder`; a file that has not changed is read once a process."""
    return hash_file(encoder_file(folder))


def hash_file(file: Path) -> str:
    """Give the sha256, in hex, of a file; one that has not changed is read once a process."""
    path = file.resolve()
    stat = path.stat()
    return _hash_file(path, stat.st_mtime_ns, stat.st_size)


@cache
def _hash_file(path: Path, mtime_ns: int, size: int) -> str:
    """Hash `path`; time and size are in the signature so that a changed file is hashed again."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _missing_files(model: BaseModel, folder: Path) -> list[str]:
    modules = [] if model.pooling else [folder / _MODULES_FILE]
    needed = [encoder_file(folder), *modules]
    return [str(file.relative_to(folder)) for file in needed if not file.is_file()]


def _local_folder(model: BaseModel) -> Path | None:
    if model.path is None:
        return None
    folder = model.path.expanduser()
    if missing := _missing_files(model, folder):
        what = f"holds no {' and no '.join(missing)}" if folder.is_dir() else "is not a folder"
        raise FlywheelError(
            f"The setting {model.setting('path')} is {folder}, which {what}. "
            "Point it at a complete Sentence Transformers folder or remove it."
        )
    return folder


def _package_folder(model: BaseModel) -> Path | None:
    """Find the weights that an installed package carries, without running a line of the package."""
    spec = importlib.util.find_spec(model.package) if model.package else None
    for place in (spec and spec.submodule_search_locations) or ():
        folder = Path(place) / "model"
        if not _missing_files(model, folder):
            return folder
    return None


def _cached_folder(model: BaseModel) -> Path | None:
    if model.hub_id is None:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(model.hub_id, revision=model.revision, local_files_only=True))
    except (OSError, ValueError, HfHubHTTPError):  # not there, or no hub id at all, which the hub's own answer explains
        return None
    return None if _missing_files(model, folder) else folder


def _hub_folder(model: BaseModel) -> Path:
    if model.hub_id is None:
        raise FlywheelError(
            f"Nothing says where {model.name} is. Set {model.setting('path')} to its folder, or {model.setting('hub_id')} and "
            f"{model.setting('revision')} to its repository on the hub."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    logger.info("Looking for %s on the hub.", model.name)
    try:
        folder = Path(
            snapshot_download(model.hub_id, revision=model.revision, allow_patterns=_HUB_FILES, ignore_patterns=_OTHER_RUNTIMES)
        )
    except GatedRepoError as error:
        raise FlywheelError(
            f"The hub gives {model.hub_id} only to those who have accepted its terms. Accept them on the model's page and set "
            f"HF_TOKEN to a token of that account, or set {model.setting('path')} to a folder that holds it."
        ) from error
    except RevisionNotFoundError as error:
        raise FlywheelError(
            f"The hub has no revision {model.revision} of {model.hub_id}. Set {model.setting('revision')} to a commit or "
            "branch that it has."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _no_repository(model) from error
    # The client's errors (offline, no such host, proxy, HTTP status, broken transfer, disk) have no common base.
    except Exception as error:
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            raise _no_repository(model) from error
        raise _unavailable(model, f"{type(error).__name__}: {one_line(error)}") from error
    if missing := _missing_files(model, folder):
        raise _unavailable(model, f"its folder {folder} lacks {' and '.join(missing)}")
    return folder


def _no_repository(model: BaseModel) -> FlywheelError:
    return FlywheelError(
        f"The hub has no repository {model.hub_id}, or shows it only to its owners. Correct {model.setting('hub_id')}, or set "
        "HF_TOKEN to a token that may read it."
    )


def _unavailable(model: BaseModel, reason: str) -> FlywheelError:
    package = "run pip install 'flywheel[demo]', " if model.package else ""
    return FlywheelError(
        f"{model.name} is not on this machine and the hub did not give it ({reason}). "
        f"Set {model.setting('path')} in the home's flywheel.toml to a folder that holds it, {package}or use a machine that "
        "reaches the hub."
    )
