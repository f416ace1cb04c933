"""Model folders: what `SentenceTransformer(path)` loads, with the head inside and nothing of ours needed."""

import os
import shutil
from pathlib import Path

import numpy as np

from flywheel.files import scratch_folder, write_json
from flywheel.models.encoder import quiet_transformers
from flywheel.models.weights import WEIGHTS_FILE

_COPIED = ("*.json", "*.txt", "1_Pooling/*.json")
_DROPPED = {"modules.json", "data_config.json", "README.md"}


def write_head_model(folder: Path, base: Path, weight: np.ndarray, bias: np.ndarray, shared: Path) -> None:
    """Write base model, pooling, Normalize, Dense head (`weight` (dim, width), `bias` (dim,)) and Normalize to `folder`.

    The base weights are kept once, in `shared`, and hard-linked into every model folder where the file system can.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from torch.nn import Identity

    for pattern in _COPIED:
        for file in base.glob(pattern):
            if file.name not in _DROPPED:
                (folder / file.relative_to(base)).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, folder / file.relative_to(base))
    _link(base / WEIGHTS_FILE, shared, folder / WEIGHTS_FILE)
    dense = Dense(weight.shape[1], weight.shape[0], activation_function=Identity())
    with torch.no_grad():
        dense.linear.weight.copy_(torch.from_numpy(weight))
        dense.linear.bias.copy_(torch.from_numpy(bias))
    for name, module in (("2_Normalize", Normalize()), ("3_Dense", dense), ("4_Normalize", Normalize())):
        (folder / name).mkdir()
        module.save(str(folder / name), safe_serialization=True)
    _write_modules(folder)


def served_difference(folder: Path, texts: list[str], expected: np.ndarray) -> float:
    """Largest absolute difference between what a user's `SentenceTransformer(folder)` gives and `expected` (n, dim)."""
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    served = model.encode(texts, show_progress_bar=False, convert_to_numpy=True)
    return float(np.abs(served - expected).max()) if served.shape == expected.shape else float("inf")


def read_head(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The weight (dim, width) and bias (dim,) of a model folder's Dense head, float32."""
    from safetensors.numpy import load_file

    tensors = load_file(folder / "3_Dense" / "model.safetensors")
    return tensors["linear.weight"], tensors["linear.bias"]


def _write_modules(folder: Path) -> None:
    kinds = ["Transformer", "Pooling", "Normalize", "Dense", "Normalize"]
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
            for i, kind in enumerate(kinds)
        ],
    )


def _link(source: Path, shared: Path, target: Path) -> None:
    """Put the file of `source` at `target`, by a hard link to a copy in `shared` if possible, else by copying."""
    if not shared.exists():
        shared.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(shared.parent) as scratch:
            shutil.copyfile(source, scratch / shared.name)
            os.replace(scratch / shared.name, shared)
    try:
        os.link(shared, target)
    except OSError:
        shutil.copyfile(shared, target)
