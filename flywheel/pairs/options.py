"""Settings of this room: which pairs come in, where they are kept, and how they are split."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator


class PairOptions(BaseModel, frozen=True, extra="forbid"):
    """Which pairs come in, and how files of events are read."""

    seed_pairs: Literal["starter", "quora", "none"] = Field("starter", description="Which seed pairs are ingested.")
    quora_path: Path | None = Field(None, description="Parquet file of Quora pairs; without it they come from the hub.")
    columns: dict[str, str] = Field({}, description="Our field name -> the column's name in your files.")
    redact: tuple[Literal["email", "phone", "card"], ...] = Field((), description="What is replaced in texts before storing.")
    redact_region: str = Field("US", min_length=2, max_length=2, description="Country whose phone numbers are recognised.")
    redact_hook: str | None = Field(None, description="Your function, module:function, from text to text, run last.")

    @field_validator("quora_path")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser().resolve() if value is not None else None


class StorageOptions(BaseModel, frozen=True, extra="forbid"):
    """Where pairs and snapshots are kept."""

    memory_limit: str = Field("512MB", description="What the database may keep in memory; the rest goes to disk.")
    database: str | None = Field(
        None, pattern="^ducklake:(sqlite|postgres):.+", description="A DuckLake catalogue instead of <home>/flywheel.duckdb."
    )
    data_path: str | None = Field(None, description="Where that catalogue's Parquet files go: s3://bucket/path or a folder.")
    snapshot_uri: str | None = Field(None, description="Where snapshots go besides the home: any fsspec URI, s3://bucket/path.")


class SplitOptions(BaseModel, frozen=True, extra="forbid"):
    """How pairs are split. Shares are fractions of the pairs of one source, sizes are counts of pairs."""

    seed_test_share: float = Field(0.3, ge=0, lt=1, description="Share of the seed pairs that `test` should hold.")
    seed_calibration_share: float = Field(0.25, ge=0, lt=1, description="The same for `calibration`.")
    interaction_test_share: float = Field(0.1, ge=0, lt=1, description="Share of the interaction pairs for `test`.")
    interaction_calibration_share: float = Field(0.1, ge=0, lt=1, description="The same for `calibration`.")
    max_split_pairs: int = Field(10_000, gt=0, description="`test` and `calibration` need no more pairs than this each.")
    max_component_pairs: int = Field(50, gt=0, description="Larger components train, or are cut where the shares need it.")
    interaction_window_days: int | None = Field(None, gt=0, description="Train on interaction pairs at most this old.")

    @model_validator(mode="after")
    def _something_trains(self) -> "SplitOptions":
        for source in ("seed", "interaction"):
            if getattr(self, f"{source}_test_share") + getattr(self, f"{source}_calibration_share") >= 1:
                raise ValueError(f"the {source} shares of test and calibration leave nothing to train on")
        return self
