"""Base models of many architectures: tiny, with random weights and a tokenizer of their own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, LAYERS = 16, 3
WORDS = [
    *("what", "is", "the", "best", "way", "to", "learn", "how", "do", "i", "?", "query", ":"),
    *(f"{kind}{number}" for kind in ("clump", "wording") for number in range(48)),
    *("intenta", "intentb"),
]
_SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]

ARCHITECTURES = ("bert", "roberta", "mpnet", "xlm-roberta", "modernbert", "qwen3", "gemma3", "t5", "distilbert")
# Decoders with a last-token pooling, and one with Dense modules of its own after the mean, as embeddinggemma has them.
_POOLINGS = {"bert": "cls", "modernbert": "cls", "qwen3": "lasttoken"}


def write_tiny(folder: Path, architecture: str, modules: Sequence[str] = (), prompts: dict[str, Any] | None = None) -> Path:
    """Write a model of an architecture to `folder`, or of static embeddings.

    `modules` may name Dense ones, after the pooling: `Identity` or another activation. `prompts` are the contents of
    config_sentence_transformers.json.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer

    torch.manual_seed(len(architecture))
    tokenizer = _tokenizer(decoder=architecture in ("qwen3", "gemma3"))
    first: Any
    pooling = []
    if architecture == "static":
        first = StaticEmbedding(tokenizer, embedding_dim=WIDTH)
    else:
        encoder = folder.parent / f"{folder.name}-encoder"
        _model(architecture).save_pretrained(encoder)
        tokenizer.save_pretrained(encoder)
        first = Transformer(str(encoder))
        first.max_seq_length = 24
        pooling = [Pooling(WIDTH, _POOLINGS.get(architecture, "mean"))]
    dense = [Dense(WIDTH, WIDTH, bias=False, activation_function=getattr(torch.nn, name)()) for name in modules]
    made = SentenceTransformer(modules=[first, *pooling, *dense, Normalize()], device="cpu")
    made.save_pretrained(str(folder), create_model_card=False)
    if prompts is not None:
        config = folder / "config_sentence_transformers.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **prompts}))
    return folder


def _tokenizer(decoder: bool) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate([*_SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = "$A </s>" if decoder else "<s> $A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, vocabulary[name]) for name in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>",
        eos_token="</s>", mask_token="<mask>", model_max_length=64, padding_side="left" if decoder else "right",
    )  # fmt: skip


def _model(architecture: str) -> Any:
    import transformers as library

    usual: dict[str, Any] = {
        "vocab_size": len(_SPECIAL) + len(WORDS),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 80,
        "pad_token_id": 0,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "initializer_range": 0.3,
    }
    decoder = {**usual, "num_key_value_heads": 1, "head_dim": 8}
    mixed = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 4}
    makers: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "bert": (library.BertModel, library.BertConfig, usual),
        "roberta": (library.RobertaModel, library.RobertaConfig, usual),
        "mpnet": (library.MPNetModel, library.MPNetConfig, usual),
        "xlm-roberta": (library.XLMRobertaModel, library.XLMRobertaConfig, usual),
        "modernbert": (library.ModernBertModel, library.ModernBertConfig, {**usual, "cls_token_id": 2, "sep_token_id": 3}),
        "qwen3": (library.Qwen3Model, library.Qwen3Config, decoder),
        "gemma3": (
            library.Gemma3TextModel,
            library.Gemma3TextConfig,
            {**decoder, **mixed, "use_bidirectional_attention": True},
        ),
        "t5": (
            library.T5EncoderModel,
            library.T5Config,
            {
                **{name: usual[name] for name in ("vocab_size", "pad_token_id", "eos_token_id")},
                **{"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2},
            },
        ),
        "distilbert": (
            library.DistilBertModel,
            library.DistilBertConfig,
            {
                **{
                    name: usual[name] for name in ("vocab_size", "max_position_embeddings", "pad_token_id", "initializer_range")
                },
                **{"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32},
            },
        ),
    }
    model, config, fields = makers[architecture]
    return model(config(**fields)).eval()


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, width) of length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
