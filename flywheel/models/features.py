"""What is computed of texts and cached: pooled token states of the last layer, or the token states below some layer.

Texts of like length share a batch, so that little of it is padding. Where the processor computes in bfloat16, weights are
bfloat16; sums and results never are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from flywheel.models.cache import Ragged

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


# The order of the poolings of the token states in a text's features, `width` numbers each.
PARTS = ("mean", "max", "cls")
OnProgress = Callable[[int, int], None]
# Tokens in a batch, padding included: enough for the processor, little enough for its caches.
_BATCH_TOKENS = 4096
_MAX_BATCH = 256


def working_dtype(device: str) -> Literal["bfloat16", "float32"]:
    """What encoders compute in on `device`: bfloat16 where the hardware has instructions for it, else float32."""
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device.startswith("cuda"):
        return (
            "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        )
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device == "cpu" else {}
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "float32"


def pooled(encoder: "SentenceTransformer", texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
    """Mean, max and CLS of the last layer's token states, float32 (n, 3 * width), in the order of `texts` and of `PARTS`.

    `progress` hears (texts done, n) after each batch.
    """
    import torch

    transformer: Any = encoder[0]
    vectors = np.empty((len(texts), len(PARTS) * transformer.get_embedding_dimension()), dtype=np.float32)
    done = 0
    for rows, states, mask in _forward(encoder, texts):
        seen = mask.unsqueeze(-1)
        mean = (states * seen).sum(1, dtype=torch.float32) / seen.sum(1)
        largest = states.masked_fill(seen == 0, float("-inf")).amax(1)
        vectors[rows] = torch.cat([mean, largest.float(), states[:, 0].float()], dim=1).cpu().numpy()
        done += len(rows)
        if progress is not None:
            progress(done, len(texts))
    return vectors


def token_states(encoder: "SentenceTransformer", texts: Sequence[str], progress: OnProgress | None = None) -> Ragged:
    """The last layer's token states themselves, float16 (tokens, width), text after text in the order of `texts`."""
    import torch

    found: list[np.ndarray] = [np.empty(0)] * len(texts)
    done = 0
    for rows, states, mask in _forward(encoder, texts):
        halves = states.to(torch.float16).cpu().numpy()
        for row, text, length in zip(rows, halves, mask.sum(1).tolist(), strict=True):
            found[row] = text[:length]
        done += len(rows)
        if progress is not None:
            progress(done, len(texts))
    return Ragged(np.concatenate(found), np.array([len(states) for states in found], dtype=np.int32))


def tokenise(encoder: "SentenceTransformer", texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts, cut at the model's longest."""
    return encoder.tokenizer(list(texts), truncation=True, max_length=encoder.max_seq_length)["input_ids"] if texts else []


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
    encoder: "SentenceTransformer", texts: Sequence[str]
) -> Iterator[tuple[np.ndarray, "torch.Tensor", "torch.Tensor"]]:
    """Row numbers, token states (b, tokens, width) and mask (b, tokens) of batch after batch."""
    import torch

    transformer: Any = encoder[0]
    ids = tokenise(encoder, texts)
    with torch.inference_mode():
        for rows in longest_first([len(each) for each in ids], _BATCH_TOKENS, _MAX_BATCH):
            batch = encoder.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(encoder.device)
            states = transformer.auto_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            yield rows, states.last_hidden_state, batch["attention_mask"]
