"""A finished model folder. The only file that writes or reads `flywheel.json`, the model's own scores and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.files import open_to_all, publish, scratch_folder, write_json
from flywheel.models.catalogue import Variant
from flywheel.models.folder import loaders, loading_code, shared_weights
from flywheel.models.head import Head
from flywheel.models.vectors import Vectors
from flywheel.models.weights import encoder_file
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.thresholds import ScoreFit
from flywheel.training.job import TrainingJob
from flywheel.training.readable import cut_in_words
from flywheel.training.starts import UNTUNED, start_in_words

if TYPE_CHECKING:
    import pandas as pd

RECORD = "flywheel.json"
_OWN_SCORES = "own_scores.parquet"
_FOLD_HEADS = "folds.safetensors"
_LIBRARIES = ("torch", "sentence-transformers", "transformers", "numpy")


@dataclass(frozen=True)
class OutOfFold:
    """A model's scores of its own training pairs, out of fold, and the fit from them.

    `pairs` has the columns `score`, `label` and `component`.
    """

    pairs: pd.DataFrame
    fit: ScoreFit


@dataclass(frozen=True)
class FoldChoice:
    """The decision rule of the head that was trained without one fold, and its error rate, out of fold, on the pairs of the
    others, which chose it.
    """

    rule: DecisionRule
    error: float


@dataclass(frozen=True)
class TrainedModel:
    """A finished model folder and the figures in its `flywheel.json`.

    `rule` is the model's decision rule, made once, from calibration pairs; whatever decides by this model uses it.
    `out_of_fold_fit` comes from the job's own pairs, where there are few of them. `start` names where training started,
    `place` how far from there to the trained weights the model lies (see `shrink`); `kept_start` says why it is the start,
    where training did not help. `losses` are (step, loss). `cut` is the share of texts longer than the base model reads, by
    source, where there are any. `reused` says that nothing was trained this time.

    A cross-fitted model has `folds`: beside the head that ships there is one for each fold, which judges its pairs.
    `calibration_set_error` is out of fold then.
    """

    folder: Path
    job: TrainingJob
    rule: DecisionRule
    out_of_fold_fit: ScoreFit | None
    calibration_set_error: float
    calibration_pairs: int
    train_pairs: int
    seconds: float
    start: str
    place: float
    kept_start: str | None = None
    losses: tuple[tuple[int, float], ...] = ()
    cut: Mapping[str, float] = field(default_factory=dict)
    folds: tuple[FoldChoice, ...] = ()
    reused: bool = False

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """Read a model folder's `flywheel.json`. Raises FlywheelError when there is none or it is damaged."""
        try:
            return cls.from_json(folder, (folder / RECORD).read_bytes())
        except OSError as error:
            raise FlywheelError(
                f"{folder} is not a model folder of flywheel. Train the model with `flywheel train`."
            ) from error

    @classmethod
    def from_json(cls, folder: Path, content: bytes) -> TrainedModel:
        """The model of a folder whose `flywheel.json` has this content. Raises FlywheelError when it is damaged."""
        try:
            record: dict[str, Any] = json.loads(content)
            fit = record["out_of_fold_fit"]
            return cls(
                folder=folder,
                job=TrainingJob.from_json(json.dumps(record["job"])),
                rule=DecisionRule.from_json(record["decision_rule"]),
                out_of_fold_fit=ScoreFit.from_json(fit) if fit else None,
                calibration_set_error=record["calibration_set_error"],
                calibration_pairs=record["calibration_pairs"],
                train_pairs=record["train_pairs"],
                seconds=record["seconds"],
                start=record["start"],
                place=record["place"],
                kept_start=record["kept_start"],
                losses=tuple((step, loss) for step, loss in record["losses"]),
                cut=record["cut"],
                folds=tuple(FoldChoice(DecisionRule.from_json(each["rule"]), each["error"]) for each in record["folds"]),
            )
        except (ValueError, KeyError, TypeError, FlywheelError) as error:
            raise FlywheelError(
                f"{folder / RECORD} is damaged, or another version of flywheel wrote it ({error!r}). Delete the folder and "
                "train the model again with `flywheel train`."
            ) from error

    @property
    def name(self) -> str:
        """The folder's name: the id of its job."""
        return self.job.job_id

    @property
    def ships(self) -> str:
        """What the folder holds, in words."""
        if self.kept_start:
            return f"{start_in_words(self.start)}, not trained: {self.kept_start}"
        return "the trained model" if self.place == 1 else f"{self.place:g} times the way from its start to the trained weights"

    @property
    def tuned_encoder(self) -> bool:
        """Whether the folder holds other encoder weights than the base model's."""
        return self.job.tuning is not None and self.kept_start is None

    def out_of_fold(self) -> OutOfFold | None:
        """The scores out of fold, or None where there are none. Raises FlywheelError when their file is damaged."""
        import pandas as pd

        if self.out_of_fold_fit is None:
            return None
        file = self.folder / _OWN_SCORES
        try:
            return OutOfFold(pd.read_parquet(file), self.out_of_fold_fit)
        except (OSError, ValueError) as error:
            raise FlywheelError(
                f"{file} is damaged ({error}). Delete its folder and train the model again with `flywheel train`."
            ) from error

    def fold_heads(self) -> list[Head]:
        """The head of each fold, on raw features. Raises FlywheelError when their file is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        file = self.folder / _FOLD_HEADS
        try:
            saved = load_file(file)
            return [Head(weight, bias) for weight, bias in zip(saved["weight"], saved["bias"], strict=True)]
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            raise FlywheelError(
                f"{file} is damaged ({error}). Delete its folder and train the model again with `flywheel train`."
            ) from error

    def as_reused(self) -> TrainedModel:
        """The same model, marked as found instead of made."""
        return replace(self, reused=True)


def finished(models: Path, job: TrainingJob) -> TrainedModel | None:
    """The finished model of a job in the folder `models`, marked as reused, or None."""
    folder = models / job.job_id
    return TrainedModel.load(folder).as_reused() if (folder / RECORD).exists() else None


def finished_models(models: Path) -> list[Path]:
    """The model folders below `models`."""
    return sorted(record.parent for record in models.glob(f"*/{RECORD}"))


def write_trained_model(
    model: TrainedModel,
    head: Head,
    base: Vectors,
    encoder: Path | None,
    own: pd.DataFrame | None,
    more: dict[str, Any],
    fold_heads: Sequence[Head] = (),
) -> TrainedModel:
    """Write the folder of `model`, whole or not at all.

    `head` goes on raw features; `encoder` is the weights file of trained layers, None for those of `base`. `own` are the
    scores out of fold (see `OutOfFold`). `more` goes into the record as it is.
    """
    models = model.folder.parent
    with scratch_folder(models) as folder:
        shared = base.cache_folder / "weights" / base.weights_id
        base.write_folder(folder, head, encoder or shared_weights(encoder_file(base.weights).parent, shared))
        if own is not None:
            own.to_parquet(folder / _OWN_SCORES)
        if fold_heads:
            from safetensors.numpy import save_file

            stacked = {name: np.stack([getattr(each, name) for each in fold_heads]) for name in ("weight", "bias")}
            save_file(stacked, folder / _FOLD_HEADS)
        record = {
            **more,
            "job": asdict(model.job),
            "decision_rule": model.rule.to_json(),
            "out_of_fold_fit": asdict(model.out_of_fold_fit) if model.out_of_fold_fit else None,
            "calibration_set_error": model.calibration_set_error,
            "calibration_pairs": model.calibration_pairs,
            "train_pairs": model.train_pairs,
            "seconds": model.seconds,
            "start": model.start,
            "place": model.place,
            "kept_start": model.kept_start,
            "losses": model.losses,
            "cut": dict(model.cut),
            "folds": [{"rule": each.rule.to_json(), "error": each.error} for each in model.folds],
            "computed_in": base.dtype,
            "versions": {name: version(name) for name in _LIBRARIES},
        }
        (folder / "README.md").write_text(_card(model, folder), encoding="utf-8")
        write_json(folder / RECORD, record)
        open_to_all(folder)
        publish(folder, model.folder)
    return TrainedModel.load(model.folder)


def _card(model: TrainedModel, folder: Path) -> str:
    """The model card of a folder: what it is, how to use it, what was measured on calibration pairs."""
    from huggingface_hub import ModelCard, ModelCardData

    job, base = model.job, model.job.base
    data = ModelCardData(
        library_name="sentence-transformers",
        base_model=base.origin,
        license=base.licence.lower(),
        pipeline_tag="sentence-similarity",
    )
    card = ModelCard.from_template(
        data,
        template_str=(files("flywheel.training") / "card.md.jinja").read_text(encoding="utf-8"),
        variant=job.variant,
        what_it_is=_what_it_is(model),
        recipe=job.recipe,
        size=job.size,
        random_seed=job.random_seed,
        snapshot_id=job.snapshot_id,
        loading_code=loading_code(folder),
        who_loads=loaders(folder),
        threshold=model.rule.threshold,
        seed_threshold=model.rule.seed.threshold,
        moved_to=model.rule.moved_to,
        calibration_pairs=model.calibration_pairs,
        calibration_set_error=model.calibration_set_error,
        contamination=base.contamination,
        cut=[cut_in_words(source, share, "it") for source, share in model.cut.items()],
    )
    return str(card)


def _what_it_is(model: TrainedModel) -> str:
    variant = Variant.parse(model.job.variant)
    if model.kept_start:
        poolings = "" if model.start == UNTUNED else f", on {model.start} of its token states"
        return f"`{model.job.base.origin}` at {variant.dim} dimensions{poolings}, not trained: {model.kept_start}."
    moved = {"head": "", "top": "its uppermost layers and ", "full": "all its layers and "}[model.job.recipe]
    return (
        f"`{model.job.base.origin}` with {moved}a linear head of {variant.dim} dimensions, trained on {model.train_pairs} "
        "labelled pairs."
        + ("" if model.place == 1 else f" It lies {model.ships}, a place chosen on pairs that it had not seen.")
    )
