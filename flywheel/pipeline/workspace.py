"""An opened home: its settings, what they make, and who hears of progress. The first argument of everything in this room."""

from dataclasses import dataclass, replace
from functools import cached_property

from flywheel.compute.launch import choose_compute
from flywheel.compute.places import Places
from flywheel.errors import FlywheelError
from flywheel.evaluation.evaluate import evaluate
from flywheel.evaluation.records import Evaluation, Terms
from flywheel.evaluation.retention import Domain, file_domain, general_domain
from flywheel.evaluation.shared import SharedRecords
from flywheel.evaluation.subjects import Subject
from flywheel.home import Home, Root
from flywheel.models.api.vectors import ApiVectors
from flywheel.models.catalogue import BaseModel, Models
from flywheel.models.options import Poolings
from flywheel.models.vectors import Vectors
from flywheel.pairs.snapshots.enough import SplitRules
from flywheel.pairs.snapshots.folder import Snapshots
from flywheel.pairs.snapshots.snapshot import Snapshot
from flywheel.pairs.store.duckdb_file import Store
from flywheel.pairs.store.ducklake import open_store
from flywheel.registry.champions import Registry
from flywheel.settings import Settings
from flywheel.training.job import TrainingJob
from flywheel.training.model import TrainedModel
from flywheel.training.progress import Listener, Progress, ignore_progress
from flywheel.training.shared import TrainedModels


@dataclass(frozen=True)
class Workspace:
    """A home at work. `listener` hears how far trainings are."""

    settings: Settings
    listener: Listener = ignore_progress

    @property
    def home(self) -> Home:
        """Where everything is."""
        return Home(self.settings.home)

    @property
    def root(self) -> Root:
        """Where the same is for several machines, if anywhere."""
        return Root(self.settings.storage.root)

    @cached_property
    def store(self) -> Store:
        """Observations and pairs."""
        return open_store(self.home, self.settings.storage)

    @cached_property
    def snapshots(self) -> Snapshots:
        """The home's snapshots, and those at the root."""
        return Snapshots(self.home.snapshots, self.root.snapshots, self.settings.storage.memory_limit)

    @cached_property
    def trained(self) -> TrainedModels:
        """The home's finished models, and those at the root."""
        return TrainedModels(self.home.models, self.root.models)

    @cached_property
    def records(self) -> SharedRecords:
        """The home's evaluation records, and those at the root."""
        return SharedRecords(self.home.evaluations, self.root.evaluations)

    @cached_property
    def registry(self) -> Registry:
        """The home's champions, or those of all homes that share a root."""
        return Registry(self.home.registry, self.root.registry)

    @cached_property
    def api(self) -> ApiVectors:
        """The vectors of the paid API."""
        return ApiVectors.of(self.settings.baseline, self.settings.openai_api_key, self.home.cache, self.root.cache)

    @property
    def terms(self) -> Terms:
        """On which terms models are evaluated."""
        options = self.settings.evaluation
        return Terms(options.min_components, options.target_prior, tuple(domain.domain_id for domain in self.domains))

    @property
    def domains(self) -> tuple[Domain, ...]:
        """Pairs from elsewhere, on which trained models are held against their untuned ones: the general ones, and the user's.

        Raises FlywheelError when the user's file is not there.
        """
        file = self.settings.evaluation.second_domain
        if file is None:
            return (general_domain(),)
        path = self.home.root / file.expanduser()
        return general_domain(), file_domain(path, self.settings.pairs, self.settings.storage.memory_limit)

    @property
    def split_rules(self) -> SplitRules:
        """What a draw of test and calibration obeys."""
        return SplitRules.of(self.settings.splits, self.settings.evaluation.min_components)

    def with_listener(self, listener: Listener) -> "Workspace":
        """The same home, with one more who hears of progress."""
        heard = self.listener

        def both(event: Progress) -> None:
            listener(event)
            heard(event)

        return replace(self, listener=both)

    def with_options(self, group: str, **changes: object) -> "Workspace":
        """The same home with some settings of a group changed, for what runs in this process."""
        changed = getattr(self.settings, group).model_copy(update=changes)
        return replace(self, settings=self.settings.model_copy(update={group: changed}))

    def current_snapshot(self) -> Snapshot:
        """The snapshot taken last: ask once, then hand it on. Raises FlywheelError when there is none."""
        latest = self.snapshots.latest()
        if latest is None:
            raise FlywheelError("There is no snapshot yet. Run `flywheel snapshot`, or materialise the asset `snapshot`.")
        return latest

    @cached_property
    def models(self) -> Models:
        """The base models of this home."""
        tables = self.settings.models.tables
        places = {name: table["path"].expanduser() for name, table in tables.items() if "path" in table}
        return Models.of({**tables, **{name: {**tables[name], "path": self.home.root / places[name]} for name in places}})

    def vectors(self, base: str) -> Vectors:
        """What a base model makes of texts. Raises FlywheelError for a name that is not known."""
        return self._vectors(self.models.find(base), self.settings.training.poolings)

    def vectors_of(self, job: TrainingJob) -> Vectors:
        """What the base model of a finished training makes of texts, also where the settings no longer have it."""
        base = self.models.known.get(job.base.name, job.base)
        return self._vectors(base, job.poolings)

    def _vectors(self, base: BaseModel, holds: Poolings) -> Vectors:
        return Vectors.of(base, self.home.cache, self.settings.encoding, holds, self.root.cache)

    def evaluate(self, subject: Subject, snapshot: Snapshot) -> Evaluation:
        """The record of a model on a snapshot's test pairs, made if it is not there or at the root."""
        self.records.pull(snapshot.test_id)
        record = evaluate(subject, snapshot, self.home.evaluations, self.terms, self.domains)
        self.records.push(snapshot.test_id, subject.record_id)
        return record

    def train(self, job: TrainingJob, snapshot: Snapshot) -> TrainedModel:
        """The finished model of a job, trained if it is not there or at the root."""
        model = self.trained.finished(job)
        if model is None:
            self.snapshots.share(snapshot)
            if self.root.uri is not None:
                self.vectors_of(job).cache.share()
            weights = self.models.find(job.base.name).path
            places = Places(snapshot.folder, self.home.models, self.home.cache, weights, self.root)
            model = choose_compute(self.settings.compute, self.root.jobs)(job, places, self.settings.encoding, self.listener)
        self.trained.share(model)
        return model
