"""What a training job is (a spec with an identity) and what comes of it (a finished model folder)."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from flywheel.errors import FlywheelError
from flywheel.files import digest
from flywheel.models.catalogue import BaseModel, Variant
from flywheel.models.options import Poolings
from flywheel.pairs.snapshots.snapshot import ALL

RecipeName = Literal["head", "top", "full"]
RECIPES = get_args(RecipeName)
# The experiment's sizes.
SIZES = (*(str(100 * 2**k) for k in range(11)), ALL)
# Raised when code changes what equal specs give.
VERSION = 8
_AS_DECLARED = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class HeadRecipe:
    """How a Dense head is trained on frozen features. The learning rate falls linearly to 0 after a tenth of warm-up.

    Training goes over the pairs `epochs` times, and as often as it takes to make `min_steps` steps.
    `ranking_weight` is the share of the ranking loss beside the pair loss; it keeps retrieval from getting worse while
    pair decisions get better, and is set by judgement: a little of the calibration loss for retrieval. The other
    defaults reach the lowest calibration loss in `benchmarks/head_study.py`, in two fifths of the steps that smaller ones
    need: steps times rate decide, not how many there are.
    """

    __pydantic_config__ = _AS_DECLARED

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1.25e-3
    epochs: Annotated[int, Field(gt=0)] = 4
    min_steps: Annotated[int, Field(gt=0)] = 80
    batch_size: Annotated[int, Field(gt=0)] = 64
    ranking_weight: Annotated[float, Field(ge=0)] = 0.03
    ranking_scale: Annotated[float, Field(gt=0)] = 20.0


@dataclass(frozen=True)
class TuningRecipe:
    """How layers of the encoder are trained, together with the head, which starts where one on frozen features does.

    `layers` is how many of the uppermost layers move, None all of them and the embeddings too. Learning rates fall
    linearly to 0 after a tenth of warm-up. Training goes over the pairs `epochs` times, and as often as it takes to
    make `min_steps` steps; the weights that ship are those with the lowest log loss on calibration pairs. The model's own
    dropout is on where pairs are seen more than once (`benchmarks/RESULTS.md`). With `lora_rank` above 0 the layers get
    adapters of that rank (Hu et al., 2021), which are added to them in the end.
    """

    __pydantic_config__ = _AS_DECLARED

    layers: Annotated[int, Field(gt=0)] | None
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    head_learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    epochs: Annotated[int, Field(gt=0)] = 1
    min_steps: Annotated[int, Field(gt=0)] = 100
    batch_size: Annotated[int, Field(gt=0)] = 64
    ranking_weight: Annotated[float, Field(ge=0)] = 0.03
    ranking_scale: Annotated[float, Field(gt=0)] = 20.0
    lora_rank: Annotated[int, Field(ge=0)] = 0


def head_recipe(changes: Mapping[str, Any]) -> HeadRecipe:
    """The head's recipe with some fields changed. Raises FlywheelError for a field that is unknown or out of range."""
    return _changed(HEAD, changes, "head")


def tuning_recipe(name: RecipeName, changes: Mapping[str, Any]) -> TuningRecipe | None:
    """How recipe `name` moves layers, with some fields changed; None for head. Raises as `head_recipe` does."""
    usual = TUNING[name]
    return None if usual is None else _changed(usual, changes, name)


Recipe = TypeVar("Recipe", HeadRecipe, TuningRecipe)


def _changed(usual: Recipe, changes: Mapping[str, Any], name: str) -> Recipe:
    try:
        return TypeAdapter(type(usual)).validate_json(json.dumps({**asdict(usual), **changes}))
    except ValidationError as error:
        raise FlywheelError(
            f"The setting training.recipes.{name} is invalid: {_listed(error)}. Fix it in the home's flywheel.toml."
        ) from error


def _listed(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'spec'}: {e['msg']}" for e in error.errors())


