"""The record of one evaluation: every figure of one model on one test split, and where it lies on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from flywheel.errors import FlywheelError
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.metrics import PairMetrics
from flywheel.evaluation.retrieval import Retrieval
from flywheel.evaluation.statistics import ErrorParts
from flywheel.scoring.thresholds import ScoreFit

# Raised when a record says more than one of before: an older one counts as not there, and is made anew from what is cached.
FORMAT = 3
EVALUATE_AGAIN = "Remove its folder and evaluate again, a cell with `flywheel train`, anything else with `flywheel evidence`."


@dataclass(frozen=True)
class Terms:
    """What decides an evaluation beside model and pairs: the fewest components that carry an interval and a verdict, and the
    share of duplicates that thresholds for interaction pairs are moved to.
    """

    min_components: int
    target_prior: float | None = None


@dataclass(frozen=True)
class Slice:
    """Error rate on one kind of test pairs, at the thresholds from `calibration`; no interval where too few components are
    of that kind.
    """

    name: str
    error: float
    interval: Interval | None
    n: int
    components: int


@dataclass(frozen=True)
class Evaluation:
    """One model on the test pairs of one `test_id`; error rates and their intervals are shares from 0 to 1.

    `error` spends only the labels the model was given: its threshold comes out of fold from the model's own pairs up to
    1,600 of them, beyond that (and for models without training) from `calibration`. `calibrated_error` always has the
    thresholds from `calibration`, those of `fits`, one a source. `calibrated_threshold` is the one for what users do, which
    ships; until there are enough of their labels it is that of seed pairs, moved to the `target_prior` of its `terms` if one
    is set. `no_verdict` says why the test split carries no verdict, `own_note` what kept the model's own pairs from giving a
    threshold or an interval. `snapshot_id` is the one it was trained on, `kept_start` why it is
    the untrained start where training brought no proven gain.
    """

    record_id: str
    kind: Literal["tuned", "untuned", "baseline"]
    variant: str
    size: str | None
    recipe: str | None
    random_seed: int | None
    snapshot_id: str
    test_id: str
    error: float
    interval: Interval | None
    threshold: float
    calibrated_error: float
    calibrated_interval: Interval | None
    fits: dict[str, ScoreFit]
    terms: Terms
    calibration_error: float
    metrics: PairMetrics
    retrieval: Retrieval
    slices: tuple[Slice, ...]
    parts: ErrorParts
    components: int
    rough: bool
    no_verdict: str | None
    own_note: str | None
    contamination: str | None
    train_pairs: int | None
    train_seconds: float | None
    kept_start: str | None

    @property
    def calibrated_threshold(self) -> float:
        """The threshold that ships."""
        return self.fits["interaction"].threshold

    @property
    def name(self) -> str:
        """What a reader calls it: `all-MiniLM-L6-v2@256 | 400`, `all-MiniLM-L6-v2@256 untuned`."""
        if self.kind == "tuned":
            return f"{self.variant} | {self.size}"
        return f"{self.variant} {self.kind}" + (f" + head | {self.size}" if self.size else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Evaluation":
        """The inverse of `to_json`. Raises ValueError when a figure is missing, not finite, or no number."""
        return _RECORD.validate_json(json.dumps([record]))[0]


# In a tuple, because a dataclass alone takes no configuration.
_RECORD = TypeAdapter(tuple[Evaluation], config=ConfigDict(strict=True, allow_inf_nan=False))


def fault(error: Exception) -> str:
    """What is wrong with a file, in a line: of what pydantic found the first, with the field's place in the file."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}".removeprefix(": ")


def evaluation_folder(evaluations: Path, test_id: str, record_id: str) -> Path:
    """Where a record and its scores lie."""
    return evaluations / test_id / record_id


def load_evaluation(folder: Path, terms: Terms | None = None) -> Evaluation | None:
    """The record in a folder, or None when there is none of this format and on these terms (None: on any).

    Raises FlywheelError when it is damaged.
    """
    file = folder / "evaluation.json"
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        if record.get("format") != FORMAT:
            return None
        found = Evaluation.from_json(record)
    except (ValueError, AttributeError) as error:
        raise FlywheelError(f"{file} is damaged ({fault(error)}). {EVALUATE_AGAIN}") from error
    return found if terms in (None, found.terms) else None


def list_evaluations(evaluations: Path, test_id: str, terms: Terms | None = None) -> list[Evaluation]:
    """Every record of one test split on these terms (None: on any), oldest first."""
    # Names with a dot are of records that are being written, or were when their writer was killed.
    files = sorted((evaluations / test_id).glob("[!.]*/evaluation.json"), key=lambda file: (file.stat().st_mtime_ns, file))
    found = (load_evaluation(file.parent, terms) for file in files)
    return [record for record in found if record is not None]
