"""What a training of layers has so far: in a folder here, and at the root, from where another machine goes on.

A checkpoint counts when its last file is there, and trained layers count when the head is.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flywheel import storage
from flywheel.errors import FlywheelError
from flywheel.files import publish, scratch_folder, write_json
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.training.progress import Listener, Notice

HEAD_FILE = "head.safetensors"
JOB_FILE = "job.json"  # whose layers these are, for who tidies up or forgets
_LAST = "trainer_state.json"
_LAYERS = (WEIGHTS_FILE, HEAD_FILE)


@dataclass(frozen=True)
class KeptLayers:
    """The folder `target` of one training of layers, and the same at `uri` if there is one.

    What the root cannot take is said to the `listener` and stops no training.
    """

    target: Path
    uri: str | None
    listener: Listener

    @property
    def checkpoints(self) -> Path:
        """Where the trainer writes."""
        return self.target / "checkpoints"

    def are_trained(self) -> bool:
        """Whether the layers are trained; brings them here where only the root has them."""
        if not (self.target / HEAD_FILE).exists() and self.uri is not None and self._has(f"layers/{HEAD_FILE}"):
            with scratch_folder(self.target) as folder:
                storage.download(f"{self.uri}/layers", folder, HEAD_FILE)
                for name in _LAYERS:
                    (folder / name).replace(self.target / name)
        return (self.target / HEAD_FILE).exists()

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, of here or of the root; half written ones here are removed."""
        newest = _newest(self.checkpoints)
        there = self._checkpoints_there()
        if max(map(step, there), default=-1) > (-1 if newest is None else step(newest.name)):
            self.listener(Notice("Going on from a checkpoint of another machine."))
            for name in there:
                if not (self.checkpoints / name).exists():
                    with scratch_folder(self.checkpoints) as folder:
                        storage.download(f"{self.uri}/checkpoints/{name}", folder, _LAST)
                        publish(folder, self.checkpoints / name)
            newest = _newest(self.checkpoints)
        if newest is not None:
            _move_best_here(newest)
        return newest

    def keep_checkpoints(self) -> None:
        """Bring the root to the checkpoints that are here."""
        here = [folder.name for folder in self.checkpoints.glob("checkpoint-*") if (folder / _LAST).exists()]
        if self.uri is not None:
            with self._said():
                self._say_whose(self.uri)
                there = self._checkpoints_there()
                for name in sorted(set(here) - set(there), key=step):
                    storage.upload(self.checkpoints / name, f"{self.uri}/checkpoints/{name}", _LAST)
                for name in set(there) - set(here):
                    storage.delete_folder(f"{self.uri}/checkpoints/{name}", _LAST)

    def finish(self) -> None:
        """Bring the trained layers to the root, and remove the checkpoints, here and there."""
        if self.uri is not None and self.checkpoints.exists():
            with self._said(), scratch_folder(self.target) as folder:
                self._say_whose(self.uri)
                for name in _LAYERS:
                    (folder / name).hardlink_to(self.target / name)
                storage.upload(folder, f"{self.uri}/layers", HEAD_FILE)
                for name in self._checkpoints_there():
                    storage.delete_folder(f"{self.uri}/checkpoints/{name}", _LAST)
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _say_whose(self, uri: str) -> None:
        """Before anything else is there."""
        if (self.target / JOB_FILE).exists():
            storage.put(self.target / JOB_FILE, f"{uri}/{JOB_FILE}")

    def _has(self, path: str) -> bool:
        return storage.read(f"{self.uri}/{path}") is not None

    def _checkpoints_there(self) -> list[str]:
        if self.uri is None:
            return []
        found = (path.split("/") for path in storage.files(f"{self.uri}/checkpoints"))
        return sorted(folder for folder, *rest in found if rest == [_LAST])

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except FlywheelError as error:
            self.listener(Notice(f"Training goes on, but another machine could not go on from here: {error}"))


def step(checkpoint: str) -> int:
    """The training step of a checkpoint's folder, by its name."""
    return int(checkpoint.rpartition("-")[2])


def _newest(checkpoints: Path) -> Path | None:
    whole = []
    for checkpoint in checkpoints.glob("checkpoint-*"):
        try:
            json.loads((checkpoint / _LAST).read_text())
            whole.append(checkpoint)
        except (OSError, ValueError):
            shutil.rmtree(checkpoint, ignore_errors=True)
    return max(whole, key=lambda folder: step(folder.name), default=None)


def _move_best_here(checkpoint: Path) -> None:
    """A checkpoint names the best one by where that was when it was written."""
    state = json.loads((checkpoint / _LAST).read_text())
    if state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = str(checkpoint.parent / Path(state["best_model_checkpoint"]).name)
        write_json(checkpoint / _LAST, state)
