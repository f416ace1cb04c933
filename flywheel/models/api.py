"""Cached vectors of an OpenAI-compatible embeddings endpoint: what the paid baseline knows of a text, paid for once.

Nothing here writes down the API key: it goes to the client and nowhere else, and what the endpoint or the library says
about a failure is quoted without it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

from flywheel.errors import FlywheelError
from flywheel.models.cache import EmbeddingCache
from flywheel.models.features import Progress

if TYPE_CHECKING:
    from openai import OpenAI, OpenAIError

# One request, and so the most that a failure or a kill can lose. OpenAI takes 2,048 texts and 300,000 tokens at most; a
# character is seldom more than three tokens.
_BATCH_TEXTS = 256
_BATCH_CHARACTERS = 100_000

_RETRIES = 5
_TIMEOUT_SECONDS = 60.0


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

    @cached_property
    def weights_id(self) -> str:
        """Name these vectors, fit for a folder's name: model, dimensions and 12 hex digits of a sha256.

        The hash covers the model's full name and the endpoint's host, port and path; the key takes no part. Raises
        FlywheelError when `base_url` is no plain address.
        """
        url = self._url
        identity = f"{self.model}\n{url.host}:{url.port}{(url.path or '').rstrip('/')}"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model)[:80]
        return f"{name}-{self.dimensions}-{sha256(identity.encode()).hexdigest()[:12]}"

    def missing(self, texts: Iterable[str]) -> int:
        """How many distinct texts would have to be paid for."""
        return self._cache.missing(texts)

    def get(self, texts: Sequence[str], progress: Progress | None = None) -> np.ndarray:
        """Unit vectors, float32 (n, dimensions), of `texts` in their order; `progress` hears (embedded, to embed).

        Each request's vectors are stored before the next is sent, so that what was paid for survives a failure. Raises
        FlywheelError, naming model and endpoint, when texts are missing and there is no usable key, when the endpoint
        cannot be reached or refuses (busy endpoints are asked again, after the time that they name), and when it
        answers with anything but one finite vector of `dimensions` numbers for each text.
        """
        total, done = self.missing(texts), 0

        def embed_batch(batch: list[str]) -> np.ndarray:
            nonlocal done
            vectors = self._embed(batch)
            done += len(batch)
            if progress is not None:
                progress(done, total)
            return vectors

        if total:
            self._check_key(total)
            for batch in _batches(dict.fromkeys(texts)):
                self._cache.get(batch, embed_batch)
        return self._cache.get(texts, embed_batch)

    @cached_property
    def _url(self) -> AnyHttpUrl:
        try:
            url = TypeAdapter(AnyHttpUrl).validate_python(self.base_url)
        except ValidationError:
            url = None
        # The value is not shown: where user, password or query stand, a secret may.
        if url is None or url.username or url.password or url.query or url.fragment:
            raise FlywheelError(
                f"The endpoint of {self.model} is not of the form http(s)://host:port/path without user, password or "
                "query. Mend baseline_url in flywheel.toml or FLYWHEEL_BASELINE_URL."
            )
        return url

    @cached_property
    def _cache(self) -> EmbeddingCache:
        return EmbeddingCache(self.cache_folder / self.weights_id, self.dimensions)

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        return OpenAI(api_key=self.api_key, base_url=str(self._url), max_retries=_RETRIES, timeout=_TIMEOUT_SECONDS)

    def _check_key(self, missing: int) -> None:
        if not self.api_key:
            raise FlywheelError(
                f"{missing} texts have no vector of {self.model} from {self.base_url} yet and there is no API key. "
                "Set OPENAI_API_KEY, or use the local baseline with FLYWHEEL_BASELINE=local."
            )
        if re.fullmatch(r"[!-~]+", self.api_key) is None:
            raise FlywheelError(
                f"The API key for {self.model} at {self.base_url} holds a space, a line break or a character beyond "
                "ASCII, as no key does. Set OPENAI_API_KEY to the key alone."
            )

    def _embed(self, texts: list[str]) -> np.ndarray:
        """Ask for the vectors of `texts` in one request: float32 (n, dimensions), unit rows in the order of `texts`."""
        from openai import OpenAIError

        try:
            answer = self._client.embeddings.create(model=self.model, input=texts, dimensions=self.dimensions)
            found = [(item.index, np.asarray(item.embedding, dtype=np.float32)) for item in answer.data]
        # `from None`, because the library's errors carry the request and with it the key.
        except OpenAIError as error:
            raise FlywheelError(self._explain(error)) from None
        # The library checks no answer: it trips over one that is not embeddings, or hands on its parts as they are.
        except (AttributeError, TypeError, ValueError):
            raise FlywheelError(
                f"{self.base_url} did not answer with embeddings of {self.model}. "
                "Set baseline_url to an OpenAI-compatible endpoint; most end in /v1."
            ) from None
        return self._checked(found, len(texts))

    def _checked(self, found: list[tuple[int, np.ndarray]], count: int) -> np.ndarray:
        """Put the vectors of one answer, each with its index, into order, and give them unit length."""
        source = f"{self.base_url} answered for {self.model} with"
        places = [place for place, _ in found if isinstance(place, int)]
        if len(found) != count or sorted(places) != list(range(count)):
            known = len(set(places) & set(range(count)))
            raise FlywheelError(
                f"{source} {len(found)} vectors, which are those of {known} of {count} texts; none was stored. "
                "Run the command again, or choose another endpoint with FLYWHEEL_BASELINE_URL."
            )
        shapes = {vector.shape for _, vector in found}
        if shapes != {(self.dimensions,)}:
            raise FlywheelError(
                f"{source} vectors of shape {' and '.join(map(str, shapes))} where {(self.dimensions,)} was asked for; "
                "none was stored. Set baseline_dimensions to what the model gives."
            )
        vectors = np.stack([vector for _, vector in found])[np.argsort(places)]
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        broken = np.count_nonzero(~(np.isfinite(lengths) & (lengths > 0)))
        if broken:
            raise FlywheelError(
                f"{source} NaN, infinity or nothing but zeros for {broken} of {count} texts; none was stored. "
                "Run the command again, or choose another model with FLYWHEEL_BASELINE_MODEL."
            )
        return (vectors / lengths).astype(np.float32)

    def _explain(self, error: "OpenAIError") -> str:
        """Say what a failed request means and what to do about it."""
        import openai

        kept = "Run the command again later: what was embedded so far is kept."
        match error:
            # What is said here about a key may quote parts of it.
            case openai.AuthenticationError() | openai.PermissionDeniedError():
                return (
                    f"{self.base_url} refused the API key for {self.model} (HTTP {error.status_code}). Set "
                    "OPENAI_API_KEY to a key that may use it, or use the local baseline with FLYWHEEL_BASELINE=local."
                )
            case openai.RateLimitError():
                reason = self._quote(error)
                return f"{self.base_url} limits the rate or the quota for {self.model} ({reason}). {kept}"
            case openai.APITimeoutError():
                return f"{self.base_url} did not answer for {self.model} within {_TIMEOUT_SECONDS:g} seconds. {kept}"
            case openai.APIConnectionError():
                reason = self._quote(error.__cause__ or error)
                return (
                    f"{self.base_url} cannot be reached for {self.model} ({reason}). Check the network and "
                    "baseline_url, then run the command again: what was embedded so far is kept."
                )
            case openai.InternalServerError():
                return f"{self.base_url} failed on {self.model} ({self._quote(error)}). {kept}"
            case _:
                return (
                    f"{self.base_url} refused the request for {self.model} ({self._quote(error)}). "
                    "Check baseline_model, baseline_dimensions and baseline_url."
                )

    def _quote(self, error: BaseException) -> str:
        """Give the text of `error` on one line, cut short, with the key blotted out."""
        text = " ".join(str(error).split())
        return text.replace(self.api_key or "\n", "***")[:200].rstrip(". ")


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Cut `texts` into runs that fit one request each; a text longer than a request should be stands alone."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and (len(batch) == _BATCH_TEXTS or characters + len(text) > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
