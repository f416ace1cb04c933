"""The recipes `top` and `full`: layers of the encoder are trained together with the head, by sentence-transformers' trainer.

Imports torch: load it only where something is trained. `top` trains the uppermost layers on cached states of the layers
below them, `full` all layers on token ids; everything else is one path. Checkpoints are in the working folder, so that a
killed training goes on where it was.
"""

import math
import os
from collections.abc import Sequence
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
from transformers import PrinterCallback, set_seed

from flywheel.errors import FlywheelError, needs_extra
from flywheel.models.blocks import cut, find_blocks
from flywheel.models.encoder import quiet_transformers, save_encoder
from flywheel.models.features import encoder_inputs, prompt_tokens, tokenise
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.training.checkpoints import HEAD_FILE, JOB_FILE, KeptLayers
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
    KeepCallback,
    LengthGroupedSampler,
    MemoryCallback,
    ProgressCallback,
    Trainer,
)

_EVALUATIONS = 5
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


def tune(task: TuningTask, kept: KeptLayers, listener: Listener) -> Head:
    """Train the layers that the job's `tuning` names, and the head; returns the head on raw features.

    Writes the encoder's weights and the head to the folder of `kept`, from where a second call takes them. Raises
    FlywheelError when the loss is no number, the vectors collapse, memory ends, or token states exceed their budget.
    """
    target = kept.target
    if not kept.are_trained():
        target.mkdir(parents=True, exist_ok=True)
        (target / JOB_FILE).write_text(task.job.to_json())
        try:
            with quiet_transformers(), torch.random.fork_rng(devices=[]):
                _train(task, kept, listener)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise FlywheelError(f"Memory ran out while training {task.job.variant}: {LESS_MEMORY}.") from error
    kept.finish()
    saved = load_file(target / HEAD_FILE)
    return Head(saved["weight"].numpy(), saved["bias"].numpy())


