"""Where everything is in a home: the one file that names the folders and files below it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """The folder that holds all state, one property for each place in it."""

    root: Path

    @property
    def settings_file(self) -> Path:
        """Settings that differ from their defaults."""
        return self.root / "flywheel.toml"

    @property
    def database(self) -> Path:
        """The store, unless it is a DuckLake."""
        return self.root / "flywheel.duckdb"

    @property
    def lake(self) -> Path:
        """A DuckLake's Parquet files, unless they are kept elsewhere."""
        return self.root / "lake"

    @property
    def staging(self) -> Path:
        """What an ingest has checked and not stored yet."""
        return self.root / "staging"

    @property
    def spill(self) -> Path:
        """What does not fit into the database's memory."""
        return self.root / "duckdb.tmp"

    @property
    def inbox(self) -> Path:
        """Where producers put files of events."""
        return self.root / "inbox"

    @property
    def snapshots(self) -> Path:
        """One folder a snapshot, by its id."""
        return self.root / "snapshots"

    @property
    def models(self) -> Path:
        """One folder a trained model, by its job's id."""
        return self.root / "models"

    @property
    def trained_layers(self) -> Path:
        """Encoder layers that several models share, by their training's id."""
        return self.models / ".tuned"

    @property
    def cache(self) -> Path:
        """What encoders and the API made of texts."""
        return self.root / "cache"

    @property
    def evaluations(self) -> Path:
        """Evaluation records, one folder a test set."""
        return self.root / "evaluations"

    @property
    def speeds(self) -> Path:
        """How fast encoders were on this machine."""
        return self.root / "speeds.json"

    @property
    def registry(self) -> Path:
        """The champion's pointer and the history of decisions."""
        return self.root / "registry"

    @property
    def figure(self) -> Path:
        """Error rate against training pairs."""
        return self.root / "error_versus_size.png"

    @property
    def evidence_page(self) -> Path:
        """The page of evidence."""
        return self.root / "evidence.html"

    @property
    def dagster(self) -> Path:
        """The state of the home's own Dagster instance."""
        return self.root / "dagster"

    @property
    def dagster_file(self) -> Path:
        """How that instance is set up."""
        return self.root / "dagster.yaml"

    @property
    def up_lock(self) -> Path:
        """Held while `flywheel up` serves this home."""
        return self.dagster / "up.lock"
