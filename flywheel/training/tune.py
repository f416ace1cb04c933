"""The recipes `top` and `full`: layers of the encoder are trained together with the head, by sentence-transformers' trainer.

Imports torch: load it only where something is trained. `top` trains the uppermost layers on cached states of the layers
below them, `full` all layers on token ids; everything else is one path. Checkpoints lie in the working folder, so that a
killed training goes on where it was.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from safetensors.torch import load_file, load_model, save_file, save_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, set_seed

from flywheel.errors import FlywheelError
from flywheel.evaluation.thresholds import fit_scores
from flywheel.models.encoder import quiet_transformers
from flywheel.models.features import PARTS, longest_first, tokenise
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots import questions_of
from flywheel.training.head import PairFeatures
from flywheel.training.job import Head, TrainingJob, TuningRecipe, count_epochs
from flywheel.training.losses import PairLoss, logistic_fit
from flywheel.training.progress import Encoded, Listener, Trained

_CHECKPOINT = "state.safetensors"
_HEAD = "head.safetensors"
_STOPPING_PAIRS = 1_000
_EVALUATIONS = 5
_PATIENCE = 2
_BUCKET = 16
_METRIC = "calibration_log_loss"
_SAME = 1e-3
# Spread of the scores below which the vectors have collapsed to one point.
_COLLAPSED = 1e-3


def tune(
    job: TrainingJob,
    start: Head,
    scale: np.ndarray,
    training: PairFeatures,
    pairs: pd.DataFrame,
    calibration: pd.DataFrame,
    vectors: Vectors,
    target: Path,
    listener: Listener,
) -> Head:
    """Train the layers that `job.tuning` names and the head, from `start` (on features times `scale`, at the largest of
    `job.dims`); returns the head on raw features.

    Writes the encoder's weights and the head to the folder `target`, from where a second call takes them. Raises
    FlywheelError when the loss is no number, the vectors collapse, memory ends, or token states exceed their budget.
    """
    recipe = job.tuning
    assert recipe is not None
    if not (target / _HEAD).exists():
        target.mkdir(parents=True, exist_ok=True)
        try:
            with quiet_transformers(), torch.random.fork_rng(devices=[]):
                _train(job, recipe, start, scale, training, pairs, calibration, vectors, target, listener)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise FlywheelError(
                f"Memory ran out while training {job.variant} with {recipe.batch_size} pairs a step. Choose recipe top or "
                "head, a smaller base model, or a machine with more memory."
            ) from error
        shutil.rmtree(target / "checkpoints", ignore_errors=True)
    saved = load_file(target / _HEAD)
    return Head(saved["weight"].numpy(), saved["bias"].numpy())


def _train(
    job: TrainingJob,
    recipe: TuningRecipe,
    start: Head,
    scale: np.ndarray,
    training: PairFeatures,
    pairs: pd.DataFrame,
    calibration: pd.DataFrame,
    vectors: Vectors,
    target: Path,
    listener: Listener,
) -> None:
    stopping = calibration.sample(min(_STOPPING_PAIRS, len(calibration)), random_state=0)
    encoder = vectors.load()
    if encoder.device.type == "cuda" and encoder.device.index:
        raise FlywheelError(
            "Layers are trained on the first GPU that is visible: set CUDA_VISIBLE_DEVICES, or compute to process."
        )
    inputs = _inputs(recipe, encoder, vectors, questions_of(pairs, stopping), listener)
    set_seed(job.random_seed % 2**32)
    model = _model(encoder, recipe, start.on_scaled(scale))
    seen, unseen = _rows(pairs, inputs.place), _rows(stopping, inputs.place)
    objective = _objective(job, recipe, start, training)
    loss = _BatchLoss(model, objective)
    epochs = count_epochs(recipe, len(pairs))
    steps = epochs * -(-len(pairs) // recipe.batch_size)
    every = max(1, -(-steps // _EVALUATIONS))
    bf16 = vectors.dtype == "bfloat16"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(target / "checkpoints"),
        num_train_epochs=epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        learning_rate_mapping={r"model\.2\.": recipe.head_learning_rate, r"objective\.": 1e-2},
        weight_decay=0.01,
        warmup_steps=math.ceil(0.1 * steps),
        max_grad_norm=1.0,
        bf16=bf16,
        use_cpu=encoder.device.type == "cpu",
        seed=job.random_seed % 2**31,
        batch_sampler=lambda dataset, **rest: _LikeLengths(dataset, inputs.lengths, **rest),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{_METRIC}",
        greater_is_better=False,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one leased device a training
    disable_progress_bar()
    stopper = _Stopping(loss, inputs, unseen, stopping["label"].to_numpy(), bf16)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({name: column.tolist() for name, column in {**seen, **_taught(training)}.items()}),
        loss=loss,
        data_collator=_Collator(inputs),  # type: ignore[arg-type]
        evaluator=stopper,
        callbacks=[_Tell(listener), EarlyStoppingCallback(_PATIENCE)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(target / "checkpoints"))
    if abs(stopper(model)[_METRIC] - (trainer.state.best_metric or math.nan)) > _SAME:
        raise FlywheelError(f"The best checkpoint of {target} did not come back as it was; delete the folder and train again.")
    _save(model, vectors.weights, recipe, target)


@dataclass(frozen=True)
class _Inputs:
    """What the trained layers read of each text: token ids, or states (tokens, width); `place` is a text's row."""

    place: pd.Series
    texts: Sequence[Any]
    lengths: np.ndarray
    pad: Callable[[list[Any]], dict[str, torch.Tensor]]

    def batch(self, rows: Sequence[int]) -> dict[str, torch.Tensor]:
        """Padded inputs of some rows."""
        return self.pad([self.texts[row] for row in rows])


