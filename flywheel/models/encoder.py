"""A base model as a frozen encoder: loading it, the device it runs on, and the identity of its vectors.

An encoder is a Sentence Transformers pipeline of exactly Transformer, Pooling and Normalize, so that a model folder that
holds these modules gives the same vectors.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flywheel.errors import FlywheelError, one_line
from flywheel.models.catalogue import BaseModel
from flywheel.models.weights import hash_weights, locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_MIN_COSINE = 0.999
_MAX_DISTANCE = 0.002


def load_encoder(model: BaseModel, model_paths: Mapping[str, Path], device: str) -> "SentenceTransformer":
    """Load `model` as Transformer, Pooling, Normalize on `device` (as `resolve_device` takes it), without any network.

    Only `locate_weights` may reach the hub; no code of a repository runs. Raises FlywheelError when the model's weights
    cannot be had, when they do not load, when modules, pooling or width are not the catalogue's, and when the text with a
    published vector gets another one.
    """
    place = resolve_device(device)
    folder = locate_weights(model, model_paths)
    open_pipeline = {"transformers": _open_transformers, "jina": _open_jina}[model.architecture]
    with quiet_transformers():
        try:
            encoder = open_pipeline(folder, place)
        # Damaged files make the library raise nearly anything.
        except Exception as error:
            raise FlywheelError(
                f"{model.name} does not load from {folder} on {place} ({type(error).__name__}: {one_line(error)}). "
                "Replace the folder with the hub's files, or choose another device if this one lacks memory."
            ) from error
    _check_modules(encoder, model, folder)
    _check_published(encoder.eval(), model, folder)
    logger.info("Loaded %s from %s on %s.", model.name, folder, place)
    return encoder


def _open_transformers(folder: Path, place: str) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder),
        device=place,
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True},
    )


def _open_jina(folder: Path, place: str) -> "SentenceTransformer":
    """Put the pipeline together by hand: the hub's modules.json names a Transformer that would take it for plain BERT."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

    from flywheel.models.jina import JinaTransformer

    first = JinaTransformer.load(str(folder), local_files_only=True)
    pooling = Pooling.load(str(folder), subfolder="1_Pooling", local_files_only=True)
    return SentenceTransformer(modules=[first, pooling, Normalize()], device=place)


def resolve_device(device: str) -> str:
    """Turn the setting `device` (auto, cpu, cuda, cuda:N or mps) into a device that is here.

    `auto` takes CUDA, then MPS, then the CPU. Raises FlywheelError for any other word and for a device that is missing.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise FlywheelError(f"There is no device {device!r}. Set models.device to auto, cpu, cuda, cuda:N or mps.")
    cards = torch.cuda.device_count()
    if device.startswith("cuda") and int(match[1] or 0) >= cards:
        raise FlywheelError(f"Device {device} is not here: torch finds {cards} CUDA devices. Set models.device to auto.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise FlywheelError("Device mps is not here: torch finds no Apple GPU. Set models.device to auto.")
    return device


def encoder_id(model: BaseModel, weights: Path) -> str:
    """Name the vectors that `model` with the weights in folder `weights` gives; fit for a folder's name.

    It is the model's name and the first 12 hex digits of its weights' sha256: other weights never share a cache.
    """
    return f"{model.name}-{hash_weights(weights)[:12]}"


def _check_modules(encoder: "SentenceTransformer", model: BaseModel, folder: Path) -> None:
    """Refuse an encoder that is not Transformer, Pooling, Normalize with the catalogue's pooling and width."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    match list(encoder):
        case [Transformer() as transformer, Pooling() as pooling, Normalize()]:
            found = (pooling.pooling_mode, transformer.get_embedding_dimension(), pooling.embedding_dimension)
            if found == (model.pooling, model.width, model.width):
                return
            what = f"pools by {found[0]} over {found[2]} numbers and its encoder has {found[1]}"
        case modules:
            what = f"holds the modules {', '.join(type(module).__name__ for module in modules)}"
    raise FlywheelError(
        f"The folder {folder} of {model.name} {what}, where Transformer, Pooling by {model.pooling} over {model.width} "
        "numbers and Normalize belong. Replace it with the hub's files."
    )


def _check_published(encoder: "SentenceTransformer", model: BaseModel, folder: Path) -> None:
    """Refuse an encoder that gives the published text another vector than the published one.

    A whole vector must have a cosine of at least 0.999 with it. Of a vector's first numbers none may be off by more than
    0.002, about as far as that cosine lets the numbers of a unit vector stray.
    """
    if model.published is None:
        return
    text, expected = model.published.text, np.array(model.published.numbers)
    vector = encoder.encode([text], show_progress_bar=False, convert_to_numpy=True)[0].astype(np.float64)
    if len(expected) == len(vector):
        agreement = float(expected @ vector / np.linalg.norm(expected) / np.linalg.norm(vector))
        right, found = agreement >= _MIN_COSINE, f"a cosine of {agreement:.4f} with it, where at least {_MIN_COSINE} belongs"
    else:
        distance = float(np.abs(vector[: len(expected)] - expected).max())
        right, found = distance <= _MAX_DISTANCE, f"numbers up to {distance:.4f} off, where at most {_MAX_DISTANCE} belongs"
    if not right:
        raise FlywheelError(
            f"{model.name} from {folder} is not loaded right: its vector of {text!r} is not the published one ({found}). "
            "Replace the folder with the hub's files and install the library versions of constraints.txt."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bar, load report and advice off the terminal; what was set before comes back."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
