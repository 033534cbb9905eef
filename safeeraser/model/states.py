"""Hidden states of single layers from a forward pass, and forward passes that skip layers."""

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
    """The result of `logits`, and the outputs of some of the language model's layers, (places, hidden), by layer.

    If `read` is empty, the layers above the last one in `states` are skipped, and the head computes nothing.

    Args:
        states: for each layer, numbered from 0, the places to read, numbered as for `logits`.
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
    # Selected here and not in the hooks: gradient checkpointing would run the hooks' work again.
    return scores, {number: kept[number].flatten(0, 1).index_select(0, places) for number, places in states.items()}


def language_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """The layers of the language model, even if the model is wrapped."""
    place = f".{family.language_model}.layers"
    return next(module for name, module in model.named_modules() if f".{name}".endswith(place))


def up_to(model: nn.Module, family: Family, layer: int) -> AbstractContextManager[Any]:
    """Within the context, layers above `layer` return their input. They are still called, as engines require."""
    return _instead(language_layers(model, family)[layer + 1 :], lambda hidden, *_, **__: hidden)


def begun_at(model: nn.Module, family: Family, layer: int, states: Tensor) -> AbstractContextManager[Any]:
    """Within the context, a layer returns `states`, (rows, tokens, hidden), for any input. The layers below compute
    nothing, unless layers above use their keys and values."""
    layers = language_layers(model, family)
    if getattr(model.config.get_text_config(), "num_kv_shared_layers", 0):
        return layers[layer].register_forward_hook(lambda *_: states)
    return _instead(layers[: layer + 1], lambda *_, **__: states)


@contextmanager
def _instead(layers: Iterable[nn.Module], forward: Callable[..., Tensor]) -> Iterator[None]:
    """Within the context, replace the layers' `forward`."""
    with ExitStack() as stack:
        for each in layers:
            wrapped = vars(each).get("forward")  # set if another wrapper has replaced it
            stack.callback(setattr, each, "forward", wrapped) if wrapped else stack.callback(delattr, each, "forward")
            each.forward = forward
        yield
