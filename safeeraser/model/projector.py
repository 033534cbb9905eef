"""How the projector is trained: whole, by LoRA on its linear layers, in terms of its own, or not at all.

In terms of its own: its weight W stays, and D is trained, which makes another weight of it, such as SineProject's
W + sin(D) (Garg, Saratchandran and Lucey, CVPR 2026, arXiv 2511.18444). torch's parametrizations compute it wherever
a layer asks for its weight. To PEFT, and to who loads what it saves, the projector is an ordinary copy that was trained
whole: under each name is stored what W and D make. A new way is a function here and an entry in `PROJECTORS`.
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

PLACE, D, W = ".parametrizations.", ".original", ".0.stays"  # what torch calls the place, and in it these two

Stored = Literal["full", "lora", "frozen"]


# Of W and D, which have one shape, the weight that a layer multiplies by: W itself where D is zero.
Joined = Callable[[Tensor, Tensor], Tensor]


def sine(stays: Tensor, moved: Tensor) -> Tensor:
    """W + sin(D), in the wider dtype of the two."""
    return stays + torch.sin(moved)


class Moved(nn.Module):
    """Makes of D, which is trained from zero, the parameter that a layer asks for; W is what the parameter was."""

    def __init__(self, weight: Tensor, joined: Joined) -> None:
        super().__init__()
        # A parameter rather than a buffer, which DDP would send around in every forward pass.
        self.stays = nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.joined = joined

    def forward(self, moved: Tensor) -> Tensor:
        """The weight: what stays joined with what moves, both of its shape."""
        return self.joined(self.stays, moved)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What moves at the beginning: zeros of the weight's shape."""
        return torch.zeros_like(weight)


@dataclass(frozen=True)
class Way:
    """How the projector is trained.

    Attributes:
        stored: what an adapter then holds of it: the projector whole, LoRA on it, or nothing.
        joined: what the parameters are made of, where they are not trained as they are.
    """

    stored: Stored
    joined: Joined | None = None

    @property
    def of_adapter(self) -> bool:
        """Whether it is there beside an adapter alone."""
        return self.stored == "lora" or self.joined is not None


PROJECTORS = {
    "full": Way("full"),
    "lora": Way("lora"),
    "sine": Way("full", sine),
    "frozen": Way("frozen"),
}


def _linear_layers(model: nn.Module, family: Family) -> list[str]:
    """The projector's, by name, of a model without an adapter."""
    named = model.named_modules()
    return [name for name, each in named if isinstance(each, nn.Linear) and family.part_of(name) == "projector"]


def reach_projector(config: LoraConfig, model: nn.Module, family: Family) -> None:
    """Have LoRA sit on the projector's linear layers too. Raises `BadInput` if it has none."""
    if not (layers := _linear_layers(model, family)):
        raise BadInput(
            f"projector=lora: the projector of {family.name} models has no linear layer; "
            f"{', '.join(name for name in PROJECTORS if name != 'lora')} do not ask for one"
        )
    config.target_modules = "|".join((config.target_modules, *map(re.escape, layers)))


def reached(config: LoraConfig, model: nn.Module, family: Family) -> set[str]:
    """The projector's layers that a configuration names, as they are called in a model with an adapter."""
    pattern, layers = config.target_modules, _linear_layers(model, family)
    return {f"base_model.model.{name}" for name in layers if isinstance(pattern, str) and re.fullmatch(pattern, name)}


def stored_as(names: Iterable[str], family: Family) -> Stored:
    """What an adapter with parameters of these names holds of the projector."""
    inside = [name for name in names if family.part_of(name.replace(".lora_", ".")) == "projector"]
    if any(".lora_" in name for name in inside):
        return "lora"
    return "full" if inside else "frozen"


def modulate(model: nn.Module, family: Family, joined: Joined) -> None:
    """Train what the projector's copy is moved by, from the values that it has now, in place of the copy.

    They are those of each layer that has a parameter of two dimensions, its bias too. What else the copy has, such as
    norms, stays as it is.
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
    """Within, state dicts have the projector's ordinary names, as if it were trained whole, and of W nothing.

    PEFT goes by these names and by their shapes. The values are D's: what is to be stored is `baked`.
    """
    with ExitStack() as stack:
        for module in filter(parametrize.is_parametrized, model.modules()):
            stack.enter_context(module.register_state_dict_post_hook(_name_plainly))
        yield


def _name_plainly(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for key in module.parametrizations:
        stays, moved = (f"{prefix}{PLACE.removeprefix('.')}{key}{part}" for part in (W, D))
        # What the two make an engine that shares it out would gather, from processes that are not here.
        del state[stays]
        state[prefix + key] = state.pop(moved)


def baked(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of the model by name, with what W and D make under its ordinary name in place of the two."""
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
