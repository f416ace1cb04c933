"""The architecture of jina-embeddings-v2-small-en: BERT with ALiBi in place of position embeddings and a GEGLU feed-forward.

The hub's code for it does not run on transformers 5, and transformers itself takes the weights for plain BERT, which gives
wrong vectors and no error. No code of a repository runs here. Importing this module imports torch.

ALiBi: Press et al., "Train Short, Test Long" (2022); its symmetric form and this model: Günther et al., "Jina Embeddings 2"
(2023). GEGLU: Shazeer, "GLU Variants Improve Transformer" (2020).
"""

from typing import Any, Self

import torch
from sentence_transformers.sentence_transformer.modules import Transformer
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, scaled_dot_product_attention
from transformers import AutoConfig, BertConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

# The most numbers that the biases of one step may hold, a gibibyte of float32; one text of 8,192 tokens alone takes two.
_BIAS_NUMBERS = 2**28

# What checkpoints of BERT's kind hold beside the encoder, and mean pooling never reads.
_UNUSED_TENSORS = [r"^pooler\.", r"^cls\.", r"^embeddings\.position_ids$"]


class JinaConfig(BertConfig):
    """BERT's settings under a name of their own, so that transformers alone refuses a saved folder instead of misreading it."""

    model_type = "flywheel_jina_v2"


class JinaEmbeddings(nn.Module):
    """Word and token type embeddings, summed and normalised; positions come in with the attention."""

    def __init__(self, config: JinaConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, input_ids: Tensor | None = None, token_type_ids: Tensor | None = None, inputs_embeds: Tensor | None = None
    ) -> Tensor:
        """States (texts, tokens, hidden) of token ids (texts, tokens), or of the word embeddings `inputs_embeds`."""
        words = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if token_type_ids is None:
            token_type_ids = torch.zeros(words.shape[:2], dtype=torch.long, device=words.device)
        return self.dropout(self.LayerNorm(words + self.token_type_embeddings(token_type_ids)))


class JinaAttention(nn.Module):
    """Self-attention with a bias on its scores, then residual and LayerNorm."""

    def __init__(self, config: JinaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.probability_dropout = config.attention_probs_dropout_prob
        self.state_dropout = config.hidden_dropout_prob
        self.self = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.output = nn.ModuleDict({"dense": nn.Linear(width, width), "LayerNorm": _norm(config)})

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """States (texts, tokens, hidden); `bias` (texts or 1, heads, tokens, tokens) is added to the scaled scores."""
        query, key, value = (
            self.self[name](states).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value")
        )
        rate = self.probability_dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=rate).transpose(1, 2).flatten(2)
        added = dropout(self.output["dense"](mixed), self.state_dropout, self.training)
        return self.output["LayerNorm"](states + added)


class JinaFeedForward(nn.Module):
    """GEGLU: one half of a wide map goes through GELU and multiplies the other; then residual and LayerNorm."""

    def __init__(self, config: JinaConfig) -> None:
        super().__init__()
        self.state_dropout = config.hidden_dropout_prob
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = _norm(config)

    def forward(self, states: Tensor) -> Tensor:
        """States (texts, tokens, hidden)."""
        gate, passed = self.gated_layers(states).chunk(2, dim=-1)
        return self.layernorm(states + dropout(self.wo(gelu(gate) * passed), self.state_dropout, self.training))


class JinaLayer(nn.Module):
    """Attention, then the feed-forward."""

    def __init__(self, config: JinaConfig) -> None:
        super().__init__()
        self.attention = JinaAttention(config)
        self.mlp = JinaFeedForward(config)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """States (texts, tokens, hidden) after this layer, under `bias` as `JinaAttention` takes it."""
        return self.mlp(self.attention(states, bias))


