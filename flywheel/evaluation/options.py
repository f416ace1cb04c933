"""Settings of this room: what a figure on test pairs needs, and which share of duplicates it is for."""

from pathlib import Path

from pydantic import BaseModel, Field


class EvaluationOptions(BaseModel, frozen=True, extra="forbid"):
    """What an evaluation needs to carry an interval and a verdict."""

    min_components: int = Field(40, gt=1, description="With fewer components there is no interval and no verdict.")
    target_prior: float | None = Field(
        None, gt=0, lt=1, description="Share of duplicates among your users' pairs, until 500 of their own labels tell it."
    )
    second_domain: Path | None = Field(
        None, description="File of labelled pairs that never train: what tuning costs there is shown, too."
    )
