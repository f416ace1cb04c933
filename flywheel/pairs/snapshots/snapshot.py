"""A snapshot: an immutable, content-addressed export of all splits. Training and evaluation read these, never the store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.files import digest
from flywheel.pairs.options import QUORA
from flywheel.pairs.snapshots.enough import Missing
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.sql import connect, quoted

if TYPE_CHECKING:
    import pandas as pd

ALL = "all"
MANIFEST = "manifest.json"
SPLITS = ("train", *FROZEN)
# What helps where the frozen splits carry no verdict: new labelled pairs wait for it.
DRAW_AGAIN = "Ingest labelled pairs of new questions, then run `flywheel snapshot --new-test`; it says how many are missing."
# The same where they do: another snapshot would let the new pairs train, and they could not be drawn.
DRAW_ANEW = DRAW_AGAIN.replace("--new-test`", "--new-test` before any other snapshot")
# The same where every labelled pair judges, because they are too few to set test pairs aside.
COLLECT = "Ingest labelled pairs of new questions: as long as test pairs are not set aside, all of them judge."
SET_ASIDE = (
    "Collect labelled pairs until test pairs are set aside (splits.frozen_from); after that, those of new questions and "
    "`flywheel snapshot --new-test` give one."
)


@dataclass(frozen=True)
class SplitSummary:
    """What one split of a snapshot holds: pairs and the share of duplicates (prior), by source; components of frozen splits."""

    pairs: int
    seed: int
    interaction: int
    prior: float | None
    prior_seed: float | None
    prior_interaction: float | None
    components: int | None


@dataclass(frozen=True)
class Judging:
    """The pairs that judge: those of `test`, or of all folds. `detectable` is the smallest true difference of two error rates
    (a share) that they are expected to show, None where none could.
    """

    pairs: int
    components: int
    detectable: float | None


@dataclass(frozen=True)
class Snapshot:
    """A snapshot's folder and identity. `test_id` names what judges: calibration and test pairs together, or, where a snapshot
    is cross-fitted, the explicit pairs of all `folds` (0 in others). Then `train` holds all pairs, each with its `component`
    and its `fold`; a pair of fold -1 trains only. `seeds` says where seed pairs came from (`starter`, `quora`); `missing`, by
    source, why it gives none to test; `note`, what else there is to say of the draw.
    """

    folder: Path
    snapshot_id: str
    test_id: str
    train: SplitSummary
    calibration: SplitSummary
    test: SplitSummary
    seeds: tuple[str, ...]
    folds: int
    judging: Judging
    missing: dict[str, Missing] = field(compare=False)
    note: str = field(compare=False, default="")

    @property
    def on_quora(self) -> bool:
        """Whether Quora's pairs are among these, which some base models had seen."""
        return QUORA in self.seeds

    @classmethod
    def load(cls, folder: Path) -> Snapshot:
        """Read a snapshot's manifest. Raises FlywheelError when the folder holds none."""
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            splits = [SplitSummary(**manifest[name]) for name in SPLITS]
            missing = {source: Missing(**lack) for source, lack in manifest["missing"].items()}
            return cls(
                folder, manifest["snapshot_id"], manifest["test_id"], splits[0], splits[1], splits[2],
                tuple(manifest["seeds"]), manifest["folds"], Judging(**manifest["judging"]), missing, manifest["note"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlywheelError(
                f"{folder} holds no complete snapshot. Delete that folder, then run `flywheel snapshot`."
            ) from error

    @property
    def mixed(self) -> bool:
        """Whether `train` holds pairs of both sources, so that the size `all` is of another make-up than numbered ones."""
        return bool(self.train.seed and self.train.interaction)

    @property
    def is_drawn(self) -> bool:
        """Whether there are calibration and test pairs."""
        return bool(self.calibration.pairs and self.test.pairs)

    @property
    def is_cross_fitted(self) -> bool:
        """Whether all pairs train, and each labelled one is judged by a model that has not seen its component."""
        return self.folds > 0

    @property
    def can_judge(self) -> bool:
        """Whether models can be judged: on test pairs, or out of fold."""
        return self.is_drawn or self.is_cross_fitted

    def check_judges(self) -> None:
        """Raise FlywheelError, which says what is missing, unless there are pairs that judge."""
        if not self.can_judge:
            raise FlywheelError(f"There are no calibration and test pairs, so no model can be trained. {self.way_to_a_draw}")

    @property
    def way_to_a_draw(self) -> str:
        """What leads to calibration and test pairs where there are none."""
        return self.lack or f"Those there were are forgotten. {DRAW_AGAIN}"

    @property
    def lack(self) -> str:
        """Why sources of pairs are neither in calibration nor in test, and what leads on; "" where none is missing."""
        if "interaction" not in self.missing:
            return ""
        whys = [self.missing[source].why for source in ("seed", "interaction") if source in self.missing]
        return " ".join([*whys, self.missing["interaction"].remedy])

    def pairs(self, split: str) -> pd.DataFrame:
        """The pairs of `train`, `calibration` or `test`, ordered by pair id. Raises FlywheelError for a damaged file."""
        import pandas as pd
        import pyarrow as pa

        file = self.folder / f"{split}.parquet"
        try:
            return pd.read_parquet(file)
        except (OSError, pa.ArrowException) as error:
            raise damaged(file, error) from error

    def judging_pairs(self) -> pd.DataFrame:
        """The pairs that judge, ordered by pair id: `test`, or the labelled pairs of every fold, with their `fold`."""
        if not self.is_cross_fitted:
            return self.pairs("test")
        pairs = self.pairs("train")
        return pairs[(pairs["fold"] >= 0) & (pairs["kind"] == "explicit")].reset_index(drop=True)

    def shared_questions(self) -> int:
        """How many questions are in more than one split or fold: 0, or the snapshot leaks."""
        import duckdb

        places = {name: f"'{name}'" for name in SPLITS} | ({"train": "CAST(fold AS VARCHAR)"} if self.folds else {})
        files = [(str(self.folder / f"{name}.parquet"), place) for name, place in places.items()]
        try:
            with connect() as db:
                ends = " UNION ALL ".join(
                    f"SELECT {end} AS question, {place} AS split FROM read_parquet('{quoted(file)}')"
                    for file, place in files
                    for end in ("question_a", "question_b")
                )
                ((shared,),) = db.execute(
                    f"SELECT count(*) FROM (SELECT question FROM ({ends}) GROUP BY question HAVING min(split) < max(split))"
                ).fetchall()
        except duckdb.Error as error:
            raise damaged(self.folder, error) from error
        return int(shared)

    def training_pairs(self, size: str, random_seed: int, interaction_share: float) -> pd.DataFrame:
        """The first `size` training pairs; a smaller size is always a prefix of a larger one.

        Order is hash order within each source, redrawn by `random_seed`; in a numbered size every prefix holds
        `interaction_share` of interaction pairs, and nothing else where there are no seed pairs; `all` holds everything. Raises
        FlywheelError when `train` holds too few.
        """
        pairs = self.pairs("train")
        pairs = pairs.assign(order=[digest(f"{random_seed}|{pair}") for pair in pairs["pair_id"]]).sort_values("order")
        pairs = pairs.drop(columns="order").reset_index(drop=True)
        if size == ALL:
            if pairs.empty:
                raise FlywheelError("`train` holds no pairs; ingest some and run `flywheel snapshot`.")
            return pairs
        return pairs.iloc[_interleaved(pairs["source"], int(size), self._share(interaction_share))].reset_index(drop=True)

    def largest_size(self, interaction_share: float) -> int:
        """How many pairs a numbered size can have at most; cross-fitted, what is left without the two largest folds."""
        if self.is_cross_fitted:
            folds = self.pairs("train")["fold"].value_counts()
            return self.train.pairs - int(folds[folds.index >= 0].head(2).sum())
        share = self._share(interaction_share)
        if share in (0, 1):
            return self.train.interaction if share else self.train.seed
        return max(0, min(int(self.train.interaction / share), int(self.train.seed / (1 - share))))

    def _share(self, interaction_share: float) -> float:
        return interaction_share if self.train.seed else 1.0


def damaged(where: Path, error: Exception) -> FlywheelError:
    """The error for a snapshot's file or folder that cannot be read."""
    return FlywheelError(f"{where} is damaged ({error}). Remove the snapshot's folder and run `flywheel snapshot`.")


def _interleaved(source: pd.Series[str], size: int, interaction_share: float) -> np.ndarray:
    """Row numbers of the first `size` pairs, seed and interaction in the set proportion."""
    wanted = {"interaction": int(size * interaction_share + 1e-9)}
    wanted["seed"] = size - wanted["interaction"]
    held = {name: np.flatnonzero((source == name).to_numpy()) for name in wanted}
    for name, pairs in wanted.items():
        if len(held[name]) < pairs:
            fits = "a smaller size, or `all`" if len(held[name]) else "`all`"
            raise FlywheelError(f"Size {size} needs {pairs} {name} pairs, but `train` holds {len(held[name])}. Choose {fits}.")
    due = np.floor(np.arange(size + 1) * interaction_share + 1e-9).astype(int)
    take_interaction = np.diff(due) > 0
    rows = np.empty(size, dtype=int)
    rows[take_interaction] = held["interaction"][: wanted["interaction"]]
    rows[~take_interaction] = held["seed"][: wanted["seed"]]
    return rows


def unique_texts(*frames: pd.DataFrame) -> list[str]:
    """The distinct texts of some pairs, sorted."""
    columns: Iterable[Any] = (frame[column] for frame in frames for column in ("text_a", "text_b"))
    return sorted(set().union(*columns))
