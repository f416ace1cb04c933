"""Cached features of a base model, or of one tuned from it: the one way from texts to numbers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.models.cache import EmbeddingCache
from flywheel.models.catalogue import BaseModel
from flywheel.models.encoder import encoder_id, load_encoder, resolve_device
from flywheel.models.facts import Facts, read_facts
from flywheel.models.features import PARTS, OnProgress, encoder_inputs, in_order, pooled, token_states, tokenise, working_dtype
from flywheel.models.folder import open_model, write_model
from flywheel.models.head import Head, unit
from flywheel.models.options import EncodingOptions, Poolings
from flywheel.models.reads import write_reading
from flywheel.models.shards import Ragged
from flywheel.models.weights import WEIGHTS_FILE, locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_SAMPLE = 1_000
_TRIED = ("how do I reset my password", "a text that is longer than the other one, by some words at least")
# How the folders of features and token states are called; without a dtype, an earlier version's.
FEATURES_NAME = re.compile(r"(?P<id>(?P<model>.+)-[0-9a-f]{12})(?:-(?P<dtype>bfloat16|float32)(?P<layer>-layer\d+)?(?:-all)?)?")
Encoded = TypeVar("Encoded")


@dataclass(frozen=True)
class Vectors:
    """What one encoder makes of texts, from the cache where it is there; the encoder loads only for what is missing.

    `holds` says which poolings its features hold: the model's own alone, or all (`PARTS` as well). `tuned` is the folder of a
    model whose encoder was trained; without it the encoder is the base model. Token states beyond `state_bytes` on disk are
    refused. `shared_cache` is where other machines have the same cache; token states stay here.
    """

    model: BaseModel
    cache_folder: Path
    device: str
    holds: Poolings = "own"
    tuned: Path | None = None
    state_bytes: int = 20 * 10**9
    shared_cache: str | None = None

    @classmethod
    def of(
        cls,
        model: BaseModel,
        cache_folder: Path,
        options: EncodingOptions,
        holds: Poolings = "own",
        shared_cache: str | None = None,
    ) -> "Vectors":
        """The vectors of a base model, cached in a folder."""
        state_bytes = int(options.state_cache_gb * 10**9)
        return cls(model, cache_folder, options.device, holds, state_bytes=state_bytes, shared_cache=shared_cache)

    @cached_property
    def weights(self) -> Path:
        """The folder of the encoder's weights. Raises FlywheelError when they are not to be had."""
        return self.tuned or locate_weights(self.model)

    @cached_property
    def facts(self) -> Facts:
        """What the encoder's files say; of a tuned one, without the head that its folder holds."""
        if self.tuned is None:
            return read_facts(self.model, self.weights)
        made = read_facts(replace(self.model, pooling=None, max_length=None), self.weights)
        return replace(made, dense=(), width=len(made.poolings) * made.states_width)

    @cached_property
    def poolings(self) -> tuple[str, ...]:
        """The poolings that features hold, side by side."""
        several = self.holds == "all" and self.tuned is None and self.facts.kind != "static"
        return in_order({*self.facts.poolings, *PARTS} if several else self.facts.poolings)

    @property
    def width(self) -> int:
        """How many numbers a text's features have."""
        return len(self.poolings) * self.facts.states_width

    @cached_property
    def own(self) -> Head:
        """What makes the untouched model's vectors of features: its own poolings of them, through its Dense modules."""
        from safetensors.numpy import load_file

        width = self.facts.states_width
        places = [np.arange(width) + width * self.poolings.index(each) for each in self.facts.poolings]
        weight = np.eye(self.width, dtype=np.float32)[np.concatenate(places)]
        bias = np.zeros(len(weight), np.float32)
        for path in self.facts.dense:
            tensors = load_file(self.weights / path / WEIGHTS_FILE)
            matrix = tensors["linear.weight"].astype(np.float32)
            weight, bias = matrix @ weight, matrix @ bias
            if "linear.bias" in tensors:
                bias = bias + tensors["linear.bias"].astype(np.float32)
        return Head(weight, bias)

    def check_dim(self, dim: int) -> None:
        """Raise FlywheelError for an output dimension that the model cannot have."""
        if not 1 <= dim <= self.facts.width:
            raise FlywheelError(
                f"Dimension {dim} is out of range for {self.model.name}, whose vectors have {self.facts.width} numbers. "
                f"Choose a dimension from 1 to {self.facts.width}."
            )

    def check_layers(self) -> None:
        """Raise FlywheelError where the encoder has no layers that could be trained."""
        if self.facts.kind == "static":
            raise FlywheelError(
                f"{self.model.name} is a table of static embeddings and has no layers to train. Choose recipe head."
            )

    def check_cut(self) -> None:
        """Raise FlywheelError where the uppermost layer cannot be trained on the states of those below; loads the encoder."""
        from flywheel.models.blocks import cut, find_blocks

        self.check_layers()
        encoder = self.load()
        cut(encoder[0], encoder_inputs(encoder, _TRIED), len(find_blocks(encoder[0])) - 1)

    @cached_property
    def weights_id(self) -> str:
        """The exact encoder's name: its weights, and how it reads and pools."""
        return encoder_id(self.model, self.facts, self.weights)

    @cached_property
    def dtype(self) -> str:
        """What the encoder computes in on this machine; its vectors are kept apart by it."""
        return working_dtype(self.device)

    @cached_property
    def cache(self) -> EmbeddingCache:
        """Features, (n, width) in float16."""
        more = "-all" if len(self.poolings) > len(self.facts.poolings) else ""
        name = f"{self.weights_id}-{self.dtype}{more}"
        uri = None if self.shared_cache is None else f"{self.shared_cache}/{name}"
        return EmbeddingCache(self.cache_folder / name, self.width, np.float16, uri)

    def state_cache(self, layers: int) -> EmbeddingCache:
        """Token states above the lowest `layers` layers."""
        folder = self.cache_folder / f"{self.weights_id}-{self.dtype}-layer{layers}"
        return EmbeddingCache(folder, self.facts.states_width, np.float16)

    def missing(self, texts: Sequence[str]) -> int:
        """How many distinct texts would have to be encoded."""
        return self.cache.missing(texts)

    def features(self, texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
        """The token states under each pooling, float16 (n, width); `progress` hears (encoded, to encode)."""
        total = self.missing(texts) if progress else 0

        def encode(chunk: list[str], report: OnProgress | None) -> np.ndarray:
            return pooled(self.loaded, chunk, self.poolings, report)

        return self.cache.get(texts, _chunks(encode, total, progress))

    def get(self, texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
        """Unit vectors of `texts` as the untouched model gives them, float32 (n, its width)."""
        features = self.features(texts, progress)
        if self.facts.dense:
            return self.own.apply(features)
        width = self.facts.states_width
        places = [self.poolings.index(each) * width for each in self.facts.poolings]
        return unit(np.concatenate([features[:, place : place + width] for place in places], axis=1).astype(np.float32))

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
                    f"encoding.state_cache_gb allows {self.state_bytes / 1e9:g}. Set encoding.state_cache_gb to at least "
                    f"{_round_up(needed / 1e9)}, or choose a smaller size{prune}."
                )

        def encode(chunk: list[str], report: OnProgress | None) -> Ragged:
            return token_states(self.loaded, chunk, layers, report)

        return cache.get_ragged(texts, _chunks(encode, missing if progress else 0, progress))

    def new_state_bytes(self, texts: Sequence[str], layers: int) -> int:
        """About how much disk the token states take that are missing, from the lengths of some of the texts."""
        unknown = self.state_cache(layers).unknown(texts)
        tokens = [len(ids) for ids in tokenise(self.loaded, unknown[:: max(1, len(unknown) // _SAMPLE)])]
        return int(len(unknown) * np.mean(tokens)) * self.facts.states_width * 2 if tokens else 0

    def write_folder(self, folder: Path, head: Head, weights: Path) -> None:
        """Write the folder that a user loads: a head on features behind this encoder, whose weights are the file `weights`."""
        write_model(folder, self.weights / self.facts.root, weights, head.weight, head.bias, self.poolings)
        write_reading(folder, self.facts)

    def load(self) -> "SentenceTransformer":
        """The encoder itself, in float32."""
        if self.tuned is not None:
            return open_model(self.tuned, resolve_device(self.device)).eval()
        return load_encoder(self.model, self.device)

    @cached_property
    def loaded(self) -> "SentenceTransformer":
        """The encoder in what it computes in, loaded once."""
        import torch

        return self.load().to(getattr(torch, self.dtype))


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
