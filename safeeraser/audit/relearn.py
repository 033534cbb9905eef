"""Relearning: a model trained on for a few steps, plainly, to see how much of what it forgot comes back.

Benign data alone can undo unlearning (Hu et al., 2025, "Unlearning or Obfuscating? Jogging the Memory of Unlearned LLMs
via Benign Relearning", arXiv 2406.13356); so can a handful of the forgotten kind (Lynch et al., 2024, "Eight Methods to
Evaluate Robust Unlearning in LLMs", arXiv 2402.16835).

Whatever is audited is attacked alike, by one protocol (config/relearn.yaml says each key). Its adapter is merged into
the model, and a fresh one is trained on that: of one rank, at one rate, on the same items in the same order, and with
the same first weights for the same seed, whatever the method, its LoRA and its projector were.
"""

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator

from safeeraser.benchmark.adapters import RUN_FILE
from safeeraser.benchmark.files import CONFIG, held
from safeeraser.benchmark.pages import Keys, check_keys, one_of, read_keys
from safeeraser.model.merge import merge
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.views import VIEWS
from safeeraser.unlearn.run import forget

PROTOCOL, TRAINING = CONFIG / "relearn.yaml", "relearn_training"  # files in config/: what is varied, and all else
TRAIN, HELD_OUT = "train", "held_out"  # what `data` says beside the path of a file
ANSWERED = [view for view in VIEWS if view != "refusal"]  # a refusal is drawn from a file, not brought back
KEPT = {"adapter_model.safetensors", "adapter_config.json", RUN_FILE}  # of a checkpoint, once training is through

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Data:
    """What can be trained on: files in the benchmark's form."""

    train_file: Path
    val_file: Path
    held_out: int  # records of each category of `val_file`, the first ones, that are trained on and not asked about
    split: str | list[str] = "all"  # the categories that were unlearned

    def file_of(self, name: str) -> Path:
        """Where an attacker's `data` lies."""
        return {TRAIN: self.train_file, HELD_OUT: self.val_file}.get(name, self.train_file.parent / name)


class Attacker(Keys):
    """What a model is trained on."""

    view: Annotated[str, one_of("view", ANSWERED)]
    data: str = Field(min_length=1)
    pictures: bool = True
    seeds: Seeds | None = None


class Protocol(Keys):
    """How a model is trained on: alike whatever it is, so that what comes back can be compared."""

    rank: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    lr: float = Field(gt=0)
    items: int = Field(ge=1)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    seeds: Seeds
    gradient_checkpointing: bool
    attackers: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], Attacker] = Field(min_length=1)

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: tuple[int, ...]) -> tuple[int, ...]:
        if list(steps) != sorted(set(steps)):
            raise ValueError("must rise from each to the next")
        return steps

    def seeds_of(self, attacker: str) -> tuple[int, ...]:
        """The seeds by which an attacker is run."""
        return self.attackers[attacker].seeds or self.seeds

    def settings(
        self, model_path: str, folder: Path, attacker: str, seed: int, data: Data, dtype: str = "auto", **more: Any
    ) -> Settings:
        """One term on one view, by config/relearn_training.yaml. Nothing depends on how the model came to be, but for
        the categories of `data`. `safeeraser.unlearn.job.prepare` says what is wrong with them before a training.

        Args:
            folder: where the training lies; it is for this model, attacker, seed and protocol alone.
            dtype: of the frozen weights, as forget.py takes it.
            more: further keys, such as the adapter to go on with.
        """
        how = self.attackers[attacker]
        benchmark = how.data in (TRAIN, HELD_OUT)
        term = {"loss": "nll", "views": [how.view], "weight": 1.0}
        keys = {
            "forget_loss": {"name": f"relearn_{attacker}", "terms": {how.view: term}},
            "model_path": model_path,
            "dtype": dtype,
            "LoRA": {"r": self.rank, "alpha": self.alpha, "dropout": self.dropout},
            "data": "safeeraser" if benchmark else "own",
            "data_path": str(data.file_of(how.data)),
            "split": data.split if benchmark else "all",
            "limit": data.held_out if how.data == HELD_OUT else None,
            "workers": 2 if torch.cuda.is_available() else 0,  # which on CPUs would fight the training for the cores
            "lr": self.lr,
            "batch_size": self.items,
            "max_train_steps": max(self.steps),
            "gradient_checkpointing": self.gradient_checkpointing,
            "seed": seed,
            "save_dir": str(folder / "training"),
            "save_steps": list(self.steps),
        }
        if not how.pictures:
            keys[f"data.views.{how.view}.image"] = None
        return read_settings(from_keys(keys | more, TRAINING))


def read_protocol(path: Path | None = None) -> Protocol:
    """The protocol of config/relearn.yaml, with the keys that a file has in the place of its own.

    Raises `BadInput` naming the file and the first key that is wrong, missing or unknown.
    """
    keys = read_keys(PROTOCOL) | (read_keys(path) if path else {})
    return check_keys(Protocol, Attacker, keys, path or PROTOCOL)


@dataclass(frozen=True)
class Relearned:
    """On what a model was trained further, by which seed, for how many optimizer steps, and where its training lies."""

    attacker: str
    seed: int
    step: int
    training: Path


def merge_once(adapter: Path | None, model_path: str, folder: Path, *, allow_other_base: bool = False) -> str:
    """The path of the model that is trained on: `folder`, where `adapter` is merged into its base, once and whole.

    Without an adapter it is `model_path` itself. The folder around `folder` is held meanwhile; raises `Busy` where
    another process holds it.
    """
    if adapter is None:
        return model_path
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.is_dir():
        with held(folder.parent, str(folder)):
            if not folder.is_dir():
                merge(adapter, folder, model_path=model_path, allow_other_base=allow_other_base)
                gc.collect()
    return str(folder)


def relearn(settings: Settings) -> None:
    """Train a fresh adapter by what `Protocol.settings` gives, with a checkpoint after each of the protocol's steps.

    Goes on where it was stopped; does nothing where it is through. Raises `Busy` where another process is at it.
    """
    folder = settings.save_dir.parent
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, str(folder)):
        if ended(folder):
            return
        forget(settings)
        gc.collect()  # transformers' Trainer holds itself in circles, and the model with it
        for path in (folder / "training").glob("checkpoint-*/*"):
            # What resuming needs is far larger than the adapter.
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / "trained").touch()


def ended(folder: Path) -> bool:
    """Whether the training in `folder` is through, and its checkpoints in order."""
    return (folder / "trained").is_file()


def adapter_after(folder: Path, step: int) -> Path:
    """Where the adapter of so many optimizer steps lies; it sits on the model that was trained on.

    There is none where a loss that is no number has ended the training before.
    """
    return folder / "training" / f"checkpoint-{step}"
