"""The recipe of the experiment that flywheel grows from, re-created with the library it was written for.

The encoder's token states go through mean pooling, whatever the base model's own pooling is (so bge loses its CLS token, and no
vector is normalised: the second pooling of the original overwrites both), then through Dense with tanh. The encoder's weights
are frozen but its dropout is on while training. OnlineContrastiveLoss with cosine distance and margin 0.5, AdamW at 1e-4 with
weight decay 0.01 (none on the bias), gradient norm at most 1, linear warm-up of 500 steps, then linear decay to the last step,
batches of 32, 8 epochs. After each epoch the test pairs are encoded; the epoch with the best average precision on them is kept,
and a logistic regression on the cosines of its training pairs is its threshold.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from quora import cosines
from sentence_transformers import InputExample, SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import BinaryClassificationEvaluator
from sentence_transformers.sentence_transformer.losses import OnlineContrastiveLoss
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from torch.utils.data import DataLoader
from transformers import get_linear_schedule_with_warmup

from flywheel.models.encoder import quiet_transformers

EPOCHS, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS, WEIGHT_DECAY, MAX_NORM = 8, 32, 1e-4, 500, 0.01, 1.0
SIMILARITIES = ("cosine", "dot", "manhattan", "euclidean")

# The library advises against the loop that the original used, for every cell anew.
logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


@dataclass(frozen=True, eq=False)
class TanhHead:
    """A trained Dense layer: `weight` (dim, width), `bias` (dim,)."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, dense: Dense) -> "TanhHead":
        """A copy of a layer as it is now."""
        return cls(*(tensor.detach().cpu().numpy().copy() for tensor in (dense.linear.weight, dense.linear.bias)))

    def apply(self, states: np.ndarray) -> np.ndarray:
        """Vectors (n, dim), not normalised, of mean token states (n, width)."""
        return np.tanh(states @ self.weight.T + self.bias)


