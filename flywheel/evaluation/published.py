"""Published figures: somebody else's, on other pairs; shown beside the measured ones and never compared with them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedResult:
    """A figure from elsewhere: error rate on `n` test pairs of the data named."""

    variant: str
    published_error: float
    n: int
    data: str
    note: str


PUBLISHED = (
    PublishedResult(
        "text-embedding-3-small@1536",
        (6510 + 909) / 44635,
        44635,
        "Quora duplicate questions (test rows of the experiment of April 2024)",
        "Its threshold was fitted under another share of duplicates, which overstates its best error.",
    ),
)
