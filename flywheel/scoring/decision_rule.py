"""A model's decision rule: from a pair's score to a probability and a decision, for each source of pairs."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flywheel.scoring.logistic import Floats
from flywheel.scoring.thresholds import INTERACTION, SEED, ScoreFit, check_sources, fit_by_source


@dataclass(frozen=True)
class DecisionRule:
    """One fit for seed pairs and one for interaction pairs, chosen on calibration pairs.

    Two texts mean the same when their score is at or above the threshold of their source. `interaction` is the one for what
    users do, so it is the one to serve with.
    """

    seed: ScoreFit
    interaction: ScoreFit

    @classmethod
    def fit(
        cls, scores: ArrayLike, labels: ArrayLike, sources: NDArray[np.generic], target_prior: float | None
    ) -> "DecisionRule":
        """The rule that calibration pairs (n,) choose. See `fit_by_source` for how, and for what is raised."""
        fits = fit_by_source(scores, labels, sources, target_prior)
        return cls(fits[SEED], fits[INTERACTION])

    @property
    def threshold(self) -> float:
        """The threshold for interaction pairs."""
        return self.interaction.threshold

    @property
    def by_source(self) -> dict[str, ScoreFit]:
        """The fits by the word for their source."""
        return {SEED: self.seed, INTERACTION: self.interaction}

    @property
    def is_shared(self) -> bool:
        """Whether interaction pairs have the seed pairs' fit, as it is or moved to another share of duplicates."""
        made_on = [(fit.center, fit.scale, fit.low, fit.high) for fit in (self.seed, self.interaction)]
        return made_on[0] == made_on[1]

    @property
    def moved_to(self) -> float | None:
        """The share of duplicates that the shared fit was moved to for interaction pairs; None where it was not moved."""
        return self.interaction.prior if self.is_shared and self.interaction != self.seed else None

    def thresholds(self, sources: NDArray[np.generic]) -> Floats:
        """The threshold for each pair (n,)."""
        return np.where(sources == INTERACTION, self.interaction.threshold, self.seed.threshold)

    def decide(self, scores: Floats, sources: NDArray[np.generic]) -> NDArray[np.bool_]:
        """Whether each pair (n,) means the same."""
        check_sources(sources, len(scores))
        return np.asarray(scores >= self.thresholds(sources))

    def probability(self, scores: Floats, sources: NDArray[np.generic]) -> Floats:
        """The probability (n,) that each pair means the same."""
        check_sources(sources, len(scores))
        return np.where(sources == INTERACTION, self.interaction.probability(scores), self.seed.probability(scores))

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `from_json` reads them."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "DecisionRule":
        """The inverse of `to_json` after a way through JSON. Raises KeyError or TypeError for anything else."""
        return cls(**{source: ScoreFit.from_json(record[source]) for source in (SEED, INTERACTION)})
