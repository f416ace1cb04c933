"""Whatever the architecture, features are what the library encodes, and an encoder cut in two is the whole."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.blocks import cut, find_blocks, lower_states
from flywheel.models.catalogue import BaseModel
from flywheel.models.exports.graph import batches, torch_engine
from flywheel.models.exports.onnx import onnx_engine, write_onnx
from flywheel.models.exports.openvino import openvino_engine, write_openvino
from flywheel.models.features import tokenise
from flywheel.models.vectors import Vectors
from flywheel_tests.helpers.tiny_models import ARCHITECTURES, LAYERS, WIDTH, unit, write_tiny


def _marks(architecture: str) -> list[pytest.MarkDecorator]:
    """Blocks much like BERT's have their turn with the long tests."""
    return [pytest.mark.long] if architecture in ("roberta", "xlm-roberta", "distilbert") else []


TEXTS = ["how do i learn", "", "what is the best way to learn ?", "clump3 intenta wording1", "way to " * 30]


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a CPU that computes in bfloat16, whose vectors differ in the third digit."""
    monkeypatch.setattr("flywheel.models.vectors.working_dtype", lambda device: "float32")


def vectors_of(folder: Path, cache: Path, **said: Any) -> Vectors:
    return Vectors(BaseModel(name="tiny", path=folder, **said), cache, "cpu")


def encoded(folder: Path, **how: Any) -> np.ndarray:
    """What a user's SentenceTransformer gives."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"})
    return unit(model.encode(TEXTS, show_progress_bar=False, **how))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "static"])
def test_vectors_are_what_the_library_encodes(tmp_path: Path, architecture: str) -> None:
    folder = write_tiny(tmp_path / "model", architecture)
    vectors = vectors_of(folder, tmp_path)
    found = vectors.get(TEXTS)
    assert found.shape == (len(TEXTS), WIDTH)
    kept = [row for row, text in enumerate(TEXTS) if text or architecture != "static"]  # static embeddings of nothing are 0
    np.testing.assert_allclose(found[kept], encoded(folder)[kept], atol=2e-3)
    assert vectors.facts.layers == (None if architecture == "static" else LAYERS)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_all_poolings_hold_the_models_own_beside_mean_max_and_cls(tmp_path: Path, architecture: str) -> None:
    folder = write_tiny(tmp_path / "model", architecture)
    several = replace(vectors_of(folder, tmp_path), holds="all")
    assert set(several.poolings) == {"mean", "max", "cls", *several.facts.poolings}
    np.testing.assert_allclose(several.get(TEXTS), vectors_of(folder, tmp_path).get(TEXTS), atol=2e-3)


def test_dense_modules_are_part_of_the_models_vectors(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "gemma3", modules=["Identity", "Identity"])
    vectors = vectors_of(folder, tmp_path)
    np.testing.assert_allclose(vectors.get(TEXTS), encoded(folder), atol=2e-3)
    assert not np.array_equal(vectors.own.weight, np.eye(WIDTH))


def test_a_dense_module_that_is_not_linear_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "bert", modules=["Tanh"])
    with pytest.raises(FlywheelError, match=r"tiny cannot be trained here: its module 2_Dense is not linear .*Tanh"):
        vectors_of(folder, tmp_path).get(TEXTS)


PROMPTS = {"prompts": {"query": "query : ", "document": ""}, "default_prompt_name": None}


def test_the_prompt_that_is_named_stands_before_every_text(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "roberta", prompts=PROMPTS)
    np.testing.assert_allclose(vectors_of(folder, tmp_path).get(TEXTS), encoded(folder), atol=2e-3)
    prompted = vectors_of(folder, tmp_path, prompt_name="query")
    np.testing.assert_allclose(prompted.get(TEXTS), encoded(folder, prompt_name="query"), atol=2e-3)
    assert np.abs(prompted.get(TEXTS) - encoded(folder)).max() > 0.01

    by_default = write_tiny(tmp_path / "other", "roberta", prompts={**PROMPTS, "default_prompt_name": "query"})
    np.testing.assert_allclose(vectors_of(by_default, tmp_path).get(TEXTS), encoded(by_default), atol=2e-3)


def test_a_pooling_without_the_prompt_leaves_it_out(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "bert", prompts={**PROMPTS, "default_prompt_name": "query"})
    config = folder / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"embedding_dimension": WIDTH, "pooling_mode": "mean", "include_prompt": False}))
    np.testing.assert_allclose(vectors_of(folder, tmp_path).get(TEXTS), encoded(folder), atol=2e-3)


