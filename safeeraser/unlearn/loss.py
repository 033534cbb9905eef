"""What a loss declares beside its function: its parameters, and what it must be given. Loader and trainer derive the
rest."""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, create_model
from pydantic_core import InitErrorDetails, PydanticCustomError
from torch import Tensor

from safeeraser.errors import nearest

LAYER = 7  # RMU's choice among the 32 of a model of 7 billion parameters


@dataclass(frozen=True)
class Loss:
    """A loss function, and what it must be given.

    Attributes:
        function: takes `Positions`, then what `beforehand` made, then its parameters by keyword.
        reference: what it compares with of the untouched model: the `whole` of what it reads (logits, or states), or
            the `nll` of the targets alone, so that no logits are kept.
        layer: whether it reads the states of a layer of the language model, which its parameter `layer` numbers from 0,
            rather than logits.
        views: how many views it takes, where it tells them apart or is not defined on their pooled tokens.
        beforehand: given the width of the states, the seed and its own parameters by keyword, makes once what the
            function is given with every batch.
        copies: tensors of the size of the logits read that live at once at the peak: they, their gradient, and what
            they are compared with.
    """

    function: Callable[..., Tensor]
    reference: Literal["whole", "nll"] | None = None
    layer: bool = False
    views: int | None = None
    beforehand: Callable[..., Tensor] | None = None
    copies: int = 2

    @property
    def needs_reference(self) -> bool:
        """Whether it must be given something of the untouched model."""
        return self.reference is not None

    @cached_property
    def parameters(self) -> type[BaseModel]:
        """The keys that a term of this loss may have beside those of all terms, with their types and defaults."""
        declared = _keywords(self.function) | (_keywords(self.beforehand) if self.beforehand else {})
        declared |= {"layer": (NonNegativeInt, LAYER)} if self.layer else {}
        return create_model("Parameters", __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **declared)

    def checked(self, given: dict[str, Any], beside: Iterable[str]) -> dict[str, Any]:
        """The parameters `given`, in their types, and the defaults of the others.

        Args:
            beside: the keys that all terms have, which a mistyped one may have meant.

        Raises:
            ValidationError: one is unknown, or not of its type.
        """
        known = self.parameters.model_fields.keys()
        for name in given.keys() - known:
            raise unknown_key("the loss", name, given[name], [*known, *beside])
        return self.parameters.model_validate(given).model_dump()

    def ready(
        self, parameters: dict[str, Any], *, width: int, seed: int, device: torch.device | str = "cpu"
    ) -> Callable[[Any], Tensor]:
        """The function of positions alone, with its parameters, and with what is made beforehand on `device`.

        Raises:
            BadInput: that cannot be made.
        """
        chosen = {name: parameters[name] for name in _keywords(self.function)}
        if self.beforehand is None:
            return partial(self.function, **chosen)
        its = {name: parameters[name] for name in _keywords(self.beforehand)}
        made = self.beforehand(width, seed, **its).to(device)
        return lambda at: self.function(at, made, **chosen)


def unknown_key(whose: str, name: str, value: Any, known: Iterable[str]) -> ValidationError:
    """What tells of a key that something has not, and of the nearest that it has."""
    told = {"whose": whose, "hint": nearest(name, known).replace("{", "{{").replace("}", "}}")}
    unknown = PydanticCustomError("unknown_parameter", "{whose} has no such key; {hint}", told)
    return ValidationError.from_exception_data("Page", [InitErrorDetails(type=unknown, loc=(name,), input=value)])


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """The types and defaults of its keyword-only arguments."""
    given = inspect.signature(function).parameters.values()
    return {
        each.name: (each.annotation, ... if each.default is each.empty else each.default)
        for each in given
        if each.kind is each.KEYWORD_ONLY
    }
