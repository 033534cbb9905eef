"""How the model is run for an objective: as it is trained, and untouched, which is what a method compares with.

The untouched model is the model itself with its adapter switched off. Where no adapter is trained but the model itself,
it is a second copy.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from safeeraser.benchmark.family import Family
from safeeraser.model.states import logits_and_states

Places = Mapping[int | None, Tensor]  # by layer, (N,): which outputs are read; None: logits


@dataclass(frozen=True)
class Forward:
    """One forward pass for all that is read of a batch.

    Attributes:
        model: in its engine's wrapping, or in none.
        bare: the same in none.
        head: the output embeddings of the model, which a wrapped model cannot give.
        second: the untouched model where it is a second copy.
    """

    model: nn.Module
    bare: nn.Module
    family: Family
    head: nn.Module
    second: nn.Module | None = None

    def __call__(self, inputs: Mapping[str, Tensor], places: Places) -> dict[int | None, Tensor]:
        """Logits (N, vocabulary) and the states of layers (N, hidden) at the places read of each."""
        return _run(self.model, inputs, places, self.family, self.head)

    @torch.no_grad()
    def untouched(self, inputs: Mapping[str, Tensor], places: Places) -> dict[int | None, Tensor]:
        """The same of the untouched model."""
        with untouched(self.bare, self.second) as model:
            return _run(model, inputs, places, self.family)


def _run(
    model: nn.Module, inputs: Mapping[str, Tensor], places: Places, family: Family, head: nn.Module | None = None
) -> dict[int | None, Tensor]:
    states = {layer: each for layer, each in places.items() if layer is not None}
    read = places[None] if None in places else next(iter(states.values()))[:0]
    logits, kept = logits_and_states(model, inputs, read, states, family, head)
    outputs: dict[int | None, Tensor] = {None: logits}
    return outputs | dict(kept.items())


@contextmanager
def untouched(model: nn.Module, second: nn.Module | None = None) -> Iterator[nn.Module]:
    """The untouched model: the `second` copy if there is one, or else `model` with its adapter switched off."""
    if second is not None:
        yield second
        return
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with model.disable_adapter():
        yield model
    for parameter, before in zip(model.parameters(), trained, strict=True):
        if parameter.requires_grad and not before:  # PEFT would train all that is saved with the adapter
            parameter.requires_grad_(False)
