"""What a model's forward pass is asked for: logits where they are read, and the states of single layers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

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
    layers = language_layers(model, family)
    above = [] if len(read) else layers[max(states) + 1 :]
    kept: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for number in states:
            hook = layers[number].register_forward_hook(lambda *given, n=number: kept.update({n: given[-1]}))
            stack.callback(hook.remove)
        stack.enter_context(_passed_over(above))
        found = logits(model, batch, read, head)
    return found, {number: kept[number].flatten(0, 1).index_select(0, read) for number, read in states.items()}


def language_layers(model: nn.Module, family: Family) -> nn.ModuleList:
    """The layers of the language model, whatever the model is wrapped in."""
    place = f".{family.language_model}.layers"
    return next(module for name, module in model.named_modules() if f".{name}".endswith(place))


@contextmanager
def _passed_over(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Let layers give on what they are given. They are called all the same, since engines hang on to their calls."""
    own = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = lambda hidden, *_, **__: hidden
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
