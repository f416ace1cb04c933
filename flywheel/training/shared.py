"""The finished models of a home, and the same at the root: found by name here or there, fetched, uploaded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.training.job import TrainingJob
from flywheel.training.model import RECORD, TrainedModel, finished, finished_models

_FILES = ".files"  # at the root: which model has a large file


@dataclass(frozen=True)
class TrainedModels:
    """Model folders by their job's id in `folder`, and the same at `uri` if there is one."""

    folder: Path
    uri: str | None = None

    def names(self) -> list[str]:
        """Every finished model, here or at the root."""
        return sorted({folder.name for folder in finished_models(self.folder)} | self.shared_names())

    def find(self, name: str) -> Path:
        """The folder of a model, fetched where only the root has it; of one that is nowhere, where it would be."""
        folder = self.folder / name
        if self.uri is not None and not folder.exists() and storage.read(f"{self.uri}/{name}/{RECORD}") is not None:
            storage.fetch(f"{self.uri}/{name}", folder, RECORD, TrainedModel.load)
        return folder

    def load(self, name: str) -> TrainedModel:
        """A model by its name. Raises FlywheelError when there is none or it is damaged."""
        return TrainedModel.load(self.find(name))

    def finished(self, job: TrainingJob) -> TrainedModel | None:
        """The finished model of a job, here or fetched, marked as reused; None where it is to be trained."""
        self.find(job.job_id)
        return finished(self.folder, job)

    def share(self, model: TrainedModel) -> None:
        """Upload a model, unless the root has it."""
        if self.uri is not None:
            storage.upload(model.folder, f"{self.uri}/{model.name}", RECORD, alike=f"{self.uri}/{_FILES}")

    def records(self) -> Iterator[tuple[str, TrainedModel | None]]:
        """Each model's name and what its record says, None where that is damaged; fetches no weights."""
        here = {folder.name for folder in finished_models(self.folder)}
        for name in sorted(here | self.shared_names()):
            try:
                yield name, TrainedModel.load(self.folder / name) if name in here else self._shared_record(name)
            except FlywheelError:
                yield name, None

    def shared_names(self) -> set[str]:
        """The finished models that the root has."""
        if self.uri is None:
            return set()
        records = (path for path in storage.files(self.uri) if path.endswith(f"/{RECORD}"))
        return {path.removesuffix(f"/{RECORD}") for path in records if path.count("/") == 1}

    def _shared_record(self, name: str) -> TrainedModel | None:
        content = storage.read(f"{self.uri}/{name}/{RECORD}")
        return None if content is None else TrainedModel.from_json(self.folder / name, content)
