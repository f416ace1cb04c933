"""Cached vectors of a base model: the one way from texts to encoder vectors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flywheel.models.cache import EmbeddingCache
from flywheel.models.catalogue import BaseModel
from flywheel.models.encoder import check_native, encode, encoder_id, load_encoder
from flywheel.models.weights import locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of one base model, from the cache where they are there; the encoder loads only for what is missing."""

    model: BaseModel
    cache_folder: Path
    model_paths: Mapping[str, Path]
    device: str

    @cached_property
    def weights(self) -> Path:
        """The folder of the base model's weights.

        Raises FlywheelError when the model cannot be used here: no weights, wrong ones, or no code for it.
        """
        check_native(self.model)
        return locate_weights(self.model, self.model_paths)

    @cached_property
    def weights_id(self) -> str:
        """The exact weights' name."""
        return encoder_id(self.model, self.weights)

    @cached_property
    def _cache(self) -> EmbeddingCache:
        return EmbeddingCache(self.cache_folder / self.weights_id, self.model.width)

    @cached_property
    def _encoder(self) -> "SentenceTransformer":
        return load_encoder(self.model, self.model_paths, self.device)

    def missing(self, texts: Sequence[str]) -> int:
        """How many distinct texts would have to be encoded."""
        return self._cache.missing(texts)

    def get(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """Unit vectors (n, width) of `texts`; `progress` hears (encoded, to encode)."""
        total, before = self.missing(texts) if progress else 0, 0

        def encode_chunk(chunk: list[str]) -> np.ndarray:
            nonlocal before
            base = before
            report = (lambda done, _: progress(base + done, total)) if progress else None
            before += len(chunk)
            return encode(self._encoder, chunk, report)

        return self._cache.get(texts, encode_chunk)
