"""What a forward pass is asked for beside logits: the states of single layers; those above the last are passed over."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from safeeraser.benchmark.family import Family
from safeeraser.model.vlm import logits


def logits_and_states(
    model: nn.Module,
    batch: Mapping[str, Tensor],
    read: Tensor,
    states: Mapping[int, Tensor],
    family: Family,
    head: nn.Module | None = None,
) -> tuple[Tensor, dict[int, Tensor]]:
    """As `logits`, and beside these the outputs of some of the language model's layers, (places, hidden), by layer.

    Where no logits are read, the layers above the last one that is are passed over, and the head is shown nothing.

    Args:
        states: the places read of each layer, which are numbered from 0.
    """
    if not states:
        return logits(model, batch, read, head), {}
    layers, kept = language_layers(model, family), {}
    with ExitStack() as stack:
        for number in states:
            hook = layers[number].register_forward_hook(lambda *given, n=number: kept.update({n: given[-1]}))
            stack.enter_context(hook)
        if not len(read):
            stack.enter_context(up_to(model, family, max(states)))
        scores = logits(model, batch, read, head)
    # Only now: under gradient checkpointing what is done within a layer is done again.
    return scores, {number: kept[number].flatten(0, 1).index_select(0, places) for number, places in states.items()}


def language_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """The layers of the language model, whatever the model is wrapped in."""
    place = f".{family.language_model}.layers"
    return next(module for name, module in model.named_modules() if f".{name}".endswith(place))


def up_to(model: nn.Module, family: Family, layer: int) -> AbstractContextManager[Any]:
    """Let the layers above one give on what they are given. They are called all the same: engines depend on that."""
    return _instead(language_layers(model, family)[layer + 1 :], lambda hidden, *_, **__: hidden)


def begun_at(model: nn.Module, family: Family, layer: int, states: Tensor) -> AbstractContextManager[Any]:
    """Let a layer give `states`, (rows, tokens, hidden), whatever it is given, and those below it do nothing, unless
    layers above take keys and values from them."""
    layers = language_layers(model, family)
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        return layers[layer].register_forward_hook(lambda *_: states)
    return _instead(layers[: layer + 1], lambda *_, **__: states)


@contextmanager
def _instead(layers: Iterable[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Let layers do something else."""
    with ExitStack() as stack:
        for each in layers:
            wrapped = vars(each).get("forward")  # where another wrapper has put one
            stack.callback(setattr, each, "forward", wrapped) if wrapped else stack.callback(delattr, each, "forward")
            each.forward = forward
        yield
