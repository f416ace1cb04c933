"""Model folders: what `SentenceTransformer(path)` loads, with the head inside and nothing of ours needed.

The one exception is a base model whose architecture is ours: its folder names our module, see `JinaTransformer`.
"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.errors import one_line
from flywheel.files import open_to_all, scratch_folder, write_json
from flywheel.models.encoder import quiet_transformers
from flywheel.models.features import PARTS
from flywheel.models.foreign import (
    DENSE_WEIGHTS,
    Portability,
    foreign_faults,
    in_foreign_order,
    in_our_order,
    is_static,
    read_poolings,
    who_loads,
    write_configs,
)
from flywheel.models.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_COPIED = ("*.json", "*.txt", "*.model")
_DROPPED = {"modules.json", "data_config.json", "README.md"}
_LIBRARY = "sentence_transformers."
_JINA_MODULE = "flywheel.models.jina.JinaTransformer"


def write_model(
    folder: Path, base: Path, weights: Path, weight: np.ndarray, bias: np.ndarray, poolings: Sequence[str] = PARTS
) -> None:
    """Write encoder, pooling, Dense head and Normalize to `folder`, in the form that `foreign` describes.

    Configuration and tokenizer are those of `base`; `weights` is the encoder's file, hard-linked where the file system
    can; the head is `weight` (dim, poolings * width) and `bias` (dim,). A pooling without any weight is left out.
    """
    from safetensors.numpy import save_file

    for pattern in _COPIED:
        for file in base.glob(pattern):
            if file.name not in _DROPPED:
                shutil.copyfile(file, folder / file.name)
    first_module = _own_config(folder)
    _link(weights, folder / WEIGHTS_FILE)
    weight, used = in_foreign_order(weight, poolings)
    write_configs(folder, weight, used, first_module)
    save_file({"linear.weight": weight, "linear.bias": bias}, folder / DENSE_WEIGHTS, metadata={"format": "pt"})
    open_to_all(folder)


def open_model(folder: Path, device: str) -> "SentenceTransformer":
    """Load a model folder as a user would, without any network; of foreign code it may name our module and nothing else."""
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        return SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=needs_flywheel(folder))


def loading_code(folder: Path) -> str:
    """The Python expression by which a user loads a model folder."""
    if needs_flywheel(folder):
        return 'SentenceTransformer("path/to/this/folder", trust_remote_code=True)  # where flywheel is installed'
    return 'SentenceTransformer("path/to/this/folder")'


def loaders(folder: Path) -> str:
    """Which programs load a model folder, and what they have to be told."""
    return who_loads(folder, needs_flywheel(folder))


def portability(folder: Path, texts: list[str], expected: np.ndarray) -> Portability:
    """Who can load a folder, and what speaks against it: in its files as other programs read them, and in what a plain
    SentenceTransformer makes of `texts`, whose unit vectors are `expected` (n, dim).
    """
    if needs_flywheel(folder):
        return Portability(loaders(folder), ())
    faults = [] if is_static(folder) else foreign_faults(folder)
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        try:
            plain = SentenceTransformer(str(folder), device="cpu", local_files_only=True, trust_remote_code=False)
            found = plain.encode(texts, show_progress_bar=False, convert_to_numpy=True).shape
        except Exception as error:  # whatever a library says of files it cannot take
            return Portability(loaders(folder), (*faults, f"SentenceTransformer(folder) fails: {one_line(error)}"))
    if found != expected.shape:
        faults.append(f"SentenceTransformer(folder) gives {found[1]} numbers for a text, not {expected.shape[1]}")
    return Portability(loaders(folder), tuple(faults))


def needs_flywheel(folder: Path) -> bool:
    """Whether a model folder loads only where flywheel is installed, and with `trust_remote_code=True`."""
    kinds = {module["type"] for module in json.loads((folder / "modules.json").read_text())}
    return {kind for kind in kinds if not kind.startswith(_LIBRARY)} == {_JINA_MODULE}


def shared_weights(base: Path, shared: Path) -> Path:
    """The weights in the folder `base` as a file that model folders may link to, copied into the folder `shared` once."""
    target = shared / WEIGHTS_FILE
    if not target.exists():
        shared.mkdir(parents=True, exist_ok=True)
        with scratch_folder(shared) as scratch:
            shutil.copyfile(base / WEIGHTS_FILE, scratch / WEIGHTS_FILE)
            os.replace(scratch / WEIGHTS_FILE, target)
    return target


# How far a cosine of a served folder, in float32, may be from one of features that were computed so. Features are stored as
# float16, bfloat16 has three significant digits, and heads widen the difference.
ALLOWED_DIFFERENCE = {"float32": 0.01, "bfloat16": 0.03}


def served_difference(folder: Path, texts: list[str], expected: np.ndarray) -> float:
    """Largest difference between the cosines of `texts` that a user's `SentenceTransformer(folder)` gives and those of the
    unit vectors `expected` (n, dim).
    """
    served = open_model(folder, "cpu").encode(texts, show_progress_bar=False, convert_to_numpy=True)
    return float(np.abs(served @ served.T - expected @ expected.T).max()) if served.shape == expected.shape else float("inf")


def read_head(folder: Path, poolings: Sequence[str] = PARTS) -> tuple[np.ndarray, np.ndarray]:
    """The weight (dim, poolings * width) and bias (dim,) of a model folder's Dense head, float32, for features that have these
    `poolings` side by side.
    """
    from safetensors.numpy import load_file

    tensors = load_file(folder / DENSE_WEIGHTS)
    return in_our_order(tensors["linear.weight"], read_poolings(folder), poolings), tensors["linear.bias"]


def _own_config(folder: Path) -> str | None:
    """The class of a folder's first module where that is ours; its config is rewritten so that nothing else can load it.

    The hub's config of such a model says `bert` and points at code of its repository.
    """
    file = folder / "config.json"
    config: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if config.get("position_embedding_type") != "alibi":
        return None
    from flywheel.models.jina import JinaConfig

    kept = {key: value for key, value in config.items() if key not in ("auto_map", "architectures", "_name_or_path")}
    write_json(folder / "config.json", {**kept, "model_type": JinaConfig.model_type})
    return _JINA_MODULE


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
