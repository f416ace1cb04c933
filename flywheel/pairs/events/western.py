"""Whether bytes that are not UTF-8 are Western text in cp1252, or may be another alphabet that looks like it.

The same byte is è in cp1252 and č in cp1250, so a decoder that raises nothing says nothing. What says something is which
letters come together: each language has few beyond ASCII, in shares of its own.
"""

import math
from collections.abc import Iterable

# Letters beyond ASCII by how often they come among them, roughly, in hundredths.
_WESTERN: tuple[dict[str, float], ...] = (
    {"œ": 1, "ü": 0.2, "æ": 0.1,
     "é": 54, "è": 10, "à": 12, "ê": 6, "ç": 3, "ô": 2, "î": 1.5, "û": 2, "ù": 1.5, "ï": 0.5, "ë": 0.3, "â": 3},
    {"ó": 27, "í": 24, "á": 20, "é": 14, "ñ": 8, "ú": 6, "ü": 0.5},
    {"ã": 22, "ç": 15, "á": 13, "é": 13, "í": 12, "ê": 8, "ó": 8, "õ": 5, "â": 3, "ú": 4, "à": 2, "ô": 1, "ü": 0.1},
    {"ü": 40, "ä": 33, "ö": 19, "ß": 16, "é": 0.5},
    {"à": 35, "è": 30, "ù": 10, "ò": 12, "é": 7, "ì": 7},
    {"ø": 36, "å": 44, "æ": 25, "é": 1},
    {"ä": 40, "å": 32, "ö": 30, "é": 1},
    {"ë": 55, "é": 20, "ï": 12, "è": 4, "ö": 4, "ü": 2, "ê": 0.5},
    {"é": 60, "ï": 15, "ö": 5, "ü": 5, "ç": 3, "è": 2, "ê": 2, "ñ": 5, "ä": 2},  # English, in its borrowed words
    {"à": 25, "é": 15, "è": 12, "ç": 5, "í": 8, "ó": 18, "ú": 5, "ò": 6, "ï": 4, "ü": 2},
)  # fmt: skip
_OTHERS: dict[str, tuple[dict[str, float], ...]] = {
    "cp1250": (
        {"ł": 26, "ę": 16, "ą": 14, "ó": 12, "ż": 12, "ś": 10, "ć": 6, "ń": 3, "ź": 1},
        {"í": 24, "á": 20, "é": 13, "ě": 13, "ý": 8, "ř": 9, "č": 9, "š": 8, "ž": 8, "ů": 5, "ú": 1, "ň": 1, "ť": 1, "ď": 1},
        {"á": 20, "í": 15, "ý": 12, "é": 9, "č": 11, "š": 9, "ž": 9, "ú": 8, "ľ": 3, "ť": 5, "ô": 2, "ä": 1, "ň": 2, "ď": 2},
        {"á": 30, "é": 32, "ö": 9, "ő": 9, "ó": 10, "ü": 5, "í": 5, "ú": 3, "ű": 2},
        {"č": 35, "š": 33, "ž": 20, "ć": 20, "đ": 7},
        {"ă": 35, "î": 13, "ş": 20, "ţ": 20, "â": 8},
    ),
    "cp1254": ({"ı": 35, "ş": 12, "ğ": 8, "ü": 14, "ö": 6, "ç": 8, "i̇": 1, "â": 0.2},),
    "cp1257": (
        {"ė": 25, "š": 20, "ž": 15, "ų": 15, "ū": 8, "į": 8, "ą": 8, "č": 7, "ę": 4},
        {"ā": 40, "ī": 20, "ē": 15, "š": 10, "ū": 5, "ž": 3, "ļ": 3, "ķ": 2, "ņ": 3, "č": 1, "ģ": 1},
        {"ä": 35, "õ": 35, "ü": 20, "ö": 8, "š": 0.5, "ž": 0.2},
    ),
}  # fmt: skip
_STRANGE = math.log(0.002)  # a letter that the language has not
_CLEARLY = 2.0  # so much likelier than in any other alphabet, as a logarithm
_BETWEEN, _AFTER, _BEFORE = "’‘´·–—…", "’‘´“”»…–—·®™©€°", "’‘´“”„‚«–—…·¿¡€£§©•"


def is_western(raw: Iterable[bytes]) -> bool:
    """Whether lines that are not UTF-8 are surely, or harmlessly, Western text in cp1252."""
    joined = b"\n".join(raw)
    try:
        text = joined.decode("cp1252")
    except UnicodeDecodeError:
        return False
    if any(each < " " and each not in "\t\n\r" for each in text) or "¤" in text or "\x7f" in text or _odd_signs(text):
        return False
    if any(len(word) > 1 and word.isalpha() and not any(map(str.isascii, word)) for word in text.split()):
        return False
    lines = text.split("\n")
    languages = [max(_WESTERN, key=lambda shares: _fit(line, line, shares)) for line in lines]
    letters = [[each for each in line if _counts(each)] for line in lines]
    strange = sum(each.lower() not in shares for some, shares in zip(letters, languages, strict=True) for each in some)
    if strange > 0.02 * sum(map(len, letters)):
        return False
    for encoding, foreign in _OTHERS.items():
        others = joined.decode(encoding, "replace").split("\n")
        ours = sum(max(_fit(line, other, shares) for shares in _WESTERN) for line, other in zip(lines, others, strict=True))
        theirs = sum(max(_fit(other, line, shares) for shares in foreign) for line, other in zip(lines, others, strict=True))
        if others != lines and ours - theirs < _CLEARLY:
            return False
    return True


def _counts(each: str) -> bool:
    """Whether a character is a letter beyond ASCII."""
    return each > "\x7f" and each.isalpha() and each not in "ªº"


def _fit(line: str, other: str, shares: dict[str, float]) -> float:
    """How likely a line's letters are in a language; those that are the same read otherwise say only whether it has them."""
    whole = sum(shares.values())
    fit = 0.0
    for each, instead in zip(line, other, strict=True):
        if _counts(each):
            share = shares.get(each.lower())
            fit += _STRANGE if share is None else 0 if each == instead else math.log(share / whole)
    return fit


def _odd_signs(text: str) -> bool:
    """Whether a sign, or a capital letter, stands in a word where no Western language has one."""
    if text.count("„") > text.count("“") + text.count("”"):
        return True
    for before, sign, after in zip(" " + text, text, text[1:] + " ", strict=False):
        if sign <= "\x7f":
            continue
        if sign.isalpha() and sign not in "ªº":
            if sign.isupper() and before.islower():
                return True
        elif before.isalpha() and after.isalpha():
            if sign not in _BETWEEN:
                return True
        elif before.isalpha():
            if sign not in _AFTER and (before.lower() + sign) not in ("m²", "m³", "nº", "n°"):
                return True
        elif after.isalpha() and sign not in _BEFORE:
            return True
    return False