def count_epochs(recipe: HeadRecipe | TuningRecipe, pairs: int) -> int:
    """How often training goes over so many pairs."""
    steps = -(-pairs // recipe.batch_size)
    return max(recipe.epochs, -(-recipe.min_steps // steps))


@dataclass(frozen=True)
class Cell:
    """A cell of the experiment: a variant trained on `size` pairs, a number or `all`."""

    variant: Variant
    size: str

    def __str__(self) -> str:
        """`all-MiniLM-L6-v2@256 | 400`."""
        return f"{self.variant} | {self.size}"


HEAD = HeadRecipe()
# The fields are from `benchmarks/tuning_study.py`.
TUNING: dict[RecipeName, TuningRecipe | None] = {
    "head": None,
    "top": TuningRecipe(layers=3, learning_rate=1e-4, epochs=2),
    "full": TuningRecipe(layers=None, ranking_weight=0.5),
}


@dataclass(frozen=True)
class TrainingJob:
    """What decides a training's result, beside the code (`version`) and the machine; two equal jobs are one.

    `base` describes the base model, so that another machine needs no settings; `weights` names its exact weights and how it
    reads and pools, and is what counts. `poolings` says which poolings heads are trained on. `tuning` says how the encoder's
    layers move, None that they do not. `dims` are the dimensions that one training of the layers serves; the job's model is its
    view at the variant's own. `target_prior` is the share of duplicates that the decision rule for interaction pairs is made
    for.
    """

    __pydantic_config__ = _AS_DECLARED

    variant: str
    size: str
    recipe: str
    random_seed: int
    interaction_share: Annotated[float, Field(ge=0, lt=1)]
    snapshot_id: str
    base: BaseModel
    weights: str
    head: HeadRecipe
    poolings: Poolings = "own"
    tuning: TuningRecipe | None = None
    dims: tuple[int, ...] = ()
    target_prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    version: int = VERSION

    @property
    def job_id(self) -> str:
        """The name of the output: equal specs share it."""
        return digest(self._identity())

    @property
    def tuning_id(self) -> str:
        """The name of the trained layers: jobs that differ in their output dimension or decision rule only share it."""
        return digest(replace(self, variant=self.variant.partition("@")[0], target_prior=None)._identity())

    def to_json(self) -> str:
        """The spec as JSON, the same text for equal specs."""
        return json.dumps(asdict(self), sort_keys=True)

    def _identity(self) -> str:
        """Without what is only said of the base model, such as its licence."""
        return json.dumps({name: value for name, value in asdict(self).items() if name != "base"}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> "TrainingJob":
        """Read a spec. Raises FlywheelError naming every field that is missing, unknown or out of range."""
        try:
            job = TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise FlywheelError(f"This is not a training job: {_listed(error)}.") from error
        check_recipe(job.recipe)
        if wrong := _contradiction(job):
            raise FlywheelError(f"This is not a training job: {wrong}.")
        return replace(job, size=check_size(job.size))


def _contradiction(job: TrainingJob) -> str | None:
    base = Variant.parse(job.variant).base
    if base != job.base.name:
        return f"its variant is of {base}, its base model {job.base.name}"
    if job.base.width and max(job.dims, default=1) > job.base.width:
        return f"dims {job.dims} go beyond the {job.base.width} numbers of {base}'s vectors"
    if job.recipe == "head":
        return "recipe head has neither tuning nor dims" if job.tuning is not None or job.dims else None
    if job.tuning is None or (job.tuning.layers is None) != (job.recipe == "full"):
        return f"the tuning of recipe {job.recipe} is {job.tuning}"
    if len(set(job.dims)) < len(job.dims) or min(job.dims, default=0) < 1 or Variant.parse(job.variant).dim not in job.dims:
        return f"dims {job.dims} name {job.variant} not exactly once"
    return None


def check_size(size: str) -> str:
    """`size` itself. Raises FlywheelError unless it is a positive whole number or `all`."""
    if size != ALL and not (size.isascii() and size.isdecimal() and len(size) < 19 and int(size) > 0):
        raise FlywheelError(f"{size!r} is not a size; give a number of pairs such as 400, or `all`.")
    return size if size == ALL else str(int(size))


def check_recipe(recipe: str) -> RecipeName:
    """`recipe` itself. Raises FlywheelError for an unknown one."""
    if recipe not in RECIPES:
        raise FlywheelError(f"Unknown recipe {recipe!r}. Choose one of {', '.join(RECIPES)}.")
    return cast(RecipeName, recipe)
