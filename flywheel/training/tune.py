"""The recipes `top` and `full`: layers of the encoder are trained together with the head, by sentence-transformers' trainer.

Imports torch: load it only where something is trained. `top` trains the uppermost layers on cached states of the layers
below them, `full` all layers on token ids; everything else is one path. Checkpoints are in the working folder, so that a
killed training goes on where it was.
"""

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.modules import Dense, Pooling
from transformers import EarlyStoppingCallback, PrinterCallback, set_seed

from flywheel.errors import FlywheelError, needs_extra
from flywheel.models.encoder import quiet_transformers
from flywheel.models.features import PARTS, tokenise
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.training.head import PairFeatures
from flywheel.training.job import TrainingJob, TuningRecipe, count_epochs
from flywheel.training.losses import PairLoss, logistic_fit
from flywheel.training.progress import LESS_MEMORY, Encoded, Listener
from flywheel.training.readable import check_vectors, lower_rate
from flywheel.training.trainer import (
    METRIC,
    BatchLoss,
    CalibrationLossEvaluator,
    Collator,
    EncoderInputs,
    LengthGroupedSampler,
    ProgressCallback,
    Trainer,
)

_HEAD = "head.safetensors"
_EVALUATIONS = 5
_PATIENCE = 2
_SAME = 1e-3


@dataclass(frozen=True)
class TuningTask:
    """What is trained on what: the job; the head to start from, on features times `scale`, at the largest of `job.dims`; the
    pairs, also as features; the pairs that say when to stop; the base model's vectors.
    """

    job: TrainingJob
    start: Head
    scale: np.ndarray
    pairs: pd.DataFrame
    training: PairFeatures
    stopping: pd.DataFrame
    vectors: Vectors

    @property
    def recipe(self) -> TuningRecipe:
        """How layers move."""
        assert self.job.tuning is not None
        return self.job.tuning


def tune(task: TuningTask, target: Path, listener: Listener) -> Head:
    """Train the layers that the job's `tuning` names, and the head; returns the head on raw features.

    Writes the encoder's weights and the head to the folder `target`, from where a second call takes them. Raises
    FlywheelError when the loss is no number, the vectors collapse, memory ends, or token states exceed their budget.
    """
    if not (target / _HEAD).exists():
        target.mkdir(parents=True, exist_ok=True)
        (target / "job.json").write_text(task.job.to_json())  # whose layers these are, for who tidies up
        try:
            with quiet_transformers(), torch.random.fork_rng(devices=[]):
                _train(task, target, listener)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise FlywheelError(
                f"Memory ran out while training {task.job.variant} with {task.recipe.batch_size} pairs a step: {LESS_MEMORY}, "
                "or choose recipe top or head."
            ) from error
    shutil.rmtree(target / "checkpoints", ignore_errors=True)
    saved = load_file(target / _HEAD)
    return Head(saved["weight"].numpy(), saved["bias"].numpy())


