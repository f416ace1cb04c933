"""jina-embeddings-v2-small-en: our architecture is the published one, and everything else is refused.

The real weights are not here. The folder has the hub's layout and random weights, and what must come of them is worked out
below in NumPy from the description of the architecture alone.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.special import erf

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import CATALOGUE, BaseModel, ReferenceVector
from flywheel.models.encoder import load_encoder
from flywheel.models.features import PARTS, pooled
from flywheel.models.folder import loading_code, needs_flywheel, served_difference, write_model
from flywheel.models.weights import hash_weights, locate_weights
from flywheel_tests.helpers.hub_layout import HEADS, HIDDEN, LAYERS, WIDE, random_tensors, write_hub_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

JINA = CATALOGUE["jina-embeddings-v2-small-en"]
REFUSED = r"does not load .*alibi, geglu and a power of two|is not loaded right|needs code of its repository"
TENSORS = random_tensors(7)
TEXTS = ["What is Deep Learning?", "how do i reset my password", "why is the sky blue? " * 12, "", "plan", "cancel the plans"]


def expected_states(ids: list[int], tensors: dict[str, np.ndarray] = TENSORS) -> np.ndarray:
    """The token states (tokens, HIDDEN) of the published architecture, in float64."""
    at = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}

    def normalise(states: np.ndarray, name: str) -> np.ndarray:
        centred = states - states.mean(1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-12) * at[f"{name}.weight"] + at[f"{name}.bias"]

    def linear(states: np.ndarray, name: str) -> np.ndarray:
        return states @ at[f"{name}.weight"].T + at[f"{name}.bias"]

    states = at["embeddings.word_embeddings.weight"][ids] + at["embeddings.token_type_embeddings.weight"][0]
    states = normalise(states, "embeddings.LayerNorm")
    size = HIDDEN // HEADS
    for layer in (f"encoder.layer.{number}" for number in range(LAYERS)):
        mixed = np.empty_like(states)
        for head in range(HEADS):
            own = slice(head * size, (head + 1) * size)
            query, key, value = (linear(states, f"{layer}.attention.self.{part}")[:, own] for part in ("query", "key", "value"))
            scores = query @ key.T / np.sqrt(size)
            for i in range(len(ids)):
                for j in range(len(ids)):
                    scores[i, j] -= 2.0 ** -(head + 1) * abs(i - j)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, own] = weights / weights.sum(1, keepdims=True) @ value
        states = normalise(states + linear(mixed, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        both = states @ at[f"{layer}.mlp.gated_layers.weight"].T
        gate, passed = both[:, :WIDE], both[:, WIDE:]
        fed = linear(gate * 0.5 * (1 + erf(gate / np.sqrt(2))) * passed, f"{layer}.mlp.wo")
        states = normalise(states + fed, f"{layer}.mlp.layernorm")
    return states


def expected_vector(ids: list[int]) -> np.ndarray:
    mean = expected_states(ids).mean(0)
    return mean / np.linalg.norm(mean)


def encode(encoder: "SentenceTransformer", texts: list[str]) -> np.ndarray:
    """The model's own unit vectors."""
    mean = pooled(encoder, texts, ("mean",))[:, :HIDDEN]
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has it."""
    return write_hub_folder(tmp_path_factory.mktemp("hub"), TENSORS)


@pytest.fixture(scope="module")
def model(folder: Path) -> BaseModel:
    """The catalogue's entry for the folder's random weights; the published vector is NumPy's."""
    ids = [2, *range(5, 10), 3]
    published = ReferenceVector(TEXTS[0], tuple(expected_states(ids).mean(0)))
    return replace(JINA, weights_sha256=hash_weights(folder), published=published)


@pytest.fixture(scope="module")
def encoder(folder: Path, model: BaseModel) -> "SentenceTransformer":
    return load_encoder(replace(model, path=folder), "cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may spoil; its weights are linked."""
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("model.safetensors"))
    (tmp_path / "copy" / "model.safetensors").symlink_to(folder / "model.safetensors")
    return tmp_path / "copy"


