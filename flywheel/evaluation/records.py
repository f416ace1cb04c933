"""The record of one evaluation: every figure of one model on one test split, and its folder."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from flywheel.errors import FlywheelError, validation_fault
from flywheel.evaluation.failures import Failures
from flywheel.evaluation.intervals import Interval
from flywheel.evaluation.metrics import PairMetrics
from flywheel.evaluation.retention import Retention
from flywheel.evaluation.sanity import Finding
from flywheel.evaluation.statistics import ErrorParts
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.scoring.retrieval import Retrieval

# Raised when a record holds more than before: an older one counts as missing and is made again from what is cached.
FORMAT = 6
RECORD = "evaluation.json"
EVALUATE_AGAIN = (
    "Delete its folder and run `flywheel grid`, which evaluates again; for a cell outside the grid, `flywheel train`."
)


@dataclass(frozen=True)
class Terms:
    """What decides an evaluation beside model and pairs: the fewest components that carry an interval and a verdict, the
    share of duplicates that thresholds for interaction pairs are moved to, and the ids of the pairs from `elsewhere`.
    """

    min_components: int
    target_prior: float | None = None
    elsewhere: tuple[str, ...] = ()


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
class OwnLabels:
    """Error rate on test pairs at the threshold that a model's own training pairs give, out of fold: no calibration label is
    spent. `note` says why there is no interval, if there is none.
    """

    error: float
    interval: Interval | None
    threshold: float
    note: str | None


@dataclass(frozen=True)
class Evaluation:
    """One model on the test pairs of one `test_id`; error rates and their intervals are shares from 0 to 1.

    `error` is the share of wrong decisions by `rule`, the model's decision rule: a trained model's is stored with it, others
    get theirs from the calibration pairs of the snapshot. `calibration_set_error` is the same on calibration pairs, which
    chose the rule. `own_labels` is what a small training set can do alone, where that was measured. `no_verdict` says why the
    test split carries no verdict, and `findings` what is odd about the model itself. `snapshot_id` is the one the model was
    trained on. `start` names where training started, `place` how far from there to the trained weights the model lies, and
    `kept_start` why it is the start itself, where training did not help. `failures` are the pairs with a text that it could not
    embed, if there are any. `retention` says of a trained model what is left elsewhere.

    Where the pairs are cross-fitted, each was decided by a model of its fold, which has not seen it, and `error` is that of the
    procedure: `rule` is that of the model trained on everything, which ships. `fold_errors` (folds,) are the error rates out of
    fold on the pairs that each fold's choices were made on, and `calibration_set_error` is their mean.
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
    rule: DecisionRule
    terms: Terms
    calibration_set_error: float
    own_labels: OwnLabels | None
    metrics: PairMetrics
    retrieval: Retrieval
    slices: tuple[Slice, ...]
    parts: ErrorParts
    components: int
    rough: bool
    no_verdict: str | None
    findings: tuple[Finding, ...]
    contamination: str | None
    train_pairs: int | None
    train_seconds: float | None
    start: str | None
    place: float | None
    kept_start: str | None
    failures: Failures | None = None
    retention: tuple[Retention, ...] = ()
    fold_errors: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        """What a reader calls it: `all-MiniLM-L6-v2@256 | 400`, `all-MiniLM-L6-v2@256 untuned`."""
        if self.kind == "tuned":
            return f"{self.variant} | {self.size}"
        return f"{self.variant} {self.kind}" + (f" + head | {self.size}" if self.size else "")

    @property
    def is_cross_fitted(self) -> bool:
        """Whether the figures are those of a procedure, each pair judged by a model of its fold."""
        return bool(self.fold_errors)

    @property
    def alarm(self) -> Finding | None:
        """Why no verdict may rest on this model, whatever the pairs, or None."""
        return next((finding for finding in self.findings if finding.alarm), None)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Evaluation":
        """The inverse of `to_json`. Raises ValueError when a figure is missing, not finite, or no number."""
        return _RECORD.validate_json(json.dumps([record]))[0]


# In a tuple, because a dataclass alone takes no configuration.
_RECORD = TypeAdapter(tuple[Evaluation], config=ConfigDict(strict=True, allow_inf_nan=False))


def evaluation_folder(evaluations: Path, test_id: str, record_id: str) -> Path:
    """The folder of a record and its scores."""
    return evaluations / test_id / record_id


def load_evaluation(folder: Path, terms: Terms | None = None) -> Evaluation | None:
    """The record in a folder, or None when there is none of this format and on these terms (None: on any).

    Raises FlywheelError when it is damaged.
    """
    file = folder / RECORD
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text())
        if record.get("format") != FORMAT:
            return None
        found = Evaluation.from_json(record)
    except (ValueError, AttributeError) as error:
        raise FlywheelError(f"{file} is damaged ({validation_fault(error)}). {EVALUATE_AGAIN}") from error
    return found if terms in (None, found.terms) else None


def list_evaluations(evaluations: Path, test_id: str, terms: Terms | None = None) -> list[Evaluation]:
    """Every record of one test split on these terms (None: on any), oldest first."""
    # Names with a dot are of records that are being written, or were when their writer was killed.
    files = sorted((evaluations / test_id).glob(f"[!.]*/{RECORD}"), key=lambda file: (file.stat().st_mtime_ns, file))
    found = (load_evaluation(file.parent, terms) for file in files)
    return [record for record in found if record is not None]
