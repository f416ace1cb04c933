"""The pieces that sentence-transformers' trainer is given: inputs, batches, the loss with the model in it, when to stop.

Imports torch: load it only where something is trained.
"""

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.util import batch_to_device
from torch.utils.checkpoint import checkpoint
from transformers import TrainerCallback

from flywheel.errors import FlywheelError
from flywheel.models.features import longest_first
from flywheel.scoring.thresholds import log_losses
from flywheel.training.checkpoints import KeptLayers
from flywheel.training.losses import PairLoss
from flywheel.training.progress import Listener, Trained

METRIC = "calibration_log_loss"
_CHECKPOINT = "state.safetensors"
_BUCKET = 16
# So many tokens, padding included, go through the trained layers at once: memory is that of one such part.
_TOKENS_AT_ONCE = 4096
_STEPS_BETWEEN_TRIMS = 25
# Spread of the scores below which the vectors have collapsed to one point.
_COLLAPSED = 1e-3


@dataclass(frozen=True)
class EncoderInputs:
    """What the trained layers read: `batch` gives the padded inputs of some rows; `place` is the row of each text, and
    `lengths` (n,) are their tokens.
    """

    place: pd.Series
    lengths: np.ndarray
    batch: Callable[[Sequence[int]], dict[str, Any]]


