"""An encoder is exactly its model folder, refuses what is not the catalogue's, and keeps the order of texts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, BaseModel, ReferenceVector
from flywheel.models.encoder import load_encoder, resolve_device
from flywheel.models.features import pooled
from flywheel.models.vectors import Vectors
from flywheel.models.weights import locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = CATALOGUE["all-MiniLM-L6-v2"]
TEXTS = ["How do I learn Python?", "", "ß ☃ 日本語", "Why is the sky blue? " * 80, "What is the best way to learn Python?"]


@pytest.fixture
def minilm_copy(tmp_path: Path) -> Path:
    """A folder with MiniLM's files, the weights linked, that a test may spoil."""
    source, copy = locate_weights(MINILM), tmp_path / "copy"
    for path in source.rglob("*"):
        target = copy / path.relative_to(source)
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".json":
                target.write_bytes(path.read_bytes())
            else:
                target.symlink_to(path)
    return copy


def test_loading_and_encoding_write_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    pooled(load_encoder(MINILM, "cpu"), ["a text"], ("mean",))
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_the_librarys_own_logging_as_it_was() -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_encoder(MINILM, "cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_weights_that_were_changed_do_not_give_the_published_vector_and_are_refused(minilm_copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    changed = replace(MINILM, weights_sha256=None)
    weights = minilm_copy / "model.safetensors"
    tensors = load_file(weights)
    load_encoder(replace(changed, path=minilm_copy), "cpu")
    weights.unlink()
    for name in [name for name in tensors if "layer.3.attention.self.query" in name]:
        tensors[name] = tensors[name] * 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(FlywheelError, match=r"all-MiniLM-L6-v2 from .*copy is not loaded right: its vector of 'hello world'"):
        load_encoder(replace(changed, path=minilm_copy), "cpu")


def test_another_published_vector_is_refused_with_how_far_off_it_is(encoder: "SentenceTransformer") -> None:
    whole = encoder.encode(TEXTS[:1], show_progress_bar=False)[0].astype(float)
    for numbers in (tuple(3 * whole), tuple(whole[:5])):
        load_encoder(replace(MINILM, published=ReferenceVector(TEXTS[0], numbers)), "cpu")
    for numbers, said in (
        (tuple(-whole), "a cosine of -1.0000 with it"),
        (tuple(whole[:5] + 0.01), "numbers up to 0.0100 off"),
    ):
        with pytest.raises(FlywheelError, match=said):
            load_encoder(replace(MINILM, published=ReferenceVector(TEXTS[0], numbers)), "cpu")


def edited(folder: Path, name: str, **changes: object) -> BaseModel:
    """MiniLM in a folder of which one file was changed."""
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return replace(MINILM, path=folder)


def test_a_folder_that_pools_otherwise_does_not_give_the_published_vector(minilm_copy: Path) -> None:
    model = edited(minilm_copy, "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    with pytest.raises(FlywheelError, match=r"is not loaded right.*Point models\.all-MiniLM-L6-v2\.path"):
        load_encoder(model, "cpu")


def test_a_pooling_file_that_contradicts_the_encoder_is_refused(minilm_copy: Path) -> None:
    model = edited(minilm_copy, "1_Pooling/config.json", word_embedding_dimension=512)
    with pytest.raises(FlywheelError, match=r"pools states of 512 numbers, but those of its encoder have 384.*path at another"):
        load_encoder(model, "cpu")


def with_modules(folder: Path, *kinds: str) -> BaseModel:
    """MiniLM in a folder that names these modules."""
    modules = [{"idx": 0, "name": "0", "path": "", "type": kinds[0]}]
    modules += [{"idx": i, "name": str(i), "path": f"{i}_Pooling", "type": kind} for i, kind in enumerate(kinds[1:], 1)]
    (folder / "modules.json").write_text(json.dumps(modules))
    return replace(MINILM, path=folder)


def test_a_folder_without_normalize_gives_unit_vectors_all_the_same(minilm_copy: Path) -> None:
    model = with_modules(minilm_copy, *(f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")))
    assert np.linalg.norm(load_encoder(model, "cpu").encode("a text", show_progress_bar=False)) == pytest.approx(1, abs=1e-5)


def test_modules_that_no_recipe_can_handle_are_refused(minilm_copy: Path) -> None:
    model = with_modules(minilm_copy, *(f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "LSTM")))
    with pytest.raises(FlywheelError, match="holds the modules Transformer, Pooling, LSTM, where"):
        load_encoder(model, "cpu")


def test_a_model_that_needs_code_of_its_repository_is_refused(minilm_copy: Path) -> None:
    never = r"needs code of its repository \(.*\), which flywheel never runs.*Set models\.all-MiniLM-L6-v2\.hub_id"
    with pytest.raises(FlywheelError, match=never):
        load_encoder(with_modules(minilm_copy, "sentence_transformers.models.Transformer", "json.JSONEncoder"), "cpu")
    with_modules(minilm_copy, *(f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")))
    with pytest.raises(FlywheelError, match=never):
        load_encoder(edited(minilm_copy, "config.json", auto_map={"AutoModel": "modeling_evil.Model"}), "cpu")


def test_an_unknown_architecture_is_refused(minilm_copy: Path) -> None:
    model = edited(minilm_copy, "config.json", model_type="not_known_yet")
    with pytest.raises(FlywheelError, match=r"does not load from .*not_known_yet.*Point models\.all-MiniLM-L6-v2\.path"):
        load_encoder(model, "cpu")


def test_a_damaged_folder_is_refused(minilm_copy: Path) -> None:
    (minilm_copy / "config.json").write_text('{"model_type":')
    with pytest.raises(FlywheelError, match=r"copy/config\.json of all-MiniLM-L6-v2 cannot be read"):
        load_encoder(replace(MINILM, path=minilm_copy), "cpu")


def test_auto_finds_a_device_that_can_be_asked_for_by_name() -> None:
    assert resolve_device(resolve_device("auto")) == resolve_device("auto")
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "", "cpu:0", "cuda:00000"])
def test_a_device_that_is_no_device_is_refused_with_the_known_ones(device: str) -> None:
    with pytest.raises(FlywheelError, match="auto, cpu, cuda, cuda:N or mps"):
        resolve_device(device)


def test_a_card_that_is_not_there_is_refused_with_the_number_of_cards() -> None:
    with pytest.raises(FlywheelError, match=r"cuda:999 is not here: torch finds \d+ CUDA devices"):
        resolve_device("cuda:999")


def test_the_identity_of_vectors_is_that_of_weights_prompt_pooling_and_length(minilm_copy: Path, tmp_path: Path) -> None:
    def name(**said: Any) -> str:
        return Vectors(replace(MINILM, path=minilm_copy, weights_sha256=None, **said), tmp_path, "cpu").weights_id

    prompted = {"prompts": {"query": "query: "}, "prompt_name": "query"}
    names = [name(), name(**prompted), name(pooling="cls"), name(max_length=64)]
    assert len({*names}) == 4
    assert all(each.startswith("all-MiniLM-L6-v2-") for each in names)
    assert name(licence="another", contamination="none") == names[0]
    (minilm_copy / "model.safetensors").unlink()
    (minilm_copy / "model.safetensors").write_bytes(b"other weights")
    assert name() not in names