def test_a_prompt_that_is_demanded_and_missing_is_refused_and_the_setting_leads_on(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "bert")
    with pytest.raises(FlywheelError, match=r"tiny needs its prompt 'query' before every text.*Set models\.tiny\.prompts"):
        vectors_of(folder, tmp_path, prompt_name="query").get(TEXTS)
    assert vectors_of(folder, tmp_path, prompt_name="query", prompts={"query": "query : "}).facts.prompt == "query : "


def test_a_folder_without_modules_needs_a_pooling_and_the_setting_leads_on(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "roberta")
    expected = encoded(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(FlywheelError, match=r"holds no modules\.json"):
        vectors_of(folder, tmp_path).get(TEXTS)
    np.testing.assert_allclose(vectors_of(folder, tmp_path, pooling="mean").get(TEXTS), expected, atol=2e-3)


def test_a_shorter_length_cuts_texts_and_a_longer_one_than_there_are_positions_is_refused(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model", "bert")
    vectors = vectors_of(folder, tmp_path, max_length=8)
    assert {len(ids) for ids in tokenise(vectors.load(), [TEXTS[4]])} == {8}
    assert vectors_of(folder, tmp_path).facts.reads == 24
    with pytest.raises(FlywheelError, match=r"models\.tiny\.max_length is 100, .* positions for 80 tokens"):
        vectors_of(folder, tmp_path, max_length=100).facts  # noqa: B018 - it is read


@pytest.mark.parametrize("architecture", [each for each in ARCHITECTURES if each != "t5"])
def test_upper_layers_on_the_states_of_lower_ones_are_the_whole(tmp_path: Path, architecture: str) -> None:
    import torch

    encoder = vectors_of(write_tiny(tmp_path / "model", architecture), tmp_path).load()
    assert len(find_blocks(encoder[0])) == LAYERS
    padded = encoder.tokenizer.pad({"input_ids": tokenise(encoder, TEXTS)}, return_tensors="pt")
    inputs = {name: padded[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        transformer: Any = encoder[0]
        whole = transformer(dict(inputs))["token_embeddings"]
        states = lower_states(transformer, inputs, 2)
        cut(transformer, inputs, 2)
        parts = transformer({**inputs, "lower_states": states})["token_embeddings"]
        others = transformer({**inputs, "lower_states": torch.randn_like(states)})["token_embeddings"]
    seen = inputs["attention_mask"].bool()
    np.testing.assert_allclose(parts[seen], whole[seen], atol=1e-5)
    assert (others - whole)[seen].abs().max() > 0.01


def test_layers_that_share_more_than_their_states_are_refused(tmp_path: Path) -> None:
    encoder = vectors_of(write_tiny(tmp_path / "model", "t5"), tmp_path).load()
    padded = encoder.tokenizer.pad({"input_ids": tokenise(encoder, TEXTS)}, return_tensors="pt")
    with pytest.raises(FlywheelError, match=r"those of T5EncoderModel need more .* Choose recipe head or full"):
        cut(encoder[0], {name: padded[name] for name in ("input_ids", "attention_mask")}, 2)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("architecture", [pytest.param(each, marks=_marks(each)) for each in ARCHITECTURES])
def test_a_graph_gives_what_torch_gives_or_is_refused(tmp_path: Path, architecture: str, form: str) -> None:
    """OpenVINO converts no Gemma 3, and what it makes of Qwen3 is no number, which an export refuses by comparing."""
    from sentence_transformers import SentenceTransformer

    folder = write_tiny(tmp_path / "model", architecture)
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": "float32"}).eval()
    file = tmp_path / ("model.onnx" if form == "onnx" else "model.xml")
    write, engine_of = (write_onnx, onnx_engine) if form == "onnx" else (write_openvino, openvino_engine)
    if (architecture, form) == ("gemma3", "openvino"):
        logs = logging.getLogger().level, logging.getLogger().filters[:]
        with pytest.raises(FlywheelError, match=r"OpenVINO cannot convert this architecture .* Export it with --to onnx"):
            write(model, file)
        assert (logging.getLogger().level, logging.getLogger().filters) == logs
        return
    write(model, file)
    expected, run = torch_engine(model), engine_of(file)
    texts = [text for text in TEXTS if text]
    differences = [np.abs(run(batch.tokens) - expected(batch.tokens)).max() for batch in batches(model, texts)]
    if (architecture, form) == ("qwen3", "openvino"):
        assert not max(differences) <= 1e-3
    else:
        assert max(differences) < 1e-5
