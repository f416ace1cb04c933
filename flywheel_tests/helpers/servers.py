"""Embeddings endpoints as they are known to behave, by name: what they refuse, in the shape they say it, how they answer."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flywheel_tests.helpers.endpoint import WIDTH, Answer, Handler, meaning, tokens_of

Body = dict[str, Any]
Fault = Callable[[Body], tuple[int, Any] | None]


@dataclass(frozen=True)
class Server:
    """An endpoint that refuses by the first of its `faults` that applies, else answers with vectors of `native` numbers, or as
    many as the field `width_field` asks for.
    """

    faults: tuple[Fault, ...] = ()
    native: int = WIDTH
    width_field: str | None = None
    base64_too: bool = True
    index: Callable[[int], Body] = lambda n: {"index": n}
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, handler: Handler, body: Body) -> None:
        """Answer one request."""
        for fault in self.faults:
            if found := fault(body):
                status, said = found
                text = said if isinstance(said, str) else json.dumps(said)
                return handler.reply(status, text, "text/html" if text.startswith("<") else "application/json")
        width = body.get(self.width_field, self.native) if self.width_field else self.native
        vectors = [meaning(text, width) for text in body["input"]]
        in_base64 = self.base64_too and wants_base64(body)
        written = [base64.b64encode(vector.tobytes()).decode() if in_base64 else vector.tolist() for vector in vectors]
        data = [{"object": "embedding", **self.index(n), "embedding": vector} for n, vector in enumerate(written)]
        usage = dict.fromkeys(("prompt_tokens", "total_tokens"), tokens_of(body["input"]))
        answer = {"object": "list", "model": body["model"], "data": data, "usage": usage}
        return handler.reply(200, json.dumps(answer), **self.headers)


def wants_base64(body: Body) -> bool:
    return body.get("encoding_format") == "base64"


def when(applies: Callable[[Body], bool], status: int, said: Callable[[Body], Any]) -> Fault:
    return lambda body: (status, said(body)) if applies(body) else None


def more_texts(most: int, status: int, said: Callable[[int], Any]) -> Fault:
    return when(lambda body: len(body["input"]) > most, status, lambda body: said(len(body["input"])))


def more_tokens(most: int, status: int, said: Callable[[int], Any]) -> Fault:
    return when(lambda body: tokens_of(body["input"]) > most, status, lambda body: said(tokens_of(body["input"])))


def has(name: str, status: int, said: Any) -> Fault:
    return when(lambda body: name in body, status, lambda _: said)


def openai(message: str, kind: str = "invalid_request_error", code: Any = None) -> Body:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def old_vllm(message: str) -> Body:
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


def siliconflow(texts: int) -> Body:
    return {"code": 20042, "message": f"input batch size {texts} > maximum allowed batch size 64", "data": None}


def dashscope(_: int) -> Body:
    message = "<400> InternalError.Algo.InvalidParameter: Value error, batch size is invalid, it should not be larger than 10."
    error = {"message": f"{message}: input.contents", "type": "InvalidParameter", "param": None, "code": "InvalidParameter"}
    return {"error": error, "id": "318cff27", "request_id": "318cff27"}


def gemini(_: int) -> list[Body]:
    message = "* BatchEmbedContentsRequest.requests: at most 100 requests can be in one batch\n"
    return [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]


def cohere(texts: int) -> Body:
    return {"message": f"invalid request: total number of texts must be at most 96 - received {texts}"}


def openrouter(texts: int) -> Body:
    inner = {"raw": json.dumps(cohere(texts)), "provider_name": "A provider"}
    return {"error": {"message": "Provider returned error", "code": 400, "metadata": inner}, "user_id": "user_1"}


def voyage(fault: str) -> Body:
    begin = "The request body is not valid JSON, or some arguments were not specified properly. In particular, "
    return {"detail": f"{begin}{fault}"}


def mistral(name: str) -> Body:
    detail = [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs are not permitted", "input": 4}]
    return {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": None, "code": None}


def pydantic(place: str, message: str) -> Body:
    return {"detail": [{"type": "x", "loc": ["body", place], "msg": message}]}


_OPENAI_TEXTS = more_texts(
    2048, 400, lambda n: openai(f"Invalid 'input': array too long. Expected an array with maximum length 2048, but got {n}.")
)
_MRL = 'Model "m" does not support matryoshka representation, changing output dimensions will lead to poor results.'
_TEI = "batch size {} > maximum allowed batch size 32"
_MINUTE = "Request too large for m in organization org on tokens per min (TPM): Limit 300, Requested {}."
_TOO_LARGE = "<html>\n<head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"

# Each takes 300 short texts in the end, whatever it refuses before.
SERVERS: dict[str, Answer] = {
    "OpenAI": Server((_OPENAI_TEXTS,), native=8, width_field="dimensions"),
    "OpenAI ada-002": Server(
        (_OPENAI_TEXTS, has("dimensions", 400, openai("This model does not support specifying dimensions.")))
    ),
    "OpenAI, too many tokens": Server(
        (more_tokens(300, 400, lambda n: openai(f"Requested {n} tokens, max 300 tokens per request", "max_tokens")),)
    ),
    "OpenAI, too large for a minute": Server(
        (more_tokens(300, 429, lambda n: openai(_MINUTE.format(n), "tokens", "rate_limit_exceeded")),)
    ),
    "Azure, a small limit": Server((more_texts(16, 400, lambda _: openai("Too many inputs. The max number of inputs is 16")),)),
    "vLLM": Server((has("dimensions", 400, openai(_MRL, "BadRequestError", 400)),)),
    "vLLM, old": Server(
        (
            has("dimensions", 400, old_vllm("dimensions is currently not supported")),
            when(wants_base64, 400, lambda _: old_vllm("base64 encoding is not currently supported")),
        ),
        base64_too=False,
    ),
    "vLLM, out of memory": Server((more_texts(64, 500, lambda _: openai("CUDA out of memory.", "InternalServerError", 500)),)),
    "TEI": Server((more_texts(32, 413, lambda n: {"error": _TEI.format(n), "error_type": "Validation"}),)),
    "TEI, its OpenAI route": Server(
        (more_texts(32, 413, lambda n: {"message": _TEI.format(n), "code": 413, "type": "Validation"}),)
    ),
    "DashScope": Server((more_texts(10, 400, dashscope),)),
    "SiliconFlow": Server((more_texts(64, 413, siliconflow),)),
    "SiliconFlow, under 200": Server((more_texts(64, 200, siliconflow),)),
    "Zhipu": Server((more_texts(64, 400, lambda _: {"error": {"code": "1214", "message": "input数组最大不得超过64条"}}),)),
    "Gemini": Server(
        (more_texts(100, 400, gemini),), native=8, width_field="dimensions", index=lambda n: {"index": n} if n else {}
    ),
    "Gemini, all texts as one": lambda handler, body: Server()(handler, {**body, "input": body["input"][:1]}),
    "Vertex": Server(
        (more_texts(250, 400, lambda n: openai(f"250 instance(s) is allowed per prediction. Actual: {n}", code=400)),)
    ),
    "OpenRouter": Server((more_texts(96, 200, openrouter),)),
    "Cohere": Server((more_texts(96, 400, cohere),)),
    "Voyage": Server(
        (
            has("dimensions", 400, voyage("Argument 'dimensions' is not supported by our API")),
            when(
                lambda body: body.get("encoding_format") == "float", 400,
                lambda _: voyage("Value 'float' supplied for argument 'encoding_format' is not valid -- accepted: 'base64'"),
            ),
            more_texts(128, 400, lambda n: {"detail": f"The batch size limit is 128. Your batch size is {n}."}),
        ),
        native=8, width_field="output_dimension",
    ),
    "Mistral": Server(
        (
            has("dimensions", 422, mistral("dimensions")),
            has("encoding_format", 422, mistral("encoding_format")),
            more_texts(128, 400, lambda _: old_vllm("Too many inputs in request, split into more batches.")),
        ),
        native=8, width_field="output_dimension",
    ),
    "Mistral, too many tokens": Server(
        (more_tokens(200, 400, lambda n: old_vllm(f"Too many tokens in batch. Max is 200 got {n}")),)
    ),
    "Jina": Server(
        (
            has("encoding_format", 400, {"detail": "extra fields not permitted: ['encoding_format']"}),
            more_texts(
                256, 422, lambda n: pydantic("input", f"List should have at most 256 items after validation, not {n}")
            ),
        ),
        native=8, width_field="dimensions",
    ),
    "infinity": Server(
        (more_texts(32, 422, lambda n: pydantic("input", f"List should have at most 32 items after validation, not {n}")),)
    ),
    "NVIDIA": Server((more_texts(259, 422, lambda n: {"detail": f"batch size {n} exceeds maximum allowed batch size 259"}),)),
    "a proxy with a small body": Server((when(lambda body: len(json.dumps(body)) > 1500, 413, lambda _: _TOO_LARGE),)),
    "a server that wants encoding_format": Server(
        (when(lambda body: "encoding_format" not in body, 422, lambda _: pydantic("encoding_format", "Field required")),)
    ),
    "llama.cpp, LM Studio: floats whatever is asked for": Server(base64_too=False),
    "base64 whatever is asked for": lambda handler, body: Server()(handler, {**body, "encoding_format": "base64"}),
    "Ollama: no index": Server(base64_too=False, index=lambda n: {}),
    "LocalAI: index as text": Server(base64_too=False, index=lambda n: {"index": str(n)}),
    "gzip": Server(headers={"content_encoding": "gzip"}),
}  # fmt: skip
