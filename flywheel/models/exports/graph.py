"""A model folder as one graph from token ids to unit vectors, and what runs such a graph."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flywheel.models.features import longest_first, tokenise

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

INPUTS = ("input_ids", "attention_mask")
OUTPUT = "sentence_embedding"
Engine = Callable[[dict[str, np.ndarray]], np.ndarray]
_BATCH = 32
_EXAMPLE = ["two texts of different length", "because the graph takes any number of them, however long they are"]


class Batch(NamedTuple):
    """Texts of like length: their row numbers, and their token ids and mask, int64 (b, tokens), by the graph's input."""

    rows: np.ndarray
    tokens: dict[str, np.ndarray]


def graph_of(model: "SentenceTransformer") -> "torch.nn.Module":
    """Encoder, pooling, head and Normalize of a model as one module: input_ids and attention_mask to unit vectors (b, dim)."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            transformer: Any = model[0]
            self.encoder = transformer.auto_model
            self.rest = torch.nn.ModuleList(list(model)[1:])

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            features: Any = {"token_embeddings": states, "attention_mask": attention_mask}
            for module in self.rest:
                features = module(features)
            return features[OUTPUT]

    return Graph().eval()


def example_of(model: "SentenceTransformer") -> dict[str, "torch.Tensor"]:
    """The inputs by which an exporter follows the graph."""
    tokens = model.tokenizer(_EXAMPLE, padding=True, return_tensors="pt")
    return {name: tokens[name] for name in INPUTS}


def torch_engine(model: "SentenceTransformer") -> Engine:
    """What the model itself makes of a batch, in torch and float32."""
    import torch

    graph = graph_of(model)

    def run(tokens: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            return graph(**{name: torch.from_numpy(each) for name, each in tokens.items()}).numpy()

    return run


def batches(model: "SentenceTransformer", texts: Sequence[str]) -> list[Batch]:
    """Texts as batches of at most 32, the longest first."""
    ids = tokenise(model, texts)
    found = []
    for rows in longest_first([len(each) for each in ids], _BATCH * 512, _BATCH):
        padded = model.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="np")
        found.append(Batch(rows, {name: padded[name].astype(np.int64) for name in INPUTS}))
    return found
