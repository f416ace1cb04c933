"""One request to an embeddings endpoint: the shape it has, as it was set or learned, and sending it."""

import json
import logging
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from flywheel.models.api.refusals import Refusal, reason_of, refusal_inside, status_and_code

if TYPE_CHECKING:
    from openai import APIError, APIStatusError, OpenAI

# One request, and so the most that a failure or a kill can lose. OpenAI takes 2,048 texts and 300,000 tokens at most.
MOST_TEXTS = 2048
MOST_TOKENS = 100_000
# The client tries again by itself, for 15 seconds or as long as the endpoint says. Limits count minutes, so that they are
# waited out beyond that.
_RETRIES = 5
_PAUSE_SECONDS = 8.0
_PATIENCE_SECONDS = 120.0
_TIMEOUT_SECONDS = 60.0
# What an endpoint is asked for first, so that learning its way costs next to nothing, and how requests grow from there: to
# what takes half of the time that is waited for, beside what any request takes.
PROBE_TEXTS = 8
_GROWTH = 8
_ANY_REQUEST_SECONDS = 0.5
_QUOTED = 300
_FILE = "shape.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What a request to one endpoint looks like.

    `width_field` is the field that asks for a length of vectors and `encoding` the value of `encoding_format`; None: the field
    is left out. A request holds at most `texts` texts and `tokens` tokens, as they are counted here, and no more than `grown`
    texts, which grows with each answer as long as they come in good time.
    """

    width_field: str | None = None
    encoding: str | None = None
    texts: int = MOST_TEXTS
    tokens: int = MOST_TOKENS
    grown: int = PROBE_TEXTS

    @classmethod
    def learned(cls, folder: Path) -> "Shape":
        """What was learned of the endpoint whose vectors are in `folder`; the least of a request where nothing was."""
        try:
            return _SHAPE.validate_json((folder / _FILE).read_bytes())
        except (OSError, ValidationError):  # it is learned again
            return cls()

    def after(self, texts: int, seconds: float) -> "Shape":
        """The shape after an answer for so many texts that took so long."""
        grown = min(MOST_TEXTS, max(self.grown, _GROWTH * texts))
        if (work := seconds - _ANY_REQUEST_SECONDS) > 0:
            grown = min(grown, max(PROBE_TEXTS, int(texts * _TIMEOUT_SECONDS / 2 / work)))
        return replace(self, grown=grown)

    def remember(self, folder: Path) -> None:
        """Write it down beside the vectors, by one rename. Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f"{_FILE}-{uuid4().hex}"
        try:
            aside.write_text(json.dumps(asdict(self)))
            aside.replace(folder / _FILE)
        finally:
            aside.unlink(missing_ok=True)

    @staticmethod
    def forget(folder: Path) -> None:
        """Learn it again next time."""
        (folder / _FILE).unlink(missing_ok=True)


_SHAPE = TypeAdapter(Shape)


@dataclass(frozen=True)
class Sender:
    """Sends requests for vectors of `model` to `url`; the key goes into their headers and nowhere else."""

    url: str
    model: str
    dimensions: int
    api_key: str = field(repr=False)
    moved: list[str] = field(default_factory=list, repr=False)
    times: list[float] = field(default_factory=list, repr=False)

    @property
    def seconds(self) -> float:
        """How long the last answer took."""
        return self.times[-1] - self.times[-2] if len(self.times) > 1 else 0.0

    def send(self, texts: list[str], shape: Shape, retries: int | None = None) -> dict[str, Any]:
        """The parsed answer to one request, an object, which waits out a limit of the rate. Raises Refusal.

        `retries` is how often a request that fails by chance is sent again; unset, as often as may help.
        """

        def say(_: object) -> None:
            logger.warning("%s limits the rate for %s; waiting.", self.url, self.model)

        patiently = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Refusal) and error.passes),
            wait=wait_fixed(_PAUSE_SECONDS),
            stop=stop_after_delay(_PATIENCE_SECONDS),
            before_sleep=say,
            reraise=True,
        )
        return patiently(self._send, self._body(texts, shape), _RETRIES if retries is None else retries)

    def _body(self, texts: list[str], shape: Shape) -> dict[str, object]:
        body: dict[str, object] = {"model": self.model, "input": texts}
        if shape.width_field:
            body[shape.width_field] = self.dimensions
        if shape.encoding:
            body["encoding_format"] = shape.encoding
        return body

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import DefaultHttpxClient, OpenAI

        def start(_: object) -> None:
            self.times[:] = [time.monotonic()]

        def note(response: Any) -> None:
            self.times.append(time.monotonic())
            if response.status_code in (301, 302, 303):  # such a redirect loses the request's body
                self.moved.append(str(response.url.join(response.headers.get("location", ""))))

        client = DefaultHttpxClient(event_hooks={"request": [start], "response": [note]})
        made = OpenAI(api_key=self.api_key, base_url=self.url, timeout=_TIMEOUT_SECONDS, http_client=client)
        if "openai.com" not in self.url:  # the client takes these from the environment, and they are no business of others
            made.organization = made.project = None
        return made

    def _send(self, body: dict[str, object], retries: int) -> dict[str, Any]:
        import openai

        self.moved.clear()
        refusal, text = None, ""
        try:  # not by `embeddings.create`, which asks for base64 unasked and checks no answer
            text = self._client.post("/embeddings", body=body, cast_to=str, options={"max_retries": retries})
        except openai.APIStatusError as error:
            refusal = self._refused(error)
        except openai.APITimeoutError as error:
            refusal = Refusal(None, f"no answer within {_TIMEOUT_SECONDS:g} seconds", silent=True, asked=_asked(error))
        except openai.APIConnectionError as error:
            refusal = Refusal(None, self._clean(str(error.__cause__ or error)), asked=_asked(error))
        if self.moved:
            refusal = Refusal(301, _without_query(self.moved[0]).removesuffix("/embeddings"))
        answer = _parsed(text)
        refusal = refusal or self._inside(answer, text)
        if refusal is None:
            return answer
        # An answer that kept the client from trying as often as it may would keep us waiting in vain.
        refusal.passes = refusal.is_rate_limit and refusal.code != "insufficient_quota" and refusal.asked in (0, retries + 1)
        raise refusal

    def _refused(self, error: "APIStatusError") -> Refusal:
        text = error.response.text
        reason = self._clean(reason_of(text)) or error.response.reason_phrase or "no reason given"
        return Refusal(error.status_code, reason, code=status_and_code(_parsed(text))[1], asked=_asked(error))

    def _inside(self, answer: Any, text: str) -> Refusal | None:
        """The refusal in an answer of status 200, which the client took for a good one."""
        if (found := refusal_inside(answer)) is not None:
            return Refusal(found.status, self._clean(found.reason), code=found.code, asked=0)
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), list) or not answer["data"]:
            return Refusal(200, self._clean(reason_of(text)) or "nothing")
        return None

    def _clean(self, text: str) -> str:
        """`text` on one line, cut short, with the key blotted out."""
        return " ".join(text.split()).replace(self.api_key, "***")[:_QUOTED].rstrip(". ")


def _asked(error: "APIError") -> int:
    """How often the client sent the request that failed in the end."""
    return int(error.request.headers.get("x-stainless-retry-count", "0")) + 1


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _without_query(url: str) -> str:
    """An address without what may be secret in it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
