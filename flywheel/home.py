"""Where everything is, in a home and below the root that several homes share: the one file that names folders and files."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from flywheel.errors import FlywheelError

_SNAPSHOTS, _MODELS, _CACHE, _EVALUATIONS, _REGISTRY = "snapshots", "models", "cache", "evaluations", "registry"


@dataclass(frozen=True)
class Root:
    """The URI below which several machines have the same folders, each None where there is no such URI."""

    uri: str | None = None

    @property
    def snapshots(self) -> str | None:
        """As in a home."""
        return self._below(_SNAPSHOTS)

    @property
    def models(self) -> str | None:
        """As in a home."""
        return self._below(_MODELS)

    @property
    def cache(self) -> str | None:
        """Vectors, as in a home; token states and weights stay on each machine."""
        return self._below(_CACHE)

    @property
    def evaluations(self) -> str | None:
        """Evaluation records, one folder a test set, one file a record."""
        return self._below(_EVALUATIONS)

    @property
    def registry(self) -> str | None:
        """The history of decisions, and which of its entries made a champion."""
        return self._below(_REGISTRY)

    @property
    def jobs(self) -> str | None:
        """Specs of trainings that another machine runs, while it does."""
        return self._below("jobs")

    def _below(self, name: str) -> str | None:
        return None if self.uri is None else f"{self.uri.rstrip('/')}/{name}"


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
        return self.root / _SNAPSHOTS

    @property
    def models(self) -> Path:
        """One folder a trained model, by its job's id."""
        return self.root / _MODELS

    @property
    def trained_layers(self) -> Path:
        """Encoder layers that several models share, by their training's id."""
        return self.models / ".tuned"

    @property
    def cache(self) -> Path:
        """What encoders and the API made of texts."""
        return self.root / _CACHE

    @property
    def exports(self) -> Path:
        """Models in forms for other programs, unless they are put elsewhere."""
        return self.root / "exports"

    @property
    def evaluations(self) -> Path:
        """Evaluation records, one folder a test set."""
        return self.root / _EVALUATIONS

    @property
    def speeds(self) -> Path:
        """How fast encoders were on this machine."""
        return self.root / "speeds.json"

    @property
    def passed_checks(self) -> Path:
        """Checks that model folders have passed with the libraries of this machine."""
        return self.root / "passed_checks.json"

    @property
    def registry(self) -> Path:
        """The champion's pointer and the history of decisions."""
        return self.root / _REGISTRY

    @property
    def shared_registry(self) -> Path:
        """The root whose history of decisions the registry holds, if it is not this home's own."""
        return self.registry / "root.json"

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
        return self.dagster / "dagster.yaml"

    @property
    def requested(self) -> Path:
        """Which runs sensors have asked for last."""
        return self.root / "requested.json"

    @property
    def up_lock(self) -> Path:
        """Held while `flywheel up` serves this home."""
        return self.dagster / "up.lock"

    def refuse_others_files(self) -> None:
        """Raise FlywheelError when the folder has none of the files that make a home, and holds something by a name of ours."""
        marks = (
            *(self.settings_file, self.database, self.speeds, self.dagster / "storage", self.registry / "champion.json"),
            *(self.shared_registry, self.trained_layers, self.models / ".locks", self.snapshots / "latest.json"),
        )
        if any(path.exists() for path in marks):
            return
        folders = (self.snapshots, self.models, self.cache, self.evaluations, self.registry, self.lake, self.staging)
        others = [path.name for path in folders if path.is_file() or (path.is_dir() and any(path.iterdir()))]
        others += [path.name for path in (self.figure, self.evidence_page) if path.exists()]
        if others:
            make_it_one = f"flywheel config --init --home {shlex.quote(str(self.root))}"
            raise FlywheelError(
                f"{self.root} is no home of flywheel and holds {', '.join(others)}, to which flywheel would write. Choose "
                f"another folder with --home, or make this one a home with `{make_it_one}`."
            )