def save_tensors(folder: Path, tensors: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_copy(folder: Path) -> "SentenceTransformer":
    return load_encoder(replace(JINA, weights_sha256=None, published=None, path=folder), "cpu")


def test_vectors_are_those_of_the_published_architecture(encoder: "SentenceTransformer") -> None:
    expected = np.stack([expected_vector(encoder.tokenizer(text)["input_ids"]) for text in TEXTS])
    np.testing.assert_allclose(encode(encoder, TEXTS), expected, atol=1e-5)
    assert (expected @ expected.T)[np.triu_indices(len(TEXTS), 1)].max() < 0.99


def test_token_states_are_those_of_the_published_architecture(encoder: "SentenceTransformer") -> None:
    import torch

    ids = encoder.tokenizer(TEXTS[2])["input_ids"]
    with torch.inference_mode():
        states = encoder[0].auto_model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
    np.testing.assert_allclose(states, expected_states(ids), atol=1e-4)


def test_padding_changes_no_vector(encoder: "SentenceTransformer") -> None:
    alone = np.concatenate([encode(encoder, [text]) for text in TEXTS])
    np.testing.assert_allclose(encode(encoder, TEXTS), alone, atol=1e-5)


def test_a_large_batch_taken_in_parts_gives_the_same(encoder: "SentenceTransformer", monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encode(encoder, TEXTS)
    tokens = len(encoder.tokenizer(TEXTS[2])["input_ids"])
    monkeypatch.setattr("flywheel.models.jina._BIAS_NUMBERS", 2 * HEADS * tokens**2)
    np.testing.assert_allclose(encode(encoder, TEXTS), whole, atol=1e-6)


def test_the_bias_is_symmetric_and_halves_from_head_to_head() -> None:
    import torch

    from flywheel.models.jina import alibi_bias

    bias = alibi_bias(8, 5, torch.zeros(1)).numpy()
    assert np.array_equal(bias, bias.transpose(0, 2, 1))
    np.testing.assert_array_equal(bias[:, 4, 1], [-3 / 2**power for power in range(1, 9)])


def test_the_whole_length_of_8192_tokens_can_be_taken_in(encoder: "SentenceTransformer") -> None:
    import torch

    from flywheel.models.jina import JinaConfig, JinaModel

    assert encoder.max_seq_length == 8192
    assert len(encoder.preprocess(["sky " * 9000])["input_ids"][0]) == 8192
    small = JinaModel(JinaConfig(vocab_size=9, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    with torch.inference_mode():
        states = small.eval()(input_ids=torch.full((1, 8192), 5)).last_hidden_state
    assert states.shape == (1, 8192, 16)
    assert states.isfinite().all()


def test_upper_layers_go_on_from_the_states_of_the_lower_ones(folder: Path) -> None:
    import torch

    transformer: Any = load_copy(folder)[0]
    tokens, bert = transformer.preprocess(TEXTS), transformer.auto_model
    mask = tokens["attention_mask"]
    with torch.inference_mode():
        steps = bert(input_ids=tokens["input_ids"], attention_mask=mask, output_hidden_states=True)
        words = bert.embeddings.word_embeddings(tokens["input_ids"])
        by_words = bert(inputs_embeds=words, attention_mask=mask).last_hidden_state

        class Passed(torch.nn.Module):
            def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> torch.Tensor:
                return inputs_embeds

        bert.embeddings, bert.encoder.layer = Passed(), bert.encoder.layer[2:]
        upper = bert(inputs_embeds=steps.hidden_states[2], attention_mask=mask).last_hidden_state
    assert len(steps.hidden_states) == LAYERS + 1
    torch.testing.assert_close(by_words, steps.last_hidden_state)
    torch.testing.assert_close(upper, steps.last_hidden_state)


def test_every_weight_can_be_trained(folder: Path) -> None:
    transformer: Any = load_copy(folder)[0].train()
    tokens = transformer.preprocess(TEXTS)
    transformer(tokens)["token_embeddings"].square().sum().backward()
    assert [name for name, weight in transformer.named_parameters() if weight.grad is None] == []


def test_the_same_folder_taken_for_plain_bert_loads_and_gives_other_vectors(
    folder: Path, encoder: "SentenceTransformer", capfd: pytest.CaptureFixture[str]
) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert type(plain[0].auto_model).__name__ == "BertModel"
    cosines = (plain.encode(TEXTS, normalize_embeddings=True) * encode(encoder, TEXTS)).sum(1)
    assert cosines.max() < 0.9


def test_weights_that_do_not_give_the_published_vector_are_refused(folder: Path, model: BaseModel) -> None:
    wrong = replace(model, published=JINA.published)
    with pytest.raises(
        FlywheelError, match=r"not loaded right: its vector of 'What is Deep Learning\?' .*\(a cosine of"
    ) as caught:
        load_encoder(replace(wrong, path=folder), "cpu")
    assert "\n" not in str(caught.value)
    load_encoder(replace(model, path=folder), "cpu")


def test_other_weights_than_the_known_ones_are_refused_by_their_hash(folder: Path) -> None:
    with pytest.raises(FlywheelError, match=f"expected {JINA.weights_sha256}"):
        load_encoder(replace(JINA, path=folder), "cpu")


@pytest.mark.parametrize("name", ["encoder.layer.2.mlp.wo.bias", "embeddings.word_embeddings.weight"])
def test_a_missing_tensor_is_refused_by_name(copy: Path, name: str) -> None:
    save_tensors(copy, {other: tensor for other, tensor in TENSORS.items() if other != name})
    with pytest.raises(FlywheelError, match=f"does not load .*missing tensors: {name}"):
        load_copy(copy)


@pytest.mark.parametrize(
    "name", ["embeddings.position_embeddings.weight", "encoder.layer.1.attention.self.layer_norm_q.weight"]
)
def test_an_extra_tensor_is_refused_by_name(copy: Path, name: str) -> None:
    save_tensors(copy, {**TENSORS, name: np.ones((HIDDEN, HIDDEN), dtype=np.float32)})
    with pytest.raises(FlywheelError, match=f"does not load .*unexpected tensors: {name}"):
        load_copy(copy)


def test_a_tensor_of_another_shape_is_refused(copy: Path) -> None:
    save_tensors(copy, {**TENSORS, "encoder.layer.0.mlp.gated_layers.weight": np.ones((WIDE, HIDDEN), dtype=np.float32)})
    with pytest.raises(FlywheelError, match="does not load"):
        load_copy(copy)


def test_half_precision_weights_are_computed_with_in_single_precision(copy: Path, encoder: "SentenceTransformer") -> None:
    import torch

    save_tensors(copy, {name: tensor.astype(np.float16) for name, tensor in TENSORS.items()})
    halved = load_copy(copy)
    assert halved[0].auto_model.dtype == torch.float32
    assert (encode(halved, TEXTS) * encode(encoder, TEXTS)).sum(1).min() > 0.9999


@pytest.mark.parametrize(
    ("setting", "value"),
    [("position_embedding_type", "absolute"), ("feed_forward_type", "original"), ("num_attention_heads", 4)],
)
def test_a_config_of_another_architecture_is_refused_or_gives_other_vectors(
    copy: Path, model: BaseModel, setting: str, value: str | int
) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, setting: value}))
    with pytest.raises(FlywheelError, match=REFUSED):
        load_encoder(replace(model, path=copy), "cpu")


def test_settings_meant_for_the_hubs_code_are_passed_over(copy: Path, model: BaseModel) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "attn_implementation": "torch"}))
    load_encoder(replace(model, path=copy), "cpu")


