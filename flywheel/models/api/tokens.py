"""How many tokens texts have for OpenAI's embedding models: counted where the vocabulary is on this disk, else bounded and
estimated. Nothing is downloaded.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tiktoken import Encoding


# The vocabulary of text-embedding-3-small, -3-large and -ada-002, where tiktoken has it from and the sha256 it asks for.
ENCODING = "cl100k_base"
VOCABULARY_URL = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
VOCABULARY_SHA256 = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Tokens:
    """Counts tokens with `encoding`; without it gives what can be said of a byte-level tokeniser that is not at hand."""

    encoding: "Encoding | None"

    @classmethod
    def of_model(cls, model: str) -> "Tokens":
        """The counter of a model, by its name; exact for OpenAI's where their vocabulary is in tiktoken's folder."""
        try:
            import tiktoken

            known = tiktoken.encoding_name_for_model(model) == ENCODING
        except (KeyError, ModuleNotFoundError):  # another vendor's model, or the extra openai is not installed
            return cls(None)
        return cls(tiktoken.get_encoding(ENCODING) if known and _has_vocabulary() else None)

    @property
    def counted_by(self) -> str:
        """In words, how `estimate` comes by its number."""
        return (
            f"tiktoken, {ENCODING}" if self.encoding else f"characters / {_CHARACTERS_PER_TOKEN}, as no vocabulary is at hand"
        )

    def bounds(self, texts: Sequence[str]) -> np.ndarray:
        """Upper bound of tokens per text, int64 (n,): its tokens, or its bytes, of which a token takes at least one."""
        if self.encoding is None:
            return np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
        encode = self.encoding.encode_ordinary  # about 200,000 questions a second; in batches it is slower
        return np.fromiter((len(encode(text)) for text in texts), np.int64, len(texts))

    def estimate(self, texts: Sequence[str]) -> int:
        """About how many tokens the texts have together."""
        if self.encoding is None:
            return -(-sum(map(len, texts)) // _CHARACTERS_PER_TOKEN)
        return int(self.bounds(texts).sum())


def _has_vocabulary() -> bool:
    """Whether tiktoken would find its vocabulary on disk, whole; else it would ask the network for it."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder is None:
        folder = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    if not folder:  # how tiktoken is set to keep no files
        return False
    try:
        content = (Path(folder) / hashlib.sha1(VOCABULARY_URL.encode()).hexdigest()).read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content).hexdigest() == VOCABULARY_SHA256
