"""A folder as the hub has jina-embeddings-v2-small-en, but small, with a vocabulary of its own and random weights."""

import json
from pathlib import Path

import numpy as np

WORDS = [
    *("what", "is", "deep", "learning", "?", "how", "do", "i", "reset", "my", "password", "cancel", "plan", "the", "a", "of"),
    *("sky", "blue", "why", "python", "##s", "##ing"),
]
HIDDEN, WIDE, LAYERS, HEADS = 512, 2048, 4, 8
CONFIG = {
    "architectures": ["JinaBertModel"],
    "auto_map": {
        "AutoConfig": "jinaai/jina-bert-implementation--configuration_bert.JinaBertConfig",
        "AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel",
    },
    "model_type": "bert",
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 8192,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "emb_pooler": "mean",
    "model_max_length": 8192,
    "torch_dtype": "float16",
}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


def random_tensors(seed: int) -> dict[str, np.ndarray]:
    """Weights under the hub's names, so large that heads look in different directions and words matter."""
    draw = np.random.default_rng(seed)

    def linear(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
        weight = draw.normal(0, 1.5 / np.sqrt(columns), (rows, columns))
        return {f"{name}.weight": weight, f"{name}.bias": draw.normal(0, 0.1, rows)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": draw.normal(1, 0.1, HIDDEN), f"{name}.bias": draw.normal(0, 0.1, HIDDEN)}

    tensors = {
        "embeddings.word_embeddings.weight": draw.normal(0, 1, (len(WORDS) + 5, HIDDEN)),
        "embeddings.token_type_embeddings.weight": draw.normal(0, 1, (2, HIDDEN)),
        **norm("embeddings.LayerNorm"),
        **linear("pooler.dense", HIDDEN, HIDDEN),
    }
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            tensors |= linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
        tensors |= norm(f"{layer}.attention.output.LayerNorm")
        gated = linear(f"{layer}.mlp.gated_layers", 2 * WIDE, HIDDEN)
        tensors[f"{layer}.mlp.gated_layers.weight"] = gated[f"{layer}.mlp.gated_layers.weight"]
        tensors |= linear(f"{layer}.mlp.wo", HIDDEN, WIDE)
        tensors |= norm(f"{layer}.mlp.layernorm")
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_hub_folder(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    """Write the files of the hub's repository; no Normalize is among its modules."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=8192, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    ).save_pretrained(folder)  # fmt: skip
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    files = {
        "tokenizer_config.json": {**settings, "tokenizer_class": "BertTokenizer", "do_lower_case": True},
        "config.json": {**CONFIG, "vocab_size": len(vocabulary)},
        "modules.json": MODULES,
        "sentence_bert_config.json": {"max_seq_length": 8192, "do_lower_case": False},
        "1_Pooling/config.json": {"word_embedding_dimension": HIDDEN, "pooling_mode_mean_tokens": True},
    }
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder
