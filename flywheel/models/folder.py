"""Model folders: what `SentenceTransformer(path)` loads, with the head inside and nothing of ours needed.

The one exception is a base model whose architecture is ours: its folder names our module, see `JinaTransformer`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.files import scratch_folder, write_json
from flywheel.models.catalogue import BaseModel
from flywheel.models.encoder import quiet_transformers
from flywheel.models.features import PARTS
from flywheel.models.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_COPIED = ("*.json", "*.txt")
_MODULES = ("", "1_Pooling", "2_Dense", "3_Normalize")
_DROPPED = {"modules.json", "data_config.json", "README.md"}
_LIBRARY = "sentence_transformers."
_JINA_MODULE = "flywheel.models.jina.JinaTransformer"


def write_model(folder: Path, base: Path, weights: Path, weight: np.ndarray, bias: np.ndarray) -> None:
    """Write encoder, pooling (mean, max and CLS side by side), Dense head and Normalize to `folder`.

    Configuration and tokenizer are those of `base`; `weights` is the encoder's file, hard-linked where the file system
    can; the head is `weight` (dim, 3 * width) and `bias` (dim,).
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling
    from torch.nn import Identity

    for pattern in _COPIED:
        for file in base.glob(pattern):
            if file.name not in _DROPPED:
                shutil.copyfile(file, folder / file.name)
    first_module = _own_config(folder)
    _link(weights, folder / WEIGHTS_FILE)
    dense = Dense(weight.shape[1], weight.shape[0], activation_function=Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(weight))
        dense.linear.bias.copy_(torch.from_numpy(bias))
    pooling = Pooling(weight.shape[1] // len(PARTS), PARTS)
    for name, module in zip(_MODULES[1:], (pooling, dense, Normalize()), strict=True):
        (folder / name).mkdir()
        module.save(str(folder / name), safe_serialization=True)
    _write_modules(folder, first_module)


def open_model(folder: Path, device: str) -> "SentenceTransformer":
    """Load a model folder as a user would, without any network; of foreign code it may name our module and nothing else."""
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        return SentenceTransformer(str(folder), device=device, local_files_only=True, trust_remote_code=needs_flywheel(folder))


def loading_code(model: BaseModel) -> str:
    """The Python expression by which a user loads a folder that is tuned from `model`."""
    if model.architecture == "jina":
        return 'SentenceTransformer("path/to/this/folder", trust_remote_code=True)  # where flywheel is installed'
    return 'SentenceTransformer("path/to/this/folder")'


def needs_flywheel(folder: Path) -> bool:
    """Whether a model folder loads only where flywheel is installed, and with `trust_remote_code=True`."""
    kinds = {module["type"] for module in json.loads((folder / "modules.json").read_text())}
    return {kind for kind in kinds if not kind.startswith(_LIBRARY)} == {_JINA_MODULE}


def shared_weights(base: Path, shared: Path) -> Path:
    """The weights of the folder `base` as a file that model folders may link to, copied into the folder `shared` once."""
    target = shared / WEIGHTS_FILE
    if not target.exists():
        shared.mkdir(parents=True, exist_ok=True)
        with scratch_folder(shared) as scratch:
            shutil.copyfile(base / WEIGHTS_FILE, scratch / WEIGHTS_FILE)
            os.replace(scratch / WEIGHTS_FILE, target)
    return target


def served_difference(folder: Path, texts: list[str], expected: np.ndarray) -> float:
    """Largest difference between the cosines of `texts` that a user's `SentenceTransformer(folder)` gives and those of the
    unit vectors `expected` (n, dim).
    """
    served = open_model(folder, "cpu").encode(texts, show_progress_bar=False, convert_to_numpy=True)
    return float(np.abs(served @ served.T - expected @ expected.T).max()) if served.shape == expected.shape else float("inf")


def read_head(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The weight (dim, 3 * width) and bias (dim,) of a model folder's Dense head, float32."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / _MODULES[2] / "model.safetensors")
    return tensors["linear.weight"], tensors["linear.bias"]


def _own_config(folder: Path) -> str:
    """The class of a folder's first module; where that is ours, the config is rewritten so that nothing else can load it.

    The hub's config of such a model says `bert` and points at code of its repository.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    if config.get("position_embedding_type") != "alibi":
        return f"{_LIBRARY}models.Transformer"
    from flywheel.models.jina import JinaConfig

    kept = {key: value for key, value in config.items() if key not in ("auto_map", "architectures", "_name_or_path")}
    write_json(folder / "config.json", {**kept, "model_type": JinaConfig.model_type})
    return _JINA_MODULE


def _write_modules(folder: Path, first: str) -> None:
    kinds = [first, *(f"{_LIBRARY}models.{kind}" for kind in ("Pooling", "Dense", "Normalize"))]
    modules = [{"path": path, "type": kind} for path, kind in zip(_MODULES, kinds, strict=True)]
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