class JinaEncoder(nn.Module):
    """The layers, under the bias that represents positions and padding."""

    def __init__(self, config: JinaConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.layer = nn.ModuleList(JinaLayer(config) for _ in range(config.num_hidden_layers))

    def forward(self, states: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """What goes into the first layer and what comes out of each; `attention_mask` (texts, tokens) is 0 at padding.

        A large batch is taken in parts, whose biases stay within a gibibyte, or one text's where that is more.
        """
        bias = alibi_bias(self.heads, states.shape[1], states)
        rows = max(1, _BIAS_NUMBERS // bias.numel())
        parts = [
            self._run(part, _hide_padding(bias, mask))
            for part, mask in zip(states.split(rows), attention_mask.split(rows), strict=True)
        ]
        return parts[0] if len(parts) == 1 else [torch.cat(step) for step in zip(*parts, strict=True)]

    def _run(self, states: Tensor, bias: Tensor) -> list[Tensor]:
        steps = [states]
        for layer in self.layer:
            steps.append(layer(steps[-1], bias))
        return steps


class JinaModel(PreTrainedModel):
    """The encoder, with `embeddings` and `encoder.layer` where BertModel has them, and BERT's names of tensors."""

    config_class = JinaConfig
    config: JinaConfig
    base_model_prefix = "bert"
    _keys_to_ignore_on_load_unexpected = _UNUSED_TENSORS

    def __init__(self, config: JinaConfig) -> None:
        super().__init__(config)
        self.embeddings = JinaEmbeddings(config)
        self.encoder = JinaEncoder(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Token states of `input_ids`, or of `inputs_embeds` in their place; without a mask nothing is padding.

        `hidden_states`, where asked for, are what went into the first layer and what came out of each.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        states = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids, inputs_embeds=inputs_embeds)
        mask = torch.ones(states.shape[:2], device=states.device) if attention_mask is None else attention_mask
        steps = self.encoder(states, mask)
        return BaseModelOutput(last_hidden_state=steps[-1], hidden_states=tuple(steps) if output_hidden_states else None)


class JinaTransformer(Transformer):
    """First module of the pipeline of a folder with this architecture, as the hub has it or as flywheel saved it.

    A saved folder names this class in its modules.json. Sentence Transformers imports a class that is not its own only on
    demand, so such a folder loads with `SentenceTransformer(path, trust_remote_code=True)` where flywheel is installed.
    What is imported then is this module; code that a folder or a repository brings is never run.
    """

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> Self:  # type: ignore[override]
        """Load settings, weights and tokenizer. Raises ValueError for another architecture or other tensors than it has."""
        module = super().load(model_name_or_path, **{**kwargs, "trust_remote_code": False})
        # The two methods below are Sentence Transformers' own; were they renamed, plain BERT would have been loaded.
        if not isinstance(module.auto_model, JinaModel):
            raise ValueError(f"this version of Sentence Transformers loads {type(module.auto_model).__name__}, not JinaModel")
        return module

    def _load_config(self, model_name_or_path: str, backend: str, config_kwargs: dict[str, Any]) -> tuple[JinaConfig, bool]:
        config = JinaConfig.from_pretrained(model_name_or_path, **config_kwargs)
        # The way of computing attention that a config may ask for is one of the hub's code.
        config._attn_implementation = None
        kinds = (getattr(config, "position_embedding_type", None), getattr(config, "feed_forward_type", None))
        if kinds != ("alibi", "geglu") or config.num_attention_heads & (config.num_attention_heads - 1):
            raise ValueError(
                f"its config.json describes {kinds[0]} positions, a {kinds[1]} feed-forward and {config.num_attention_heads} "
                "heads, where alibi, geglu and a power of two belong"
            )
        return config, False

    def _load_model(
        self,
        model_name_or_path: str,
        transformer_task: str,
        config: PreTrainedConfig,
        backend: str,
        is_peft_model: bool,
        **model_kwargs: Any,
    ) -> JinaModel:
        # In float32 also where the file holds float16, which few CPUs compute well in.
        arguments = {"dtype": torch.float32, "use_safetensors": True, **model_kwargs}
        loaded: Any = JinaModel.from_pretrained(model_name_or_path, config=config, output_loading_info=True, **arguments)
        model, found = loaded
        wrong = {kind: sorted(map(str, found[f"{kind}_keys"])) for kind in ("missing", "unexpected", "mismatched")}
        if any(wrong.values()):
            raise ValueError("; ".join(f"{kind} tensors: {', '.join(names)}" for kind, names in wrong.items() if names))
        return model


def alibi_bias(heads: int, tokens: int, like: Tensor) -> Tensor:
    """The bias (heads, tokens, tokens) of token i on token j: -slope * |i - j|, with the slopes of `heads`, a power of two.

    Slopes fall geometrically to 2^-8, from 2^-1 where there are eight heads; dtype and device are those of `like`.
    """
    places = torch.arange(tokens, device=like.device, dtype=torch.float32)
    slopes = 2.0 ** (torch.arange(1, heads + 1, device=like.device) * (-8.0 / heads))
    distances = (places[:, None] - places).abs_()
    return (-slopes[:, None, None] * distances).to(like.dtype)


def _hide_padding(bias: Tensor, mask: Tensor) -> Tensor:
    """Spread `bias` (heads, tokens, tokens) over texts, so that no token looks at what `mask` (texts, tokens) has as 0."""
    real = mask.bool()
    if bool(real.all()):
        return bias[None]
    return bias.masked_fill(~real[:, None, None, :], torch.finfo(bias.dtype).min)


def _norm(config: JinaConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


# So that the tokenizer of a saved folder is found by the name in its config.
AutoConfig.register(JinaConfig.model_type, JinaConfig, exist_ok=True)
