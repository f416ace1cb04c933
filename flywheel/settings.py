"""One typed settings object: `flywheel.toml` in the working directory, then `FLYWHEEL_*` environment variables on top."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from flywheel.errors import FlywheelError

PROJECT = Path(__file__).resolve().parents[1]


class Settings(BaseSettings):
    """Every setting of flywheel with its default. Shares are fractions, sizes are counts of pairs."""

    model_config = SettingsConfigDict(env_prefix="FLYWHEEL_", toml_file="flywheel.toml", extra="forbid", frozen=True)

    home: Path = Field(Path("data"), description="Folder that holds all state.")
    random_seed: int = Field(0, ge=0, lt=2**32, description="Redraws the training order and every random choice of training.")

    seed: Literal["starter", "quora", "none"] = Field("starter", description="Which seed pairs `seed_pairs` ingests.")
    quora_path: Path | None = Field(None, description="Parquet file of Quora pairs; without it they come from the hub.")

    columns: dict[str, str] = Field(default_factory=dict, description="Our field name -> the column's name in your files.")
    redact: tuple[Literal["email", "phone", "card"], ...] = Field((), description="What leaves texts before they are stored.")
    redact_region: str = Field(
        "US", min_length=2, max_length=2, description="Country whose way of writing phone numbers counts."
    )
    redact_hook: str | None = Field(None, description="A function of yours, module:function, from text to text, run last.")
    memory_limit: str = Field("512MB", description="What the database may keep in memory; the rest goes to disk.")

    store: str | None = Field(
        None, pattern="^ducklake:(sqlite|postgres):.+", description="A DuckLake catalogue instead of <home>/flywheel.duckdb."
    )
    store_data: str | None = Field(None, description="Where that catalogue's Parquet files go; s3://bucket/path or a folder.")
    snapshot_store: str | None = Field(
        None, description="Where snapshots go besides the home: any fsspec URI, s3://bucket/path."
    )

    test_share: float = Field(0.3, ge=0, lt=1, description="Share of the seed pairs that `test` should hold.")
    calibration_share: float = Field(0.25, ge=0, lt=1, description="The same for `calibration`.")
    interaction_test_share: float = Field(0.1, ge=0, lt=1, description="Share of the interaction pairs for `test`.")
    interaction_calibration_share: float = Field(0.1, ge=0, lt=1, description="The same for `calibration`.")
    max_split_pairs: int = Field(10_000, gt=0, description="`test` and `calibration` need no more pairs than this each.")
    max_component_pairs: int = Field(50, gt=0, description="Larger components train, or are cut where shares need it.")
    target_prior: float | None = Field(
        None, gt=0, lt=1, description="Share of duplicates among what users meet, until 500 of their own labels tell it."
    )
    min_components: int = Field(40, gt=1, description="Fewer components than this give no interval and no verdict.")
    interaction_share: float = Field(0.0, ge=0, lt=1, description="Interaction pairs in every prefix of a numbered size.")
    interaction_window_days: int | None = Field(None, gt=0, description="Train on interaction pairs at most this old.")

    model_paths: dict[str, Path] = Field(default_factory=dict, description="Base model name -> local folder of weights.")
    device: str = Field("auto", description="Where encoders run: auto, cpu, cuda, cuda:N or mps.")
    state_cache_gb: float = Field(
        20.0, gt=0, allow_inf_nan=False, description="Disk for the recipe top's token states, per base model."
    )
    price_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="What an hour of this machine costs; plans then show money."
    )
    recipes: dict[Literal["head", "top", "full"], dict[str, float | int]] = Field(
        default_factory=dict, description="Fields of a recipe that differ from its defaults: learning_rate, lora_rank, ..."
    )
    compute: Literal["inline", "process"] = Field(
        "process", description="Where training jobs run: in the run's own process, or in one of their own; verbs train inline."
    )

    baseline: Literal["auto", "openai", "local"] = Field(
        "auto", description="auto: the API if its vectors are cached or a key is set, else the local baseline."
    )
    baseline_model: str = Field("text-embedding-3-small", min_length=1)
    baseline_dimensions: int = Field(1536, gt=0)
    baseline_url: str = Field("https://api.openai.com/v1", description="Any OpenAI-compatible endpoint.")
    baseline_price: float = Field(
        0.02, ge=0, allow_inf_nan=False, description="US dollars for a million tokens of that endpoint's model."
    )
    corpus_texts: int = Field(1_000_000, gt=0, description="Texts of the corpus whose embedding the page of evidence prices.")
    baseline_local: str = Field("all-MiniLM-L6-v2@384", description="Variant that stands in, untuned, without the API.")

    max_broken_share: float = Field(0.1, gt=0, le=1, description="Most of the champion's right pairs a challenger may break.")
    shown_flips: int = Field(10, ge=0, description="Broken and mended pairs that the page of evidence shows, of each.")
    max_retrieval_loss: float = Field(0.005, ge=0, le=1, description="Most MRR@10 or recall@10 a challenger may lose.")
    worth_of_doubling: float = Field(
        0.0025, gt=0, lt=1, description="Least fall of the error rate for which twice the training pairs are worth collecting."
    )
    retrain_after: int = Field(2_000, gt=0, description="New training pairs that start a retraining run.")
    retrain_variant: str = Field("all-MiniLM-L6-v2@384", description="What a retrain trains while there is no champion.")
    retrain_cron: str = Field("0 3 * * 1", description="When the weekly retraining runs (UTC).")
    gpu_slots: int = Field(1, gt=0, description="Training steps that may run at once, each on a device of its own.")

    @field_validator("home", "quora_path")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        return value.expanduser().resolve() if value is not None else None

    @model_validator(mode="after")
    def _shares(self) -> "Settings":
        for test, calibration in (
            (self.test_share, self.calibration_share),
            (self.interaction_test_share, self.interaction_calibration_share),
        ):
            if test + calibration >= 1:
                raise ValueError("test and calibration shares leave nothing to train on")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Explicit arguments win over the environment, the environment over flywheel.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def openai_api_key(self) -> str | None:
        """The API key, from the environment only, so that no settings dump can show it."""
        return os.environ.get("OPENAI_API_KEY") or None

    @property
    def database(self) -> Path:
        return self.home / "flywheel.duckdb"

    @property
    def inbox(self) -> Path:
        return self.home / "inbox"

    @property
    def snapshots(self) -> Path:
        return self.home / "snapshots"

    @property
    def models(self) -> Path:
        return self.home / "models"

    @property
    def cache(self) -> Path:
        return self.home / "cache"

    @property
    def evaluations(self) -> Path:
        return self.home / "evaluations"

    @property
    def registry(self) -> Path:
        return self.home / "registry"


def load_settings(home: Path | None = None) -> Settings:
    """Read the settings; `home` overrides flywheel.toml and the environment.

    Raises FlywheelError naming every setting that is wrong.
    """
    known = {f"FLYWHEEL_{name.upper()}" for name in Settings.model_fields}
    if unknown := sorted(name for name in os.environ if name.startswith("FLYWHEEL_") and name not in known):
        raise FlywheelError(f"{', '.join(unknown)} is no setting; `flywheel config` lists them all.")
    try:
        return Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise FlywheelError(f"Settings are wrong: {wrong}. Mend flywheel.toml or the FLYWHEEL_* variables.") from error
    except ValueError as error:
        raise FlywheelError(f"flywheel.toml or a FLYWHEEL_* variable cannot be read: {error}.") from error
