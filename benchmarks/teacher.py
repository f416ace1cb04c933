"""A teacher: a model that reads both texts of a pair together, trained on labelled pairs, and the pairs that it labels.

Reading both texts together decides a pair better than two vectors can, and what such a model says of many more pairs teaches
the model that gives vectors (Thakur et al., 2021, "Augmented SBERT"). A usual cross-encoder learns the comparison from nothing.
This one starts as the model that gives vectors: the lower layers read each text alone, on cached states, only the upper ones
let the texts see each other, and the score is still a cosine of the two halves through the trained head.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.util import semantic_search
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from transformers import PrinterCallback, set_seed

from flywheel.files import write_json
from flywheel.models.blocks import cut, find_blocks
from flywheel.models.encoder import quiet_transformers
from flywheel.models.features import encoder_inputs, longest_first, tokenise
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.scoring.thresholds import log_losses
from flywheel.training.progress import Listener
from flywheel.training.trainer import LengthGroupedSampler, ProgressCallback, Trainer

_LOSS = "calibration_log_loss"
_STATE = "state.safetensors"
_CHUNK = 20_000
_EVALUATIONS = 6
_ACROSS = -2.0


@dataclass(frozen=True)
class TeacherRecipe:
    """How the teacher is trained; its uppermost `layers` see both texts. Its head starts as trained on the pairs, or as the
    untrained `start` is.
    """

    layers: int = 3
    trained_head: bool = False
    learning_rate: float = 1e-4
    epochs: int = 2
    batch_size: int = 32


class PairInputs:
    """What the upper layers read of pairs of texts: the states of both below, one after the other."""

    def __init__(self, encoder: SentenceTransformer, vectors: Vectors, layers: int, texts: list[str]) -> None:
        self.lengths = np.array([len(ids) for ids in tokenise(encoder, texts)])
        self._place = pd.Series(np.arange(len(texts)), index=texts)
        self._states = vectors.states(texts, layers)

    def rows(self, pairs: pd.DataFrame) -> np.ndarray:
        """The places (n, 2) of both texts of each pair."""
        return np.stack([self._place[pairs[side]].to_numpy() for side in ("text_a", "text_b")], axis=1)

    def batch(self, rows: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
        """States (b, tokens, width) and whose they are (b, tokens): 1 of the first text's, 2 of the second's, 0 of none."""
        states = [torch.from_numpy(np.concatenate([self._states[a], self._states[b]]).astype(np.float32)) for a, b in rows]
        owners = [torch.tensor([1] * len(self._states[a]) + [2] * len(self._states[b])) for a, b in rows]
        pad: Callable[..., torch.Tensor] = torch.nn.utils.rnn.pad_sequence
        return {"states": pad(states, batch_first=True), "owner": pad(owners, batch_first=True)}


class PairCollator:
    """Rows of a data set as a batch."""

    valid_label_columns = ("label",)

    def __init__(self, inputs: PairInputs, rows: np.ndarray) -> None:
        self._inputs, self._rows = inputs, rows

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of pairs."""
        label = torch.tensor([row["label"] for row in rows], dtype=torch.float32)
        return {"label": label, **self._inputs.batch([self._rows[row["left"]] for row in rows])}


