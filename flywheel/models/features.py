"""What is computed of texts and cached: pooled token states of the last layer, or the token states below some layer.

Texts of like length share a batch, so that little of it is padding. Where the processor computes in bfloat16, weights are
bfloat16; sums and results never are.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flywheel.models.shards import Ragged

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


# The poolings of features that hold more than a model's own, in their order.
PARTS = ("mean", "max", "cls")
OnProgress = Callable[[int, int], None]
# Tokens in a batch, padding included: enough for the processor, little enough for its caches.
_BATCH_TOKENS = 4096
_MAX_BATCH = 256
# A tokenizer keeps much beside the ids until it returns: 5 KB a short text.
_TOKENISED_AT_ONCE = 4096


def working_dtype(device: str) -> Literal["bfloat16", "float32"]:
    """What encoders compute in on `device`: bfloat16 where the hardware has instructions for it, else float32.

    Loading torch takes seconds, and who reads finished work needs nothing else of it: where Linux shows no GPU, the kernel
    says what the processor is able to.
    """
    if (found := _of_linux(device)) is not None:
        return found
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda"):
        return (
            "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        )
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device == "cpu" else {}
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def _of_linux(device: str) -> Literal["bfloat16", "float32"] | None:
    """The same as Linux tells it; None where only torch knows."""
    gpus = [path for pattern in ("nvidia*", "kfd", "dxg") for path in Path("/dev").glob(pattern)]
    cpuinfo = Path("/proc/cpuinfo")
    if not (device == "cpu" or (device == "auto" and not gpus)) or platform.machine() != "x86_64" or not cpuinfo.exists():
        return None
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), None)
    return None if flags is None else "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "float32"


def in_order(poolings: Iterable[str]) -> tuple[str, ...]:
    """Poolings in the order in which features hold them, whatever the order of a folder's files."""
    return tuple(sorted(set(poolings), key=lambda each: (PARTS.index(each) if each in PARTS else len(PARTS), each)))


def pooled(
    encoder: "SentenceTransformer", texts: Sequence[str], poolings: Sequence[str], progress: OnProgress | None = None
) -> np.ndarray:
    """The last layer's token states under each of `poolings`, side by side, float32 (n, poolings * width), in the order of
    `texts`; of static embeddings their mean.

    `progress` hears (texts done, n) after each batch.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding

    first: Any = encoder[0]
    width = first.get_embedding_dimension()
    vectors = np.empty((len(texts), len(poolings) * width), dtype=np.float32)
    if isinstance(first, StaticEmbedding):
        for start in range(0, len(texts), _MAX_BATCH):
            some = slice(start, start + _MAX_BATCH)
            with torch.inference_mode():
                told = first.preprocess(list(texts[some]), prompt=prompt_of(encoder))
                vectors[some] = (
                    first({name: tensor.to(encoder.device) for name, tensor in told.items()})["sentence_embedding"]
                    .float()
                    .cpu()
                    .numpy()
                )
            if progress is not None:
                progress(min(start + _MAX_BATCH, len(texts)), len(texts))
        return vectors
    own: Any = encoder[1]
    pooling, prompt_length, done = Pooling(width, tuple(poolings), own.include_prompt), prompt_tokens(encoder), 0
    for rows, states, mask in _forward(encoder, texts):
        batch: dict[str, Any] = {"token_embeddings": states.float(), "attention_mask": mask, "prompt_length": prompt_length}
        vectors[rows] = pooling(batch)["sentence_embedding"].cpu().numpy()
        done += len(rows)
        if progress is not None:
            progress(done, len(texts))
    return vectors


def token_states(
    encoder: "SentenceTransformer", texts: Sequence[str], layers: int, progress: OnProgress | None = None
) -> Ragged:
    """The token states above the lowest `layers` layers, float16 (tokens, width), text after text in the order of `texts`."""
    import torch

    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    done = 0
    for rows, states, mask in _forward(encoder, texts, layers):
        halves = states.to(torch.float16).cpu().numpy()
        for row, text, length in zip(rows, halves, mask.sum(1).tolist(), strict=True):
            found[row] = text[:length]
        done += len(rows)
        if progress is not None:
            progress(done, len(texts))
    return Ragged(np.concatenate(found), np.array([len(states) for states in found], dtype=np.int32))


def prompt_of(encoder: "SentenceTransformer") -> str:
    """What stands before each text."""
    return encoder.prompts.get(encoder.default_prompt_name or "") or ""


def prompt_tokens(encoder: "SentenceTransformer") -> int:
    """How many tokens of each text are its prompt, as the library counts them."""
    prompt = prompt_of(encoder)
    first: Any = encoder[0]
    return int(first.preprocess([""], prompt=prompt).get("prompt_length") or 0) if prompt else 0


def tokenise(encoder: "SentenceTransformer", texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts after the prompt, cut at the model's longest."""
    prompt, limit = prompt_of(encoder), encoder.max_seq_length
    ids: list[list[int]] = []
    for start in range(0, len(texts), _TOKENISED_AT_ONCE):
        some = [prompt + text for text in texts[start : start + _TOKENISED_AT_ONCE]]
        ids += encoder.tokenizer(some, truncation=limit is not None, max_length=limit)["input_ids"]
    return ids


def encoder_inputs(encoder: "SentenceTransformer", texts: Sequence[str]) -> dict[str, "torch.Tensor"]:
    """Token ids and mask (n, tokens) of texts, on the encoder's device."""
    padded = encoder.tokenizer.pad({"input_ids": tokenise(encoder, texts)}, return_tensors="pt").to(encoder.device)
    return {name: padded[name] for name in ("input_ids", "attention_mask")}


def longest_first(lengths: Sequence[int] | np.ndarray, batch_tokens: int, max_batch: int) -> list[np.ndarray]:
    """Row numbers in batches of like length, longest first, so that the most memory is needed at the start."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, min(max_batch, batch_tokens // max(1, lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def _forward(
    encoder: "SentenceTransformer", texts: Sequence[str], layers: int = 0
) -> Iterator[tuple[np.ndarray, "torch.Tensor", "torch.Tensor"]]:
    """Row numbers, token states (b, tokens, width) and mask (b, tokens) of batch after batch: those above the
    lowest `layers`, or else those of the last.
    """
    import torch

    from flywheel.models.blocks import lower_states

    transformer: Any = encoder[0]
    ids = tokenise(encoder, texts)
    with torch.inference_mode():
        for rows in longest_first([len(each) for each in ids], _BATCH_TOKENS, _MAX_BATCH):
            batch = encoder.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(encoder.device)
            inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
            states = lower_states(transformer, inputs, layers) if layers else transformer(inputs)["token_embeddings"]
            yield rows, states, batch["attention_mask"]
