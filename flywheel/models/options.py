"""Settings of this room: where base models run, and which embedding API is the baseline."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field


class ModelOptions(BaseModel, frozen=True, extra="forbid"):
    """Where base models are found and run."""

    paths: dict[str, Path] = Field({}, description="Base model name -> local folder of its weights.")
    device: str = Field("auto", description="Where encoders run: auto, cpu, cuda, cuda:N or mps.")
    state_cache_gb: float = Field(
        20.0, gt=0, allow_inf_nan=False, description="Disk for the token states of recipe top, per base model."
    )


class BaselineOptions(BaseModel, frozen=True, extra="forbid"):
    """What tuned models are compared with."""

    source: Literal["auto", "openai", "local", "guess"] = Field(
        "auto",
        description="auto: the API where its vectors are cached, else the local baseline; guess: always the commoner label.",
    )
    model: str = Field("text-embedding-3-small", min_length=1, description="The API's model.")
    dimensions: int = Field(1536, gt=0, description="Length of the API's vectors.")
    batch_texts: int | None = Field(None, gt=0, description="The most texts in a request; not set: learned from the endpoint.")
    send_dimensions: Literal["auto"] | bool = Field(
        "auto", description="Whether requests ask for that length. auto: where the endpoint gives another by itself."
    )
    encoding_format: Literal["auto", "float", "base64"] = Field(
        "auto", description="How vectors are asked for. auto: unsaid, where the endpoint does not insist."
    )
    url: str = Field("https://api.openai.com/v1", description="Any OpenAI-compatible endpoint.")
    price: float = Field(0.02, ge=0, allow_inf_nan=False, description="US dollars for a million of the API's tokens.")
    local_variant: str = Field("all-MiniLM-L6-v2@384", description="Untuned variant that is the baseline without the API.")
