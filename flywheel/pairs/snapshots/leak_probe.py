"""The leak probe: how well do a pair's place in the graph and its lengths foretell the label, without reading a word?

Quora's pairs are known to be predictable that way. What such a classifier gets right, a model may get right for the same
reason, so its advantage is shown beside every comparison.
"""

from dataclasses import dataclass

import numpy as np

from flywheel.pairs.snapshots.snapshot import SPLITS, Snapshot
from flywheel.pairs.store.components import FROZEN
from flywheel.pairs.store.sql import connect, quoted

_TRAIN_ON = 50_000
_FEATURES = "low, high, common, short, long"

# Degrees and common neighbours count every pair of the snapshot; common neighbours are looked up from the lesser degree.
_GRAPH = """
CREATE TABLE edges AS SELECT * FROM ({union});
CREATE TABLE sides AS
    SELECT question_a AS x, question_b AS y FROM edges UNION ALL SELECT question_b, question_a FROM edges;
CREATE TABLE degrees AS SELECT x, count(*) AS degree FROM sides GROUP BY x;
CREATE TABLE probed AS
SELECT e.pair_id, e.split, e.label, least(a.degree, b.degree) AS low, greatest(a.degree, b.degree) AS high,
    least(length(text_a), length(text_b)) AS short, greatest(length(text_a), length(text_b)) AS long,
    if(a.degree <= b.degree, question_a, question_b) AS near, if(a.degree <= b.degree, question_b, question_a) AS far
FROM edges e JOIN degrees a ON a.x = question_a JOIN degrees b ON b.x = question_b
QUALIFY e.split <> 'train' OR row_number() OVER (PARTITION BY e.split ORDER BY md5(e.pair_id)) <= {train};
CREATE TABLE shared AS
SELECT p.pair_id, count(*) AS common FROM probed p JOIN sides s ON s.x = p.near JOIN sides t ON t.x = s.y AND t.y = p.far
GROUP BY p.pair_id;
"""


@dataclass(frozen=True)
class LeakProbe:
    """What a classifier that sees no text gets right on `test`: its accuracy, that of always giving the commoner label, and
    its area under the ROC curve (0.5: it knows nothing). `why_not` says why there is no figure, if there is none.
    """

    accuracy: float | None = None
    majority: float | None = None
    auc: float | None = None
    train_pairs: int = 0
    test_pairs: int = 0
    why_not: str | None = None

    @property
    def advantage(self) -> float | None:
        """Accuracy above the majority's, as a share of the test pairs; None without a figure."""
        return None if self.accuracy is None or self.majority is None else self.accuracy - self.majority


def probe_leaks(snapshot: Snapshot, memory_limit: str) -> LeakProbe:
    """Fit gradient-boosted trees on at most 50,000 train pairs, choose the threshold on calibration, score on test."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    wanted = "pair_id, question_a, question_b, text_a, text_b, label"
    union = " UNION ALL ".join(
        f"SELECT {wanted}, '{name}' AS split FROM read_parquet('{quoted(snapshot.folder / name)}.parquet')" for name in SPLITS
    )
    with connect(memory_limit=memory_limit) as db:
        db.execute(_GRAPH.format(union=union, train=_TRAIN_ON))
        rows = db.execute(
            f"""SELECT split, label, {_FEATURES} FROM (
                SELECT p.*, coalesce(common, 0) AS common FROM probed p LEFT JOIN shared USING (pair_id)) ORDER BY pair_id"""
        ).fetchnumpy()
    features = np.column_stack([np.asarray(rows[name.strip()], dtype=float) for name in _FEATURES.split(",")])
    labels, split = np.asarray(rows["label"]), np.asarray(rows["split"])
    part = {name: split == name for name in SPLITS}
    for name, chosen in part.items():
        if len(np.unique(labels[chosen])) < 2:
            return LeakProbe(why_not=f"{name} does not hold both labels")
    model = HistGradientBoostingClassifier(random_state=0).fit(features[part["train"]], labels[part["train"]])
    scores = {name: model.predict_proba(features[part[name]])[:, 1] for name in FROZEN}
    threshold = _best_threshold(scores["calibration"], labels[part["calibration"]])
    tested = labels[part["test"]]
    return LeakProbe(
        accuracy=float(((scores["test"] >= threshold) == tested).mean()),
        majority=float(max(tested.mean(), 1 - tested.mean())),
        auc=float(roc_auc_score(tested, scores["test"])),
        train_pairs=int(part["train"].sum()),
        test_pairs=len(tested),
    )


def _best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    order = np.argsort(scores)
    ranked = labels[order]
    right = np.concatenate([[ranked.sum()], ranked.sum() + np.cumsum(1 - 2 * ranked)])
    best = int(right.argmax())
    return float("inf") if best == len(scores) else float(scores[order][best])
