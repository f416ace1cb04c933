"""Settings of this room: what the page of evidence shows."""

from pydantic import BaseModel, Field


class EvidenceOptions(BaseModel, frozen=True, extra="forbid"):
    """What the page of evidence shows."""

    flipped_pairs: int = Field(10, ge=0, description="Pairs shown that one model gets right and the other wrong, of each kind.")
    corpus_texts: int = Field(1_000_000, gt=0, description="Size of the corpus whose embedding is priced, in texts.")
    worth_of_doubling: float = Field(
        0.0025, gt=0, lt=1, description="Least fall of the error rate for which twice the training pairs are worth collecting."
    )