def _train(task: TuningTask, target: Path, listener: Listener) -> None:
    job, recipe, vectors, pairs = task.job, task.recipe, task.vectors, task.pairs
    check_vectors(task.start, task.training.features)
    encoder = vectors.load()
    if encoder.device.type == "cuda" and encoder.device.index:
        raise FlywheelError(
            "Layers train on the first visible GPU: set CUDA_VISIBLE_DEVICES, or set compute.run_in to process."
        )
    inputs = _inputs(recipe, encoder, vectors, unique_texts(pairs, task.stopping), listener)
    set_seed(job.random_seed % 2**32)
    model = _model(encoder, recipe, task.start.fold_scale(task.scale))
    seen, unseen = _rows(pairs, inputs.place), _rows(task.stopping, inputs.place)
    fits = [
        logistic_fit(task.training.scores(task.start.truncated(dim)), task.training.labels, task.training.weights)
        for dim in job.dims
    ]
    objective = PairLoss(fits, job.dims, recipe.ranking_weight, recipe.ranking_scale)
    loss = BatchLoss(model, objective, lower_rate(recipe))
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
        batch_sampler=lambda dataset, **rest: LengthGroupedSampler(dataset, inputs.lengths, **rest),
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=f"eval_{METRIC}",
        greater_is_better=False,
        logging_steps=max(1, steps // 100),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # one leased device a training
    disable_progress_bar()
    stopper = CalibrationLossEvaluator(loss, inputs, unseen, task.stopping["label"].to_numpy(), bf16)
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict({name: column.tolist() for name, column in {**seen, **_taught(task.training)}.items()}),
        loss=loss,
        data_collator=Collator(inputs),  # type: ignore[arg-type]
        evaluator=stopper,
        callbacks=[ProgressCallback(listener), EarlyStoppingCallback(_PATIENCE)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_whole_checkpoint(target / "checkpoints"))
    best = trainer.state.best_metric
    if best is None or not abs(stopper(model)[METRIC] - best) <= _SAME:
        raise FlywheelError(f"The best checkpoint of {target} did not come back as it was; delete the folder and train again.")
    _save(model, vectors.weights, recipe, target)


def _inputs(
    recipe: TuningRecipe, encoder: SentenceTransformer, vectors: Vectors, texts: list[str], listener: Listener
) -> EncoderInputs:
    place = pd.Series(np.arange(len(texts)), index=texts)
    if recipe.layers is None:
        ids = tokenise(encoder, texts)

        def pad_ids(some: list[list[int]]) -> dict[str, torch.Tensor]:
            padded = encoder.tokenizer.pad({"input_ids": some}, return_tensors="pt")
            return {name: padded[name] for name in ("input_ids", "attention_mask")}

        return EncoderInputs(place, ids, np.array([len(each) for each in ids]), pad_ids)
    states = vectors.states(texts, _lower_layers(encoder, recipe), lambda done, of: listener(Encoded(done, of)))

    def pad_states(some: list[np.ndarray]) -> dict[str, torch.Tensor]:
        tensors = [torch.from_numpy(np.asarray(each, np.float32)) for each in some]
        mask = [torch.ones(len(each), dtype=torch.long) for each in tensors]
        pad = torch.nn.utils.rnn.pad_sequence
        return {"inputs_embeds": pad(tensors, batch_first=True), "attention_mask": pad(mask, batch_first=True)}

    return EncoderInputs(place, states, np.array([len(each) for each in states]), pad_states)


def _lower_layers(encoder: SentenceTransformer, recipe: TuningRecipe) -> int:
    transformer: Any = encoder[0]
    layers = len(transformer.auto_model.encoder.layer)
    assert recipe.layers is not None
    if recipe.layers >= layers:
        raise FlywheelError(
            f"The model has {layers} layers, and recipe top trains {recipe.layers} of them. Set training.recipes.top.layers to "
            f"{layers - 1} at most, or choose recipe full, which trains all."
        )
    return layers - recipe.layers


class PrecomputedStates(torch.nn.Module):
    """Stands where a model makes its first states of token ids, and gives states that were made already."""

    def forward(self, inputs_embeds: torch.Tensor, **rest: Any) -> torch.Tensor:
        """The states as they were given."""
        return inputs_embeds


def _model(encoder: SentenceTransformer, recipe: TuningRecipe, start: Head) -> SentenceTransformer:
    """Encoder (its uppermost layers only, if so asked), pooling and the head."""
    transformer: Any = encoder[0]
    inner = transformer.auto_model
    if recipe.layers is not None:
        lower = _lower_layers(encoder, recipe)
        inner.requires_grad_(False)
        inner.embeddings = PrecomputedStates()
        inner.encoder.layer = inner.encoder.layer[lower:]
        inner.encoder.layer.requires_grad_(True)
    if recipe.lora_rank:
        with needs_extra("lora", "lora_rank"):
            from peft import LoraConfig
        inner.add_adapter(LoraConfig(r=recipe.lora_rank, lora_alpha=2 * recipe.lora_rank, target_modules="all-linear"))
    if getattr(inner, "pooler", None) is not None:
        inner.pooler.requires_grad_(False)  # nothing reads it
    dense = Dense(start.weight.shape[1], len(start.bias), activation_function=torch.nn.Identity())
    dense.linear.load_state_dict({"weight": torch.from_numpy(start.weight), "bias": torch.from_numpy(start.bias)})
    pooling = Pooling(start.weight.shape[1] // len(PARTS), PARTS)
    return SentenceTransformer(modules=[transformer, pooling, dense], device=str(encoder.device))


def _rows(pairs: pd.DataFrame, place: pd.Series) -> dict[str, np.ndarray]:
    return {side: place[pairs[f"text_{name}"]].to_numpy(copy=True) for side, name in (("left", "a"), ("right", "b"))}


def _taught(training: PairFeatures) -> dict[str, np.ndarray]:
    return {
        "label": training.labels.astype(float), "weight": training.weights.astype(float), "component": training.components,
    }  # fmt: skip


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
            tensors[name] = tensor.detach().cpu().float().contiguous()
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
