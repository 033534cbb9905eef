"""Copies of what a process trains, in CPU memory and in checkpoints, each process its part."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from safeeraser.unlearn.masters import own, shared_out

Kept = tuple[int, list[Tensor]]  # a number that tells of the copies, and these


def trained_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def copies(parameters: Sequence[nn.Parameter], into: list[Tensor]) -> list[Tensor]:
    """What this process trains of the parameters, copied `into` tensors in CPU memory, or into new ones."""
    owned = [own(parameter) for parameter in parameters]
    if not into:
        return [tensor.detach().to("cpu", copy=True) for tensor in owned]
    for target, tensor in zip(into, owned, strict=True):
        target.copy_(tensor)
    return into


def save(kept: Kept, folder: Path, name: str, model: nn.Module, process: int) -> None:
    """Write copies into a checkpoint: the first process alone, or each where each trains a part. None make no file."""
    if kept[1] and (process == 0 or shared_out(trained_of(model)[0])):
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(kept, folder / _named(name, process))


def load(folder: str | Path, name: str, process: int) -> Kept:
    """Read this process's copies from a checkpoint; none where it has none."""
    files: list[Path] = [Path(folder) / _named(name, number) for number in (process, 0)]
    there = next((file for file in files if file.is_file()), None)
    loaded: Any = torch.load(there, weights_only=True) if there else (0, [])
    return loaded


def _named(name: str, process: int) -> str:
    return f"{process}.{name}" if process else name