@dataclass
class Sentences:
    """How many sentences went through encoders, while training and otherwise."""

    training: int = 0
    evaluation: int = 0

    def count(self, model: SentenceTransformer) -> None:
        """Count what goes through `model` from now on."""
        model[0].register_forward_hook(self._add)

    def _add(self, encoder: torch.nn.Module, inputs: tuple[dict[str, Any]], outputs: object) -> None:
        if encoder.training:
            self.training += len(inputs[0]["input_ids"])
        else:
            self.evaluation += len(inputs[0]["input_ids"])


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the original: its cost, the head after each epoch, and the error as it would have reported it."""

    seconds: float
    sentences: Sentences
    heads: tuple[TanhHead, ...]
    reported_error: float


class BestAveragePrecision(BinaryClassificationEvaluator):
    """The evaluator as it was then: its score is the best average precision of four similarities. Keeps every head."""

    def __init__(self, pairs: pd.DataFrame) -> None:
        a, b, labels = (list(pairs[column]) for column in ("text_a", "text_b", "label"))
        super().__init__(a, b, labels, batch_size=BATCH_SIZE, similarity_fn_names=list(SIMILARITIES))  # type: ignore[arg-type]
        self.heads: list[TanhHead] = []

    def __call__(  # type: ignore[override]  # a number, which is all that `old_fit` reads
        self, model: SentenceTransformer, *arguments: Any, **options: Any
    ) -> float:
        """Encode the pairs and score them."""
        head = model[2]
        assert isinstance(head, Dense)
        self.heads.append(TanhHead.of(head))
        return float(super().__call__(model, *arguments, **options)["max_ap"])


def run_cell(weights: Path, dim: int, pairs: pd.DataFrame, test: pd.DataFrame, random_seed: int, device: str) -> Cell:
    """Train and evaluate one cell as the original did, from loading the model to the last figure, nothing cached."""
    sentences, started = Sentences(), time.perf_counter()
    encoder = load_states(weights, device)
    (dense,) = new_heads(encoder, [dim], random_seed)
    model = SentenceTransformer(modules=[*encoder, dense], device=device)
    sentences.count(model)
    evaluator = BestAveragePrecision(test)
    with tempfile.TemporaryDirectory() as output, quiet_transformers():
        model.old_fit(
            [(batches(pairs), OnlineContrastiveLoss(model))],
            evaluator=evaluator,
            epochs=EPOCHS,
            scheduler="warmuplinear",
            warmup_steps=WARMUP_STEPS,
            optimizer_params={"lr": LEARNING_RATE},
            output_path=output,
            show_progress_bar=False,
        )
        best = SentenceTransformer(output, device=device, local_files_only=True)
    sentences.count(best)
    vectors = dict(zip(texts := distinct(pairs, test), best.encode(texts, show_progress_bar=False), strict=True))
    trained, tested = (cosines(lambda t: np.stack([vectors[text] for text in t]), frame) for frame in (pairs, test))
    error = logistic_error(trained, pairs["label"].to_numpy(), tested, test["label"].to_numpy())
    return Cell(time.perf_counter() - started, sentences, tuple(evaluator.heads), error)


def train_heads(
    weights: Path, dims: Sequence[int], pairs: pd.DataFrame, random_seed: int, device: str, epochs: int = EPOCHS
) -> dict[int, list[TanhHead]]:
    """The same training for several dimensions at once: the head of each dimension after each epoch.

    Only the encoder's pass over a batch is shared; each head has its loss, optimiser and schedule.
    """
    encoder = load_states(weights, device)
    heads = new_heads(encoder, dims, random_seed)
    loader = batches(pairs, encoder.smart_batching_collate)
    optimizers = [optimizer_of(head) for head in heads]
    schedules = [schedule(optimizer, epochs * len(loader)) for optimizer in optimizers]
    loss = OnlineContrastiveLoss(encoder)
    after: dict[int, list[TanhHead]] = {dim: [] for dim in dims}
    encoder.train()
    for _ in range(epochs):
        for columns, labels in loader:
            with torch.no_grad():
                states = [encoder({k: _to(v, device) for k, v in column.items()})["sentence_embedding"] for column in columns]
            for head, optimizer, rate in zip(heads, optimizers, schedules, strict=True):
                embeddings = [head({"sentence_embedding": state})["sentence_embedding"] for state in states]
                loss.compute_loss_from_embeddings(embeddings, labels.to(device)).backward()
                torch.nn.utils.clip_grad_norm_(head.parameters(), MAX_NORM)
                optimizer.step()
                optimizer.zero_grad()
                rate.step()
        for dim, head in zip(dims, heads, strict=True):
            after[dim].append(TanhHead.of(head))
    return after


def load_states(weights: Path, device: str) -> SentenceTransformer:
    """The base model up to the mean of its token states; frozen."""
    with quiet_transformers():
        transformer: Any = SentenceTransformer(str(weights), device=device, local_files_only=True)[0]
    for parameter in transformer.parameters():
        parameter.requires_grad = False
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean")], device=device)


def new_heads(encoder: SentenceTransformer, dims: Sequence[int], random_seed: int) -> list[Dense]:
    """Dense layers with tanh as torch initialises them. Seeds everything that follows."""
    torch.manual_seed(random_seed)
    width = encoder.get_embedding_dimension()
    assert width is not None
    return [Dense(width, dim).to(encoder.device) for dim in dims]


def optimizer_of(head: torch.nn.Module) -> torch.optim.AdamW:
    """AdamW with decay on the weights alone."""
    decayed = [parameter for name, parameter in head.named_parameters() if "bias" not in name]
    free = [parameter for name, parameter in head.named_parameters() if "bias" in name]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE)


def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Up for 500 steps, then down to 0 at the last one; where there are fewer steps than 500, it only goes up."""
    return get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, steps)


def batches(pairs: pd.DataFrame, collate: Callable[[list[InputExample]], Any] | None = None) -> "DataLoader[Any]":
    """Pairs as the library's loop takes them, shuffled."""
    rows = zip(pairs["text_a"], pairs["text_b"], pairs["label"], strict=True)
    examples: Any = [InputExample(texts=[a, b], label=int(label)) for a, b, label in rows]
    return DataLoader(examples, BATCH_SIZE, shuffle=True, collate_fn=collate)


def distinct(*frames: pd.DataFrame) -> list[str]:
    """Every text of some pairs once, in order of appearance."""
    return list(dict.fromkeys(text for frame in frames for text in [*frame["text_a"], *frame["text_b"]]))


def logistic_error(trained: np.ndarray, trained_labels: np.ndarray, tested: np.ndarray, labels: np.ndarray) -> float:
    """Error on test cosines (n,) by a logistic regression fitted on the training pairs' cosines, as scikit-learn has it."""
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression().fit(trained[:, None], trained_labels)
    return float((fit.predict(tested[:, None]) != labels).mean())


def best_average_precision(left: np.ndarray, right: np.ndarray, labels: np.ndarray) -> float:
    """What `BestAveragePrecision` gives, for vectors (n, dim) of both sides that are there already."""
    from sklearn.metrics import average_precision_score

    dots, gaps = (left * right).sum(1), left - right
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    scores = (dots / lengths, dots, -np.abs(gaps).sum(1), -np.linalg.norm(gaps, axis=1))
    return max(float(average_precision_score(labels, score)) for score in scores)


def _to(value: Any, device: str) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
