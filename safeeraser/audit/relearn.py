"""Relearning: a model trained on for a few steps, plainly, to see how much of what it forgot comes back.

Benign data alone can undo unlearning (Hu et al., 2025, "Unlearning or Obfuscating? Jogging the Memory of Unlearned LLMs
via Benign Relearning", arXiv 2406.13356); so can a handful of the forgotten kind (Lynch et al., 2024, "Eight Methods to
Evaluate Robust Unlearning in LLMs", arXiv 2402.16835).

Whatever is audited is attacked alike. Its adapter is merged into the model, and a fresh one is trained on that: of one
rank, at one rate, on the same items in the same order, and with the same first weights for the same seed, whatever the
method, its LoRA and its projector were.
"""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from safeeraser import model as models
from safeeraser.audit.protocol import HELD_OUT, TRAIN, Protocol
from safeeraser.benchmark.files import RUN_FILE, held
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.run import forget
from safeeraser.unlearn.settings import Settings

KEPT = {"adapter_model.safetensors", "adapter_config.json", RUN_FILE}  # of a checkpoint, once training is through


@dataclass(frozen=True)
class Data:
    """What can be trained on.

    Attributes:
        train_file, val_file: in the benchmark's form.
        held_out: how many records of each category of `val_file`, the first ones, are trained on and not asked about.
        split: the categories that were unlearned.
    """

    train_file: Path
    val_file: Path
    held_out: int
    split: str | list[str] = "all"

    def file_of(self, name: str) -> Path:
        """Where an attacker's `data` lies."""
        return {TRAIN: self.train_file, HELD_OUT: self.val_file}.get(name, self.train_file.parent / name)


def merged(adapter: Path | None, model_path: str, folder: Path, *, allow_other_base: bool = False) -> str:
    """The path of the model that is trained on: `folder`, where `adapter` is merged into its base, once and whole.

    Without an adapter it is `model_path` itself. The folder around `folder` is held meanwhile.

    Raises:
        Busy: another process is at it.
        BadInput: adapter and base are not there, or do not fit or belong together.
    """
    if adapter is None:
        return model_path
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        with held(folder.parent, str(folder)):
            if not folder.is_dir():
                models.merge(adapter, folder, model_path=model_path, allow_other_base=allow_other_base)
                gc.collect()
    return str(folder)


def relearn(
    model_path: str, folder: Path, protocol: Protocol, attacker: str, seed: int, data: Data, dtype: str = "auto"
) -> None:
    """Train a fresh adapter on a model, with a checkpoint after each of the protocol's steps.

    Goes on where it was stopped; does nothing where it is through.

    Args:
        folder: for this model, attacker and seed alone.
        dtype: of the frozen weights, as forget.py takes it.

    Raises:
        Busy: another process is at it.
        BadInput: the data cannot be trained on, or the folder holds a training by another protocol.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, str(folder)):
        if ended(folder):
            return
        forget(relearning_settings(model_path, folder, protocol, attacker, seed, data, dtype))
        gc.collect()  # transformers' Trainer holds itself in circles, and the model with it
        for path in _training(folder).glob("checkpoint-*/*"):
            # What resuming needs is far larger than the adapter.
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        _mark(folder).touch()


def ended(folder: Path) -> bool:
    """Whether the training in `folder` is through, and its checkpoints in order."""
    return _mark(folder).is_file()


def adapter_after(folder: Path, step: int) -> Path:
    """Where the adapter of so many optimizer steps lies; it sits on the model that was trained on.

    There is none where a loss that is no number has ended the training before.
    """
    return _training(folder) / f"checkpoint-{step}"


def relearning_settings(
    model_path: str, folder: Path, protocol: Protocol, attacker: str, seed: int, data: Data, dtype: str = "auto"
) -> Settings:
    """One term on one view. Nothing of it depends on how the model came to be, but for the categories of `data`.

    `safeeraser.unlearn.job.prepare` tells what is wrong with them before anything is trained.

    Raises:
        BadInput: there is no such model.
    """
    view = protocol.attackers[attacker].view
    method = {"name": f"relearn_{attacker}", "terms": {view: {"loss": "nll", "views": [view], "weight": 1.0}}}
    keys = {
        "forget_loss": method,
        "step": "plain",
        "recipe": "corrected",  # whose order is drawn, and whose texts are as the model is asked
        "mask": None,
        "pd": None,
        "retain": None,
        "model_family": "auto",
        "model_path": model_path,
        **_of_data(protocol, attacker, data),
        **_of_loop(protocol, seed),
        "dtype": dtype,
        "save_dir": str(_training(folder)),
        "overwrite_dir": False,
        "save_model": False,
        "save_steps": list(protocol.steps),
        "resume_from_checkpoint": "auto",
        "report_to": ["none"],
        "push_to_hub": False,  # what was learned again is not for others
        "probe_every": 0,
    }
    return read_settings(from_keys(keys))


def _of_data(protocol: Protocol, attacker: str, data: Data) -> dict[str, Any]:
    asked = protocol.attackers[attacker]
    benchmarks = asked.data in (TRAIN, HELD_OUT)
    return {
        "data": "safeeraser" if benchmarks else "own",
        "data_path": str(data.file_of(asked.data)),
        "split": data.split if benchmarks else "all",
        "limit": data.held_out if asked.data == HELD_OUT else None,
        "bad_items": "stop",
        "plan": None,
        "max_length": 512,
        "workers": 2 if torch.cuda.is_available() else 0,  # which on CPUs would fight the training for the cores
        **({} if asked.pictures else {f"data.views.{asked.view}.image": None}),
    }


def _of_loop(protocol: Protocol, seed: int) -> dict[str, Any]:
    """What is trained and how: all that decides it, since config/forget_lora.yaml is the user's to edit."""
    return {
        "attention": "auto",
        "deterministic": False,
        "quantization": "none",
        "tune_language_model": True,
        "finetune": "lora",
        "LoRA.r": protocol.rank,
        "LoRA.alpha": protocol.alpha,
        "LoRA.dropout": protocol.dropout,
        "LoRA.targets": None,
        "LoRA.use_rslora": False,
        "LoRA.use_dora": False,
        "LoRA.init_lora_weights": True,
        "projector": "frozen",
        "tune_vision_tower": False,
        "init_adapter": None,
        "lr": protocol.lr,
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "batch_size": protocol.items,
        "gradient_accumulation_steps": 1,
        "max_train_steps": max(protocol.steps),
        "gradient_checkpointing": protocol.gradient_checkpointing,
        "trainer": {},
        "seed": seed,
        "stop": {"not_finite": True, "forget_loss": None, "retain_loss": None},
    }


def _training(folder: Path) -> Path:
    return folder / "training"


def _mark(folder: Path) -> Path:
    return folder / "trained"
