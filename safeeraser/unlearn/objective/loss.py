"""The declaration of a loss: its function, its parameters and the inputs that it needs. All else follows from it."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

# Keys by which a term names the layers whose hidden states it reads. The defaults are RMU's and the circuit breakers'
# layers in models of 7 billion parameters, which have 32 layers.
ONE_LAYER = {"layer": (NonNegativeInt, 7)}
LAYERS = {"layers": (Annotated[list[NonNegativeInt], Field(min_length=1)], [9, 19])}


@dataclass(frozen=True)
class Loss:
    """A loss function, and the inputs that it needs.

    Attributes:
        function: takes `Positions`, then the result of `beforehand` if there is one, then its parameters by keyword.
        reference: the output of the untouched model that the loss compares with: the `whole` output at its positions
            (logits, or states), or only the `nll` of the targets, so that no logits are kept.
        states: the key of the term that names the language model's layers, numbered from 0, whose states the loss reads
            instead of logits; with type and default. The term is the mean of the loss over the named layers.
        views: the number of views, for a loss that distinguishes them or is not defined on their pooled tokens.
        beforehand: gets the width of the states, the seed and its own parameters by keyword. It is called once, and the
            function gets its result with every batch.
        copies: how many tensors of the size of the logits read exist at once at the peak: the logits, their gradient,
            and the tensor that they are compared with.
        at_most: the highest value that the loss can have, in nats per token; a bound above it never stops a run.
        starts_flat: whether the loss has no gradient when the model equals the untouched one, as under a fresh adapter.
    """

    function: Callable[..., Tensor]
    reference: Literal["whole", "nll"] | None = None
    states: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    views: int | None = None
    beforehand: Callable[..., Tensor] | None = None
    copies: int = 2
    at_most: float = inf
    starts_flat: bool = False

    @property
    def needs_reference(self) -> bool:
        """Whether the loss needs an output of the untouched model."""
        return self.reference is not None

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of a term of this loss that are not common to all terms, each with its type and default."""
        beforehand = _keywords(self.beforehand) if self.beforehand else {}
        return _keywords(self.function) | beforehand | dict(self.states)

    def ready(
        self, parameters: dict[str, Any], *, width: int, seed: int, device: torch.device | str = "cpu"
    ) -> Callable[[Any], Tensor]:
        """The loss as a function of positions alone, with its parameters and with the result of `beforehand` on
        `device`. Raises `BadInput` if `beforehand` fails."""
        chosen = {name: parameters[name] for name in _keywords(self.function)}
        if self.beforehand is None:
            return partial(self.function, **chosen)
        keywords = {name: parameters[name] for name in _keywords(self.beforehand)}
        made = self.beforehand(width, seed, **keywords).to(device)
        return lambda at: self.function(at, made, **chosen)


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The types and defaults of a function's keyword-only arguments."""
    given = inspect.signature(function).parameters.values()
    return {
        each.name: (each.annotation, ... if each.default is each.empty else each.default)
        for each in given
        if each.kind is each.KEYWORD_ONLY
    }
