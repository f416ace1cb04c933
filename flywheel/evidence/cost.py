"""What models cost beside the API: training, embedding, a whole corpus, and from which traffic on they pay."""

from dataclasses import dataclass

_HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Prices:
    """US dollars: an hour of this machine (None: not set), a million tokens of the API; a corpus in texts, and how many of the
    API's tokens a text has on average, and by what they were counted.
    """

    machine_hour: float | None
    api_million: float
    corpus_texts: int
    tokens_a_text: float
    counted_by: str


@dataclass(frozen=True)
class ModelCost:
    """What embedding with one base model takes here: `texts_a_second` measured, money in US dollars where the machine has a
    price. `break_even` is how many of the API's tokens a month a machine that runs all the time must replace to pay, None
    where it cannot embed so many.
    """

    base: str
    texts_a_second: float
    corpus_seconds: float
    million: float | None
    corpus: float | None
    break_even: float | None


def api_corpus(prices: Prices) -> float:
    """What the API asks for the corpus."""
    return prices.corpus_texts * prices.tokens_a_text / 1e6 * prices.api_million


def model_cost(base: str, speed: float, prices: Prices) -> ModelCost:
    """The costs of a base model that embeds `speed` texts a second."""
    seconds = prices.corpus_texts / speed
    if prices.machine_hour is None:
        return ModelCost(base, speed, seconds, None, None, None)
    million = prices.machine_hour / 3600 / (speed * prices.tokens_a_text) * 1e6
    pays = million < prices.api_million
    monthly = prices.machine_hour * _HOURS_A_MONTH / prices.api_million * 1e6 if pays else None
    return ModelCost(base, speed, seconds, million, prices.machine_hour * seconds / 3600, monthly)
