"""Model folders: what `SentenceTransformer(path)` loads, with the head inside and nothing of ours needed."""

import os
import shutil
from pathlib import Path

import numpy as np

from flywheel.files import scratch_folder, write_json
from flywheel.models.encoder import quiet_transformers
from flywheel.models.features import PARTS
from flywheel.models.weights import WEIGHTS_FILE

_COPIED = ("*.json", "*.txt")
_MODULES = ("", "1_Pooling", "2_Dense", "3_Normalize")
_DROPPED = {"modules.json", "data_config.json", "README.md"}


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
    _link(weights, folder / WEIGHTS_FILE)
    dense = Dense(weight.shape[1], weight.shape[0], activation_function=Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(weight))
        dense.linear.bias.copy_(torch.from_numpy(bias))
    pooling = Pooling(weight.shape[1] // len(PARTS), PARTS)
    for name, module in zip(_MODULES[1:], (pooling, dense, Normalize()), strict=True):
        (folder / name).mkdir()
        module.save(str(folder / name), safe_serialization=True)
    _write_modules(folder)


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
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    served = model.encode(texts, show_progress_bar=False, convert_to_numpy=True)
    return float(np.abs(served @ served.T - expected @ expected.T).max()) if served.shape == expected.shape else float("inf")


def read_head(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The weight (dim, 3 * width) and bias (dim,) of a model folder's Dense head, float32."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / _MODULES[2] / "model.safetensors")
    return tensors["linear.weight"], tensors["linear.bias"]


def _write_modules(folder: Path) -> None:
    kinds = ["Transformer", "Pooling", "Dense", "Normalize"]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(zip(_MODULES, kinds, strict=True))
        ],
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
