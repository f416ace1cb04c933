"""Cached vectors of an OpenAI-compatible embeddings endpoint: what the paid baseline knows of a text, paid for once.

Nothing here writes down the API key: it goes to the client and nowhere else, and what the endpoint or the library says
about a failure is quoted without it.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from flywheel.errors import FlywheelError, needs_extra
from flywheel.models.api.exchange import VectorSource
from flywheel.models.api.ledger import Paid, add_to_ledger, read_ledger
from flywheel.models.api.tokens import Tokens
from flywheel.models.cache import EmbeddingCache
from flywheel.models.features import OnProgress
from flywheel.models.options import BaselineOptions

if TYPE_CHECKING:
    from openai import APIError, OpenAI, OpenAIError
    from openai.types import CreateEmbeddingResponse


# One request, and so the most that a failure or a kill can lose. OpenAI takes 2,048 texts and 300,000 tokens at most.
_BATCH_TEXTS = 2048
_BATCH_TOKENS = 100_000
_OPENAI = "api.openai.com:443/v1"
# What OpenAI's embedding models read of one text.
_TEXT_TOKENS = 8192
# The client tries again by itself, for 15 seconds or as long as the endpoint says. Limits count minutes, so that they are
# waited out beyond that.
_RETRIES = 5
_PAUSE_SECONDS = 8.0
_PATIENCE_SECONDS = 120.0
_TIMEOUT_SECONDS = 60.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ApiVectors:
    """Unit vectors of `model` behind `base_url`, from the cache where they are there; only what is missing is asked for.

    `dimensions` is sent along and checked. Texts that are all in the cache need no key and open no connection.
    """

    model: str
    dimensions: int
    base_url: str
    api_key: str | None = field(repr=False)
    cache_folder: Path

    @classmethod
    def of(cls, options: BaselineOptions, api_key: str | None, cache_folder: Path) -> "ApiVectors":
        """The vectors of the API that the settings name as the baseline, cached in a folder."""
        return cls(options.model, options.dimensions, options.url, api_key, cache_folder)

    @cached_property
    def family(self) -> str:
        """Whose vectors these are: `openai` for OpenAI's own API in whatever region, else the endpoint's host:port/path.

        Raises FlywheelError when `base_url` is no plain address.
        """
        url = self._url
        address = f"{url.host}:{url.port}{(url.path or '').rstrip('/')}"
        return "openai" if re.fullmatch(rf"(.+\.)?{re.escape(_OPENAI)}", address) else address

    @property
    def origin(self) -> VectorSource:
        """What an export of these vectors says of them."""
        return VectorSource(self.family, self.model, self.dimensions)

    @cached_property
    def weights_id(self) -> str:
        """Name these vectors, fit for a folder's name: model, dimensions and 12 hex digits of a sha256.

        The hash covers the model's full name and the family of its endpoint; the key takes no part. Raises FlywheelError
        when `base_url` is no plain address.
        """
        identity = f"{self.model}\n{_OPENAI if self.family == 'openai' else self.family}"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model)[:80]
        return f"{name}-{self.dimensions}-{sha256(identity.encode()).hexdigest()[:12]}"

    @cached_property
    def cache(self) -> EmbeddingCache:
        """Vectors, float32 (n, dimensions)."""
        return EmbeddingCache(self.cache_folder / self.weights_id, self.dimensions)

    @cached_property
    def tokens(self) -> Tokens:
        """Counts the model's tokens, as well as this machine can."""
        return Tokens.of_model(self.model)

    @property
    def paid(self) -> Paid:
        """All that was ever paid for these vectors from here."""
        return read_ledger(self._ledger)

    def missing(self, texts: Iterable[str]) -> int:
        """How many distinct texts would have to be paid for."""
        return self.cache.missing(texts)

    def get(self, texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
        """Unit vectors, float32 (n, dimensions), of `texts` in their order, filled in first as `fill` does."""
        self.fill(texts, progress)
        return self._bring(texts)[0]

    def fill(self, texts: Iterable[str], progress: OnProgress | None = None) -> Paid:
        """Pay for those of `texts` that are missing, and say how much; `progress` hears (embedded, to embed).

        Each request's vectors are stored before the next is sent, so that what was paid for survives a failure; a ledger
        that cannot be written is a warning. Raises FlywheelError, naming model and endpoint, when texts are missing and
        there is no usable key, when one is known to be too long, when the endpoint cannot be reached or refuses (busy
        endpoints are asked again, after the time that they name), and when it answers with anything but one finite vector
        of `dimensions` numbers for each text.
        """
        todo = self.cache.unknown(list(dict.fromkeys(texts)))
        spent = Paid()
        if not todo:
            return spent
        self._check_key(len(todo))
        bounds = self.tokens.bounds(todo)
        too_long = bounds > _TEXT_TOKENS
        if self.tokens.encoding and too_long.any():
            longest = todo[bounds.argmax()]
            raise FlywheelError(
                f"{np.count_nonzero(too_long):,} texts are longer than the {_TEXT_TOKENS:,} tokens that {self.model} reads, "
                f"so nothing was asked for; the longest begins with {longest[:60]!r}. Shorten them at their source, or let "
                "them go with `flywheel forget --text-contains`, and take a new snapshot."
            )

        done = 0
        groups = np.flatnonzero(~too_long), np.flatnonzero(too_long)  # what may be refused comes last, on its own
        for batch in chain.from_iterable(_batches([todo[i] for i in group], bounds[group]) for group in groups):
            spent += self._bring(batch)[1]
            done += len(batch)
            if progress is not None:
                progress(done, len(todo))
        return spent

    @cached_property
    def _url(self) -> AnyHttpUrl:
        try:
            url = TypeAdapter(AnyHttpUrl).validate_python(self.base_url)
        except ValidationError:
            url = None
        # The value is not shown: a user, password or query may hold a secret.
        if url is None or url.username or url.password or url.query or url.fragment:
            raise FlywheelError(
                f"The endpoint of {self.model} is not of the form http(s)://host:port/path without user, password or "
                "query. Fix the setting baseline.url, in the home's flywheel.toml or as FLYWHEEL_BASELINE__URL."
            )
        return url

    @property
    def _ledger(self) -> Path:
        return self.cache.folder / "paid.jsonl"

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        return OpenAI(api_key=self.api_key, base_url=str(self._url), max_retries=_RETRIES, timeout=_TIMEOUT_SECONDS)

    def _check_key(self, missing: int) -> None:
        with needs_extra("openai", f"Asking {self.base_url} for vectors"):
            import_module("openai")
        if not self.api_key:
            raise FlywheelError(
                f"{missing} texts have no vector of {self.model} from {self.base_url} yet and there is no API key. "
                "Set OPENAI_API_KEY, bring the vectors with `flywheel baseline import`, or use the local baseline with "
                "FLYWHEEL_BASELINE__SOURCE=local."
            )
        if re.fullmatch(r"[!-~]+", self.api_key) is None:
            raise FlywheelError(
                f"The API key for {self.model} at {self.base_url} holds a space, a line break or a character beyond "
                "ASCII, as no key does. Set OPENAI_API_KEY to the key alone."
            )

    def _bring(self, texts: Sequence[str]) -> tuple[np.ndarray, Paid]:
        """Vectors of `texts` as `get` gives them, and what was paid for those that were missing.

        An answer's vectors are stored before its line is written, and its line also when it is refused or cannot be stored.
        """
        answers: list[Paid] = []
        try:
            vectors = self.cache.get(texts, lambda missing: self._embed(missing, answers))
        finally:
            for answer in answers:
                self._write_down(answer)
        return vectors, sum(answers, Paid())

    def _write_down(self, answer: Paid) -> None:
        try:
            add_to_ledger(self._ledger, answer)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): an answer for %d texts, for which %s counted %d tokens, is missing in it. "
                "Move it away or fix its permissions.",
                *(self._ledger, error.strerror, answer.texts, self.base_url, answer.tokens),
            )

    def _embed(self, texts: list[str], answers: list[Paid]) -> np.ndarray:
        """Ask for the vectors of `texts` in one request: float32 (n, dimensions), unit rows in the order of `texts`.

        What the answer cost is added to `answers`, whether it is any good or not.
        """
        from openai import OpenAIError

        try:
            answer = self._ask(texts)
            counted = getattr(answer.usage, "total_tokens", None)
            answers.append(Paid(len(texts), counted) if isinstance(counted, int) else Paid(len(texts), uncounted=len(texts)))
            found = [(item.index, np.asarray(item.embedding, dtype=np.float32)) for item in answer.data]
        # `from None`, because the library's errors carry the request and with it the key.
        except OpenAIError as error:
            raise FlywheelError(self._explain(error, texts)) from None
        # The library checks no answer: it trips over one that is not embeddings, or hands on its parts as they are.
        except (AttributeError, TypeError, ValueError):
            raise FlywheelError(
                f"{self.base_url} did not answer with embeddings of {self.model}. "
                "Set baseline.url to an OpenAI-compatible endpoint; most end in /v1."
            ) from None
        return self._checked(found, len(texts))

    def _ask(self, texts: list[str]) -> "CreateEmbeddingResponse":
        """Send one request, and wait out a limit of its rate."""

        def say(_: object) -> None:
            logger.warning("%s limits the rate for %s; waiting.", self.base_url, self.model)

        patiently = Retrying(
            retry=retry_if_exception(_is_passing_limit),
            wait=wait_fixed(_PAUSE_SECONDS),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=say,
            reraise=True,
        )
        return patiently(self._client.embeddings.create, model=self.model, input=texts, dimensions=self.dimensions)

    def _checked(self, found: list[tuple[int, np.ndarray]], count: int) -> np.ndarray:
        """Put the vectors of one answer, each with its index, into order, and give them unit length."""
        source = f"{self.base_url} answered for {self.model} with"
        places = [place for place, _ in found if isinstance(place, int)]
        if len(found) != count or sorted(places) != list(range(count)):
            known = len(set(places) & set(range(count)))
            raise FlywheelError(
                f"{source} {len(found)} vectors, which are those of {known} of {count} texts; none was stored. "
                "Run the command again, or choose another endpoint with FLYWHEEL_BASELINE__URL."
            )
        shapes = {vector.shape for _, vector in found}
        if shapes != {(self.dimensions,)}:
            raise FlywheelError(
                f"{source} vectors of shape {' and '.join(map(str, shapes))} where {(self.dimensions,)} was asked for; "
                "none was stored. Set baseline.dimensions to what the model gives."
            )
        vectors = np.stack([vector for _, vector in found])[np.argsort(places)]
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        broken = np.count_nonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if broken:
            raise FlywheelError(
                f"{source} NaN, infinity or nothing but zeros for {broken} of {count} texts; none was stored. "
                "Run the command again, or choose another model with FLYWHEEL_BASELINE__MODEL."
            )
        return (vectors / lengths).astype(np.float32)

    def _explain(self, error: "OpenAIError", texts: list[str]) -> str:
        """Say what a failed request means and what to do about it."""
        import openai

        kept = "what was embedded so far is kept; or use the local baseline with FLYWHEEL_BASELINE__SOURCE=local."
        later = f"Run the command again later: {kept}"
        match error:
            # What is said here about a key may quote parts of it.
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return (
                    f"{self.base_url} refused the API key for {self.model} (HTTP {error.status_code}). Set "
                    "OPENAI_API_KEY to a key that may use it, or use the local baseline with FLYWHEEL_BASELINE__SOURCE=local."
                )
            case openai.RateLimitError():
                reason = self._quote(error)
                return f"{self.base_url} limits the rate or the quota for {self.model} ({reason}). {later}"
            case openai.APITimeoutError():
                return (
                    f"{self.base_url} did not answer for {self.model} within {_TIMEOUT_SECONDS:g} seconds; {_asked(error)}. "
                    f"{later}"
                )
            case openai.APIConnectionError():
                reason = self._quote(error.__cause__ or error)
                return (
                    f"{self.base_url} cannot be reached for {self.model} ({reason}); {_asked(error)}. Check the network and "
                    f"baseline.url, then run the command again: {kept}"
                )
            case openai.InternalServerError():
                return f"{self.base_url} failed on {self.model} ({self._quote(error)}); {_asked(error)}. {later}"
            case _:
                return (
                    f"{self.base_url} refused the request for {self.model} ({self._quote(error)}). "
                    f"Check baseline.model, baseline.dimensions and baseline.url{_long_ones(texts)}."
                )

    def _quote(self, error: BaseException) -> str:
        """Give the text of `error` on one line, cut short, with the key blotted out."""
        text = " ".join(str(error).split())
        return text.replace(self.api_key or "\n", "***")[:200].rstrip(". ")


