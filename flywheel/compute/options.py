"""Settings of this room: where training jobs run."""

from typing import Literal

from pydantic import BaseModel, Field


class ComputeOptions(BaseModel, frozen=True, extra="forbid"):
    """Where training jobs run."""

    run_in: Literal["inline", "process"] = Field(
        "process", description="The run's own process (inline) or one for each job (process); verbs default to inline."
    )
    gpu_slots: int = Field(1, gt=0, description="Training steps that may run at once, each on a device of its own.")
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="US dollars for an hour of this machine; plans then show money."
    )
