"""What a loss declares beside its function: its parameters, and what it must be given. All else follows from that."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor

# The key by which a term names the layers whose states it reads, with the default of the loss's source: RMU's and the
# circuit breakers' choice among the 32 of a model of 7 billion parameters.
ONE_LAYER = {"layer": (NonNegativeInt, 7)}
LAYERS = {"layers": (Annotated[list[NonNegativeInt], Field(min_length=1)], [9, 19])}


@dataclass(frozen=True)
class Loss:
    """A loss function, and what it must be given.

    Attributes:
        function: takes `Positions`, then what `beforehand` made, then its parameters by keyword.
        reference: what it compares with of the untouched model: the `whole` of what it reads (logits, or states), or
            the `nll` of the targets alone, so that no logits are kept.
        states: the key of its term that names the language model's layers, numbered from 0, whose states it reads
            rather than logits, with type and default. The term is the mean of the loss over these layers.
        views: how many views it takes, where it distinguishes them or is not defined on their pooled tokens.
        beforehand: given the width of the states, the seed and its own parameters by keyword, makes once what the
            function is given with every batch.
        copies: tensors of the size of the logits read that live at once at the peak: they, their gradient, and what
            they are compared with.
        at_most: the highest value it can have, in nats a token; a bound above it never stops a run.
        starts_flat: whether it has no gradient where the model is the untouched one, as it is under a fresh adapter.
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
        """Whether it must be given something of the untouched model."""
        return self.reference is not None

    @property
    def keys(self) -> dict[str, Any]:
        """The keys that a term of this loss has beside those of all terms, each with its type and its default."""
        beforehand = _keywords(self.beforehand) if self.beforehand else {}
        return _keywords(self.function) | beforehand | dict(self.states)

    def ready(
        self, parameters: dict[str, Any], *, width: int, seed: int, device: torch.device | str = "cpu"
    ) -> Callable[[Any], Tensor]:
        """The function of positions alone, with its parameters, and with what is made beforehand on `device`. Raises
        `BadInput` where that cannot be made."""
        chosen = {name: parameters[name] for name in _keywords(self.function)}
        if self.beforehand is None:
            return partial(self.function, **chosen)
        keywords = {name: parameters[name] for name in _keywords(self.beforehand)}
        made = self.beforehand(width, seed, **keywords).to(device)
        return lambda at: self.function(at, made, **chosen)


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The types and defaults of its keyword-only arguments."""
    given = inspect.signature(function).parameters.values()
    return {
        each.name: (each.annotation, ... if each.default is each.empty else each.default)
        for each in given
        if each.kind is each.KEYWORD_ONLY
    }
