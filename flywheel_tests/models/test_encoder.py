"""An encoder is exactly its model folder, refuses what is not the catalogue's, and keeps the order of texts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, ReferenceVector
from flywheel.models.encoder import encoder_id, load_encoder, resolve_device
from flywheel.models.features import pooled
from flywheel.models.weights import locate_weights

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM = CATALOGUE["all-MiniLM-L6-v2"]
TEXTS = ["How do I learn Python?", "", "ß ☃ 日本語", "Why is the sky blue? " * 80, "What is the best way to learn Python?"]


@pytest.fixture
def minilm_copy(tmp_path: Path) -> Path:
    """A folder with MiniLM's files, the weights linked, that a test may spoil."""
    source, copy = locate_weights(MINILM, {}), tmp_path / "copy"
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
    pooled(load_encoder(MINILM, {}, "cpu"), ["a text"])
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_the_librarys_own_logging_as_it_was() -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_encoder(MINILM, {}, "cpu")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_weights_that_were_changed_do_not_give_the_published_vector_and_are_refused(minilm_copy: Path) -> None:
    from safetensors.numpy import load_file, save_file

    changed = replace(MINILM, weights_sha256=None)
    weights = minilm_copy / "model.safetensors"
    tensors = load_file(weights)
    load_encoder(changed, {MINILM.name: minilm_copy}, "cpu")
    weights.unlink()
    for name in [name for name in tensors if "layer.3.attention.self.query" in name]:
        tensors[name] = tensors[name] * 1.5
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(FlywheelError, match=r"all-MiniLM-L6-v2 from .*copy is not loaded right: its vector of 'hello world'"):
        load_encoder(changed, {MINILM.name: minilm_copy}, "cpu")


def test_another_published_vector_is_refused_with_how_far_off_it_is(encoder: "SentenceTransformer") -> None:
    whole = encoder.encode(TEXTS[:1], show_progress_bar=False)[0].astype(float)
    for numbers in (tuple(3 * whole), tuple(whole[:5])):
        load_encoder(replace(MINILM, published=ReferenceVector(TEXTS[0], numbers)), {}, "cpu")
    for numbers, said in (
        (tuple(-whole), "a cosine of -1.0000 with it"),
        (tuple(whole[:5] + 0.01), "numbers up to 0.0100 off"),
    ):
        with pytest.raises(FlywheelError, match=said):
            load_encoder(replace(MINILM, published=ReferenceVector(TEXTS[0], numbers)), {}, "cpu")


def test_a_folder_with_another_pooling_is_refused(minilm_copy: Path) -> None:
    config = minilm_copy / "1_Pooling" / "config.json"
    settings = {**json.loads(config.read_text()), "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    config.write_text(json.dumps(settings))
    with pytest.raises(FlywheelError, match=r"pools by cls over 384 .*Pooling by mean over 384"):
        load_encoder(MINILM, {MINILM.name: minilm_copy}, "cpu")


def test_a_folder_without_normalize_is_refused(minilm_copy: Path) -> None:
    modules = minilm_copy / "modules.json"
    modules.write_text(json.dumps(json.loads(modules.read_text())[:2]))
    with pytest.raises(FlywheelError, match="holds the modules Transformer, Pooling, where"):
        load_encoder(MINILM, {MINILM.name: minilm_copy}, "cpu")


def test_a_folder_that_asks_for_foreign_code_is_refused(minilm_copy: Path) -> None:
    modules = minilm_copy / "modules.json"
    modules.write_text(modules.read_text().replace("sentence_transformers.models.Pooling", "json.JSONEncoder"))
    with pytest.raises(FlywheelError, match="does not load"):
        load_encoder(MINILM, {MINILM.name: minilm_copy}, "cpu")


def test_another_width_than_the_catalogues_is_refused() -> None:
    with pytest.raises(FlywheelError, match=r"384 numbers and its encoder has 384, .* over 512"):
        load_encoder(replace(MINILM, width=512), {}, "cpu")


def test_a_damaged_folder_is_refused(minilm_copy: Path) -> None:
    (minilm_copy / "config.json").write_text('{"model_type":')
    with pytest.raises(FlywheelError, match=r"does not load from .*copy"):
        load_encoder(MINILM, {MINILM.name: minilm_copy}, "cpu")


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


def test_the_identity_of_vectors_names_the_model_and_its_weights(tmp_path: Path) -> None:
    assert encoder_id(MINILM, locate_weights(MINILM, {})) == "all-MiniLM-L6-v2-53aa51172d14"
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert encoder_id(MINILM, tmp_path) != encoder_id(MINILM, locate_weights(MINILM, {}))
