"""What a teacher is worth: it reads both texts of a pair together, and its scores teach heads and layers.

    python benchmarks/teacher_study.py --quora PATH --home HOME [--base B] [--size 12800] [--seeds 1] [--teacher FIELDS] \\
        [--extra 2] [--hard 0.5] [--test] head 'top {"epochs": 1}' ...

The teacher (`teacher.py`) is trained on the training pairs; the first table has its loss and error on calibration pairs, which
bound what it can teach. Each row is a recipe and the fields that it changes, as in `tuning_study.py`, trained on the training
pairs and on `--extra` times as many pairs of nearest training texts. A training pair's label is `--hard` parts its own and the
rest what the teacher says; that of the others is the teacher's. `--extra 0 --hard 1` does without a teacher. Columns are as in
`tuning_study.py`; the first MRR@10 is that of calibration questions. CPU seconds are the student's own. All that is finished
stays under HOME: the same command goes on where it was.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from quora import add_arguments, machine, quora_home, row
from teacher import TeacherRecipe, like_pairs, read_done, scores, train_teacher
from tuning_study import job_of_row, judging_pairs, spread

from flywheel.evaluation.deciding import search_judging
from flywheel.evaluation.subjects import Subject, untuned_subject
from flywheel.files import digest, write_json
from flywheel.models.catalogue import Variant
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pipeline.workspace import Workspace
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.thresholds import fit_scores, log_losses
from flywheel.training.checkpoints import KeptLayers
from flywheel.training.head import PairFeatures, own_components, train_head
from flywheel.training.job import HeadRecipe, TrainingJob
from flywheel.training.layers import Layers
from flywheel.training.losses import logistic_fit
from flywheel.training.progress import Trained
from flywheel.training.shrink import Choice, choose_place
from flywheel.training.starts import Start, choose_start, pair_features, pair_scores
from flywheel.training.train import stopping_pairs
from flywheel.training.tune import TuningTask, tune

NEIGHBOURS = 4


@dataclass(frozen=True)
class Taught:
    """Training pairs with soft labels: the labelled ones first, then those that only the teacher has labelled."""

    labelled: pd.DataFrame
    all: pd.DataFrame
    name: str


@dataclass(frozen=True)
class Figures:
    """What one student gave."""

    loss: float
    error: float
    mrr: float
    place: float
    cpu: float
    test_error: float | None = None
    test_mrr: float | None = None
    retention: float | None = None


def main() -> None:
    """Train the teacher and every row and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("rows", nargs="*", help="a recipe and a JSON object of fields")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--size", default="12800")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--teacher", type=json.loads, default={}, help="fields of the teacher's recipe, as JSON")
    parser.add_argument("--extra", type=float, default=2.0, help="pairs that only the teacher labels, to one labelled pair")
    parser.add_argument("--hard", type=float, default=0.5, help="the own label's part in a training pair's")
    parser.add_argument("--test", action="store_true", help="evaluate on test pairs too")
    arguments = parser.parse_args()
    recipe, variant = TeacherRecipe(**arguments.teacher), Variant(arguments.base, arguments.dim)
    with quora_home(arguments.quora, arguments.home) as (workspace, snapshot):
        print(f"{variant} on {machine(workspace.settings.encoding.device)}; {arguments.size} pairs, {arguments}\n", flush=True)
        if arguments.extra or arguments.hard < 1:
            print(row("seed", "teacher's loss", "error", "CPU s"), flush=True)
            taught = [teach(workspace, snapshot, variant, arguments, recipe, seed) for seed in range(arguments.seeds)]
        else:
            pairs = [snapshot.training_pairs(arguments.size, seed, 0.0) for seed in range(arguments.seeds)]
            taught = [Taught(each, each, "none") for each in pairs]
        print()
        print(row("recipe", "loss", "error", "MRR@10", "places", "CPU s", "test error", "MRR@10", "general AP"))
        print(row("---", *["---:"] * 8), flush=True)
        for text in arguments.rows:
            found = []
            for seed in range(arguments.seeds):
                here = workspace.with_options("training", random_seed=seed)
                job = job_of_row(here, snapshot, variant, arguments.size, text)
                found.append(student(here, snapshot, job, taught[seed], arguments))
            print(line(text, found), flush=True)