def _inputs(
    recipe: TuningRecipe, encoder: SentenceTransformer, vectors: Vectors, texts: list[str], listener: Listener
) -> _Inputs:
    place = pd.Series(np.arange(len(texts)), index=texts)
    if recipe.layers is None:
        ids = tokenise(encoder, texts)

        def pad_ids(some: list[list[int]]) -> dict[str, torch.Tensor]:
            padded = encoder.tokenizer.pad({"input_ids": some}, return_tensors="pt")
            return {name: padded[name] for name in ("input_ids", "attention_mask")}

        return _Inputs(place, ids, np.array([len(each) for each in ids]), pad_ids)
    states = vectors.states(texts, _lower_layers(encoder, recipe), lambda done, of: listener(Encoded(done, of)))

    def pad_states(some: list[np.ndarray]) -> dict[str, torch.Tensor]:
        tensors = [torch.from_numpy(np.asarray(each, np.float32)) for each in some]
        mask = [torch.ones(len(each), dtype=torch.long) for each in tensors]
        pad = torch.nn.utils.rnn.pad_sequence
        return {"inputs_embeds": pad(tensors, batch_first=True), "attention_mask": pad(mask, batch_first=True)}

    return _Inputs(place, states, np.array([len(each) for each in states]), pad_states)


def _lower_layers(encoder: SentenceTransformer, recipe: TuningRecipe) -> int:
    transformer: Any = encoder[0]
    layers = len(transformer.auto_model.encoder.layer)
    assert recipe.layers is not None
    if recipe.layers >= layers:
        raise FlywheelError(f"The model has {layers} layers; recipe top takes fewer than that, recipe full takes all.")
    return layers - recipe.layers


class _Given(torch.nn.Module):
    """Stands where a model makes its first states of token ids, and gives states that were made already."""

    def forward(self, inputs_embeds: torch.Tensor, **rest: Any) -> torch.Tensor:
        return inputs_embeds


