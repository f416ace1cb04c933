"""Labelled pairs read from a file without a store: what models are measured on and never trained on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import UnreadableFileError
from flywheel.files import digest
from flywheel.pairs.events.load import check
from flywheel.pairs.events.redaction import Redactor
from flywheel.pairs.options import PairOptions
from flywheel.pairs.store.labels import sum_up
from flywheel.pairs.store.sql import connect, quoted

if TYPE_CHECKING:
    import pandas as pd

_EXPLICIT = """
WITH texts AS (
    SELECT question, min(text) AS text
    FROM (SELECT question_a AS question, text_a AS text FROM slice UNION ALL SELECT question_b, text_b FROM slice)
    GROUP BY question)
SELECT hex_of(pair_id) AS pair_id, hex_of(question_a) AS question_a, hex_of(question_b) AS question_b,
    a.text AS text_a, b.text AS text_b, label
FROM summed JOIN texts a ON a.question = question_a JOIN texts b ON b.question = question_b
WHERE kind = 'explicit' ORDER BY pair_id
"""


def labelled_id(path: Path, options: PairOptions) -> str:
    """Names the content of a file, or of a folder of part files, and the settings that say how it is read.

    Raises UnreadableFileError when it is not there.
    """
    from flywheel.pairs.deliveries import files_of
    from flywheel.pairs.events.readers import batch_id

    paths, names = files_of(path, path.name, options)
    return digest("|".join(batch_id(part, each, options) for part, each in zip(paths, names, strict=True)))


def read_labelled(path: Path, options: PairOptions, memory: str) -> pd.DataFrame:
    """The explicit pairs of a file, or of a folder of part files, read and redacted as ingest does; nothing is stored.

    One row a pair, ordered by `pair_id`: `question_a`, `question_b`, `text_a`, `text_b`, `label`, and the `component` of its
    questions. Raises UnreadableFileError when it cannot be read or holds no explicit pair.
    """
    from flywheel.pairs.deliveries import files_of
    from flywheel.pairs.events.readers import read_delivery
    from flywheel.pairs.events.staging import stage

    redactor = Redactor.of(options)
    try:
        batches = read_delivery(*files_of(path, path.name, options), options)
        with TemporaryDirectory(prefix="flywheel-") as folder:
            load = stage(batches, Path(folder), memory, redactor)
            check(load.batches, options.max_refused)
            files = ", ".join(f"'{quoted(part.path)}'" for part in load.parts)
            with connect(memory_limit=memory, temp_directory=Path(folder, "spill")) as db:
                db.execute(
                    f"""CREATE TEMP VIEW slice AS SELECT *, 'interaction' AS source FROM read_parquet([{files}])
                        WHERE reason IS NULL"""
                )
                sum_up(db)
                pairs = db.execute(_EXPLICIT).df()
    except UnreadableFileError as error:
        raise UnreadableFileError(redactor(str(error))) from error
    if pairs.empty:
        raise UnreadableFileError(f"{path.name} holds clicks, searches or thumbs only. Give a file of labelled pairs.")
    return pairs.assign(component=_components(pairs))


def _components(pairs: pd.DataFrame) -> np.ndarray:
    """The number of each pair's component (n,)."""
    import pandas as pd
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    codes, questions = pd.factorize(pd.concat([pairs["question_a"], pairs["question_b"]]))
    left, right = codes[: len(pairs)], codes[len(pairs) :]
    links = coo_array((np.ones(len(pairs)), (left, right)), shape=(len(questions), len(questions)))
    return np.asarray(connected_components(links, directed=False)[1])[left]
