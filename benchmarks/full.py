"""Throughput and error of flywheel's `full` recipe against a plain SentenceTransformerTrainer script.

    python benchmarks/full.py --quora PATH [--size 3200] [--epochs 1] [--dim 256]

Same pairs, same number of epochs, same batch size, logistic loss of a learned scale and offset of the cosine. All else is the
library's default there (float32, learning rate 5e-5 falling linearly), with a head of the untuned model's principal
directions; and the recipe's here: the scale fitted first, a ranking loss beside.
`pairs/s` is taken between the first and the last progress report of the training, `seconds` is all of it with loading and
saving; ours includes scoring calibration pairs to choose the weights that ship. Errors at thresholds that the same rule takes
from `calibration`, of folders loaded with `SentenceTransformer(path)`.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from quora import add_arguments, cosines, machine, quora_home, row
from tables import difference_interval

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.encoder import quiet_transformers, resolve_device
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.training import training_job
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.thresholds import fit_scores
from flywheel.training.job import Cell, TrainingJob
from flywheel.training.progress import Progress, Trained
from flywheel.training.starts import untuned_start
from flywheel.training.train import train


@dataclass
class Clock:
    """When how many batches were done."""

    started: float = field(default_factory=time.perf_counter)
    reports: list[tuple[int, float]] = field(default_factory=list)

    def report(self, done: int) -> None:
        """So many batches are done now."""
        self.reports.append((done, time.perf_counter()))

    def pairs_per_second(self, batch_size: int) -> float:
        """Between the first and the last report; from the start, if there is one report only."""
        (first, begun), (last, ended) = (self.reports[0] if len(self.reports) > 1 else (0, self.started)), self.reports[-1]
        return (last - first) * batch_size / (ended - begun)


@dataclass(frozen=True)
class Trial:
    """What came of one side: its model folder, its cost."""

    name: str
    folder: Path
    seconds: float
    pairs_per_second: float


def main() -> None:
    """Train both and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--size", type=int, default=3_200)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--recipe", default="full", help="flywheel's recipe")
    parser.add_argument("--eval-pairs", type=int, default=2_000, help="pairs of calibration and of test, each")
    arguments = parser.parse_args()
    variant = Variant(arguments.base, arguments.dim)
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot), tempfile.TemporaryDirectory() as scratch:
        options = workspace.settings
        on, size = machine(options.encoding.device), arguments.size
        print(f"{variant} on {on}; {size:,} pairs, {arguments.epochs} epochs\n", flush=True)
        vectors = workspace.vectors(variant.base)
        start = untuned_start(snapshot, vectors, arguments.dim)
        pairs = snapshot.training_pairs(str(size), 0, options.training.interaction_share)
        device = resolve_device(options.encoding.device)
        trials = [run_plain(vectors.weights, start, pairs, arguments.epochs, arguments.batch_size, device, Path(scratch))]
        try:
            job = our_job(workspace, snapshot, variant, arguments)
            trials.append(run_flywheel(job, snapshot, vectors, Path(scratch)))
        except FlywheelError as error:
            print(f"flywheel did not train: {error}\n")
        print(table(trials, snapshot, arguments.eval_pairs, device))


def our_job(workspace: Workspace, snapshot: Snapshot, variant: Variant, arguments: argparse.Namespace) -> TrainingJob:
    """flywheel's job with the epochs and the batch size of the other side; the recipe's own values for the rest."""
    job = training_job(workspace, snapshot, Cell(variant, str(arguments.size)), arguments.recipe)
    assert job.tuning is not None
    tuning = replace(job.tuning, epochs=arguments.epochs, min_steps=1, batch_size=arguments.batch_size)
    return replace(job, tuning=tuning, dims=(variant.dim,))


