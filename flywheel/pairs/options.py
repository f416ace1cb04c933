"""Settings of this room: which pairs come in, where they are kept, and how they are split."""

import codecs
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, field_validator, model_validator

# What explicit labels give at most where no share is set; calibration gets five pairs for six of test.
TEST_SHARE = 0.3
QUORA = "quora"
_CODINGS = frozenset({"labels", "cut", "cut_below"})


class FileOptions(BaseModel, frozen=True, extra="forbid"):
    """How files of events are read. What is not set is recognised, or asked for where it cannot be."""

    columns: dict[str, str] = Field(
        {}, description="Our field name -> your column, or a nested field such as event.item.title."
    )
    constants: dict[str, str | int | float] = Field({}, description="What every line says though no column does: type = thumb.")
    labels: dict[str, Literal[0, 1]] = Field(
        {}, description="Label in your files -> 1 (same) or 0 (different); others are left out."
    )
    cut: float | None = Field(None, allow_inf_nan=False, description="For graded labels: this much and more is the same.")
    cut_below: float | None = Field(None, allow_inf_nan=False, description="For distances: this much and less is the same.")
    thumbs: dict[str, Literal["up", "down"]] = Field({}, description="Thumb in your files -> up or down; others are left out.")
    types: dict[str, str] = Field({}, description="Type of event in your files -> ours; events of other types are left out.")
    day_first: bool | None = Field(None, description="Whether 1/9/2026 is the first of September (true) or January 9th.")
    encoding: str | None = Field(None, description="Encoding of your text files, such as cp1252; unset: recognised.")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="What parts the cells; unset: recognised.")
    quoting: Literal["standard", "backslash", "none"] | None = Field(
        None, description='How cells are quoted: "" or \\" within quotes, or quotes are plain characters; unset: recognised.'
    )

    @field_validator("encoding")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                codecs.lookup(value)
            except LookupError as error:
                raise ValueError(f"{value!r} is no encoding that Python knows; such names are utf-8, cp1252, utf-16") from error
        return value

    @model_validator(mode="after")
    def _one_way(self) -> "FileOptions":
        if bool(self.labels) + (self.cut is not None) + (self.cut_below is not None) > 1:
            raise ValueError("labels, cut and cut_below each say what a label means: set one of them")
        return self


class PairOptions(FileOptions, frozen=True, extra="forbid"):
    """Which pairs come in, and how files of events are read."""

    files: dict[str, FileOptions] = Field({}, description='The same for files of some names only: [pairs.files."chat-*.csv"].')
    max_refused: float = Field(0.5, gt=0, le=1, description="A file of which a larger share fails for one reason is refused.")
    max_quarantined: float = Field(
        0.05, ge=0, le=1, description="A check warns when a larger share of the newest records is quarantined."
    )
    seed_pairs: Literal["starter", "quora", "none"] = Field("starter", description="Which seed pairs are ingested.")
    quora_path: Path | None = Field(None, description="Parquet file of Quora pairs; without it they come from the hub.")
    redact: tuple[Literal["email", "phone", "card"], ...] = Field((), description="What is replaced in texts before storing.")
    redact_region: str = Field("US", min_length=2, max_length=2, description="Country whose phone numbers are recognised.")
    redact_hook: str | None = Field(None, description="Your function, module:function, from text to text, run last.")

    @field_validator("quora_path")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser().resolve() if value is not None else None

    def for_file(self, name: str) -> FileOptions:
        """How a file of this name is read: what [pairs] says, and above it each entry of `files` that fits, in their order.

        An entry with the very name comes last. Of a part file, `folder/part-0.csv`, the names of the folder and of the file
        may fit, too.
        """
        if not self.files:
            return self._of_any_file
        names = (name, *Path(name).parts)
        fit = [pattern for pattern in self.files if pattern in names or any(fnmatchcase(each, pattern) for each in names)]
        said = {field: getattr(self._of_any_file, field) for field in self._of_any_file.model_fields_set}
        for pattern in sorted(fit, key=lambda pattern: pattern in names):
            options = self.files[pattern]
            own = {field: getattr(options, field) for field in options.model_fields_set}
            if _CODINGS & own.keys():  # one takes the place of all
                said = {field: value for field, value in said.items() if field not in _CODINGS}
            said |= own
        return FileOptions(**said)

    @cached_property
    def _of_any_file(self) -> FileOptions:
        return FileOptions(
            **{field: getattr(self, field) for field in FileOptions.model_fields if field in self.model_fields_set}
        )


class StorageOptions(BaseModel, frozen=True, extra="forbid"):
    """Where pairs are kept, and what other machines need."""

    memory_limit: str = Field(
        "512MB",
        pattern=r"(?i)^\d+(\.\d+)? ?[kmgt]i?b$",
        description="What the database may keep in memory, such as 4GB; the rest goes to disk.",
    )
    database: str | None = Field(
        None,
        pattern="^ducklake:(sqlite|postgres):.+",
        description="A DuckLake catalogue, ducklake:sqlite:PATH or ducklake:postgres:..., instead of <home>/flywheel.duckdb.",
    )
    data_path: str | None = Field(None, description="Where that catalogue's Parquet files go: s3://bucket/path or a folder.")
    root: str | None = Field(
        None,
        pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://.",
        description="Where snapshots, models, vectors, evaluations and decisions go besides the home, for other machines: any "
        "fsspec URI, s3://bucket/path.",
    )


class SplitOptions(BaseModel, frozen=True, extra="forbid"):
    """How pairs are split. Shares are fractions of the pairs of one source, sizes are counts of pairs."""

    seed_test_share: float = Field(0.3, ge=0, lt=1, description="Share of the seed pairs that `test` should hold.")
    seed_calibration_share: float = Field(0.25, ge=0, lt=1, description="The same for `calibration`.")
    interaction_test_share: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the labelled interaction pairs for `test`; unset: 0.3, less where that shows a point.",
    )
    interaction_calibration_share: float | None = Field(
        None, ge=0, lt=1, description="The same for `calibration`; unset: five pairs for six of `test`."
    )
    frozen_from: int = Field(
        2_000,
        ge=0,
        description="Labelled pairs of a source from which on test pairs are set aside; before, all train and judge.",
    )
    max_split_pairs: int = Field(10_000, gt=0, description="`test` and `calibration` need no more pairs than this each.")
    max_component_pairs: int = Field(50, gt=0, description="Larger components train, or are cut where the shares need it.")
    interaction_window_days: int | None = Field(None, gt=0, description="Train on interaction pairs at most this old.")

    @model_validator(mode="after")
    def _something_trains(self) -> "SplitOptions":
        for source in ("seed", "interaction"):
            test, calibration = getattr(self, f"{source}_test_share"), getattr(self, f"{source}_calibration_share")
            test = TEST_SHARE if test is None else test
            if test + (calibration_share(test) if calibration is None else calibration) >= 1:
                raise ValueError(f"the {source} shares of test and calibration leave nothing to train on")
        return self


def calibration_share(test: float) -> float:
    """What `calibration` gets beside a `test` of this share, where nothing else is said."""
    return min(test * 5 / 6, (1 - test) / 2) if test else TEST_SHARE * 5 / 6
