"""Settings of this room: what a figure on test pairs needs, and which share of duplicates it is for."""

from pathlib import Path

from pydantic import BaseModel, Field


class DriftOptions(BaseModel, frozen=True, extra="forbid"):
    """From when on a check warns that what comes in is not what the champion was trained on. Distances lie between 0 and 1."""

    max_label: float = Field(0.1, ge=0, le=1, description="Difference of the share of pairs that are the same.")
    max_length: float = Field(0.25, ge=0, le=1, description="Distance of the distributions of text lengths.")
    max_script: float = Field(0.1, ge=0, le=1, description="Share of the letters that would have to be of another script.")
    max_score: float = Field(0.25, ge=0, le=1, description="Distance of the distributions of the champion's scores.")
    max_far: float = Field(
        0.2, ge=0, le=1, description="Share of new questions that are further from training than 95 % of those set aside."
    )


class EvaluationOptions(BaseModel, frozen=True, extra="forbid"):
    """What an evaluation needs to carry an interval and a verdict."""

    min_components: int = Field(40, gt=1, description="With fewer components there is no interval and no verdict.")
    target_prior: float | None = Field(
        None, gt=0, lt=1, description="Share of duplicates among your users' pairs, until 500 of their own labels tell it."
    )
    second_domain: Path | None = Field(
        None, description="File of labelled pairs that never train: what tuning costs there is shown, too."
    )