def run_flywheel(job: TrainingJob, snapshot: Snapshot, vectors: Vectors, scratch: Path) -> Trial:
    """Train the job. The vectors of the untuned start are cached by now, for both."""
    clock = Clock()

    def listen(event: Progress) -> None:
        if isinstance(event, Trained):
            if clock.reports and event.done < clock.reports[-1][0]:
                clock.reports.clear()  # what came before was the head alone
            clock.report(event.done)

    model = train(job, snapshot, vectors, scratch / "models", listen)
    seconds = time.perf_counter() - clock.started
    assert job.tuning is not None
    name = f"flywheel, {job.recipe}" + (" (start shipped)" if model.kept_start else "")
    return Trial(name, model.folder, seconds, clock.pairs_per_second(job.tuning.batch_size))


def run_plain(
    weights: Path, start: Head, pairs: pd.DataFrame, epochs: int, batch_size: int, device: str, scratch: Path
) -> Trial:
    """What one writes with the library's documentation open."""
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize
    from torch.nn.functional import binary_cross_entropy_with_logits, cosine_similarity
    from transformers import TrainerCallback

    class PairLoss(torch.nn.Module):
        """Logistic loss of the label on a learned scale and offset of the cosine."""

        def __init__(self, model: SentenceTransformer) -> None:
            super().__init__()
            self.model = model
            self.scale, self.offset = (torch.nn.Parameter(torch.tensor(value)) for value in (10.0, -5.0))

        def forward(self, columns: list[dict[str, Any]], labels: torch.Tensor) -> torch.Tensor:
            """The mean over a batch."""
            left, right = (self.model(column)["sentence_embedding"] for column in columns)
            return binary_cross_entropy_with_logits(self.scale * cosine_similarity(left, right) + self.offset, labels.float())

    class Report(TrainerCallback):
        """Tells the clock."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            """A batch is done."""
            clock.report(state.global_step)

    clock = Clock()
    with quiet_transformers():
        encoder = SentenceTransformer(str(weights), device=device, local_files_only=True)
    dim, width = start.weight.shape
    head = Dense(width, dim, True, torch.nn.Identity(), torch.from_numpy(start.weight), torch.from_numpy(start.bias))
    model = SentenceTransformer(modules=[*encoder, head, Normalize()], device=device)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(scratch / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({column: list(pairs[column]) for column in ("text_a", "text_b", "label")})
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=data, loss=PairLoss(model), callbacks=[Report()]
    ).train()
    model.save(str(scratch / "plain"), create_model_card=False)
    return Trial("plain", scratch / "plain", time.perf_counter() - clock.started, clock.pairs_per_second(batch_size))


def table(trials: list[Trial], snapshot: Snapshot, eval_pairs: int, device: str) -> str:
    """Cost and error of each side, and the difference of their errors."""
    test = snapshot.pairs("test").head(eval_pairs)
    wrong = [wrong_decisions(trial.folder, snapshot.pairs("calibration").head(eval_pairs), test, device) for trial in trials]
    lines = [row("training", "pairs/s", "seconds", f"error on {len(test):,} test pairs"), row("---", "---:", "---:", "---:")]
    for trial, errors in zip(trials, wrong, strict=True):
        lines.append(row(trial.name, f"{trial.pairs_per_second:,.1f}", f"{trial.seconds:,.1f}", f"{errors.mean():.2%}"))
    if len(trials) == 2:
        theirs, ours = wrong
        difference = ours.astype(float) - theirs.astype(float)
        interval = difference_interval(difference[None], test["component"].to_numpy())
        lines += [
            "",
            f"Throughput {trials[1].pairs_per_second / trials[0].pairs_per_second:.2f} times the plain script's; difference in "
            f"error {100 * difference.mean():+.2f} points ({100 * interval.low:+.2f} to {100 * interval.high:+.2f}).",
        ]
    return "\n".join(lines)


def wrong_decisions(folder: Path, calibration: pd.DataFrame, test: pd.DataFrame, device: str) -> np.ndarray:
    """Which test pairs (n,) the model in a folder decides wrongly at its calibrated threshold."""
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():
        model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    calibrated, tested = (
        cosines(lambda texts: model.encode(texts, show_progress_bar=False), pairs) for pairs in (calibration, test)
    )
    threshold = fit_scores(calibrated, calibration["label"].to_numpy()).threshold
    return np.asarray((tested >= threshold) != test["label"].to_numpy())


if __name__ == "__main__":
    main()