def teach(
    workspace: Workspace, snapshot: Snapshot, variant: Variant, arguments: argparse.Namespace, recipe: TeacherRecipe, seed: int
) -> Taught:
    """Train the teacher, report it, and label pairs by it."""
    vectors = workspace.vectors(variant.base)
    name = digest(json.dumps([asdict(recipe), variant.base, arguments.size, seed, snapshot.snapshot_id]))[:12]
    folder = workspace.home.root / "study" / f"teacher-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    pairs = snapshot.training_pairs(arguments.size, seed, 0.0)
    stopping, _ = stopping_pairs(snapshot.pairs("calibration"))
    judging = judging_pairs(snapshot)
    start = choose_start(snapshot, vectors, variant.dim)
    features = pair_features(pairs, vectors, start.scale)
    head = train_head(start.head, features, HeadRecipe(), seed, said) if recipe.trained_head else start.head
    fit = logistic_fit(features.scores(head), features.labels, features.weights)
    begun = head.fold_scale(start.scale), fit
    teacher, inputs = train_teacher(recipe, pairs, stopping, judging, vectors, begun, seed, folder, said)
    stopped = scores(teacher, inputs, stopping, folder / "stopping")
    calibrated = fit_scores(stopped, stopping["label"].to_numpy())
    judged, labels = scores(teacher, inputs, judging, folder / "judging"), judging["label"].to_numpy()
    losses, same = log_losses(judged, labels), judged >= fit_scores(judged, labels).threshold
    cpu = read_done(folder)["cpu"]
    print(row(seed, f"{losses.mean():.4f}", f"{(same != labels).mean():.2%}", f"{cpu:,.0f}"), flush=True)
    started = time.process_time()
    kept = folder / f"like-{arguments.extra:g}.parquet"
    if arguments.extra and not kept.exists():
        like_pairs(pairs, vectors, NEIGHBOURS, round(arguments.extra * len(pairs)), seed).to_parquet(kept)
    like = pd.read_parquet(kept) if arguments.extra else pairs.iloc[:0].assign(cosine=0.0)
    like["label"] = calibrated.probability(scores(teacher, inputs, like, folder / f"like-{arguments.extra:g}"))
    own = calibrated.probability(scores(teacher, inputs, pairs, folder / "own"))
    labelled = pairs.assign(label=arguments.hard * pairs["label"] + (1 - arguments.hard) * own)
    print(
        f"{len(like):,} like pairs, cosine {like['cosine'].mean():.3f}, {(like['label'] > 0.5).mean():.1%} same; of own pairs "
        f"{((own > 0.5) != pairs['label']).mean():.2%} other than labelled; {time.process_time() - started:,.0f} CPU s",
        flush=True,
    )
    columns = ["text_a", "text_b", "question_a", "question_b", "label", "weight"]
    name = f"{name}-{arguments.extra:g}-{arguments.hard:g}"
    return Taught(pairs, pd.concat([labelled[columns], like[columns]], ignore_index=True), name)


def student(
    workspace: Workspace, snapshot: Snapshot, job: TrainingJob, taught: Taught, arguments: argparse.Namespace
) -> Figures:
    """The figures of layers trained on the teacher's labels, as `train` would train them on the pairs' own."""
    folder = workspace.home.root / "study" / f"student-{taught.name}-{job.tuning_id if job.tuning else job.job_id}"
    folder.mkdir(parents=True, exist_ok=True)
    vectors, calibration, kept = workspace.vectors_of(job), snapshot.pairs("calibration"), folder / "figures.json"
    stopping, judging = stopping_pairs(calibration)
    started = time.process_time()
    start = choose_start(snapshot, vectors, max(job.dims, default=Variant.parse(job.variant).dim))
    if job.tuning is None:
        (head, choice), placed = taught_head(job, start, taught, judging, vectors), vectors
    else:
        layers = taught_layers(job, start, taught, stopping, folder, vectors)
        choice = layers.choose(judging, calibration, job.dims, said)
        head, placed = layers.at(choice.place)
    if not kept.exists():
        scores, labels = pair_scores(head, placed, calibration), calibration["label"].to_numpy()
        cpu = time.process_time() - started
        rule = DecisionRule.fit(scores, labels, calibration["source"].to_numpy(), None)
        few = calibration["pair_id"].isin(judging_pairs(snapshot)["pair_id"]).to_numpy()
        wrong = (rule.decide(scores, calibration["source"].to_numpy()) != labels)[few]
        subject = Subject(folder.name, "untuned", job.variant, lambda texts: head.apply(placed.features(texts)))
        found = search_judging(subject, snapshot, calibration, ()).retrieval
        figures = Figures(
            float(log_losses(scores[few], labels[few]).mean()), float(wrong.mean()), found.mrr_at_10, choice.place, cpu
        )
        write_json(kept, asdict(figures))
    figures = Figures(**json.loads(kept.read_text()))
    return (
        replace(figures, **on_test(workspace, snapshot, job, head, placed, vectors, folder.name)) if arguments.test else figures
    )