class Teacher(torch.nn.Module):
    """Upper layers on the states of both texts. The logit is the scaled cosine of both halves' means through a head, and, from
    nothing, what a linear map makes of their differences and products.
    """

    def __init__(self, encoder: SentenceTransformer, layers: int, head: Head, fit: tuple[float, float]) -> None:
        super().__init__()
        transformer: Any = encoder[0]
        cut(transformer, encoder_inputs(encoder, ["how do i reset my password", "a text of another length"]), layers)
        transformer.auto_model.requires_grad_(False)
        find_blocks(transformer)[layers:].requires_grad_(True)
        self.encoder = transformer
        dim, width = head.weight.shape
        self.head = torch.nn.Linear(width, dim)
        self.head.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
        self.more = torch.nn.Linear(2 * dim, 1, bias=False)
        torch.nn.init.zeros_(self.more.weight)
        self.second = torch.nn.Parameter(torch.zeros(width))
        self.fit = torch.nn.Parameter(torch.tensor(fit))
        self.across = torch.nn.Parameter(torch.tensor(_ACROSS))

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The log odds (b,) that the texts of each pair mean the same."""
        owner = batch["owner"]
        states = batch["states"] + (owner == 2)[..., None] * self.second
        ids = torch.zeros_like(owner)
        # Added to what attention makes of two tokens: how far texts see each other is learned, little at first.
        seen = (owner > 0)[:, None, None, :]
        mask = torch.where(owner[:, None, :, None] == owner[:, None, None, :], 0.0, self.across)
        mask = torch.where(seen, mask, torch.finfo(torch.float32).min)
        inputs = {"input_ids": ids, "attention_mask": mask, "lower_states": states}
        top = self.encoder(inputs)["token_embeddings"].float()
        with torch.autocast("cpu", enabled=False):
            halves = []
            for which in (1, 2):
                own = (owner == which)[..., None]
                halves.append(normalize(self.head((top * own).sum(1) / own.sum(1))))
            left, right = halves
            dim = left.shape[1]
            both = torch.cat([(left - right).abs() * dim**0.5, left * right * dim], 1)
            return self.fit[0] * (left * right).sum(1) + self.fit[1] + self.more(both).squeeze(1)

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch; the trainer's own autocast is around another module."""
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.logits(features[0])
        return binary_cross_entropy_with_logits(logits, labels)

    def score(self, inputs: PairInputs, rows: np.ndarray) -> np.ndarray:
        """The log odds (n,) of pairs at some rows (n, 2)."""
        found = np.empty(len(rows))
        was_training = self.encoder.training
        self.encoder.eval()
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for some in longest_first(inputs.lengths[rows].sum(1), 4096, 256):
                found[some] = self.logits(inputs.batch(rows[some])).numpy()
        self.encoder.train(was_training)
        return found


class _StoppingLoss(BaseEvaluator):
    """Log loss of the teacher on calibration pairs, by which the checkpoint is chosen."""

    def __init__(self, teacher: Teacher, inputs: PairInputs, pairs: pd.DataFrame) -> None:
        super().__init__()
        self._teacher, self._inputs, self.primary_metric = teacher, inputs, _LOSS
        self._rows, self._labels = inputs.rows(pairs), pairs["label"].to_numpy()

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        """The log loss now."""
        loss = float(log_losses(self._teacher.score(self._inputs, self._rows), self._labels).mean())
        print(f"  teacher at step {steps}: {_LOSS} {loss:.4f}, {time.process_time():,.0f} CPU s", flush=True)
        return {_LOSS: loss}


