"""Settings of this room: base models, where they run, and which embedding API is the baseline."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from flywheel.models.catalogue import ReferenceVector

Poolings = Literal["own", "all"]


class PublishedVector(BaseModel, frozen=True, extra="forbid"):
    """What others say that a model makes of a text."""

    text: str
    numbers: list[float] = Field(min_length=1)


class ModelTable(BaseModel, frozen=True, extra="forbid"):
    """A base model. What its own files say is read from them; of one that flywheel knows, a table changes what it says."""

    hub_id: str | None = Field(None, description="Its repository on the Hugging Face hub, such as BAAI/bge-m3.")
    revision: str | None = Field(None, description="Commit or branch of that repository; a commit always means the same model.")
    path: Path | None = Field(None, description="A local folder that holds it; below the home, where it is relative.")
    prompts: dict[str, str] | None = Field(None, description="Prompts by name, beside those that its files have.")
    prompt_name: str | None = Field(
        None, description="Which prompt stands before every text, on both sides of a pair; not set: its files' default, if any."
    )
    pooling: Literal["mean", "cls", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"] | None = Field(
        None, description="How token states become one, where its files do not say."
    )
    max_length: int | None = Field(None, gt=0, description="The most tokens of a text that it reads, where fewer will do.")
    licence: str | None = Field(None, description="For its card.")
    contamination: str | None = Field(None, description="What it saw of the evaluation data before; unknown until it is said.")
    published: PublishedVector | None = Field(
        None,
        description="{text = ..., numbers = [...]}: a vector from its card, or how one of length 1 begins, to check it by.",
    )
    weights_sha256: str | None = Field(None, description="The sha256 of its model.safetensors, to check it by.")
    dims: list[int] | None = Field(None, description="Shorter lengths that it was trained for (Matryoshka), where it was.")


class ModelTables(BaseModel, frozen=True, extra="allow"):
    """Base models by name, each a table `[models.NAME]`; a name with a dot stands in quotes: `[models."my-model-v1.5"]`."""

    __pydantic_extra__: dict[str, ModelTable] = Field(init=False)

    @property
    def tables(self) -> dict[str, dict[str, Any]]:
        """What is said of each model, in the fields of `catalogue.BaseModel`."""
        return {name: _said(table) for name, table in self.__pydantic_extra__.items()}


def _said(table: ModelTable) -> dict[str, Any]:
    said = {name: getattr(table, name) for name in table.model_fields_set if getattr(table, name) is not None}
    if table.published:
        said["published"] = ReferenceVector(table.published.text, tuple(table.published.numbers))
    if table.dims:
        said["dims"] = tuple(table.dims)
    return said


class EncodingOptions(BaseModel, frozen=True, extra="forbid"):
    """Where encoders run."""

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
