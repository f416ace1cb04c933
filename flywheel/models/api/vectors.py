"""Cached vectors of an OpenAI-compatible embeddings endpoint: what the paid baseline knows of a text, paid for once.

Nothing here writes down the API key: it goes to the client and nowhere else, and what the endpoint or the library says
about a failure is quoted without it.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

from flywheel.errors import FlywheelError, TryAgainError, needs_extra
from flywheel.models.api.asking import Asking, Wanted
from flywheel.models.api.explain import explain
from flywheel.models.api.ledger import Paid, add_to_ledger, read_ledger
from flywheel.models.api.refusals import Refusal
from flywheel.models.api.request import Sender, Shape
from flywheel.models.api.set_aside import SetAside
from flywheel.models.api.tokens import Tokens
from flywheel.models.cache import EmbeddingCache
from flywheel.models.features import OnProgress
from flywheel.models.options import BaselineOptions

_OPENAI = "api.openai.com:443/v1"
# What OpenAI's embedding models read of one text.
_TEXT_TOKENS = 8192
# Of the texts asked for, how many may be set aside at once: more, and it is the endpoint that fails.
_MOST_SET_ASIDE, _MOST_SET_ASIDE_SHARE = 10, 0.01
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VectorSource:
    """Whose vectors a file holds: endpoint family, model and dimensions. Stands in the file's metadata."""

    family: str
    model: str
    dimensions: int

    def metadata(self) -> dict[bytes, bytes]:
        """As Parquet has it."""
        return {f"flywheel.{name}".encode(): str(value).encode() for name, value in vars(self).items()}

    def __str__(self) -> str:
        return f"{self.model} at {self.dimensions} dimensions from {self.family}"


