"""The record of one evaluation: every figure of one model on one test split, and where it lies on disk."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from flywheel.errors import FlywheelError
from flywheel.evaluation.metrics import PairMetrics
from flywheel.evaluation.retrieval import Retrieval
from flywheel.evaluation.statistics import Interval


@dataclass(frozen=True)
class SourceError:
    """Error rate on the test pairs of one source, at the shared threshold."""

    source: str
    error: float
    n: int


@dataclass(frozen=True)
class Evaluation:
    """One model on the test pairs of one `test_id`; error rates and their intervals are shares from 0 to 1.

    `error` spends only the labels the model was given: its threshold comes out of fold from the model's own pairs up to
    1,600 of them, beyond that (and for models without training) from `calibration`. `calibrated_error` always has the
    threshold from `calibration`, the one that ships. `no_verdict` says why the test split carries no verdict, `own_note` what
    kept the model's own pairs from giving a threshold or an interval.
    `snapshot_id` is the one it was trained on.
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
    calibrated_threshold: float
    calibration_error: float
    metrics: PairMetrics
    retrieval: Retrieval
    by_source: tuple[SourceError, ...]
    components: int
    rough: bool
    no_verdict: str | None
    own_note: str | None
    contamination: str | None
    train_pairs: int | None
    train_seconds: float | None

    @property
    def name(self) -> str:
        """What a reader calls it: `all-MiniLM-L6-v2@256 | 400`, `all-MiniLM-L6-v2@256 untuned`."""
        return f"{self.variant} | {self.size}" if self.kind == "tuned" else f"{self.variant} {self.kind}"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Evaluation":
        """The inverse of `to_json`."""
        nested: dict[str, Any] = {
            "interval": Interval(**record["interval"]) if record["interval"] else None,
            "calibrated_interval": Interval(**record["calibrated_interval"]) if record["calibrated_interval"] else None,
            "metrics": PairMetrics(**record["metrics"]),
            "retrieval": Retrieval(**record["retrieval"]),
            "by_source": tuple(SourceError(**source) for source in record["by_source"]),
        }
        return cls(**{**record, **nested})


def evaluation_folder(evaluations: Path, test_id: str, record_id: str) -> Path:
    """Where a record and its scores lie."""
    return evaluations / test_id / record_id


def load_evaluation(folder: Path) -> Evaluation | None:
    """The record in a folder, or None when there is none. Raises FlywheelError when it is damaged."""
    file = folder / "evaluation.json"
    if not file.exists():
        return None
    try:
        return Evaluation.from_json(json.loads(file.read_text()))
    except (ValueError, TypeError, KeyError) as error:
        raise FlywheelError(f"{file} is damaged ({error}). Remove its folder and evaluate again.") from error


def list_evaluations(evaluations: Path, test_id: str) -> list[Evaluation]:
    """Every record of one test split, oldest first."""
    files = sorted((evaluations / test_id).glob("*/evaluation.json"), key=lambda file: (file.stat().st_mtime_ns, file))
    found = (load_evaluation(file.parent) for file in files)
    return [record for record in found if record is not None]
