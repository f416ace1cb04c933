"""A model folder at work on texts: the vectors that a server of the same folder gives, and a name for exactly that model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.files import digest
from flywheel.models.encoder import resolve_device
from flywheel.models.features import pooled
from flywheel.models.folder import open_model
from flywheel.models.weights import hash_file

Numbers = Literal["float32", "bfloat16"]
# What the vectors of a folder depend on: weights, configuration, and the files of tokenizers.
_READ = ("*.safetensors", "*.json", "*.txt", "*.model")
_NOT_READ = {"flywheel.json"}


class Embedder:
    """Encoder, pooling, head and Normalize of a model folder, with texts of like length in a batch.

    With `numbers` float32 the vectors are those of `SentenceTransformer(folder).encode`, to 1e-5. With bfloat16 the encoder
    computes in that, faster where the hardware has it; pooling and head never do.
    """

    def __init__(self, folder: Path, device: str = "auto", numbers: Numbers = "float32") -> None:
        """Load the model on `device`, as `resolve_device` takes it."""
        import torch

        self.model = open_model(folder, resolve_device(device)).float().eval()
        first: Any = self.model[0]
        first.to(getattr(torch, numbers))
        # Static embeddings have no pooling.
        own: Any = self.model[1]
        poolings = getattr(own, "pooling_mode", ())
        self._poolings = (poolings,) if isinstance(poolings, str) else tuple(poolings)
        self._rest: list[Any] = list(self.model)[2 if self._poolings else 1 :]
        self.dim = int(self.model.get_embedding_dimension() or 0)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, float32 (n, dim), in the order of `texts`; equal texts are encoded once.

        Raises FlywheelError when a vector holds a number that is not finite.
        """
        import torch

        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        if not places:
            return np.empty((0, self.dim), np.float32)
        found: Any = {"sentence_embedding": torch.from_numpy(pooled(self.model, list(places), self._poolings or ("mean",)))}
        with torch.inference_mode():
            found = {name: tensor.to(self.model.device) for name, tensor in found.items()}
            for module in self._rest:
                found = module(found)
        vectors: np.ndarray = found["sentence_embedding"].float().cpu().numpy()
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            text = list(places)[broken[0]]
            raise FlywheelError(
                f"The model gives NaN or infinity for {len(broken)} of {len(places):,} texts, such as {text[:60]!r}. Set "
                "encoding.device to cpu, or embed with --numbers float32."
            )
        return vectors[[places[text] for text in texts]]


def folder_fingerprint(folder: Path) -> str:
    """32 hex digits of a hash of all files that a model folder's vectors depend on; the same for a copy elsewhere."""
    files = sorted({file for pattern in _READ for file in folder.rglob(pattern) if file.name not in _NOT_READ})
    named = [(file.relative_to(folder).as_posix(), hash_file(file)) for file in files if file.is_file()]
    return digest(repr(named))