def _train(task: TuningTask, kept: KeptLayers, listener: Listener) -> None:
    job, recipe, vectors, pairs = task.job, task.recipe, task.vectors, task.pairs
    check_vectors(task.start, task.training.features)
    encoder = vectors.load()
    if encoder.device.type == "cuda" and encoder.device.index:
        raise FlywheelError(
            "Layers train on the first visible GPU: set CUDA_VISIBLE_DEVICES, or set compute.run_in to process."
        )
    vectors.check_layers()
    layers = _lower_layers(encoder, recipe)
    if layers is not None:
        cut(encoder[0], encoder_inputs(encoder, list(pairs["text_a"].head(4))), layers)
    inputs = _inputs(encoder, vectors, unique_texts(pairs, task.stopping), layers, listener)
    set_seed(job.random_seed % 2**32)
    model = _model(encoder, recipe, vectors, layers, task.start.fold_scale(task.scale))
    seen, unseen = _rows(pairs, inputs.place), _rows(task.stopping, inputs.place)
    fits = [
        logistic_fit(task.training.scores(task.start.truncated(dim)), task.training.labels, task.training.weights)
        for dim in job.dims
    ]
    objective = PairLoss(fits, job.dims, recipe.ranking_weight, recipe.ranking_scale)
    epochs = count_epochs(recipe, len(pairs))
    loss = BatchLoss(model, objective, lower_rate(recipe), dropout=epochs > 1)
    steps = epochs * -(-len(pairs) // recipe.batch_size)
    every = max(1, -(-steps // _EVALUATIONS))
    bf16 = vectors.dtype == "bfloat16"
    if bf16 and encoder.device.type == "cpu":
        _use_plain_attention(encoder)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(kept.checkpoints),
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
        callbacks=[ProgressCallback(listener), KeepCallback(kept), MemoryCallback()],
    )
    trainer.remove_callback(PrinterCallback)
    last = kept.last_checkpoint()
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    best = trainer.state.best_metric
    if best is None or not abs(stopper(model)[METRIC] - best) <= _SAME:
        raise FlywheelError(
            f"The best checkpoint of {kept.target} did not come back as it was; delete the folder and train again."
        )
    _save(model, kept.target)


def _inputs(
    encoder: SentenceTransformer, vectors: Vectors, texts: list[str], layers: int | None, listener: Listener
) -> EncoderInputs:
    """What the layers above the lowest `layers` read of each text: token ids, and the states below where there are any."""
    place = pd.Series(np.arange(len(texts)), index=texts)
    ids, prompt = tokenise(encoder, texts), prompt_tokens(encoder)

    def pad(rows: Sequence[int]) -> dict[str, Any]:
        padded = encoder.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
        return {**{name: padded[name] for name in ("input_ids", "attention_mask")}, "prompt_length": prompt}

    lengths = np.array([len(each) for each in ids])
    if layers is None:
        return EncoderInputs(place, lengths, pad)
    states = vectors.states(texts, layers, lambda done, of: listener(Encoded(done, of)))

    def pad_states(rows: Sequence[int]) -> dict[str, Any]:
        tensors = [torch.from_numpy(np.asarray(states[row], np.float32)) for row in rows]
        return {**pad(rows), "lower_states": torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)}

    return EncoderInputs(place, lengths, pad_states)


def _lower_layers(encoder: SentenceTransformer, recipe: TuningRecipe) -> int | None:
    """How many layers stay as they are; None where all are trained, and the embeddings too."""
    if recipe.layers is None:
        return None
    layers = len(find_blocks(encoder[0]))
    if recipe.layers >= layers:
        raise FlywheelError(
            f"The model has {layers} layers, and recipe top trains {recipe.layers} of them. Set training.recipes.top.layers to "
            f"{layers - 1} at most, or choose recipe full, which trains all."
        )
    return layers - recipe.layers


def _model(
    encoder: SentenceTransformer, recipe: TuningRecipe, vectors: Vectors, layers: int | None, start: Head
) -> SentenceTransformer:
    """Encoder (of which the layers above the lowest `layers` are trained), pooling and the head."""
    transformer: Any = encoder[0]
    inner = transformer.auto_model
    if layers is not None:
        inner.requires_grad_(False)
        find_blocks(transformer)[layers:].requires_grad_(True)
    if recipe.lora_rank:
        _add_adapters(transformer, recipe.lora_rank, layers)
    if getattr(inner, "pooler", None) is not None:
        inner.pooler.requires_grad_(False)  # nothing reads it
    dense = Dense(start.weight.shape[1], len(start.bias), activation_function=torch.nn.Identity())
    dense.linear.load_state_dict({"weight": torch.from_numpy(start.weight), "bias": torch.from_numpy(start.bias)})
    pooling = Pooling(vectors.facts.states_width, vectors.poolings, vectors.facts.include_prompt)
    return SentenceTransformer(modules=[transformer, pooling, dense], device=str(encoder.device))


def _add_adapters(transformer: Any, rank: int, layers: int | None) -> None:
    """Put adapters beside the linear maps of the layers that are trained; the maps themselves stay."""
    with needs_extra("lora", "lora_rank"):
        from peft import LoraConfig
    inner, names = transformer.auto_model, None
    if layers is not None:
        linear = [each for each in find_blocks(transformer)[layers:].modules() if isinstance(each, torch.nn.Linear)]
        names = [name for name, module in inner.named_modules() if any(module is each for each in linear)]
    inner.add_adapter(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names or "all-linear"))


def _use_plain_attention(encoder: SentenceTransformer) -> None:
    """Compute attention step by step: of bfloat16 and short texts, torch's fused kernel makes most of a CPU's work."""
    inner: Any = encoder[0].auto_model
    if inner.config._attn_implementation == "sdpa":
        inner.set_attn_implementation("eager")


def _rows(pairs: pd.DataFrame, place: pd.Series) -> dict[str, np.ndarray]:
    return {side: place[pairs[f"text_{name}"]].to_numpy(copy=True) for side, name in (("left", "a"), ("right", "b"))}


def _taught(training: PairFeatures) -> dict[str, np.ndarray]:
    return {
        "label": training.labels.astype(float), "weight": training.weights.astype(float), "component": training.components,
    }  # fmt: skip


def _save(model: SentenceTransformer, target: Path) -> None:
    """Write the encoder's weights, then the head, whose presence says done."""
    transformer: Any = model[0]
    _merge_adapters(transformer.auto_model)
    save_encoder(model, target / WEIGHTS_FILE)
    head: Any = model[2]
    head = {"weight": head.linear.weight.detach().cpu().float(), "bias": head.linear.bias.detach().cpu().float()}
    save_file(head, target / f"{HEAD_FILE}.tmp")
    os.replace(target / f"{HEAD_FILE}.tmp", target / HEAD_FILE)


def _merge_adapters(inner: Any) -> None:
    """Add adapters to the weights that they adapt, and take them away."""
    if not getattr(inner, "_hf_peft_config_loaded", False):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, module) for name, module in inner.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge()
        parent, _, last = name.rpartition(".")
        setattr(inner.get_submodule(parent), last, module.get_base_layer())
    inner._hf_peft_config_loaded = False
