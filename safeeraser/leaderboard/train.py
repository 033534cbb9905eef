"""The adapter of a cell: what a method trains, or noise as strong."""

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
    """The folder of the model that a cell's adapter is for, or that the cell is about."""
    return plan.model(plan.row(cell.row).model or "base_model", cell.base)


def adapter_of(plan: Plan, cell: Cell) -> Path | None:
    """The adapter of a cell, trained unless it is there; None of an untouched model."""
    row = plan.row(cell.row)
    if row.model:
        return None
    if row.noise_of:
        return noise(plan, trained(plan, Cell(row.noise_of, cell.base, cell.seed)), cell, row.times)
    return trained(plan, cell)


def trained(plan: Plan, cell: Cell) -> Path:
    """The adapter of a cell whose method is trained, by its settings."""
    return unlearn(plan, cell, plan.settings(cell.row), cell.folder / "adapter")


def unlearn(plan: Plan, cell: Cell, settings: dict[str, Any], folder: Path) -> Path:
    """Train a row's method with a learning rate and a number of steps, into `folder`; goes on where it was stopped."""
    keys = {"model_path": model_of(plan, cell), "data_path": str(plan.data / "all_train.json"), "seed": cell.seed}
    keys |= {"save_dir": str(folder), "save_steps": 100, "resume_from_checkpoint": "auto"}
    keys |= {"forget_loss": cell.row} | settings | plan.row(cell.row).keys
    forget(read_settings(from_keys(keys, "mini")))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return folder


def noise(plan: Plan, like: Path, cell: Cell, times: float) -> Path:
    """An adapter that changes each matrix at random, `times` as much as another one does, by the Frobenius norm."""
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
    """An adapter's parameters replaced by noise. The product of LoRA's factors, (out, in), has `times` its norm; so has
    the difference of a whole module to the base model's."""

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