@dataclass(frozen=True)
class ApiVectors:
    """Unit vectors of `model` behind `base_url`, from the cache where they are there; only what is missing is asked for.

    Vectors have `dimensions` numbers; the endpoint is asked for that length only where it gives another by itself. Texts that
    are all in the cache need no key and open no connection. Texts that the endpoint failed on are set aside. `shared_cache` is
    where other machines have the same cache.
    """

    model: str
    dimensions: int
    base_url: str
    api_key: str | None = field(repr=False)
    cache_folder: Path
    batch_texts: int | None = None
    send_dimensions: bool | Literal["auto"] = "auto"
    encoding_format: str = "auto"
    shared_cache: str | None = None

    @classmethod
    def of(
        cls, options: BaselineOptions, api_key: str | None, cache_folder: Path, shared_cache: str | None = None
    ) -> "ApiVectors":
        """The vectors of the API that the settings name as the baseline, cached in a folder."""
        return cls(
            options.model, options.dimensions, options.url, api_key, cache_folder, options.batch_texts, options.send_dimensions,
            options.encoding_format, shared_cache,
        )  # fmt: skip

    @cached_property
    def family(self) -> str:
        """Whose vectors these are: `openai` for OpenAI's own API in whatever region, else the endpoint's host:port/path.

        Raises FlywheelError when `base_url` is no plain address.
        """
        url = self._url
        address = f"{url.host}:{url.port}{_above_embeddings(url.path or '')}"
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
        uri = None if self.shared_cache is None else f"{self.shared_cache}/{self.weights_id}"
        return EmbeddingCache(self.cache_folder / self.weights_id, self.dimensions, uri=uri)

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
        return len(self.unknown(texts))

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Those of `texts`, each once, that would have to be paid for: without a vector, and not set aside."""
        without = self.cache.unknown(list(dict.fromkeys(texts)))
        reasons = self.set_aside.reasons(without) if without else {}
        return [text for text in without if text not in reasons]

    def failed(self, texts: Iterable[str]) -> dict[str, str]:
        """Those of `texts` that were set aside because the endpoint failed on them, each with its reason."""
        return self.set_aside.reasons(self.cache.unknown(list(dict.fromkeys(texts))))

    def retry(self) -> None:
        """Forget what was set aside and what was learned about requests: the next `fill` asks again.

        Raises FlywheelError where texts are set aside and there is no usable key: it could not.
        """
        if self.set_aside.entries():
            self._check_key(len(self.set_aside.entries()))
        self.set_aside.clear()
        Shape.forget(self.cache.folder)

    def get(self, texts: Sequence[str], progress: OnProgress | None = None) -> np.ndarray:
        """Unit vectors, float32 (n, dimensions), of `texts` in their order, filled in first as `fill` does; NaN for those that
        are set aside.
        """
        self.fill(texts, progress)
        vectors = self.cache.find(texts)
        if lost := self.unknown([text for text, bad in zip(texts, np.isnan(vectors[:, 0]), strict=True) if bad]):
            raise FlywheelError(f"{len(lost)} vectors vanished from {self.cache.folder}. Run the command again.")
        return vectors

    def fill(self, texts: Iterable[str], progress: OnProgress | None = None) -> Paid:
        """Pay for those of `texts` that are missing, and say how much; `progress` hears (embedded, to embed).

        Each request's vectors are stored before the next is sent, so that what was paid for survives a failure; a ledger
        that cannot be written is a warning. A text that the endpoint fails on, while it does not on others, is set aside with
        a warning. Raises FlywheelError, naming model and endpoint, when texts are missing and there is no usable key, when the
        endpoint cannot be reached or refuses (busy endpoints are asked again, after the time that they name), when it fails
        on everything or on many texts, and when it answers with anything but one vector of `dimensions` numbers for each text.
        """
        todo = self.unknown(texts)
        spent: list[Paid] = []
        if not todo:
            return Paid()
        self._check_key(len(todo))
        bounds = dict(zip(todo, self.tokens.bounds(todo).tolist(), strict=True))
        asking = self._asking(bounds, spent)
        short, long = ([text for text in todo if (bounds[text] > _TEXT_TOKENS) == too_long] for too_long in (False, True))
        if self.tokens.encoding:
            for text in long:
                self._put_aside(text, f"{bounds[text]:,} tokens, where {self.model} reads {_TEXT_TOKENS:,}")
            long = []
        done = len(todo) - len(short) - len(long)
        for group in short, long:  # what may be refused comes last, on its own
            while group:
                count = asking.next_batch(group)
                left = self._bring(asking, group[:count])
                group = left + group[count:]
                done += count - len(left)
                if progress is not None and not left:
                    progress(done, len(todo))
        return sum(spent, Paid())

    def _asking(self, tokens: dict[str, int], spent: list[Paid]) -> Asking:
        def pay(answer: Paid) -> None:
            spent.append(answer)
            self._write_down(answer)

        wanted = Wanted(
            self.batch_texts,
            None if self.send_dimensions == "auto" else self.send_dimensions,
            None if self.encoding_format == "auto" else self.encoding_format,
        )
        sender = Sender(_above_embeddings(str(self._url)), self.model, self.dimensions, self.api_key or "")
        most = max(_MOST_SET_ASIDE, int(len(tokens) * _MOST_SET_ASIDE_SHARE))
        return Asking(sender, wanted, self.cache.folder, tokens, pay, self._put_aside, most)

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

    @property
    def set_aside(self) -> SetAside:
        """The texts that the endpoint failed on."""
        return SetAside(self.cache.folder)

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

    def _bring(self, asking: Asking, texts: list[str]) -> list[str]:
        """Ask for those of `texts` that are still missing once the lock is held; gives those to ask for again, otherwise.

        An answer's vectors are stored before its line is written, and its line also when it is refused or cannot be stored.
        """
        try:
            with self.cache.filling(texts) as (missing, store):
                aside = self.set_aside.reasons(missing)
                todo = [text for text in missing if text not in aside]
                return asking.bring(todo, store) if todo else []
        except Refusal as refusal:  # `from None`, because the library's errors carry the request and with it the key
            kind = TryAgainError if refusal.is_transient else FlywheelError
            raise kind(explain(refusal, asking.shape, self.base_url, self.model)) from None

    def _put_aside(self, text: str, reason: str) -> None:
        logger.warning("%s failed on the text that begins with %r (%s); set aside.", self.base_url, text[:60], reason)
        self.set_aside.add(text, reason)

    def _write_down(self, answer: Paid) -> None:
        try:
            add_to_ledger(self._ledger, answer)
        except OSError as error:
            logger.warning(
                "%s cannot be written (%s): an answer for %d texts, for which %s counted %d tokens, is missing in it. "
                "Move it away or fix its permissions.",
                *(self._ledger, error.strerror, answer.texts, self.base_url, answer.tokens),
            )


def _above_embeddings(address: str) -> str:
    """An address without the last step, which every request adds: people copy it whole."""
    return address.rstrip("/").removesuffix("/embeddings")
