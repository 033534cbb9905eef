"""Relearning: fine-tune a model for a few steps, to see how many of the forgotten answers come back.

Benign data alone can undo unlearning (Hu et al., 2025, "Unlearning or Obfuscating? Jogging the Memory of Unlearned LLMs
via Benign Relearning", arXiv 2406.13356). A few records of the forgotten kind can do so, too (Lynch et al., 2024,
"Eight Methods to Evaluate Robust Unlearning in LLMs", arXiv 2402.16835).

All subjects are trained by one protocol (config/relearn.yaml explains its keys). The subject's adapter is merged into
its model, and a fresh adapter is trained on the result. Rank and learning rate are the same for all subjects. For one
seed, so are the items, their order and the first weights, whatever the method, its LoRA and its projector were.
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
from safeeraser.unlearn.objective.method import VIEWS
from safeeraser.unlearn.run import forget

PROTOCOL, TRAINING = CONFIG / "relearn.yaml", "relearn_training"  # in config/: the protocol, and all other settings
TRAIN, HELD_OUT = "train", "held_out"  # values of `data` that are not the path of a file
ANSWERED = [view for view in VIEWS if view != "refusal"]  # refusals come from a file: there is nothing to bring back
KEPT = {"adapter_model.safetensors", "adapter_config.json", RUN_FILE}  # of a checkpoint, after the training

Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


@dataclass(frozen=True)
class Data:
    """The data that a model can be relearned on: files in the benchmark's format."""

    train_file: Path
    val_file: Path
    held_out: int  # how many first records of each category of `val_file` are trained on, and so not asked about
    split: str | list[str] = "all"  # the categories that were unlearned

    def file_of(self, name: str) -> Path:
        """The path of an attacker's `data`."""
        return {TRAIN: self.train_file, HELD_OUT: self.val_file}.get(name, self.train_file.parent / name)


class Attacker(Keys):
    """An attacker of the protocol: the view and the data that it trains on."""

    view: Annotated[str, one_of("view", ANSWERED)]
    data: str = Field(min_length=1)
    pictures: bool = True
    seeds: Seeds | None = None


class Protocol(Keys):
    """How a model is relearned: in the same way for all models, so that the results compare."""

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
        """The seeds that an attacker is run with."""
        return self.attackers[attacker].seeds or self.seeds

    def settings(
        self, model_path: str, folder: Path, attacker: str, seed: int, data: Data, dtype: str = "auto", **more: Any
    ) -> Settings:
        """Settings of one training: one term on one view, the rest from config/relearn_training.yaml. Only the
        categories in `data` depend on how the model was trained. `safeeraser.unlearn.job.prepare` checks the settings.

        Args:
            folder: the folder of the training, used for this model, attacker, seed and protocol only.
            dtype: the dtype of the frozen weights, as in forget.py.
            more: further keys, such as `init_adapter`, the adapter to continue from.
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
            "workers": 2 if torch.cuda.is_available() else 0,  # on a CPU, workers would compete with the training
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
    """The protocol of config/relearn.yaml; the keys in the file `path` replace its keys.

    Raises `BadInput` naming the file and the first key that is wrong, missing or unknown.
    """
    keys = read_keys(PROTOCOL) | (read_keys(path) if path else {})
    return check_keys(Protocol, Attacker, keys, path or PROTOCOL)


@dataclass(frozen=True)
class Relearned:
    """A state of relearning: the attacker, the seed, the number of optimizer steps, and the folder of the training."""

    attacker: str
    seed: int
    step: int
    training: Path


def merge_once(adapter: Path | None, model_path: str, folder: Path, *, allow_other_base: bool = False) -> str:
    """The path of the model to relearn: `folder`, into which the base model with `adapter` is merged at the first call.

    Without an adapter it is `model_path` itself. The parent of `folder` is locked during the merge; raises `Busy` if
    another process has the lock.
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
    """Train an adapter by the settings of `Protocol.settings`, with a checkpoint after each of the protocol's steps.

    A stopped training resumes; a finished one is left as it is. Raises `Busy` if another process is training it.
    """
    folder = settings.save_dir.parent
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder, str(folder)):
        if ended(folder):
            return
        forget(settings)
        gc.collect()  # reference cycles in transformers' Trainer keep the model in memory
        for path in (folder / "training").glob("checkpoint-*/*"):
            # Remove the files for resuming, which are far larger than the adapter.
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (folder / "trained").touch()


def ended(folder: Path) -> bool:
    """Whether the training in `folder` is finished and its checkpoints are reduced to the adapters."""
    return (folder / "trained").is_file()


def adapter_after(folder: Path, step: int) -> Path:
    """The folder of the adapter after `step` optimizer steps; the adapter belongs on the model that was relearned.

    The folder is missing if a loss or gradient that is not finite ended the training before this step.
    """
    return folder / "training" / f"checkpoint-{step}"
