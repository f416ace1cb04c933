"""A base model as a frozen encoder: loading it, the device it runs on, and the identity of its vectors.

An encoder is a Sentence Transformers pipeline of Transformer, Pooling, the model's own Dense modules and Normalize, so that a
model folder that holds these modules gives the same vectors.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.errors import FlywheelError, one_line
from flywheel.files import digest, scratch_folder
from flywheel.models.catalogue import BaseModel
from flywheel.models.facts import Facts, read_facts
from flywheel.models.weights import WEIGHTS_FILE, hash_file, hash_weights, locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)

_MIN_COSINE = 0.999
_MAX_DISTANCE = 0.002


def load_encoder(model: BaseModel, device: str) -> "SentenceTransformer":
    """Load `model` in float32 on `device` (as `resolve_device` takes it), without any network.

    Only `locate_weights` may reach the hub; no code of a repository runs. Raises FlywheelError when the model's weights
    cannot be had, when they do not load, when its files contradict each other (see `read_facts`), and when the text with a
    published vector gets another one.
    """
    place = resolve_device(device)
    folder = locate_weights(model)
    facts = read_facts(model, folder)
    with quiet_transformers():
        try:
            encoder = _open(folder, facts, place)
        # Damaged files make the library raise nearly anything.
        except Exception as error:
            raise FlywheelError(
                f"{model.name} does not load from {folder} on {place} ({type(error).__name__}: {one_line(error)}). "
                f"Point {model.setting('path')} at a folder with the hub's files, or set encoding.device to another device if "
                "this one lacks memory."
            ) from error
    first: Any = encoder[0]
    found = first.get_embedding_dimension()
    if found != facts.states_width:
        raise FlywheelError(
            f"{model.name} in {folder} has token states of {found} numbers, where its pooling is for {facts.states_width}. "
            f"Point {model.setting('path')} at a folder with the hub's files."
        )
    _check_published(encoder.eval(), model, folder)
    logger.info("Loaded %s from %s on %s.", model.name, folder, place)
    return encoder


def _open(folder: Path, facts: Facts, place: str) -> "SentenceTransformer":
    """Put the pipeline together from the folder's modules, so that what `facts` says is what runs."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer

    here: dict[str, Any] = {"model_name_or_path": str(folder), "local_files_only": True}
    first: Any
    # Weights that a file lacks, such as a pooler's, are drawn at random: always the same ones.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if facts.kind == "static":
            first = StaticEmbedding.load(subfolder=facts.root, **here)
        else:
            kind: Any = Transformer
            if facts.kind == "jina":  # transformers would take it for plain BERT
                from flywheel.models.jina import JinaTransformer

                kind = JinaTransformer
            weights = {"use_safetensors": True, "dtype": torch.float32}
            first = kind.load(subfolder=facts.root, trust_remote_code=False, model_kwargs=weights, **here)
            first.tokenizer.padding_side = "right"  # the token states of a text are then those of its row's beginning
            if facts.reads is not None:
                first.max_seq_length = facts.reads
    pooling = [] if facts.kind == "static" else [Pooling(facts.states_width, facts.poolings, facts.include_prompt)]
    dense = [Dense.load(subfolder=path, **here) for path in facts.dense]
    prompts = {facts.prompt_name: facts.prompt} if facts.prompt_name else None
    return SentenceTransformer(
        modules=[first, *pooling, *dense, Normalize()], device=place, prompts=prompts, default_prompt_name=facts.prompt_name
    )


def save_encoder(encoder: "SentenceTransformer", file: Path) -> None:
    """Write an encoder's weights to `file` in float32, under the names that its own class gives them."""
    with quiet_transformers(), scratch_folder(file.parent) as scratch:
        model: Any = encoder[0]
        model.auto_model.float().save_pretrained(scratch, max_shard_size="10TB")
        os.replace(scratch / WEIGHTS_FILE, file)


def resolve_device(device: str) -> str:
    """Turn the setting `device` (auto, cpu, cuda, cuda:N or mps) into a device that is here.

    `auto` takes CUDA, then MPS, then the CPU. Raises FlywheelError for any other word and for a device that is missing.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    match = re.fullmatch(r"cpu|mps|cuda(?::(\d{1,4}))?", device)
    if match is None:
        raise FlywheelError(f"There is no device {device!r}. Set encoding.device to auto, cpu, cuda, cuda:N or mps.")
    cards = torch.cuda.device_count()
    if device.startswith("cuda") and int(match[1] or 0) >= cards:
        raise FlywheelError(f"Device {device} is not here: torch finds {cards} CUDA devices. Set encoding.device to auto.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise FlywheelError("Device mps is not here: torch finds no Apple GPU. Set encoding.device to auto.")
    return device


def encoder_id(model: BaseModel, facts: Facts, weights: Path) -> str:
    """Name the vectors that `model` gives from the folder `weights`; fit for a folder's name.

    It is the model's name and 12 hex digits of a hash of its weights, its Dense modules' weights, its pooling, its prompt and
    how much it reads: other vectors never share a cache.
    """
    hashes = [hash_weights(weights), *(hash_file(weights / path / WEIGHTS_FILE) for path in facts.dense)]
    return f"{model.name}-{digest(repr((hashes, facts.poolings, facts.include_prompt, facts.prompt, facts.reads)))[:12]}"


def _check_published(encoder: "SentenceTransformer", model: BaseModel, folder: Path) -> None:
    """Refuse an encoder that gives the published text another vector than the published one.

    A whole vector must have a cosine of at least 0.999 with it. Of a vector's first numbers none may be off by more than
    0.002, about as far as that cosine lets the numbers of a unit vector stray.
    """
    if model.published is None:
        return
    text, expected = model.published.text, np.array(model.published.numbers)
    vector = encoder.encode([text], prompt="", show_progress_bar=False, convert_to_numpy=True)[0].astype(np.float64)
    if len(expected) == len(vector):
        agreement = float(expected @ vector / np.linalg.norm(expected) / np.linalg.norm(vector))
        right, found = agreement >= _MIN_COSINE, f"a cosine of {agreement:.4f} with it, where at least {_MIN_COSINE} belongs"
    else:
        distance = float(np.abs(vector[: len(expected)] - expected).max())
        right, found = distance <= _MAX_DISTANCE, f"numbers up to {distance:.4f} off, where at most {_MAX_DISTANCE} belongs"
    if not right:
        raise FlywheelError(
            f"{model.name} from {folder} is not loaded right: its vector of {text!r} is not the published one ({found}). "
            f"Point {model.setting('path')} at a folder with the hub's files and install the library versions of "
            "constraints.txt."
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the libraries' progress bar, load report and advice off the terminal; what was set before comes back."""
    from transformers.utils import logging as transformers_logging

    ours = logging.getLogger("sentence_transformers")
    level = ours.level
    ours.setLevel(logging.ERROR)
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        ours.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
