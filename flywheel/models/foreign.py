"""What programs that are not ours read in a model folder: the files of its modules, in the form that all of them know.

The keys are those that Sentence Transformers wrote until 5 and still reads in 6, and that Text Embeddings Inference, vLLM and
infinity look for.
"""

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flywheel.errors import FlywheelError
from flywheel.files import write_json
from flywheel.models.facts import POOLING_KEYS

MODULES = ("", "1_Pooling", "2_Dense", "3_Normalize")
DENSE_WEIGHTS = "2_Dense/model.safetensors"
_SERVED_POOLINGS = {"cls", "mean", "lasttoken"}  # those that Text Embeddings Inference and vLLM have
_WIDTH = "word_embedding_dimension"
_IDENTITY = "torch.nn.modules.linear.Identity"
_DENSE_KEYS = {"in_features", "out_features", "bias", "activation_function"}
_KIND = "sentence_transformers.models."
# What Sentence Transformers 6 writes for a plain encoder of text, and older versions refuse.
_NEW_KEYS = ("transformer_task", "modality_config", "module_output_name")
_TRANSFORMER_KEYS = {"max_seq_length", "do_lower_case"}
_UNLIMITED = 10**6  # tokenisers say a number above it where they know no limit


@dataclass(frozen=True)
class Portability:
    """Who can load a folder, as a sentence, and what in its files contradicts that."""

    loaders: str
    faults: tuple[str, ...]


def who_loads(folder: Path, needs_flywheel: bool = False) -> str:
    """Which programs load a folder, and what they have to be told, in a sentence or two."""
    if needs_flywheel:
        return "It loads in Sentence Transformers 6 where flywheel is installed, and in no other program."
    return _loaders(folder) + _prompt(folder)


def is_static(folder: Path) -> bool:
    """Whether a folder's vectors are looked up word by word, without a transformer."""
    return any(module["type"].endswith(".StaticEmbedding") for module in _read(folder, "modules.json"))


def _prompt(folder: Path) -> str:
    name = "config_sentence_transformers.json"
    config = _read(folder, name) if (folder / name).exists() else {}
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name"))
    if not prompt:
        return ""
    said = f" Sentence Transformers puts {prompt!r} before each text; for a server that does not, do it yourself."
    if _read(folder, f"{MODULES[1]}/config.json").get("include_prompt") is False:
        said += " It also leaves that out of the pooling, which servers do not: their vectors differ."
    return said


def _loaders(folder: Path) -> str:
    if is_static(folder):
        return "It looks words up and has no transformer, so it loads in Sentence Transformers 3.2 to 6, and in no server."
    poolings = read_poolings(folder)
    if len(poolings) == 1 and set(poolings) <= _SERVED_POOLINGS:
        return (
            "It is written for Sentence Transformers 3 to 6 and for the servers that read its files: infinity, Text "
            "Embeddings Inference, vLLM."
        )
    return (
        f"Its pooling is {' + '.join(poolings)}: it loads in Sentence Transformers 3 to 6 and in infinity, but not in Text "
        "Embeddings Inference or vLLM, which take one of cls, mean and lasttoken."
    )


