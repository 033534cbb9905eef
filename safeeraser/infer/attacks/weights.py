"""Attacks on the adapter's own weights, before they are merged: does what it covers hang on a few of them?

What is changed are LoRA's factors A and B, not their product: they are what is stored, so the attack costs nothing at
any size, and leaves an adapter of the same form. Each is held against its own entries, so that it does not matter how
the two share the product's size. What was trained whole stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from safeeraser.infer.attacks.attack import on_adapter

if TYPE_CHECKING:
    from torch import Tensor

CLIPPED = 0.99  # of a factor's entries, by magnitude: what the others are cut to
PRUNED = 0.5  # of a factor's entries, the smallest by magnitude


@on_adapter
def clipped(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each of LoRA's factors cut at the 99th percentile of its magnitudes (arXiv 2402.05162 finds what a model refuses
    by in few of its weights)."""

    def cut(factor: Tensor) -> Tensor:
        bound = factor.abs().flatten().float().kthvalue(math.ceil(CLIPPED * factor.numel())).values.item()
        return factor.clamp(-bound, bound)

    return _on_factors(parameters, cut)


@on_adapter
def pruned(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """The half of each of LoRA's factors that is smallest by magnitude set to zero (as arXiv 2402.05162 prunes)."""

    def thin(factor: Tensor) -> Tensor:
        smallest = factor.abs().flatten().argsort(stable=True)[: int(PRUNED * factor.numel())]
        return factor.flatten().index_fill(0, smallest, 0).reshape(factor.shape)

    return _on_factors(parameters, thin)


def _on_factors(parameters: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {
        name: change(tensor) if ".lora_A." in name or ".lora_B." in name else tensor
        for name, tensor in parameters.items()
    }