def _is_passing_limit(error: BaseException) -> bool:
    """Whether time alone lifts what stopped a request: not where the account is empty, nor where the endpoint's answer
    kept the client from trying as often as it may.
    """
    from openai import RateLimitError

    if not isinstance(error, RateLimitError) or error.code == "insufficient_quota":
        return False
    return error.request.headers.get("x-stainless-retry-count") == str(_RETRIES)


def _asked(error: "APIError") -> str:
    """How often the client sent the request that failed in the end: the endpoint may want money for every time."""
    times = int(error.request.headers.get("x-stainless-retry-count", "0")) + 1
    return (
        "it was asked once and may have counted it" if times == 1 else f"it was asked {times} times and may have counted each"
    )


def _long_ones(texts: list[str]) -> str:
    """What to say of texts that may have been too long for the model."""
    long = [text for text in texts if len(text.encode()) > _TEXT_TOKENS]
    if not long:
        return ""
    begins = max(long, key=len)[:60]
    return (
        f"; {len(long)} texts of this request have more than {_TEXT_TOKENS:,} bytes and may be too long for the model, "
        f"the longest begins with {begins!r}, and `flywheel forget --text-contains` lets them go"
    )


def _batches(texts: Sequence[str], tokens: np.ndarray) -> Iterator[list[str]]:
    """Cut `texts`, with at most `tokens` (n,) each, into requests; one longer than a request should be is sent alone."""
    batch: list[str] = []
    held = 0
    for text, count in zip(texts, tokens.tolist(), strict=True):
        if batch and (len(batch) == _BATCH_TEXTS or held + count > _BATCH_TOKENS):
            yield batch
            batch, held = [], 0
        batch.append(text)
        held += count
    if batch:
        yield batch
