"""Identity of texts: what makes two texts the same question, and two observations the same pair."""

import hashlib
import unicodedata


def normalise(text: str) -> str:
    """NFC, control characters and runs of white space made one blank, ends stripped."""
    composed = unicodedata.normalize("NFC", text)
    return " ".join("".join(" " if unicodedata.category(c) == "Cc" else c for c in composed).split())


def question_id(text: str) -> str:
    """32 hex digits that are equal for texts that differ only in case, white space or invisible format characters."""
    visible = "".join(c for c in normalise(text) if unicodedata.category(c) != "Cf")
    return digest(" ".join(visible.casefold().split()))


def pair_id(question_a: str, question_b: str) -> str:
    """32 hex digits of an unordered pair of question ids."""
    return digest("|".join(sorted((question_a, question_b))))


def digest(text: str) -> str:
    """128-bit BLAKE2b of `text` in hex: identities and hash orders everywhere in the store."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
