"""Two ways to train the projector other than whole: LoRA on its linear layers, and SineProject's W + sin(D).

Of SineProject (Garg, Saratchandran and Lucey, CVPR 2026, arXiv 2511.18444) D is trained, from zero, and W stays.
torch's parametrizations compute the sum wherever a layer asks for its weight. To PEFT, and to who loads what it saves,
the projector is an ordinary copy that was trained whole: what is stored under each name is the sum.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from safeeraser.benchmark.family import Family
from safeeraser.errors import BadInput

SINES = "sines.safetensors"  # in a checkpoint: D, which the adapter beside it holds as part of the sum alone
PLACE, MOVED, STAYS = ".parametrizations.", ".original", ".0.stays"  # what torch calls it, D, and W


def _linear_layers(model: nn.Module, family: Family) -> list[str]:
    """The projector's, by name, of a model without an adapter."""
    named = model.named_modules()
    return [name for name, each in named if isinstance(each, nn.Linear) and family.part_of(name) == "projector"]


def reach_projector(config: LoraConfig, model: nn.Module, family: Family) -> None:
    """Have LoRA sit on the projector's linear layers too. Raises `BadInput` if it has none."""
    if not (layers := _linear_layers(model, family)):
        raise BadInput(
            f"projector=lora: the projector of {family.name} models has no linear layer; full, sine and frozen do not "
            "ask for one"
        )
    config.target_modules = "|".join((config.target_modules, *map(re.escape, layers)))


def reached(config: LoraConfig, model: nn.Module, family: Family) -> set[str]:
    """The projector's layers that a configuration names, as they are called in a model with an adapter."""
    pattern, layers = config.target_modules, _linear_layers(model, family)
    return {f"base_model.model.{name}" for name in layers if isinstance(pattern, str) and re.fullmatch(pattern, name)}


def stored_as(names: Iterable[str], family: Family) -> str:
    """What an adapter with parameters of these names holds of the projector, in the words of the key: `full` (sine is
    stored so too), `lora`, or `frozen`, which is nothing."""
    inside = [name for name in names if family.part_of(name.replace(".lora_", ".")) == "projector"]
    if any(".lora_" in name for name in inside):
        return "lora"
    return "full" if inside else "frozen"


def modulated(stays: Tensor, moved: Tensor) -> Tensor:
    """W + sin(D), in the wider dtype of the two."""
    return stays + torch.sin(moved)


class Sine(nn.Module):
    """Makes of D, which is trained from zero, the parameter W + sin(D); W is what the parameter was."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        # A parameter rather than a buffer, which DDP would send around in every forward pass.
        self.stays = nn.Parameter(weight.detach().clone(), requires_grad=False)

    def forward(self, moved: Tensor) -> Tensor:
        return modulated(self.stays, moved)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return torch.zeros_like(weight)


def modulate(model: nn.Module, family: Family) -> None:
    """Train sines about the values that the projector's copy has now, in place of the copy.

    They are those of each layer that has a parameter of two dimensions, its bias too. What else the copy has, such as
    norms, stays as it is.
    """
    for name, module in list(model.named_modules()):
        if ".modules_to_save." not in name or family.part_of(name) != "projector":
            continue
        own = dict(module.named_parameters(recurse=False))
        multiplies = any(parameter.dim() == 2 for parameter in own.values())
        for key, parameter in own.items():
            parameter.requires_grad_(multiplies)
            if multiplies:
                parametrize.register_parametrization(module, key, Sine(parameter))


@contextmanager
def plainly_named(model: nn.Module) -> Iterator[None]:
    """Within, state dicts have the projector's ordinary names, as if it were trained whole, and of W nothing.

    PEFT goes by these names and by their shapes. The values are D's: what is to be stored is `baked`.
    """
    modulates = [module for module in model.modules() if parametrize.is_parametrized(module)]
    hooks = [module.register_state_dict_post_hook(_name_plainly) for module in modulates]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _name_plainly(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for key in module.parametrizations:
        stays, moved = (f"{prefix}{PLACE.removeprefix('.')}{key}{part}" for part in (STAYS, MOVED))
        # W + sin(D) itself an engine that shares it out would gather, from processes that are not here.
        del state[stays]
        state[prefix + key] = state.pop(moved)


def baked(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by name, with W + sin(D) under its ordinary name in place of the two."""
    found = {}
    for name, value in weights.items():
        if PLACE not in name:
            found[name] = value
        elif name.endswith(MOVED):
            whole = name.removesuffix(MOVED)
            found[whole.replace(PLACE, ".")] = modulated(weights[whole + STAYS], value)
    return found


def sines(model: nn.Module) -> dict[str, nn.Parameter]:
    """Each D, by name."""
    return {name: each for name, each in model.named_parameters() if PLACE in name and name.endswith(MOVED)}


def save_sines(model: nn.Module, folder: str | Path) -> None:
    """Keep each D in a checkpoint."""
    if there := {name: each.detach().cpu() for name, each in sines(model).items()}:
        save_file(there, Path(folder) / SINES)


@torch.no_grad()
def load_sines(model: nn.Module, folder: str | Path) -> None:
    """Take each D up again from a checkpoint, to the bit.

    Raises:
        BadInput: they are not there, or another projector's.
    """
    wanted, file = sines(model), Path(folder) / SINES
    if not wanted:
        return
    try:
        there = load_file(file)
        for name, parameter in wanted.items():
            parameter.copy_(there[name])
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise BadInput(f"{file}: not what the projector was moved by ({type(error).__name__})") from None