def train_teacher(
    recipe: TeacherRecipe,
    pairs: pd.DataFrame,
    stopping: pd.DataFrame,
    more: pd.DataFrame,
    vectors: Vectors,
    start: tuple[Head, tuple[float, float]],
    random_seed: int,
    folder: Path,
    listener: Listener,
) -> tuple[Teacher, PairInputs]:
    """The teacher trained on labelled pairs, or the finished one of `folder`, which also holds its checkpoints; and the inputs
    of `pairs`, of `stopping` pairs, by which the checkpoint is chosen, and of `more`.

    `start` is a head on raw features, and scale and offset of its cosine.
    """
    disable_progress_bar()
    with quiet_transformers():
        encoder = vectors.load()
    set_seed(random_seed)
    lower = len(find_blocks(encoder[0])) - recipe.layers
    teacher = Teacher(encoder, lower, *start)
    model: Any = encoder[0]
    if model.auto_model.config._attn_implementation == "sdpa":  # slow in bfloat16 on a CPU
        model.auto_model.set_attn_implementation("eager")
    inputs = PairInputs(encoder, vectors, lower, unique_texts(pairs, stopping, more))
    done = folder / "done.json"
    if done.exists():
        saved = load_file(folder / _STATE)
        with torch.no_grad():
            for name, parameter in teacher.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(saved[name])
        return teacher, inputs
    started = time.process_time()
    rows = inputs.rows(pairs)
    places, numbers = inputs.lengths[rows].sum(1), np.arange(len(pairs))
    steps = recipe.epochs * -(-len(pairs) // recipe.batch_size)
    every = -(-steps // _EVALUATIONS)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        learning_rate_mapping={r"fit|across": 1e-2, r"more\.": 1e-3},
        weight_decay=0.01,
        warmup_steps=steps // 10,
        bf16=True,
        use_cpu=True,
        seed=random_seed,
        batch_sampler=lambda dataset, **rest: LengthGroupedSampler(dataset, places, **rest),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{_LOSS}",
        greater_is_better=False,
        logging_steps=max(1, steps // 20),
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    evaluator = _StoppingLoss(teacher, inputs, stopping)
    evaluator(None, steps=0)
    trainer = Trainer(
        model=encoder,
        args=arguments,
        train_dataset=Dataset.from_dict({"left": numbers, "right": numbers, "label": pairs["label"].astype(float).tolist()}),
        loss=teacher,
        data_collator=PairCollator(inputs, rows),  # type: ignore[arg-type]
        evaluator=evaluator,
        callbacks=[ProgressCallback(listener)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=any((folder / "checkpoints").glob("checkpoint-*/trainer_state.json")) or None)
    trainer._save(str(folder))
    write_json(done, {"cpu": time.process_time() - started, "best": trainer.state.best_metric})
    return teacher, inputs


def scores(teacher: Teacher, inputs: PairInputs, pairs: pd.DataFrame, file: Path) -> np.ndarray:
    """The teacher's log odds (n,) of pairs, in chunks that are kept as `file`-N.npy, so that a killed run goes on."""
    found, rows = [], inputs.rows(pairs)
    for first in range(0, len(pairs), _CHUNK):
        kept = file.with_name(f"{file.name}-{first}.npy")
        if not kept.exists():
            np.save(kept, teacher.score(inputs, rows[first : first + _CHUNK]))
        found.append(np.load(kept))
    return np.concatenate(found) if found else np.empty(0)


def like_pairs(pairs: pd.DataFrame, vectors: Vectors, neighbours: int, most: int, random_seed: int) -> pd.DataFrame:
    """At most `most` pairs that are none yet: texts of `pairs`, drawn at random, with their nearest `neighbours` among all
    texts, by the base model.
    """
    texts = unique_texts(pairs)
    question = dict(zip([*pairs["text_a"], *pairs["text_b"]], [*pairs["question_a"], *pairs["question_b"]], strict=True))
    known = {frozenset(both) for both in zip(pairs["question_a"], pairs["question_b"], strict=True)}
    unit = torch.from_numpy(vectors.get(texts))
    drawn = np.random.default_rng(random_seed).permutation(len(texts))[: -(-2 * most // neighbours)]
    near = semantic_search(unit[drawn], unit, query_chunk_size=500, corpus_chunk_size=len(texts), top_k=neighbours + 3)
    found: dict[frozenset[str], tuple[str, str, float]] = {}
    for row, hits in zip(drawn, near, strict=True):
        others = [hit for hit in hits if question[texts[int(hit["corpus_id"])]] != question[texts[row]]]
        for hit in others[:neighbours]:
            left, right = texts[row], texts[int(hit["corpus_id"])]
            both = frozenset((question[left], question[right]))
            if both not in known:
                found.setdefault(both, (left, right, hit["score"]))
    frame = pd.DataFrame(list(found.values())[:most], columns=["text_a", "text_b", "cosine"])
    return frame.assign(question_a=frame["text_a"].map(question), question_b=frame["text_b"].map(question), weight=1.0)


def read_done(folder: Path) -> dict[str, float]:
    """What `train_teacher` noted: CPU seconds (of its last process) and the log loss of what it chose."""
    noted: dict[str, float] = json.loads((folder / "done.json").read_text())
    return noted
