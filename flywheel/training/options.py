"""Settings of this room: how models are trained, and when a new training starts by itself."""

from typing import Literal

from pydantic import BaseModel, Field


class TrainingOptions(BaseModel, frozen=True, extra="forbid"):
    """How models are trained."""

    random_seed: int = Field(
        0, ge=0, lt=2**32, description="Redraws the order of training pairs and every random choice of training."
    )
    interaction_share: float = Field(0.0, ge=0, lt=1, description="Share of interaction pairs in a numbered size.")
    recipes: dict[Literal["head", "top", "full"], dict[str, float | int]] = Field(
        {}, description="Fields of a recipe that differ from its defaults: learning_rate, lora_rank, ..."
    )


class RetrainingOptions(BaseModel, frozen=True, extra="forbid"):
    """When a new training starts by itself."""

    after: int = Field(2_000, gt=0, description="New training pairs that start a retraining.")
    variant: str = Field("all-MiniLM-L6-v2@384", description="What is retrained while there is no champion.")
    cron: str = Field("0 3 * * 1", description="When the weekly retraining runs (UTC).")