def test_the_model_comes_out_of_the_hubs_cache(
    folder: Path, model: BaseModel, encoder: "SentenceTransformer", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--jinaai--jina-embeddings-v2-small-en"
    (repository / "blobs").mkdir(parents=True)
    for file in (path for path in folder.rglob("*") if path.is_file()):
        blob = repository / "blobs" / sha256(file.read_bytes()).hexdigest()
        link = repository / "snapshots" / JINA.revision / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, blob)
        link.symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert locate_weights(model) == repository / "snapshots" / JINA.revision
    assert np.array_equal(encode(load_encoder(model, "cpu"), TEXTS), encode(encoder, TEXTS))


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A model folder on the random base, with its head's weight and bias."""
    draw = np.random.default_rng(3)
    weight, bias = (
        draw.normal(0, 0.05, (32, len(PARTS) * HIDDEN)).astype(np.float32),
        draw.normal(0, 0.05, 32).astype(np.float32),
    )
    place = tmp_path_factory.mktemp("trained")
    (place / "model").mkdir()
    write_model(place / "model", folder, folder / "model.safetensors", weight, bias)
    return place / "model", weight, bias


LOAD = """
import json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True, trust_remote_code=True)
json.dump(model.encode(json.loads(sys.argv[2]), show_progress_bar=False).tolist(), open(sys.argv[3], "w"))
"""


