"""An encoder cut in two between its layers: the states that the lower ones give, and the upper ones on such states.

Layers are found by structure: a list of blocks of one kind, as many as the configuration says. What a model makes outside them
(position embeddings, rotary embeddings, attention masks) is made by the model itself in both halves, from the same token ids,
so that it stays right whatever the architecture. Imports torch: load it only where an encoder runs.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from flywheel.errors import FlywheelError

_FARTHEST = 1e-3  # as a share of the largest state


class _ReachedError(Exception):
    """Ends a forward pass once the states in question are there."""


def find_blocks(transformer: Any) -> nn.ModuleList:
    """The layers of an encoder, lowest first.

    Raises FlywheelError where no list of equal blocks has as many as there should be.
    """
    model, config = transformer.auto_model, transformer.auto_model.config
    count = getattr(config.get_text_config() if hasattr(config, "get_text_config") else config, "num_hidden_layers", None)
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and len({type(block) for block in module}) == 1
    ]
    if count is None or len(found) != 1:
        raise FlywheelError(
            f"The recipe top needs layers one above the other, and {type(model).__name__} has no such list of {count}. Choose "
            "recipe head or full."
        )
    return found[0]


def lower_states(transformer: Any, inputs: dict[str, Tensor], layers: int) -> Tensor:
    """The states (b, tokens, width) above the lowest `layers` layers, for token ids and mask (b, tokens)."""
    states: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        states.append(arguments[0] if arguments else named["hidden_states"])
        raise _ReachedError

    handle = find_blocks(transformer)[layers].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        transformer(dict(inputs))
    except _ReachedError:
        pass
    finally:
        handle.remove()
    return states[0]


@torch.no_grad()
def cut(transformer: Any, inputs: dict[str, Tensor], layers: int) -> None:
    """Let the lowest `layers` layers of an encoder give way to states that were made before, `lower_states` in its inputs.

    The inputs keep token ids and mask, of which the model makes what stands outside its layers. The lower layers stay in place
    and let states pass, so that the numbers of the upper ones stay as they are. Raises FlywheelError where both halves do not
    give for `inputs` what the whole encoder gives: layers may share more than their states, as T5's do, whose lowest makes the
    position bias of all.
    """
    whole, states = transformer(dict(inputs))["token_embeddings"], lower_states(transformer, inputs, layers)
    blocks = find_blocks(transformer)
    several = _gives_several(transformer, blocks[0], inputs)
    for block in blocks[:layers]:
        block.forward = partial(_pass, several)
    exchange = _Exchange()
    transformer.register_forward_pre_hook(exchange.take)
    blocks[layers].register_forward_pre_hook(exchange.put, with_kwargs=True)
    try:
        parts = transformer({**inputs, "lower_states": states})["token_embeddings"]
    except Exception as error:  # a layer that misses what the lower ones hand on fails in a way of its own
        raise _indivisible(transformer) from error
    seen = inputs["attention_mask"].bool()
    if not bool((whole - parts)[seen].abs().max() <= _FARTHEST * whole[seen].abs().max()):
        raise _indivisible(transformer)


class _Exchange:
    """Takes states out of an encoder's inputs and puts them in before the first upper layer."""

    def __init__(self) -> None:
        self._states = torch.empty(0)

    def take(self, _: nn.Module, arguments: tuple[dict[str, Any]]) -> None:
        self._states = arguments[0].pop("lower_states")

    def put(self, _: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A model may take a batch in parts, row after row."""
        rows = len(arguments[0] if arguments else named["hidden_states"])
        states, self._states = self._states[:rows], self._states[rows:]
        return ((states, *arguments[1:]), named) if arguments else ((), {**named, "hidden_states": states})


def _pass(several: int, hidden_states: Tensor, *_: Any, **__: Any) -> Any:
    return (hidden_states, *[None] * (several - 1)) if several else hidden_states


def _gives_several(transformer: Any, block: nn.Module, inputs: dict[str, Tensor]) -> int:
    """How many things a layer gives as a tuple; 0 where it gives its states as they are."""
    seen: list[Any] = []
    handle = block.register_forward_hook(lambda *found: seen.append(found[2]))
    transformer(dict(inputs))
    handle.remove()
    return len(seen[0]) if isinstance(seen[0], tuple) else 0


def _indivisible(transformer: Any) -> FlywheelError:
    return FlywheelError(
        f"The recipe top trains upper layers on cached states, but those of {type(transformer.auto_model).__name__} need more "
        "of the lower ones than their states. Choose recipe head or full."
    )
