"""Cached features of a base model, or of one tuned from it: the one way from texts to numbers."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.cache import EmbeddingCache, Ragged
from flywheel.models.catalogue import BaseModel
from flywheel.models.encoder import encoder_id, load_encoder, resolve_device
from flywheel.models.features import PARTS, OnProgress, pooled, token_states, tokenise, working_dtype
from flywheel.models.folder import open_model
from flywheel.models.options import ModelOptions
from flywheel.models.weights import locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SAMPLE = 1_000
# How the folders of features and token states are called; without a dtype, an earlier version's.
FEATURES_NAME = re.compile(r"(?P<model>.+)-(?P<weights>[0-9a-f]{12})(?:-(?P<dtype>bfloat16|float32)(?P<layer>-layer\d+)?)?")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Vectors:
    """What one encoder makes of texts, from the cache where it is there; the encoder loads only for what is missing.

    `tuned` is the folder of a model whose encoder was trained; without it the encoder is the base model. Token states
    beyond `state_bytes` on disk are refused.
    """

    model: BaseModel
    cache_folder: Path
    model_paths: Mapping[str, Path]
    device: str
    tuned: Path | None = None
    state_bytes: int = 20 * 10**9

    @classmethod
    def of(cls, model: BaseModel, cache_folder: Path, options: ModelOptions) -> "Vectors":
        """The vectors of a base model, cached in a folder."""
        budget = int(options.state_cache_gb * 10**9)
        return cls(model, cache_folder, options.paths, options.device, state_bytes=budget)

    @cached_property
    def weights(self) -> Path:
        """The folder of the encoder's weights. Raises FlywheelError when they are not to be had."""
        return self.tuned or locate_weights(self.model, self.model_paths)

    @cached_property
    def weights_id(self) -> str:
        """The exact weights' name."""
        return encoder_id(self.model, self.weights)

    @cached_property
    def dtype(self) -> str:
        """What the encoder computes in on this machine; its vectors are kept apart by it."""
        return working_dtype(self.device)

    @cached_property
    def cache(self) -> EmbeddingCache:
        """Features, (n, 3 * width) in float16."""
        folder = self.cache_folder / f"{self.weights_id}-{self.dtype}"
        return EmbeddingCache(folder, len(PARTS) * self.model.width, np.float16)

    def state_cache(self, layers: int) -> EmbeddingCache:
        """Token states above the lowest `layers` layers."""
        return EmbeddingCache(self.cache_folder / f"{self.weights_id}-{self.dtype}-layer{layers}", self.model.width, np.float16)

    def missing(self, texts: Sequence[str]) -> int:
        """How many distinct texts would have to be encoded."""
        return self.cache.missing(texts)

    def features(self, texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
        """Mean, max and CLS of the token states, float16 (n, 3 * width); `progress` hears (encoded, to encode)."""
        total = self.missing(texts) if progress else 0
        return self.cache.get(texts, _chunks(lambda chunk, report: pooled(self.loaded, chunk, report), total, progress))

    def get(self, texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
        """Unit vectors of `texts` as the untouched model gives them, float32 (n, width)."""
        part = PARTS.index(self.model.pooling) * self.model.width
        vectors = self.features(texts, progress)[:, part : part + self.model.width].astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def states(self, texts: Sequence[str], layers: int, progress: OnProgress | None = None) -> list[np.ndarray]:
        """The token states of each text above the lowest `layers` layers: views, float16 (tokens, width).

        Raises FlywheelError when they would need more disk than `state_bytes`.
        """
        cache = self.state_cache(layers)
        missing = cache.missing(texts)
        if missing:
            needed = cache.size() + self.new_state_bytes(texts, layers)
            if needed > self.state_bytes:
                prune = ", or delete those of earlier trainings by `flywheel cache prune --states`" if cache.size() else ""
                raise FlywheelError(
                    f"The token states of {self.model.name} would take about {needed / 1e9:.2g} GB in {cache.folder}, and "
                    f"models.state_cache_gb allows {self.state_bytes / 1e9:g}. Set models.state_cache_gb to at least "
                    f"{_round_up(needed / 1e9)}, or choose a smaller size{prune}."
                )

        def encode(chunk: list[str], report: OnProgress | None) -> Ragged:
            return token_states(self._lower(layers), chunk, report)

        return cache.get_ragged(texts, _chunks(encode, missing if progress else 0, progress))

    def new_state_bytes(self, texts: Sequence[str], layers: int) -> int:
        """About how much disk the token states take that are missing, from the lengths of some of the texts."""
        unknown = self.state_cache(layers).unknown(texts)
        tokens = [len(ids) for ids in tokenise(self.loaded, unknown[:: max(1, len(unknown) // _SAMPLE)])]
        return int(len(unknown) * np.mean(tokens)) * self.model.width * 2 if tokens else 0

    def load(self) -> "SentenceTransformer":
        """The encoder itself, in float32."""
        if self.tuned is not None:
            return open_model(self.tuned, resolve_device(self.device)).eval()
        return load_encoder(self.model, self.model_paths, self.device)

    @cached_property
    def loaded(self) -> "SentenceTransformer":
        """The encoder in what it computes in, loaded once."""
        import torch

        return self.load().to(getattr(torch, self.dtype))

    @cached_property
    def _lowers(self) -> dict[int, "SentenceTransformer"]:
        return {}

    def _lower(self, layers: int) -> "SentenceTransformer":
        """The encoder without the layers above the lowest `layers`; the rest is shared."""
        if layers not in self._lowers:
            import torch

            lower = self.load().to(getattr(torch, self.dtype))
            transformer: Any = lower[0]
            transformer.auto_model.encoder.layer = transformer.auto_model.encoder.layer[:layers]
            self._lowers[layers] = lower
        return self._lowers[layers]


def _chunks(
    encode: Callable[[list[str], OnProgress | None], Encoded], total: int, progress: OnProgress | None
) -> Callable[[list[str]], Encoded]:
    """`encode` for one chunk after the other, with progress counted over all of them."""
    before = 0

    def encode_chunk(chunk: list[str]) -> Encoded:
        nonlocal before
        base = before
        before += len(chunk)
        return encode(chunk, (lambda done, _: progress(base + done, total)) if progress else None)

    return encode_chunk


def _round_up(gigabytes: float) -> str:
    """A little more, in two digits."""
    return f"{1.1 * gigabytes:.2g}"
