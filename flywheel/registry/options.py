"""Settings of this room: what a challenger must keep to beside winning the test."""

from pydantic import BaseModel, Field


class PromotionOptions(BaseModel, frozen=True, extra="forbid"):
    """What a challenger must keep to beside winning the test."""

    max_broken_share: float = Field(
        0.1, gt=0, le=1, description="Share of the champion's right decisions that a challenger may get wrong."
    )
    max_retrieval_loss: float = Field(0.005, ge=0, le=1, description="How much MRR@10 or recall@10 a challenger may lose.")
    max_retention_loss: float | None = Field(
        None, ge=0, le=1, description="How much average precision a challenger may lose elsewhere against its untuned model."
    )


class HousekeepingOptions(BaseModel, frozen=True, extra="forbid"):
    """How much of the past is kept."""

    snapshots: int = Field(3, gt=0, description="The newest snapshots that are kept with their models, beside what is in use.")
    runs: int = Field(500, gt=0, description="Dagster's newest runs that are kept, beside those that made what is there now.")
    cron: str = Field("30 4 * * *", description="When housekeeping runs (UTC).")
