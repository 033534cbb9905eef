"""The adapter of a cell: trained by a method, or noise as strong as a trained adapter."""

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from safeeraser.benchmark.adapters import adapter_file
from safeeraser.benchmark.files import write_whole_folder
from safeeraser.leaderboard.plan import Cell, Plan
from safeeraser.model.load import load_model
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.run import forget


def model_of(plan: Plan, cell: Cell) -> str:
    """The folder of the model that a cell's adapter belongs on, or of the untouched model that the cell measures."""
    return plan.model(plan.row(cell.row).model or "base_model", cell.base)


def adapter_of(plan: Plan, cell: Cell) -> Path | None:
    """The adapter of a cell, trained or drawn if it is not there yet; None for an untouched model."""
    row = plan.row(cell.row)
    if row.model:
        return None
    if row.noise_of:
        return noise(plan, trained(plan, Cell(row.noise_of, cell.base, cell.seed)), cell, row.times)
    return trained(plan, cell)


def trained(plan: Plan, cell: Cell) -> Path:
    """The adapter of a cell whose method is trained, with the settings that were chosen for its row."""
    return unlearn(plan, cell, plan.settings(cell.row), cell.folder / "adapter")


def unlearn(plan: Plan, cell: Cell, settings: dict[str, Any], folder: Path) -> Path:
    """Train a row's method with the learning rate and steps in `settings`, in `folder`; a stopped training resumes."""
    keys = {"model_path": model_of(plan, cell), "data_path": str(plan.data / "all_train.json"), "seed": cell.seed}
    keys |= {"save_dir": str(folder), "save_steps": 100, "resume_from_checkpoint": "auto"}
    keys |= {"forget_loss": cell.row} | settings | plan.row(cell.row).keys
    forget(read_settings(from_keys(keys, "mini")))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return folder


def noise(plan: Plan, like: Path, cell: Cell, times: float) -> Path:
    """An adapter of random changes, each with `times` the Frobenius norm of the same matrix's change in `like`."""
    folder = cell.folder / "adapter"
    if folder.is_dir():
        return folder
    base = load_model(plan.model("base_model", cell.base), torch.float32).state_dict()
    given, drawn = load_file(adapter_file(like)), torch.Generator().manual_seed(cell.seed)
    with write_whole_folder(folder) as out:
        shutil.copytree(like, out, dirs_exist_ok=True)
        save_file(noisy(given, base, drawn, times), out / adapter_file(like).name, metadata={"format": "pt"})
    return folder


def noisy(given: dict[str, Tensor], base: dict[str, Tensor], drawn: torch.Generator, times: float) -> dict[str, Tensor]:
    """An adapter's parameters replaced by noise. The product of two LoRA factors, (out, in), has `times` the norm of
    the product that it replaces. The same holds for the change of a parameter that was trained in full."""

    def like(value: Tensor) -> Tensor:
        return torch.randn(value.shape, generator=drawn)

    tensors: dict[str, Tensor] = {}
    for name, value in given.items():
        if ".lora_A." in name:
            down, up = like(value), like(given[other := name.replace(".lora_A.", ".lora_B.")])
            norm = times * (given[other].float() @ value.float()).norm()
            tensors |= {name: down, other: up * norm / (up @ down).norm()}
        elif ".lora_B." not in name:
            weight = base[next(key for key in base if name.endswith(key.removeprefix("model.")))]
            change = like(value)
            tensors[name] = weight + change * times * (value - weight).norm() / change.norm()
    return tensors
