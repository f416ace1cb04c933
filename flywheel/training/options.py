"""Settings of this room: how models are trained, and when a new training starts by itself."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import BaseModel, Field, model_validator

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import Variant
from flywheel.models.options import Poolings
from flywheel.training.job import SIZES, Cell, RecipeName, check_recipe, check_size


class TrainingOptions(BaseModel, frozen=True, extra="forbid"):
    """How models are trained."""

    random_seed: int = Field(
        0, ge=0, lt=2**32, description="Redraws the order of training pairs and every random choice of training."
    )
    interaction_share: float = Field(0.0, ge=0, lt=1, description="Share of interaction pairs in a numbered size.")
    poolings: Poolings = Field(
        "own",
        description="What heads read of the token states. own: the base model's own pooling, for a folder that every server "
        "loads; all: mean, max and CLS as well, for three times the cache.",
    )
    recipes: dict[Literal["head", "top", "full"], dict[str, float | int]] = Field(
        {}, description="Fields of a recipe that differ from its defaults: learning_rate, lora_rank, ..."
    )


class GridOptions(BaseModel, frozen=True, extra="forbid"):
    """The experiment: which cells the matrix in the UI has, and `flywheel grid` trains.

    The default is what a first machine can fill: one small base model that a package brings, at two dimensions.
    """

    variants: tuple[str, ...] = Field(
        ("all-MiniLM-L6-v2@256", "all-MiniLM-L6-v2@384"), min_length=1, description="Base models, each at a dimension."
    )
    sizes: tuple[str, ...] = Field(SIZES, min_length=1, description="Numbers of training pairs, and `all`.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Name the variant or size that is none, or is there twice."""
        try:
            named = [str(Variant.parse(text)) for text in self.variants], [check_size(size) for size in self.sizes]
        except FlywheelError as error:
            raise ValueError(str(error)) from error
        for texts in named:
            if twice := {text for text in texts if texts.count(text) > 1}:
                raise ValueError(f"{', '.join(sorted(twice))} is there twice")
        return self

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every variant at every size."""
        return tuple(Cell(Variant.parse(variant), size) for variant in self.variants for size in self.sizes)

    def dims(self, base: str) -> set[int]:
        """The dimensions at which the grid has a base model: one training of its layers serves them all."""
        return {cell.variant.dim for cell in self.cells if cell.variant.base == base}


@dataclass(frozen=True)
class Challengers:
    """What trains beside the champion's variant: variants with a recipe, and how many of the best that were trained before."""

    named: tuple[tuple[Variant, RecipeName], ...]
    best: int

    @classmethod
    def parse(cls, texts: tuple[str, ...]) -> Self:
        """Read `VARIANT`, `VARIANT RECIPE` and `best N`. Raises FlywheelError for what is none of them."""
        named, best = [], 0
        for text in texts:
            match text.split():
                case ["best", count] if count.isdecimal() and int(count) > 0:
                    best = max(best, int(count))
                case [variant]:
                    named.append((Variant.parse(variant), check_recipe("head")))
                case [variant, recipe]:
                    named.append((Variant.parse(variant), check_recipe(recipe)))
                case _:
                    raise FlywheelError(
                        f"{text!r} is no challenger. Write a variant, all-MiniLM-L6-v2@256, and maybe a recipe, "
                        "all-MiniLM-L6-v2@256 top; or best 2."
                    )
        return cls(tuple(dict.fromkeys(named)), best)


class RetrainingOptions(BaseModel, frozen=True, extra="forbid"):
    """When a new training starts by itself."""

    after: int = Field(2_000, gt=0, description="New interaction pairs that start a retraining; by schedule, a tenth does.")
    share: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="The same as a share of the interaction pairs that the last one saw."
    )
    max_age_days: int | None = Field(None, gt=0, description="After so many days, a tenth of `after` is enough.")
    point_dollars: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="US dollars that one point less error is worth until the next retraining. With compute.price_per_hour, a "
        "tenth of `after` is enough where the learning curve expects more than the run costs.",
    )
    first: bool = Field(False, description="Whether the first model of a home is trained without being asked for.")
    variant: str = Field("all-MiniLM-L6-v2@384", description="What is retrained while there is no champion.")
    challengers: tuple[str, ...] = Field(
        (),
        description="What is trained beside the champion's variant, on the same pairs: a variant, a variant and a recipe "
        "(all-MiniLM-L6-v2@256 top), or best N of what was trained before.",
    )
    cron: str = Field("0 3 * * 1", description="When the weekly retraining runs (UTC).")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Name the challenger that is none."""
        try:
            Challengers.parse(self.challengers)
        except FlywheelError as error:
            raise ValueError(str(error)) from error
        return self