def soft_features(taught: Taught, start: Start, vectors: Vectors) -> PairFeatures:
    """All pairs as arrays, with the teacher's labels. Components are those of the labelled pairs: nearest texts link all."""
    left, right = list(taught.labelled["question_a"]), list(taught.labelled["question_b"])
    numbers = own_components(left, right)
    component = {**dict(zip(right, numbers, strict=True)), **dict(zip(left, numbers, strict=True))}
    components = taught.all["question_a"].map(component).to_numpy()
    return replace(pair_features(taught.all, vectors, start.scale), components=components)


def taught_head(job: TrainingJob, start: Start, taught: Taught, judging: pd.DataFrame, vectors: Vectors) -> tuple[Head, Choice]:
    """A head trained on the teacher's labels, at its place."""
    trained = train_head(start.head, soft_features(taught, start, vectors), job.head, job.random_seed, said)
    judged = pair_features(judging, vectors, start.scale)
    choice = choose_place(judged.scores_between(start.head, trained), judged.labels, judged.components)
    return start.head.towards(trained, choice.place).fold_scale(start.scale), choice


def taught_layers(
    job: TrainingJob, start: Start, taught: Taught, stopping: pd.DataFrame, folder: Path, vectors: Vectors
) -> Layers:
    """Layers, and the head with them, trained on the teacher's labels."""
    training = soft_features(taught, start, vectors)
    task = TuningTask(job, start.head, start.scale, taught.all, training, stopping, vectors)
    return Layers(vectors, folder, start.raw, tune(task, KeptLayers(folder, None, said), said))


def on_test(
    workspace: Workspace, snapshot: Snapshot, job: TrainingJob, head: Head, placed: Vectors, base: Vectors, name: str
) -> dict[str, float]:
    """Error, MRR@10 and average precision on general pairs, as an evaluation has them."""
    variant = Variant.parse(job.variant)
    subject = Subject(
        digest(name), "tuned", job.variant, lambda texts: head.apply(placed.features(texts)),
        untuned=lambda snapshot: untuned_subject(variant, snapshot, base).embed,
    )  # fmt: skip
    record = workspace.evaluate(subject, snapshot)
    print(record.error, record.interval, record.retrieval, record.retention, flush=True)
    return {"test_error": record.error, "test_mrr": record.retrieval.mrr_at_10}


def said(event: object) -> None:
    """Print how a training goes."""
    if isinstance(event, Trained) and event.seconds_left and event.seconds_left > 60:
        print(f"  {event}, {time.process_time():,.0f} CPU s", flush=True)


def line(text: str, found: list[Figures]) -> str:
    """Means and, of the losses and errors, standard deviations."""
    return row(
        f"`{text}`",
        spread([each.loss for each in found], 1, 4),
        spread([each.error for each in found], 100, 2),
        f"{np.mean([each.mrr for each in found]):.4f}",
        ", ".join(f"{each.place:g}" for each in found),
        f"{np.mean([each.cpu for each in found]):,.0f}",
        spread([each.test_error for each in found if each.test_error is not None], 100, 2),
        spread([each.test_mrr for each in found if each.test_mrr is not None], 1, 4),
    )


if __name__ == "__main__":
    main()
