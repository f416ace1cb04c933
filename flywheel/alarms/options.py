"""Settings of this room: what is told, and where its links lead. Where it is sent is a secret, and no setting."""

from typing import Literal, get_args

from pydantic import BaseModel, Field

Kind = Literal[
    "promoted",
    "kept",
    "not judged",
    "rolled back",
    "run failed",
    "retraining skipped",
    "check failed",
    "check warns",
    "no data",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class AlarmOptions(BaseModel, frozen=True, extra="forbid"):
    """What is told to the addresses in FLYWHEEL_ALARM_URLS."""

    tell: tuple[Kind, ...] = Field(KINDS, description="The events that are told; leave out what you do not want to hear.")
    ui_url: str = Field(
        "http://127.0.0.1:3000",
        pattern="^https?://",
        description="Where Dagster's UI is reached, http://... or https://..., for the link in each message.",
    )
    no_data_days: int | None = Field(14, gt=0, description="After so many days without new interactions that is told, once.")
