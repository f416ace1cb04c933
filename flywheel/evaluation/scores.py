"""The scores stored beside an evaluation's record, read: which pairs it was made on, and what was decided on each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError, one_line
from flywheel.evaluation.failures import is_failure
from flywheel.evaluation.records import EVALUATE_AGAIN, Evaluation, evaluation_folder
from flywheel.scoring.thresholds import check_pairs

if TYPE_CHECKING:
    import pandas as pd

SCORES = "scores.parquet"
STORED = ["pair_id", "label", "component", "score", "probability", "same", "split", "fold"]


def tested_pairs(evaluations: Path, test_id: str) -> frozenset[str] | None:
    """The ids of the test pairs of a `test_id`, as any record made on it has them; None when no record is left."""
    import pandas as pd

    for file in sorted((evaluations / test_id).glob(f"*/{SCORES}")):
        try:
            scores = pd.read_parquet(file, columns=["pair_id", "split"])
        except (OSError, ValueError):
            continue  # another record has them too
        return frozenset(scores.loc[scores["split"] == "test", "pair_id"])
    return None


def decisions(evaluations: Path, record: Evaluation) -> pd.DataFrame:
    """Per test pair, indexed by pair id and ordered by it: `component`, `fold`, `label`, `probability` of being the same,
    `wrong` (by its decision rule), and `failed`, where it could not embed a text. Raises FlywheelError when the scores
    cannot be read or one is not finite.
    """
    import pandas as pd

    file = evaluation_folder(evaluations, record.test_id, record.record_id) / SCORES
    try:
        scores = pd.read_parquet(file, columns=STORED)
        check_pairs(scores["score"], scores["label"])
        check_pairs(scores["probability"], scores["label"])
    except (OSError, ValueError, TypeError) as error:
        raise FlywheelError(f"{file} cannot be read ({one_line(error)}). {EVALUATE_AGAIN}") from error
    except FlywheelError as error:
        raise FlywheelError(f"{file} is damaged ({error.args[0].partition(':')[0]}). {EVALUATE_AGAIN}") from error
    test = scores[scores["split"] == "test"].sort_values("pair_id").set_index("pair_id")
    test = test.assign(wrong=test["same"] != test["label"], failed=is_failure(test["score"]))
    return test[["component", "fold", "label", "probability", "wrong", "failed"]]


def chosen_in_folds(evaluations: Path, candidates: Sequence[Evaluation]) -> pd.DataFrame:
    """The decisions of a choice among cross-fitted candidates, as `decisions` gives them: in each fold those of the candidate
    with the lowest error on the pairs of the other folds. So the choice has not seen the pairs that judge it.
    """
    import pandas as pd

    best = np.argmin([candidate.fold_errors for candidate in candidates], axis=0)
    frames = {number: decisions(evaluations, candidates[number]) for number in sorted(set(best))}
    parts = [frame[np.isin(frame["fold"], np.flatnonzero(best == number))] for number, frame in frames.items()]
    return pd.concat(parts).sort_index()