def in_foreign_order(weight: np.ndarray, poolings: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """A head's `weight` (dim, poolings * width) with the columns of its poolings in the order that the files imply, without
    those that it gives no weight, and the poolings that are left.
    """
    blocks = dict(zip(poolings, np.split(weight, len(poolings), axis=1), strict=True))
    kept = tuple(name for name in POOLING_KEYS if name in blocks and blocks[name].any()) or tuple(poolings[:1])
    return np.ascontiguousarray(np.concatenate([blocks[name] for name in kept], axis=1)), kept


def in_our_order(weight: np.ndarray, written: Sequence[str], poolings: Sequence[str]) -> np.ndarray:
    """A folder's head, whose columns belong to the poolings `written`, with columns for `poolings`: zero where it has none."""
    blocks = dict(zip(written, np.split(weight, len(written), axis=1), strict=True))
    empty = np.zeros_like(weight[:, : weight.shape[1] // len(written)])
    return np.concatenate([blocks.get(name, empty) for name in poolings], axis=1)


def write_configs(folder: Path, weight: np.ndarray, poolings: Sequence[str], first: str | None) -> None:
    """Write modules.json and the configuration of each module; `first` is the first module's class where it is ours."""
    _write_transformer(folder)
    _write_tokenizer(folder)
    dim, columns = weight.shape
    modes = {key: name in poolings for name, key in POOLING_KEYS.items()}
    write_json(folder / MODULES[1] / "config.json", {_WIDTH: columns // len(poolings), **modes})
    dense = {"in_features": columns, "out_features": dim, "bias": True, "activation_function": _IDENTITY}
    write_json(folder / MODULES[2] / "config.json", dense)
    (folder / MODULES[3]).mkdir()
    kinds = [first or f"{_KIND}Transformer", *(f"{_KIND}{name}" for name in ("Pooling", "Dense", "Normalize"))]
    modules = [{"path": path, "type": kind} for path, kind in zip(MODULES, kinds, strict=True)]
    write_json(folder / "modules.json", [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)])


def read_poolings(folder: Path) -> tuple[str, ...]:
    """The poolings of a folder, in the order of the head's columns.

    Raises FlywheelError when its file names none, or others than its head has columns for.
    """
    config, dense = (_read(folder, f"{name}/config.json") for name in MODULES[1:3])
    poolings = tuple(name for name, key in POOLING_KEYS.items() if config.get(key))
    if not poolings or len(poolings) * config.get(_WIDTH, 0) != dense.get("in_features"):
        raise FlywheelError(
            f"{folder / MODULES[1] / 'config.json'} names the poolings {', '.join(poolings) or 'of no known key'}, which do "
            "not fit the head beside it. Delete the folder and train the model again with `flywheel train`."
        )
    return poolings


def foreign_faults(folder: Path) -> list[str]:
    """What in a folder's files other programs would refuse or misread, one line each.

    This is how strictly the strictest of them reads: unknown keys are errors in Sentence Transformers 3 to 5, missing ones in
    Text Embeddings Inference, whose structs `PoolConfig`, `DenseConfig` and `STConfig` (router/src/lib.rs) name what it needs.
    """
    from safetensors.numpy import load_file

    kinds = [module["type"] for module in _read(folder, "modules.json")]
    pooling, dense = (_read(folder, f"{name}/config.json") for name in MODULES[1:3])
    transformer, encoder = _read(folder, "sentence_bert_config.json"), _read(folder, "config.json")
    shapes = {name: tensor.shape for name, tensor in load_file(folder / DENSE_WEIGHTS).items()}
    width, dim = dense.get("in_features"), dense.get("out_features")
    modes = {key: pooling.get(key) for key in POOLING_KEYS.values()}
    tests = {
        "modules.json names other classes than those of every version": kinds
        == [f"{_KIND}{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")],
        "1_Pooling/config.json has other keys than all read": pooling.keys() - {"include_prompt"} == {_WIDTH, *modes},
        "1_Pooling/config.json has values that are not true or false": all(isinstance(on, bool) for on in modes.values()),
        "2_Dense/config.json has other keys than all read": dense.keys() == _DENSE_KEYS,
        "2_Dense/config.json has an activation": dense.get("activation_function") == _IDENTITY,
        "2_Dense/config.json and its weights differ": shapes == {"linear.weight": (dim, width), "linear.bias": (dim,)},
        "the poolings do not give the head's columns": width == pooling.get(_WIDTH, 0) * sum(map(bool, modes.values())),
        "sentence_bert_config.json has keys that old versions refuse": transformer.keys() <= _TRANSFORMER_KEYS,
        "sentence_bert_config.json has no maximum length": isinstance(transformer.get("max_seq_length"), int),
        "config.json names no architecture": bool(encoder.get("architectures")) and "model_type" in encoder,
        "config.json names code of a repository": "auto_map" not in encoder,
        "tokenizer.json is missing": (folder / "tokenizer.json").is_file(),
        "model.safetensors is missing": (folder / "model.safetensors").is_file(),
    }
    unreadable = [f"{f.relative_to(folder)} is closed to other users" for f in _files(folder) if not _is_open(f)]
    return [fault for fault, passed in tests.items() if not passed] + unreadable


def _write_transformer(folder: Path) -> None:
    file = folder / "sentence_bert_config.json"
    found = json.loads(file.read_text()) if file.exists() else {}
    kept = {key: value for key, value in found.items() if key not in _NEW_KEYS}
    longest = kept.pop("max_seq_length", None) or _longest(folder)
    limit = {} if longest is None else {"max_seq_length": longest}
    write_json(file, {"do_lower_case": False, **kept, **limit})


def _longest(folder: Path) -> int | None:
    """The maximum length that Sentence Transformers takes where its own file names none."""
    encoder = _read(folder, "config.json") if (folder / "config.json").exists() else {}  # static embeddings have none
    limits = encoder.get("max_position_embeddings"), _tokenizer(folder).get("model_max_length")
    return min((limit for limit in limits if isinstance(limit, int) and limit < _UNLIMITED), default=None)


def _write_tokenizer(folder: Path) -> None:
    """Say in words of transformers 4 what transformers 5 may have saved in its own."""
    config = _tokenizer(folder)
    if not config:
        return
    said = dict(config)
    if said.get("tokenizer_class") == "TokenizersBackend":
        said["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(said.get("extra_special_tokens"), list):
        said["additional_special_tokens"] = said.pop("extra_special_tokens")
    if said != config:
        write_json(folder / "tokenizer_config.json", said)


def _tokenizer(folder: Path) -> dict[str, Any]:
    return _read(folder, "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text(encoding="utf-8"))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _is_open(file: Path) -> bool:
    return bool(file.stat().st_mode & stat.S_IROTH)
