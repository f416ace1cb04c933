"""A model folder is written for programs that are not ours: what they read in it, and what is noticed when they could not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE
from flywheel.models.encoder import load_encoder
from flywheel.models.features import PARTS, pooled
from flywheel.models.folder import loaders, portability, read_head, served_difference, write_model
from flywheel.models.foreign import foreign_faults, read_poolings
from flywheel.models.head import Head
from flywheel.models.weights import locate_weights

MINILM = CATALOGUE["all-MiniLM-L6-v2"]
TEXTS = ["how do I reset my password", "I forgot my password, what now?", "where is my parcel"]


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return pooled(load_encoder(MINILM, "cpu"), TEXTS, PARTS)


def head(*used: str) -> Head:
    """A head of eight dimensions on the features that are cached, with weight on the poolings `used`."""
    rng = np.random.default_rng(0)
    blocks = [rng.normal(0, 0.1, (8, MINILM.width)) * (name in used) for name in PARTS]
    return Head(np.concatenate(blocks, axis=1).astype(np.float32), rng.normal(size=8).astype(np.float32))


def written(folder: Path, model: Head, base: Path | None = None) -> Path:
    base = base or locate_weights(MINILM)
    folder.mkdir()
    write_model(folder, base, base / "model.safetensors", model.weight, model.bias)
    return folder


def config(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.mark.parametrize("used", [("mean",), ("cls",), ("mean", "cls"), PARTS])
def test_a_folder_has_the_poolings_that_its_head_uses_and_gives_the_heads_vectors(
    tmp_path: Path, features: np.ndarray, used: tuple[str, ...]
) -> None:
    model = head(*used)
    folder = written(tmp_path / "model", model)
    assert set(read_poolings(folder)) == set(used)
    assert served_difference(folder, TEXTS, model.apply(features)) < 1e-5
    for mine, theirs in zip(read_head(folder), (model.weight, model.bias), strict=True):
        assert np.array_equal(mine, theirs)
    assert portability(folder, TEXTS, model.apply(features)).faults == ()
    assert ("not in Text Embeddings Inference or vLLM" in loaders(folder)) == (len(used) > 1)


def test_the_files_hold_the_keys_that_old_versions_and_servers_read(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", head("mean"))
    pooling = config(folder, "1_Pooling/config.json")
    assert pooling.pop("word_embedding_dimension") == MINILM.width
    assert len(pooling) == 6
    assert [mode for mode, on in pooling.items() if on] == ["pooling_mode_mean_tokens"]
    assert config(folder, "2_Dense/config.json") == {
        "activation_function": "torch.nn.modules.linear.Identity", "bias": True, "in_features": 384, "out_features": 8,
    }  # fmt: skip
    kinds = [module["type"].removeprefix("sentence_transformers.models.") for module in config(folder, "modules.json")]
    assert kinds == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert config(folder, "sentence_bert_config.json") == {"max_seq_length": 256, "do_lower_case": False}


def test_a_base_that_the_newest_version_saved_gives_a_folder_for_the_old_ones(tmp_path: Path, features: np.ndarray) -> None:
    load_encoder(MINILM, "cpu").save_pretrained(str(tmp_path / "base"))
    tokenizer = tmp_path / "base" / "tokenizer_config.json"
    said = json.loads(tokenizer.read_text())
    tokenizer.write_text(json.dumps({**said, "tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<x>"]}))
    assert foreign_faults_of_copy(tmp_path / "base", tmp_path / "copy")  # what it says itself, no old version reads
    folder = written(tmp_path / "model", head("mean"), tmp_path / "base")
    assert foreign_faults(folder) == []
    assert config(folder, "sentence_bert_config.json") == {"max_seq_length": 256, "do_lower_case": False}
    said = config(folder, "tokenizer_config.json")
    assert (said["tokenizer_class"], said["additional_special_tokens"]) == ("PreTrainedTokenizerFast", ["<x>"])
    assert served_difference(folder, TEXTS, head("mean").apply(features)) < 1e-5


def foreign_faults_of_copy(base: Path, copy: Path) -> list[str]:
    """What is wrong with a folder of ours that has the encoder's own file of `base`."""
    folder = written(copy, head("mean"))
    shutil.copyfile(base / "sentence_bert_config.json", folder / "sentence_bert_config.json")
    return foreign_faults(folder)


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(json.dumps(change(config(folder, name))))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (changed("1_Pooling/config.json", lambda _: {"embedding_dimension": 384, "pooling_mode": "mean"}), "1_Pooling"),
        (
            changed("1_Pooling/config.json", lambda said: {**said, "pooling_mode_cls_token": True}),
            "do not give the head's columns",
        ),
        (changed("2_Dense/config.json", lambda said: {**said, "module_input_name": "sentence_embedding"}), "2_Dense"),
        (changed("2_Dense/config.json", lambda said: {**said, "out_features": 9}), "its weights differ"),
        (
            changed("modules.json", lambda said: [*said[:3], {**said[3], "type": "sentence_transformers.x.Normalize"}]),
            "classes",
        ),
        (changed("sentence_bert_config.json", lambda said: {**said, "transformer_task": "feature-extraction"}), "old versions"),
        (changed("sentence_bert_config.json", lambda _: {}), "no maximum length"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
        (lambda folder: os.chmod(folder / "2_Dense" / "model.safetensors", 0o600), "closed to other users"),
    ],
)
def test_what_another_program_would_refuse_is_named(tmp_path: Path, spoil: Callable[[Path], object], fault: str) -> None:
    folder = written(tmp_path / "model", head("mean"))
    assert foreign_faults(folder) == []
    spoil(folder)
    assert any(fault in each for each in foreign_faults(folder))


def test_a_folder_that_plain_sentence_transformers_refuses_is_not_portable(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", head("mean"))
    (folder / "tokenizer.json").write_text("{")
    assert any("SentenceTransformer(folder) fails" in fault for fault in portability(folder, TEXTS, np.zeros((3, 8))).faults)
    other = written(tmp_path / "other", head("mean"))
    assert any("gives 8 numbers" in fault for fault in portability(other, TEXTS, np.zeros((3, 16))).faults)


TWO = {"word_embedding_dimension": 384, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}


@pytest.mark.parametrize("said", [{"embedding_dimension": 384, "pooling_mode": "mean"}, TWO])
def test_poolings_that_contradict_the_head_are_said(tmp_path: Path, said: dict[str, Any]) -> None:
    folder = written(tmp_path / "model", head("mean"))
    changed("1_Pooling/config.json", lambda _: said)(folder)
    with pytest.raises(FlywheelError, match=r"1_Pooling.config\.json names the poolings .* train the model again"):
        read_head(folder)


def test_what_a_server_has_to_be_told_is_said(tmp_path: Path) -> None:
    folder = written(tmp_path / "model", head("mean"))
    assert "before each text" not in loaders(folder)
    change(folder / "config_sentence_transformers.json", prompts={"query": "query: "}, default_prompt_name="query")
    assert "puts 'query: ' before each text" in loaders(folder)
    assert "their vectors differ" not in loaders(folder)
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    assert "their vectors differ" in loaders(folder)
    assert foreign_faults(folder) == []
    first, *rest = config(folder, "modules.json")
    modules = [{**first, "type": "sentence_transformers.models.StaticEmbedding"}, *rest]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert "in no server" in loaders(folder)


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
