"""Places on the line between a base model and what a training of its layers made of it: encoder and head together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flywheel.files import publish, scratch_folder, write_json
from flywheel.models.encoder import save_encoder
from flywheel.models.features import pooled
from flywheel.models.head import Head, between
from flywheel.models.vectors import Vectors
from flywheel.models.weights import WEIGHTS_FILE
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.scoring.retrieval import search
from flywheel.training.progress import Encoded, Listener
from flywheel.training.shrink import PLACES, Choice, choose_place, mean_fall

if TYPE_CHECKING:
    import pandas as pd

JUDGING_PAIRS = 1_000  # each place encodes their texts once more
# A place may take as much from MRR@10 as a promotion allows by default. A fall beyond that counts where it is proven, one-sided
# at 5 %.
_SEARCH_LIMIT, _PROVEN = 0.005, 1.645
_SEARCHED_PAIRS = 10_000


@dataclass(frozen=True)
class Layers:
    """A training's folder `target`, which holds the trained encoder's weights; the `base` model's vectors; and the heads on raw
    features where the training started and ended.
    """

    base: Vectors
    target: Path
    start: Head
    trained: Head

    def choose(self, judging: pd.DataFrame, calibration: pd.DataFrame, dims: Sequence[int], listener: Listener) -> Choice:
        """The place for all of `dims` together, by the first of the `judging` pairs, or nearer to the start where search among
        the questions of `calibration` falls there; kept in `target` once it is chosen.
        """
        record = self.target / "place.json"
        if not record.exists():
            few = judging.head(JUDGING_PAIRS)
            scores = self._scores(few, dims, listener)
            choice = choose_place(scores, few["label"].to_numpy(), few["component"].to_numpy())
            write_json(record, asdict(self._keep_search(choice, calibration.head(_SEARCHED_PAIRS), dims, listener)))
        return Choice(**json.loads(record.read_text()))

    def at(self, place: float) -> tuple[Head, Vectors]:
        """The head on raw features at a place, and the vectors of the encoder there, whose folder is kept in `target`."""
        folder = self.target / "encoder"
        if place and not folder.exists():
            with scratch_folder(self.target) as scratch:
                self._write_encoder(scratch, place)
                publish(scratch, folder)
        return self.start.towards(self.trained, place), replace(self.base, tuned=folder) if place else self.base

    def _keep_search(self, choice: Choice, pairs: pd.DataFrame, dims: Sequence[int], listener: Listener) -> Choice:
        """The place, or the next one towards the start where MRR@10 does not provably fall by more than the limit."""
        if choice.place == 0:
            return choice
        start, components = self._search(0.0, pairs, dims, listener)
        fall = 0.0
        for place in reversed(PLACES[1 : choice.row + 1]):
            shutil.rmtree(self.target / "encoder", ignore_errors=True)  # that of the place before
            found, _ = self._search(place, pairs, dims, listener)
            fall, deviation = mean_fall(start, found, components)
            if fall - _PROVEN * deviation <= _SEARCH_LIMIT:
                return Choice(place)
        return Choice(0.0, f"search falls by {fall:.3f} of MRR@10 a quarter of the way from it")

    def _search(
        self, place: float, pairs: pd.DataFrame, dims: Sequence[int], listener: Listener
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search at a place among the questions of the pairs: 1 / rank of the first duplicate of each query (k,), the mean over
        `dims`, and the queries' components (k,).
        """
        import pandas as pd

        texts = unique_texts(pairs)
        number = pd.Series(np.arange(len(texts)), index=texts)
        same = pairs[pairs["label"] == 1]
        duplicates = list(zip(number[same["text_a"]], number[same["text_b"]], strict=True))
        component = pd.concat([pairs.set_index(side)["component"] for side in ("text_a", "text_b")])
        component = component[~component.index.duplicated()][texts].to_numpy()
        head, vectors = self.at(place)
        features = vectors.features(texts, lambda done, of: listener(Encoded(done, of)))
        found = [search(head.truncated(dim).apply(features), duplicates) for dim in dims]
        return np.mean([each.reciprocal for each in found], axis=0), component[found[0].queries]

    def _scores(self, pairs: pd.DataFrame, dims: Sequence[int], listener: Listener) -> np.ndarray:
        """The cosine of each pair at each place and dimension, (places, dims, n)."""
        import pandas as pd

        texts = unique_texts(pairs)
        row = pd.Series(np.arange(len(texts)), index=texts)
        left, right = (row[pairs[side]].to_numpy() for side in ("text_a", "text_b"))
        scores = np.empty((len(PLACES), len(dims), len(pairs)))
        for i, place in enumerate(PLACES):
            features = self._features(texts, place)
            listener(Encoded((i + 1) * len(texts), len(PLACES) * len(texts)))
            head = self.start.towards(self.trained, place)
            for j, dim in enumerate(dims):
                vectors = head.truncated(dim).apply(features)
                scores[i, j] = (vectors[left] * vectors[right]).sum(1)
        return scores

    def _features(self, texts: list[str], place: float) -> np.ndarray:
        if not place:
            return self.base.features(texts)
        with scratch_folder(self.target) as scratch:
            self._write_encoder(scratch, place)
            return pooled(replace(self.base, tuned=scratch).loaded, texts, self.base.poolings).astype(np.float16)

    def _write_encoder(self, folder: Path, place: float) -> None:
        """Write a folder that loads as the encoder: the base's configuration and tokenizer beside the weights at `place`."""
        from safetensors.numpy import load_file, save_file

        unused = Head(np.ones((1, self.base.width), np.float32), np.zeros(1, np.float32))
        file = self.target / WEIGHTS_FILE
        if place == 1:
            return self.base.write_folder(folder, unused, file)
        with scratch_folder(self.target) as scratch:
            save_encoder(self.base.load(), scratch / WEIGHTS_FILE)
            start, trained = load_file(scratch / WEIGHTS_FILE), load_file(file)
        moved = {
            name: between(start[name], tensor, place)
            for name, tensor in trained.items()
            if not np.array_equal(start[name], tensor)
        }
        aside = file.with_suffix(".between")
        save_file({**trained, **moved}, aside, metadata={"format": "pt"})
        self.base.write_folder(folder, unused, aside)
        aside.unlink()
