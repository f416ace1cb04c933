"""What a base model reads of a text, by its tokenizer alone, and why two different texts may be one and the same to it."""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flywheel.errors import FlywheelError, one_line
from flywheel.models.catalogue import CATALOGUE, BaseModel
from flywheel.models.facts import Facts, read_facts

Why = Literal["cut", "marks", "unknown", "dropped"]
# Texts of one and the same tokens get vectors at least this alike, however batches were padded or numbers rounded.
ALIKE = 0.99
_SPECIAL = 8


@dataclass(frozen=True)
class SameTokens:
    """Which pairs have two texts of the same tokens: `same` (n,), and of how many each is the cause (see `Reader.same`)."""

    same: np.ndarray
    why: Counter[Why]
    model: BaseModel
    limit: int | None

    @property
    def share(self) -> float:
        """Of all pairs."""
        return float(self.same.mean()) if len(self.same) else 0.0

    def words(self, pairs: str) -> str:
        """`71 % of the pairs differ only after 256 tokens, which is all that all-MiniLM-L6-v2 reads`: the commonest cause.

        `pairs` is what they are, such as "test pairs".
        """
        name, cause = self.model.name, self.why.most_common(1)[0][0]
        if cause == "cut":
            what = f"differ only after {self.limit:,} tokens, which is all that {name} reads"
        else:
            what = f"have the same tokens for {name}, {_BECAUSE[cause]}"
        rest = self.share - self.why[cause] / len(self.same)
        others = f" ({share_text(rest)} more have the same tokens for other reasons)" if rest > 0 else ""
        return f"{share_text(self.why[cause] / len(self.same))} of the {pairs} {what}{others}"

    @property
    def remedy(self) -> str:
        """What leads on, for the commonest cause."""
        if self.why.most_common(1)[0][0] != "cut":
            return "Put the difference into words where the pairs come from, or train without these pairs in a new home"
        longer = [
            f"{each.name} ({each.reads:,} tokens)" for each in CATALOGUE.values() if (each.reads or 0) > (self.limit or 0)
        ]
        other = f"Use a model that reads more: {' or '.join(longer)}" if longer else "No model of the catalogue reads more"
        return f"{other}; or shorten the texts where the pairs come from, so that what differs comes first"


_BECAUSE: dict[Why, str] = {
    "marks": "which reads lower-case letters without accents",
    "unknown": "which has no tokens for what differs, such as emoji or another script, and reads [UNK] instead",
    "dropped": "whose tokenizer drops the characters that differ",
}


@dataclass(frozen=True)
class Reader:
    """The tokenizer in the folder of a base model's weights; no weights are loaded."""

    model: BaseModel
    folder: Path

    @cached_property
    def facts(self) -> Facts:
        """What the model's files say."""
        return read_facts(self.model, self.folder)

    @property
    def limit(self) -> int | None:
        """How many tokens of a text are read at most, the special ones included; None where nothing limits it."""
        return self.facts.reads

    def cut(self, texts: Sequence[str]) -> np.ndarray:
        """Which texts (n,) are longer than what is read of them, with the prompt before them."""
        limit = self.limit
        found = np.zeros(len(texts), dtype=bool)
        if limit is None:
            return found
        # A token is a byte of its text at least, and tokenizers add a few special ones.
        long = [row for row, text in enumerate(texts) if len((self.facts.prompt + text).encode()) + _SPECIAL > limit]
        found[long] = [len(ids) > limit for ids in self._ids([texts[row] for row in long])]
        return found

    def same(self, left: Sequence[str], right: Sequence[str], scores: np.ndarray) -> SameTokens:
        """Which pairs of different texts have the same tokens within the limit; `scores` (n,) are their untrained cosines.

        The cause is `cut` where the texts differ beyond the limit; `marks` where they differ in case or accents; `unknown`
        where the tokenizer says [UNK]; else `dropped`.
        """
        found = np.zeros(len(left), dtype=bool)
        rows = np.flatnonzero(np.asarray(scores) > ALIKE).tolist()
        why: Counter[Why] = Counter()
        if len(rows):
            whole = [self._ids([texts[row] for row in rows]) for texts in (left, right)]
            for row, a, b in zip(rows, *whole, strict=True):
                if left[row] != right[row] and self._cut(a) == self._cut(b):
                    found[row] = True
                    why["cut" if a != b else self._why_whole(left[row], right[row], a)] += 1
        return SameTokens(found, why, self.model, self.limit)

    def _cut(self, ids: list[int]) -> list[int]:
        """Token ids as the model gets them: the last, special one stays where a text is cut."""
        return ids if self.limit is None or len(ids) <= self.limit else [*ids[: self.limit - 1], ids[-1]]

    def _why_whole(self, left: str, right: str, ids: list[int]) -> Why:
        if without_marks(left) == without_marks(right):
            return "marks"
        return "unknown" if self._unknown in ids else "dropped"

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [encoded.ids for encoded in self._tokenizer.encode_batch([self.facts.prompt + text for text in texts])]

    @cached_property
    def _unknown(self) -> int | None:
        return self._tokenizer.token_to_id(str(getattr(self._tokenizer.model, "unk_token", None) or "[UNK]"))

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        file = self.folder / self.facts.root / "tokenizer.json"
        try:
            tokenizer = Tokenizer.from_file(str(file))
        # A plain Exception is all that the library raises.
        except Exception as error:
            raise FlywheelError(
                f"{file} cannot be read ({one_line(error)}). Replace {self.folder} with the hub's files of {self.model.name}."
            ) from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def without_marks(text: str) -> str:
    """Without case and accents, as many models read a text."""
    apart = unicodedata.normalize("NFD", text.lower())
    return "".join(letter for letter in apart if unicodedata.category(letter) != "Mn")


def share_text(share: float) -> str:
    """`0.714` as `71 %`, with a decimal below a tenth."""
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