def test_a_trained_folder_serves_head_on_base(
    trained: tuple[Path, np.ndarray, np.ndarray], encoder: "SentenceTransformer", tmp_path: Path
) -> None:
    folder, weight, bias = trained
    projected = pooled(encoder, TEXTS, PARTS) @ weight.T + bias
    expected = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    assert needs_flywheel(folder)
    assert served_difference(folder, TEXTS, expected) < 1e-5

    command = [sys.executable, "-c", LOAD, str(folder), json.dumps(TEXTS), str(tmp_path / "vectors.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads((tmp_path / "vectors.json").read_text()), expected, atol=1e-5)


def test_a_trained_folder_without_the_flag_is_refused_by_the_library_and_names_our_module(
    trained: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    from sentence_transformers import SentenceTransformer

    with pytest.raises(ValueError, match=r"flywheel\.models\.jina\.JinaTransformer[\s\S]*trust_remote_code=True"):
        SentenceTransformer(str(trained[0]), device="cpu", local_files_only=True)


def test_the_code_that_a_model_card_gives_loads_the_folder(trained: tuple[Path, np.ndarray, np.ndarray]) -> None:
    from sentence_transformers import SentenceTransformer

    code = loading_code(trained[0]).replace("path/to/this/folder", str(trained[0]))
    assert eval(code, {"SentenceTransformer": SentenceTransformer}).get_embedding_dimension() == 32
    assert "trust" not in loading_code(locate_weights(CATALOGUE["all-MiniLM-L6-v2"]))


def test_a_trained_folder_cannot_be_taken_for_plain_bert_and_points_at_nobodys_code(
    trained: tuple[Path, np.ndarray, np.ndarray],
) -> None:
    from transformers import AutoModel

    assert "auto_map" not in json.loads((trained[0] / "config.json").read_text())
    with pytest.raises(ValueError, match=r"flywheel_jina_v2|JinaConfig"):
        AutoModel.from_pretrained(trained[0], local_files_only=True)


def test_a_folder_that_names_further_code_is_not_trusted(trained: tuple[Path, np.ndarray, np.ndarray], tmp_path: Path) -> None:
    shutil.copytree(trained[0], tmp_path / "copy")
    modules = tmp_path / "copy" / "modules.json"
    modules.write_text(modules.read_text().replace("sentence_transformers.models.Dense", "modeling_evil.Dense"))
    assert not needs_flywheel(tmp_path / "copy")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        served_difference(tmp_path / "copy", TEXTS, np.zeros((len(TEXTS), 32), dtype=np.float32))


def test_a_folder_saved_by_the_library_itself_loads_again(encoder: "SentenceTransformer", tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder.save_pretrained(str(tmp_path / "saved"))
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu", local_files_only=True, trust_remote_code=True)
    np.testing.assert_allclose(again.encode(TEXTS, show_progress_bar=False), encode(encoder, TEXTS), atol=1e-6)
