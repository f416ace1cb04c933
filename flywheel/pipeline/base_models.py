"""The base models of a home: which there are and whether they are at hand, and a try of one of them."""

import time
from dataclasses import dataclass, replace

from flywheel.errors import FlywheelError
from flywheel.evaluation.retention import general_domain
from flywheel.models.catalogue import BaseModel
from flywheel.models.features import pooled
from flywheel.models.vectors import Vectors
from flywheel.models.weights import find_weights
from flywheel.pairs.snapshots.snapshot import unique_texts
from flywheel.pipeline.workspace import Workspace
from flywheel.training.job import RECIPES

_TIMED, _WARM_UP = 256, 16


@dataclass(frozen=True)
class KnownModel:
    """A base model: the length of its vectors and of the longest text, in tokens, as its files say where they are at hand, else
    as its card does; None where neither is known. `dims` are shorter lengths that it was trained for. `weights` is its folder;
    without one, `problem` may say why. `prompt` stands before every text. `met` says whether flywheel's own tests have met it.
    """

    name: str
    origin: str
    width: int | None
    dims: tuple[int, ...]
    reads: int | None
    licence: str
    contamination: str
    prompt: str | None
    weights: str | None
    problem: str | None
    met: bool


@dataclass(frozen=True)
class CheckedModel:
    """A base model that was loaded: its files' facts, texts a second on `device`, whether a published vector was there to check
    it by, and for each recipe why it cannot have it, or None where it can.
    """

    name: str
    weights: str
    kind: str
    width: int
    dims: tuple[int, ...]
    reads: int | None
    layers: int | None
    poolings: tuple[str, ...]
    prompt: str
    device: str
    texts_per_second: float
    published: bool
    recipes: dict[str, str | None]


def list_models(workspace: Workspace) -> list[KnownModel]:
    """Every base model that the home knows; nothing is loaded or downloaded."""
    return [_known(workspace.vectors(name)) for name in workspace.models.known]


def _known(vectors: Vectors) -> KnownModel:
    model = vectors.model
    try:
        folder = find_weights(model)
        facts = replace(vectors, model=replace(model, path=folder)).facts if folder else None
    except FlywheelError as error:
        return _listed(model, problem=str(error))
    if facts is None or folder is None:
        return _listed(model)
    told = replace(model, width=facts.width, reads=facts.reads, dims=facts.dims)
    return replace(_listed(told), weights=str(folder), prompt=facts.prompt or None)


def _listed(model: BaseModel, problem: str | None = None) -> KnownModel:
    return KnownModel(
        name=model.name,
        origin=model.origin,
        width=model.width,
        dims=model.dims,
        reads=model.reads,
        licence=model.licence,
        contamination=model.contamination,
        prompt=model.prompts.get(model.prompt_name or ""),
        weights=None,
        problem=problem,
        met=model.met,
    )


def check_model(workspace: Workspace, name: str) -> CheckedModel:
    """Load a base model, which may download it, encode some texts, and try what recipes it allows.

    Raises FlywheelError where it is not known, not to be had, or not loaded right.
    """
    vectors = workspace.vectors(name)
    texts = unique_texts(general_domain().read())[: _TIMED + _WARM_UP]
    encoder, facts = vectors.loaded, vectors.facts
    pooled(encoder, texts[:_WARM_UP], vectors.poolings)
    started = time.perf_counter()
    pooled(encoder, texts[_WARM_UP:], vectors.poolings)
    seconds = time.perf_counter() - started
    return CheckedModel(
        name=name,
        weights=str(vectors.weights),
        kind=type(getattr(encoder[0], "auto_model", encoder[0])).__name__,
        width=facts.width,
        dims=facts.dims,
        reads=facts.reads,
        layers=facts.layers,
        poolings=facts.poolings,
        prompt=facts.prompt,
        device=str(encoder.device),
        texts_per_second=len(texts[_WARM_UP:]) / seconds,
        published=vectors.model.published is not None,
        recipes={recipe: _reason_against(vectors, recipe) for recipe in RECIPES},
    )


def _reason_against(vectors: Vectors, recipe: str) -> str | None:
    """Why a model cannot be trained by a recipe, or None where it can."""
    try:
        if recipe != "head":
            vectors.check_layers()
        if recipe == "top":
            vectors.check_cut()
    except FlywheelError as error:
        return str(error)
    return None
