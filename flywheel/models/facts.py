"""What a base model's own files say of it, read as JSON: no weights are loaded, no library is imported.

The files are those of a Sentence Transformers folder: modules.json, the pooling's and Dense modules' config.json, the encoder's
config.json, sentence_bert_config.json, tokenizer_config.json and config_sentence_transformers.json.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from flywheel.errors import FlywheelError
from flywheel.models.catalogue import BaseModel

Kind = Literal["transformers", "jina", "static"]
# Poolings and their keys in configuration files, in the order in which every version of Sentence Transformers puts them side by
# side.
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
POOLINGS = tuple(POOLING_KEYS)
_WIDTHS = ("hidden_size", "d_model", "dim", "n_embd")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_PIPELINE = re.compile("(Transformer, Pooling|StaticEmbedding)(, Dense)*(, Normalize)?")
_OUR_TRANSFORMER = "flywheel.models.jina.JinaTransformer"
_NO_LIMIT = 10**9  # tokenizers without a limit state a number beyond it


@dataclass(frozen=True)
class Facts:
    """A model's make: token states of `states_width` numbers, one of `poolings` (more only where its files say so) or all of
    them side by side, the linear maps in the folders `dense`, and a vector of `width` numbers.

    `root` is the encoder's folder below the model's. `reads` is how many tokens of a text it reads at most, special ones and
    the prompt included; None where nothing limits it. `prompt` stands before each text, under the name `prompt_name`. `dims`
    are shorter lengths it was trained for. Static embeddings have no layers, and their pooling is the mean.
    """

    kind: Kind
    root: str
    states_width: int
    poolings: tuple[str, ...]
    include_prompt: bool
    dense: tuple[str, ...]
    width: int
    layers: int | None
    reads: int | None
    prompt: str
    prompt_name: str | None
    dims: tuple[int, ...]


def read_facts(model: BaseModel, folder: Path) -> Facts:
    """Read the files of `model` in `folder`.

    Raises FlywheelError where they contradict each other or what is said of the model, where they ask for code of their
    repository, and where they describe a pipeline that is not encoder, pooling, Dense, Normalize.
    """
    return _Reading(model, folder).facts()


@dataclass(frozen=True)
class _Reading:
    model: BaseModel
    folder: Path

    def facts(self) -> Facts:
        kinds = self._modules()
        root, static = kinds[0][1], kinds[0][0] == "StaticEmbedding"
        config = {} if static else self._json("config.json", root, required=True)
        self._refuse_code(config)
        dense = tuple(path for kind, path in kinds if kind == "Dense")
        poolings, include_prompt, pooled = self._pooling(kinds, static)
        stated = _first_int(config, _WIDTHS) or _first_int(config.get("text_config", {}), _WIDTHS)
        states_width = stated or pooled or self._static_width(root)
        if pooled is not None and stated is not None and pooled != stated:
            raise self._wrong(f"says that it pools states of {pooled} numbers, but those of its encoder have {stated}")
        prompt_name, prompt = self._prompt()
        return Facts(
            kind="static" if static else "jina" if _is_jina(config) else "transformers",
            root=root,
            states_width=states_width,
            poolings=poolings,
            include_prompt=include_prompt,
            dense=dense,
            width=self._width(dense, len(poolings) * states_width),
            layers=_first_int(config, _LAYERS) or _first_int(config.get("text_config", {}), _LAYERS),
            reads=None if static else self._reads(root, config),
            prompt=prompt,
            prompt_name=prompt_name,
            dims=tuple(config.get("matryoshka_dimensions") or self.model.dims),
        )

    def _modules(self) -> list[tuple[str, str]]:
        """The kind and folder of each module. A folder without modules.json is an encoder alone."""
        content = self._json("modules.json")
        if content is None:
            if self.model.pooling is None:
                raise FlywheelError(
                    f"{self.folder} of {self.model.name} holds no modules.json, so that its pooling is unknown. Set "
                    f"{self.model.setting('pooling')} to the one that its card names, such as mean."
                )
            return [("Transformer", ""), ("Pooling", "")]
        try:
            modules = [(str(module["type"]), _below(module["path"])) for module in content]
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(self.folder / "modules.json", error) from error
        foreign = [kind for kind, _ in modules if not kind.startswith("sentence_transformers.") and kind != _OUR_TRANSFORMER]
        if foreign:
            raise self._needs_code(f"its modules.json names {foreign[0]}")
        kinds = [(kind.rpartition(".")[2].replace("JinaTransformer", "Transformer"), path) for kind, path in modules]
        names = ", ".join(kind for kind, _ in kinds)
        if not _PIPELINE.fullmatch(names):
            raise self._wrong(
                f"holds the modules {names}, where Transformer and Pooling (or StaticEmbedding), Dense and Normalize belong"
            )
        return kinds

    def _pooling(self, kinds: list[tuple[str, str]], static: bool) -> tuple[tuple[str, ...], bool, int | None]:
        """The poolings, whether they take in the prompt, and the width of the states that they say they pool."""
        if static:
            return ("mean",), True, None
        path = kinds[1][1]
        config = self._json("config.json", path, required=True) if path else {}
        stated = config.get("pooling_mode")
        if stated is None:
            stated = [name for name, key in POOLING_KEYS.items() if config.get(key)] or ["mean"]
        poolings = (stated,) if isinstance(stated, str) else tuple(stated)
        if self.model.pooling is not None:
            poolings = (self.model.pooling,)
        unknown = [name for name in poolings if name not in POOLINGS]
        if unknown:
            raise FlywheelError(
                f"There is no pooling {unknown[0]!r}, which is what {self.model.name} is to have. Set "
                f"{self.model.setting('pooling')} to one of {', '.join(POOLINGS)}."
            )
        return (
            poolings,
            config.get("include_prompt", True),
            _first_int(config, ("embedding_dimension", "word_embedding_dimension")),
        )

    def _width(self, dense: tuple[str, ...], width: int) -> int:
        """The length of the vector after the Dense modules, which must be linear and fit onto each other."""
        for path in dense:
            config = self._json("config.json", path, required=True)
            activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
            if activation != "Identity" or config.get("use_residual"):
                raise FlywheelError(
                    f"{self.model.name} cannot be trained here: its module {path} is not linear (its activation is "
                    f"{activation}), so that no head can take it in. Choose another base model."
                )
            if config.get("in_features") != width:
                raise self._wrong(f"has a module {path} for {config.get('in_features')} numbers, but it gets {width}")
            width = int(config["out_features"])
        return width

    def _reads(self, root: str, config: dict[str, Any]) -> int | None:
        """As Sentence Transformers finds it."""
        places = _first_int(config, ("max_position_embeddings",)) or _first_int(
            config.get("text_config", {}), ("max_position_embeddings",)
        )
        tokenizer = _first_int(self._json("tokenizer_config.json", root) or {}, ("model_max_length",))
        stated = _first_int(self._json("sentence_bert_config.json", root) or {}, ("max_seq_length",))
        most = min((each for each in (tokenizer, places) if each is not None), default=None)
        if self.model.max_length is not None:
            if places is not None and self.model.max_length > places:
                raise FlywheelError(
                    f"{self.model.setting('max_length')} is {self.model.max_length}, but {self.model.name} has positions for "
                    f"{places} tokens. Set it to {places} at most."
                )
            return self.model.max_length
        reads = stated or most
        return None if reads is None or reads >= _NO_LIMIT else reads

    def _prompt(self) -> tuple[str | None, str]:
        """The prompt before every text, and its name: the one that is said of the model, else its files' default."""
        config = self._json("config_sentence_transformers.json") or {}
        prompts = {**(config.get("prompts") or {}), **self.model.prompts}
        name = self.model.prompt_name if self.model.prompt_name is not None else config.get("default_prompt_name")
        if not name or (self.model.prompt_name is None and not prompts.get(name)):
            return None, ""
        if not prompts.get(name):
            there = [each for each, prompt in prompts.items() if prompt]
            has = f"has the prompts {', '.join(there)}" if there else "has no prompts"
            raise FlywheelError(
                f"{self.model.name} needs its prompt {name!r} before every text, but {self.folder} {has}. Set "
                f'{self.model.setting("prompts")} to a table that has it, such as {{{name} = "{name}: "}}, as its card says.'
            )
        return name, prompts[name]

    def _refuse_code(self, config: dict[str, Any]) -> None:
        if "AutoModel" in (config.get("auto_map") or {}) and not _is_jina(config):
            raise self._needs_code("its config.json has an auto_map")

    def _needs_code(self, why: str) -> FlywheelError:
        return FlywheelError(
            f"{self.model.name} needs code of its repository ({why}), which flywheel never runs: without it the model gives "
            f"wrong vectors. Set {self.model.setting('hub_id')} or {self.model.setting('path')} to a model that loads without."
        )

    def _static_width(self, root: str) -> int:
        """The width of the only tensor of static embeddings, from the header of their file."""
        from safetensors import safe_open

        with safe_open(self.folder / root / "model.safetensors", framework="np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - no mapping
        return max((int(shape[-1]) for shape in shapes if len(shape) == 2), default=0)

    def _json(self, name: str, below: str = "", required: bool = False) -> Any:
        """A file of the model, in a folder below it; None where there is none."""
        file = self.folder / below / name
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            if not required:
                return None
            raise self._damaged(file, "it is missing") from error
        except (OSError, ValueError) as error:
            raise self._damaged(file, error) from error

    def _damaged(self, file: Path, error: object) -> FlywheelError:
        return FlywheelError(
            f"{file} of {self.model.name} cannot be read ({error}). Replace its folder with the hub's files, or point "
            f"{self.model.setting('path')} at another."
        )

    def _wrong(self, what: str) -> FlywheelError:
        return FlywheelError(
            f"The folder {self.folder} of {self.model.name} {what}. Replace it with the hub's files, or point "
            f"{self.model.setting('path')} at another."
        )


def _below(path: object) -> str:
    """A module's folder below the model's, empty for that itself. Raises ValueError for one elsewhere."""
    parts = PurePosixPath(str(path)).parts
    if ".." in parts or "/" in parts:
        raise ValueError(f"the module's path {path} leads out of the folder")
    return "/".join(parts)


def _is_jina(config: dict[str, Any]) -> bool:
    """Whether it is the architecture of `flywheel.models.jina`, which transformers takes for plain BERT."""
    return config.get("position_embedding_type") == "alibi"


def _first_int(config: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)
