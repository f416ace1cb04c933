"""What an embeddings endpoint says when it gives no vectors: its reason, whichever way it is said, and what it teaches."""

import html
import json
import re
from typing import Any

# Time, another text or another form of the request do not help: the key, the account, the address, the model.
_FINAL = frozenset({401, 402, 403, 404, 405, 407, 410})
_SAID_IN = ("error", "message", "detail", "msg", "errors", "error_message", "errorMessage", "reason", "title")
_LIMIT = (
    r"max(?:imum)?|at most|limit|larger than|greater than|less than|more than|up to|exceed\w*|fewer than|不得超过|不能超过|最多"
)
_AFTER = re.compile(rf"(?:{_LIMIT})\D{{0,40}}?(\d+)", re.IGNORECASE)
_BEFORE = re.compile(r"(\d+)\D{0,30}?(?:is|are) (?:the most |the maximum )?allowed", re.IGNORECASE)
_OF_TEXTS = re.compile(
    r"batch|texts|inputs?\b|items?\b|array|list\b|requests\b|instances?\b|elements|documents|sentences|contents|条",
    re.IGNORECASE,
)
_OF_LENGTH = re.compile(r"token|character|byte|context length|payload|request body|request entity", re.IGNORECASE)
_OF_SIZE = re.compile(
    rf"too (?:large|long|many|big)|{_LIMIT}|payload|entity|split|context length|request body|out of memory|timed? ?out",
    re.IGNORECASE,
)
_FIELDS = {
    "dimensions": re.compile(r"dimension|matryoshka", re.IGNORECASE),
    "encoding_format": re.compile(r"encoding[_ ]?format|base64", re.IGNORECASE),
}


class Refusal(Exception):
    """A request that brought no vectors. `status` is that of HTTP, or what an answer of status 200 says of itself; None where
    none came: `silent` after a timeout, else the connection failed. It was sent `asked` times. `passes`: time alone lifts it.
    """

    def __init__(
        self, status: int | None, reason: str, *, code: str | None = None, silent: bool = False, asked: int = 1
    ) -> None:
        """`reason` is on one line, without the key; `code` the endpoint's own word for it."""
        super().__init__(reason)
        self.status, self.reason, self.code, self.silent, self.asked = status, reason, code, silent, asked
        self.passes = False

    @property
    def words(self) -> str:
        """Status and reason, for a sentence."""
        return self.reason if self.status is None else f"{self.status} - {self.reason}"

    @property
    def is_rate_limit(self) -> bool:
        """Whether it came too soon or the account is empty. A request that is too large for any minute is neither."""
        return self.status == 429 and not re.search(r"request too large", self.reason, re.IGNORECASE)

    @property
    def is_final(self) -> bool:
        """Whether no smaller request could do better."""
        return self.is_rate_limit or self.status in _FINAL or (self.status or 400) < 400

    @property
    def is_deterministic(self) -> bool:
        """Whether the same request is refused each time."""
        return self.status is not None and self.status < 500

    @property
    def is_transient(self) -> bool:
        """Whether the same request may succeed later: no answer, a fault of the endpoint, a limit of the rate."""
        if self.status is None or self.status >= 500:
            return True
        return self.is_rate_limit and self.code != "insufficient_quota"

    @property
    def is_of_size(self) -> bool:
        """Whether the request may have been too large: by its words, or because it took too long."""
        return self.silent or self.status == 413 or bool(_OF_SIZE.search(self.reason))

    @property
    def is_of_length(self) -> bool:
        """Whether what was too large is counted in tokens or bytes, not in texts."""
        return bool(_OF_LENGTH.search(self.reason))

    def names(self, field: str) -> bool:
        """Whether it is about `dimensions` or `encoding_format`."""
        return bool(_FIELDS[field].search(self.reason))

    def most_texts(self, sent: int) -> int | None:
        """How many texts a request may hold, if it says so to one of `sent` texts."""
        if self.is_of_length or not _OF_TEXTS.search(self.reason):
            return None
        plain = re.sub(r"(?<=\d),(?=\d{3})", "", self.reason)
        for pattern in (_AFTER, _BEFORE):
            if found := [number for number in map(int, pattern.findall(plain)) if 1 <= number < sent]:
                return min(found)
        return None


def reason_of(body: str) -> str:
    """The endpoint's own reason in the body of an answer, on one line; empty where the body is."""
    if is_web_page(body):
        title = re.search(r"<title[^>]*>(.*?)</title>", body, re.IGNORECASE | re.DOTALL)
        named = " ".join(html.unescape(title[1]).split()) if title else ""
        return f"a web page titled {named!r}" if named else "a web page"
    try:
        found = json.loads(body)
    except ValueError:
        found = body
    return " ".join((_words(found) or body).split())


def is_web_page(body: str) -> bool:
    """Whether a body is HTML, as proxies and portals answer."""
    return bool(re.match(r"\s*(<!doctype html|<html|<head|<\?xml[^>]*>\s*<!doctype html)", body, re.IGNORECASE))


def refusal_inside(answer: Any) -> Refusal | None:
    """The refusal that an answer of status 200 holds in place of vectors; None where it is no refusal."""
    if not isinstance(answer, dict) or answer.get("data"):
        return None
    said = answer.get("error") or answer.get("errors") or answer.get("message") or answer.get("detail")
    if not said:
        return None
    status, code = status_and_code(answer)
    return Refusal(status or 400, reason_of(json.dumps(answer)), code=code)


def status_and_code(answer: Any) -> tuple[int | None, str | None]:
    """The HTTP status and the word by which a parsed body names its error, where it has them."""
    found = [part for part in (answer.get("error"), answer) if isinstance(part, dict)] if isinstance(answer, dict) else []
    values = [part.get(name) for part in found for name in ("code", "status", "type", "error_type")]
    numbers = [int(str(value)) for value in values if re.fullmatch(r"[45]\d\d", str(value))]
    words = [value for value in values if isinstance(value, str) and not value.isdigit()]
    return next(iter(numbers), None), next(iter(words), None)


def _words(said: Any) -> str:
    """What a parsed error says in words, wherever it has them."""
    if isinstance(said, str):
        try:
            inner = json.loads(said) if said.lstrip()[:1] in "{[" else None
        except ValueError:
            inner = None
        return (_words(inner) if inner else "") or said
    if isinstance(said, list):
        return "; ".join(filter(None, map(_words, said[:3])))
    if not isinstance(said, dict):
        return ""
    if said.get("msg") and isinstance(said.get("loc"), list):  # what pydantic found wrong with a field
        return f"{'.'.join(str(part) for part in said['loc'] if part != 'body')}: {said['msg']}"
    found = [_words(said[name]) for name in _SAID_IN if said.get(name)]
    if isinstance(inner := said.get("metadata"), dict) and inner.get("raw"):  # what a router was told itself
        found.append(_words(inner["raw"]))
    return ": ".join(dict.fromkeys(filter(None, found)))
