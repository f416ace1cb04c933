"""Whether an exported model decides as the model that was judged, and how fast it is on this machine."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from flywheel.errors import FlywheelError
from flywheel.models.exports.graph import Batch, Engine
from flywheel.scoring.decision_rule import DecisionRule
from flywheel.training.model import TrainedModel

MAX_FLIPS = 0.002
TORCH = "torch float32"


@dataclass(frozen=True)
class Parity:
    """One engine beside torch on the same texts, in the same minutes.

    `largest_difference` is that of a pair's cosine; `flips` of `pairs` decisions differ, by `rule`; `speed` is how many times
    as fast as torch it was on `texts` texts.
    """

    engine: str
    texts: int
    pairs: int
    largest_difference: float
    flips: int
    texts_per_second: float
    speed: float
    rule: DecisionRule

    @property
    def keeps_decisions(self) -> bool:
        """Whether at most 0.2 % of the decisions differ."""
        return self.flips <= MAX_FLIPS * self.pairs


def measure_parity(
    model: TrainedModel,
    pairs: pd.DataFrame,
    texts: Sequence[str],
    batches: Sequence[Batch],
    engines: Mapping[str, Engine],
    progress: Callable[[int, int], None],
) -> list[Parity]:
    """Hold each of `engines` against the one named `TORCH`, batch by batch in turn.

    `pairs` are labelled, of `texts`, which are in `batches`. An engine whose numbers are rounded (its name ends in int8) gets
    a decision rule of its own, fitted on these pairs as the model's was, unless they have trained the model.
    """
    vectors, seconds = _run(len(texts), batches, engines, progress)
    row = pd.Series(np.arange(len(texts)), index=list(texts))
    left, right = (row[pairs[side]].to_numpy() for side in ("text_a", "text_b"))
    scores = {name: (each[left] * each[right]).sum(1) for name, each in vectors.items()}
    labels, sources = pairs["label"].to_numpy(), pairs["source"].to_numpy()
    decided = model.rule.decide(scores[TORCH], sources)
    found = []
    for name in engines:
        rule = _refitted(model, scores[name], labels, sources) if name.endswith("int8") else model.rule
        found.append(
            Parity(
                engine=name,
                texts=len(texts),
                pairs=len(pairs),
                largest_difference=float(np.abs(scores[name] - scores[TORCH]).max()),
                flips=int((rule.decide(scores[name], sources) != decided).sum()),
                texts_per_second=len(texts) / seconds[name],
                speed=seconds[TORCH] / seconds[name],
                rule=rule,
            )
        )
    return found


def instruction_set() -> str:
    """The widest vector instructions that torch finds in this processor, with those for int8 where it has them."""
    import torch

    able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    int8 = [name for name in ("avx512_vnni", "amx_int8") if able.get(name)]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *int8])


def _run(
    texts: int, batches: Sequence[Batch], engines: Mapping[str, Engine], progress: Callable[[int, int], None]
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The vectors (texts, dim) that each engine gives, and the seconds that it took; a first batch is not counted."""
    vectors: dict[str, np.ndarray] = {}
    seconds = dict.fromkeys(engines, 0.0)
    done = 0
    for engine in engines.values():
        engine(batches[-1].tokens)
    for batch in batches:
        for name, engine in engines.items():
            started = time.perf_counter()
            some = engine(batch.tokens)
            seconds[name] += time.perf_counter() - started
            vectors.setdefault(name, np.empty((texts, some.shape[1]), np.float32))[batch.rows] = some
        done += len(batch.rows)
        progress(done, texts)
    return vectors, seconds


def _refitted(model: TrainedModel, scores: np.ndarray, labels: np.ndarray, sources: np.ndarray) -> DecisionRule:
    if model.folds:
        return model.rule
    try:
        return DecisionRule.fit(scores, labels, sources, model.job.target_prior)
    except FlywheelError:  # too few pairs to choose by
        return model.rule