class BatchLoss(torch.nn.Module):
    """The pair loss of a batch of rows, with the model inside, so that one state holds all that is trained."""

    def __init__(self, model: SentenceTransformer, objective: PairLoss, remedy: str, dropout: bool) -> None:
        """`remedy` is what a person does about a training that diverges; without `dropout` the model's own stays off."""
        super().__init__()
        self.model, self.objective, self.remedy, self.dropout = model, objective, remedy, dropout

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch as the collator makes it. Raises FlywheelError when it is no number."""
        if not self.dropout:
            self.model.eval()  # the trainer switches it on before every step
        batch = features[0]
        left, right = self._project_parts(batch["parts"])[batch["order"].argsort()].chunk(2)
        loss = self.objective(left, right, labels, batch["weight"], batch["component"])
        if not torch.isfinite(loss):
            raise FlywheelError(
                f"The loss is {loss.item()}: {self.remedy}. The last good checkpoint stays; no model was saved."
            )
        return loss

    def _project_parts(self, parts: list[dict[str, Any]]) -> torch.Tensor:
        """Projections of the texts of all parts. Where there are several, a part keeps nothing of what lies between its inputs
        and its projections: the backward pass computes that again, part after part (Gao et al., 2021, "Scaling Deep
        Contrastive Learning Batch Size under Memory Limited Setup").
        """
        if len(parts) == 1:
            return self.project(parts[0])
        return torch.cat([checkpoint(self.project, part, use_reentrant=False) for part in parts])

    def project(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Projections (b, largest dimension), not normalised."""
        return self.model(dict(inputs))["sentence_embedding"].float()


class Collator:
    """Both sides of a batch of pairs as one batch of texts: the longest first, in parts of at most 4,096 tokens, or of one
    longer text.

    `order` says where each text of the parts stands among all left texts, followed by all right ones.
    """

    valid_label_columns = ("label",)

    def __init__(self, inputs: EncoderInputs) -> None:
        self._inputs = inputs

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """One batch of pairs."""
        texts = np.array([row[side] for side in ("left", "right") for row in rows])
        parts = longest_first(self._inputs.lengths[texts], _TOKENS_AT_ONCE, len(texts))
        return {
            "parts": [self._inputs.batch(texts[part]) for part in parts],
            "order": torch.from_numpy(np.concatenate(parts)),
            "component": torch.tensor([row["component"] for row in rows]),
            "label": torch.tensor([row["label"] for row in rows], dtype=torch.float32),
            "weight": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        }


class LengthGroupedSampler(DefaultBatchSampler):
    """Batches of pairs of like length: drawn at random, sorted within sixteen batches, and the batches shuffled again."""

    def __init__(self, dataset: Dataset, lengths: np.ndarray, batch_size: int, drop_last: bool, **rest: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last)
        left, right = np.array(dataset["left"]), np.array(dataset["right"])
        self._longest = np.maximum(lengths[left], lengths[right])
        self._seed, self._epoch = rest["seed"], 0

    def set_epoch(self, epoch: int) -> None:
        """Another epoch has another order."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._longest) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self._seed, self._epoch))
        order = random.permutation(len(self._longest))
        batches = []
        for bucket in np.split(order, range(_BUCKET * self.batch_size, len(order), _BUCKET * self.batch_size)):
            alike = bucket[np.argsort(self._longest[bucket], kind="stable")]
            batches += [alike[i : i + self.batch_size].tolist() for i in range(0, len(alike), self.batch_size)]
        random.shuffle(batches)
        return iter(batches)


class CalibrationLossEvaluator(BaseEvaluator):
    """Log loss on calibration pairs, averaged over the dimensions; fails when the vectors have collapsed."""

    def __init__(
        self, loss: BatchLoss, inputs: EncoderInputs, rows: dict[str, np.ndarray], labels: np.ndarray, bf16: bool
    ) -> None:
        super().__init__()
        self._loss, self._inputs, self._rows, self._labels, self._bf16 = loss, inputs, rows, labels, bf16
        self.primary_metric = METRIC

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        """The log loss now. Raises FlywheelError for a collapse."""
        projections = self._projections()
        losses = []
        for dim in self._loss.objective.dims:
            unit = torch.nn.functional.normalize(projections[:, :dim])
            scores = (unit[self._rows["left"]] * unit[self._rows["right"]]).sum(1).double().numpy()
            if not scores.std() > _COLLAPSED:  # written so that a spread that is no number counts too
                raise FlywheelError(
                    f"At step {steps} all pairs score alike, so that the vectors have collapsed: {self._loss.remedy}. No model "
                    "was saved."
                )
            losses.append(log_losses(scores, self._labels).mean())
        return {METRIC: float(np.mean(losses))}

    def _projections(self) -> torch.Tensor:
        wanted = np.unique(np.concatenate(list(self._rows.values())))
        found = torch.zeros(len(self._inputs.lengths), max(self._loss.objective.dims))
        device = self._loss.model.device
        was_training = self._loss.training
        self._loss.eval()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            for some in longest_first(self._inputs.lengths[wanted], _TOKENS_AT_ONCE, 256):
                found[wanted[some]] = self._loss.project(batch_to_device(self._inputs.batch(wanted[some]), device)).cpu()
        self._loss.train(was_training)
        return found


class Trainer(SentenceTransformerTrainer):
    """The trainer, with all that is trained in one file of a checkpoint: encoder, head, and the loss's scale and offset.

    The library's own way writes the model only, so that the loss would start again, and swallows a best checkpoint that
    does not load.
    """

    def collect_features(self, inputs: dict[str, Any]) -> tuple[list[dict[str, Any]], torch.Tensor]:
        """Both sides of the pairs are one batch."""
        return [inputs], inputs["label"]

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Nothing: flywheel writes its own card."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in self._trained()}, folder / _CHECKPOINT)

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        saved = load_file(Path(checkpoint_path) / _CHECKPOINT)
        with torch.no_grad():
            for name, tensor in self._trained():
                tensor.copy_(saved[name])

    def _trained(self) -> list[tuple[str, torch.Tensor]]:
        assert isinstance(self.loss, torch.nn.Module)
        return [(name, tensor) for name, tensor in self.loss.named_parameters() if tensor.requires_grad]

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)


class MemoryCallback(TrainerCallback):
    """Hands freed memory back to the system. Each batch has another shape, and the holes that they leave in the heap add up to
    some times what a step needs.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """A step is over."""
        if state.global_step % _STEPS_BETWEEN_TRIMS == 0:
            with suppress(OSError, AttributeError):  # of glibc alone
                ctypes.CDLL("libc.so.6").malloc_trim(0)


class KeepCallback(TrainerCallback):
    """Brings each checkpoint to the root."""

    def __init__(self, kept: KeptLayers) -> None:
        self._kept = kept

    def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """The trainer has written one, and removed others."""
        self._kept.keep_checkpoints()


class ProgressCallback(TrainerCallback):
    """Passes losses on to a listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._begun: tuple[float, int] | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        """The trainer has something to say."""
        if logs and "loss" in logs:
            now = time.monotonic()
            self._begun = self._begun or (now, state.global_step)
            took, steps = now - self._begun[0], state.global_step - self._begun[1]
            left = took / steps * (state.max_steps - state.global_step) if steps else None
            self._listener(Trained(state.global_step, state.max_steps, logs["loss"], left))
