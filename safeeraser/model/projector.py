"""How the projector is trained: in full, by LoRA on its linear layers, by a parametrization, or not at all.

A parametrization keeps a weight W fixed and trains D. The layer uses a weight computed from both, such as SineProject's
W + sin(D) (Garg, Saratchandran and Lucey, CVPR 2026, arXiv 2511.18444). torch computes it whenever the layer reads its
weight. PEFT and readers of a saved adapter see an ordinary trained copy of the projector: the computed weight is stored
under the usual name. A new way needs a function here and an entry in `PROJECTORS`.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft import LoraConfig
from torch import Tensor, nn
from torch.nn.utils import parametrize

from safeeraser.benchmark.family import Family
from safeeraser.errors import BadInput

PLACE, D, W = ".parametrizations.", ".original", ".0.stays"  # parts of torch's names for D and W

Stored = Literal["full", "lora", "frozen"]


# Computes the weight that a layer uses from W and D, both of its shape. The result is W where D is zero.
Joined = Callable[[Tensor, Tensor], Tensor]


def sine(stays: Tensor, moved: Tensor) -> Tensor:
    """W + sin(D), in the wider dtype of the two."""
    return stays + torch.sin(moved)


class Moved(nn.Module):
    """The parametrization: computes a layer's parameter from W, its original value, and D, trained from zero."""

    def __init__(self, weight: Tensor, joined: Joined) -> None:
        super().__init__()
        # A parameter rather than a buffer, which DDP would send around in every forward pass.
        self.stays = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.joined = joined

    def forward(self, moved: Tensor) -> Tensor:
        """The weight, computed from W (`stays`) and D (`moved`), both of its shape."""
        return self.joined(self.stays, moved)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The initial D: zeros of the weight's shape."""
        return torch.zeros_like(weight)


@dataclass(frozen=True)
class Way:
    """How the projector is trained.

    Attributes:
        stored: the part of an adapter that holds the projector: all its parameters, LoRA on it, or none.
        joined: computes the parameters from W and D; None: there is no parametrization.
    """

    stored: Stored
    joined: Joined | None = None

    @property
    def of_adapter(self) -> bool:
        """Whether this way is available only for training with an adapter."""
        return self.stored == "lora" or self.joined is not None


PROJECTORS = {
    "full": Way("full"),
    "lora": Way("lora"),
    "sine": Way("full", sine),
    "frozen": Way("frozen"),
}


def _linear_layers(model: nn.Module, family: Family) -> list[str]:
    """The names of the projector's linear layers in a model without an adapter."""
    named = model.named_modules()
    return [name for name, each in named if isinstance(each, nn.Linear) and family.part_of(name) == "projector"]


def reach_projector(config: LoraConfig, model: nn.Module, family: Family) -> None:
    """Extend LoRA to the projector's linear layers. Raises `BadInput` if it has none."""
    if not (layers := _linear_layers(model, family)):
        raise BadInput(
            f"projector=lora: the projector of {family.name} models has no linear layer; "
            f"{', '.join(name for name in PROJECTORS if name != 'lora')} do not ask for one"
        )
    config.target_modules = "|".join((config.target_modules, *map(re.escape, layers)))


def reached(config: LoraConfig, model: nn.Module, family: Family) -> set[str]:
    """The projector's layers that LoRA's configuration targets, by their names in a model with an adapter."""
    pattern, layers = config.target_modules, _linear_layers(model, family)
    return {f"base_model.model.{name}" for name in layers if isinstance(pattern, str) and re.fullmatch(pattern, name)}


def stored_as(names: Iterable[str], family: Family) -> Stored:
    """How an adapter with parameters of some names stores the projector."""
    inside = [name for name in names if family.part_of(name.replace(".lora_", ".")) == "projector"]
    if any(".lora_" in name for name in inside):
        return "lora"
    return "full" if inside else "frozen"


def modulate(model: nn.Module, family: Family, joined: Joined) -> None:
    """Parametrize the projector's trained copy: the present values of its parameters become W, and D is trained.

    Only layers with a two-dimensional parameter are parametrized, biases included. The copy's other layers, such as
    norms, are frozen.
    """
    for name, module in list(model.named_modules()):
        if ".modules_to_save." not in name or family.part_of(name) != "projector":
            continue
        parameters = dict(module.named_parameters(recurse=False))
        multiplies = any(parameter.dim() == 2 for parameter in parameters.values())
        for key, parameter in parameters.items():
            parameter.requires_grad_(multiplies)
            if multiplies:
                parametrize.register_parametrization(module, key, Moved(parameter, joined))


@contextmanager
def plainly_named(model: nn.Module) -> Iterator[None]:
    """Within the context, state dicts have the projector's usual names, as if it had no parametrization.

    PEFT needs the names and the shapes. The values are D's, and W is left out; `baked` computes the values to store.
    """
    with ExitStack() as stack:
        for module in filter(parametrize.is_parametrized, model.modules()):
            stack.enter_context(module.register_state_dict_post_hook(_name_plainly))
        yield


def _name_plainly(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for key in module.parametrizations:
        stays, moved = (f"{prefix}{PLACE.removeprefix('.')}{key}{part}" for part in (W, D))
        # D, not the computed weight: an engine that shards parameters would need all processes here to gather W and D.
        del state[stays]
        state[prefix + key] = state.pop(moved)


def baked(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters `weights`, by name, with each pair of W and D replaced by the weight computed from the two."""
    joined: dict[str, Joined] = {
        f"{name}{PLACE}{key}": made[0].joined
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module)
        for key, made in module.parametrizations.items()
    }
    tensors = {}
    for name, value in weights.items():
        if PLACE not in name:
            tensors[name] = value
        elif name.endswith(D):
            stem = name.removesuffix(D)
            tensors[stem.replace(PLACE, ".")] = joined[stem](weights[stem + W], value)
    return tensors


def moved_by(model: nn.Module) -> dict[str, nn.Parameter]:
    """Each D, by name."""
    return {name: each for name, each in model.named_parameters() if PLACE in name and name.endswith(D)}