def _model(encoder: SentenceTransformer, recipe: TuningRecipe, start: Head) -> SentenceTransformer:
    """Encoder (its uppermost layers only, if so asked), pooling and the head."""
    transformer: Any = encoder[0]
    inner = transformer.auto_model
    if recipe.layers is not None:
        lower = _lower_layers(encoder, recipe)
        inner.requires_grad_(False)
        inner.embeddings = _Given()
        inner.encoder.layer = inner.encoder.layer[lower:]
        inner.encoder.layer.requires_grad_(True)
    if recipe.lora_rank:
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise FlywheelError("lora_rank needs the package peft: pip install -c constraints.txt -e '.[lora]'.") from error

        inner.add_adapter(LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules="all-linear"))
    if getattr(inner, "pooler", None) is not None:
        inner.pooler.requires_grad_(False)  # nothing reads it
    dense = Dense(start.weight.shape[1], len(start.bias), activation_function=torch.nn.Identity())
    dense.linear.load_state_dict({"weight": torch.from_numpy(start.weight), "bias": torch.from_numpy(start.bias)})
    pooling = Pooling(start.weight.shape[1] // len(PARTS), PARTS)
    return SentenceTransformer(modules=[transformer, pooling, dense], device=str(encoder.device))


def _objective(job: TrainingJob, recipe: TuningRecipe, start: Head, training: PairFeatures) -> PairLoss:
    fits = [logistic_fit(training.scores(start.first(dim)), training.labels, training.weights) for dim in job.dims]
    return PairLoss(fits, job.dims, recipe.ranking_weight, recipe.ranking_scale)


def _rows(pairs: pd.DataFrame, place: pd.Series) -> dict[str, np.ndarray]:
    return {side: place[pairs[f"text_{name}"]].to_numpy(copy=True) for side, name in (("left", "a"), ("right", "b"))}


def _taught(training: PairFeatures) -> dict[str, np.ndarray]:
    return {
        "label": training.labels.astype(float), "weight": training.weights.astype(float), "component": training.components,
    }  # fmt: skip


class _BatchLoss(torch.nn.Module):
    """The pair loss of a batch of rows, with the model inside, so that one state holds all that is trained."""

    def __init__(self, model: SentenceTransformer, objective: PairLoss) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
        batch = features[0]
        left, right = self.project(batch["inputs"]).chunk(2)
        loss = self.objective(left, right, labels, batch["weight"], batch["component"])
        if not torch.isfinite(loss):
            raise FlywheelError(
                f"The loss is {loss.item()}: lower the learning rate. The last good checkpoint stays; no model was saved."
            )
        return loss

    def project(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Projections (b, largest dimension), not normalised."""
        return self.model(dict(inputs))["sentence_embedding"].float()


class _Collator:
    """Both sides of a batch of pairs as one batch of texts, left ones first."""

    valid_label_columns = ("label",)

    def __init__(self, inputs: _Inputs) -> None:
        self._inputs = inputs

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "inputs": self._inputs.batch([row[side] for side in ("left", "right") for row in rows]),
            **{name: torch.tensor([row[name] for row in rows]) for name in ("label", "component")},
            "label": torch.tensor([row["label"] for row in rows], dtype=torch.float32),
            "weight": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
        }


class _LikeLengths(DefaultBatchSampler):
    """Batches of pairs of like length: drawn at random, sorted within sixteen batches, and the batches shuffled again."""

    def __init__(self, dataset: Dataset, lengths: np.ndarray, batch_size: int, drop_last: bool, **rest: Any) -> None:
        super().__init__(dataset, batch_size=batch_size, drop_last=drop_last)
        left, right = np.array(dataset["left"]), np.array(dataset["right"])
        self._longest = np.maximum(lengths[left], lengths[right])
        self._seed, self._epoch = rest["seed"], 0

    def set_epoch(self, epoch: int) -> None:
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


class _Stopping(BaseEvaluator):
    """Log loss on calibration pairs, averaged over the dimensions; fails when the vectors have collapsed."""

    def __init__(self, loss: _BatchLoss, inputs: _Inputs, rows: dict[str, np.ndarray], labels: np.ndarray, bf16: bool) -> None:
        super().__init__()
        self._loss, self._inputs, self._rows, self._labels, self._bf16 = loss, inputs, rows, labels, bf16
        self.primary_metric = _METRIC

    def __call__(self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> dict[str, float]:
        projections = self._projections()
        losses = []
        for dim in self._loss.objective.dims:
            unit = torch.nn.functional.normalize(projections[:, :dim])
            scores = (unit[self._rows["left"]] * unit[self._rows["right"]]).sum(1).double().numpy()
            if not scores.std() > _COLLAPSED:  # written so that a spread that is no number counts too
                raise FlywheelError(
                    f"At step {steps} all pairs score alike: the vectors have collapsed. Lower the learning rate. No model was "
                    "saved."
                )
            chance = fit_scores(scores, self._labels).probability(scores)
            losses.append(-np.log(np.maximum(np.where(self._labels == 1, chance, 1 - chance), 1e-6)).mean())
        return {_METRIC: float(np.mean(losses))}

    def _projections(self) -> torch.Tensor:
        wanted = np.unique(np.concatenate(list(self._rows.values())))
        found = torch.zeros(len(self._inputs.texts), max(self._loss.objective.dims))
        device = self._loss.model.device
        was_training = self._loss.training
        self._loss.eval()
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            for some in longest_first(self._inputs.lengths[wanted], 4096, 256):
                batch = {name: tensor.to(device) for name, tensor in self._inputs.batch(wanted[some]).items()}
                found[wanted[some]] = self._loss.project(batch).cpu()
        self._loss.train(was_training)
        return found


class _Trainer(SentenceTransformerTrainer):
    """The trainer, with all that is trained in one file of a checkpoint: encoder, head, and the loss's scale and offset.

    The library's own way writes the model only, so that the loss would start anew, and swallows a best checkpoint that
    does not load.
    """

    def collect_features(self, inputs: dict[str, Any]) -> tuple[list[dict[str, Any]], torch.Tensor]:
        return [inputs], inputs["label"]

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self._all(), str(folder / _CHECKPOINT))

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        load_model(self._all(), Path(checkpoint_path) / _CHECKPOINT)

    def _all(self) -> torch.nn.Module:
        assert isinstance(self.loss, torch.nn.Module)
        return self.loss

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)


class _Tell(TrainerCallback):
    """Passes losses on to a listener."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._begun: tuple[float, int] | None = None

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **rest: Any) -> None:
        if logs and "loss" in logs:
            now = time.monotonic()
            self._begun = self._begun or (now, state.global_step)
            took, steps = now - self._begun[0], state.global_step - self._begun[1]
            left = took / steps * (state.max_steps - state.global_step) if steps else math.nan
            self._listener(Trained(state.global_step, state.max_steps, logs["loss"], left))


def _last_whole_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint whose last file was written; half written ones are removed."""
    whole = []
    for checkpoint in folder.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / "trainer_state.json").read_text())
            whole.append(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _save(model: SentenceTransformer, base: Path, recipe: TuningRecipe, target: Path) -> None:
    """Write the encoder's weights under the names that the base's file has, then the head, whose presence says done."""
    transformer: Any = model[0]
    tensors = load_file(base / WEIGHTS_FILE)
    trained = _merged_state(transformer.auto_model)
    total = len({name.split(".")[2] for name in tensors if name.startswith("encoder.layer.")})
    lower = 0 if recipe.layers is None else total - recipe.layers
    for name, tensor in trained.items():
        if name.startswith("encoder.layer."):
            parts = name.split(".")
            name = ".".join([*parts[:2], str(int(parts[2]) + lower), *parts[3:]])
            if name not in tensors:
                raise FlywheelError(f"{base / WEIGHTS_FILE} has no tensor {name}, so that what was trained has no place.")
        if name in tensors:
            tensors[name] = tensor.detach().cpu().to(tensors[name].dtype).contiguous()
    save_file(tensors, target / f"{WEIGHTS_FILE}.tmp", metadata={"format": "pt"})
    os.replace(target / f"{WEIGHTS_FILE}.tmp", target / WEIGHTS_FILE)
    head: Any = model[2]
    head = {"weight": head.linear.weight.detach().cpu().float(), "bias": head.linear.bias.detach().cpu().float()}
    save_file(head, target / f"{_HEAD}.tmp")
    os.replace(target / f"{_HEAD}.tmp", target / _HEAD)


def _merged_state(inner: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model, adapters added to the weights that they adapt."""
    if any("lora_" in name for name, _ in inner.named_parameters()):
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in inner.modules():
            if isinstance(module, BaseTunerLayer):
                module.merge()
    state = inner.state_dict()
    return {name.replace(".base_layer.", "."): tensor for name, tensor in state.items() if ".lora_" not in name}
