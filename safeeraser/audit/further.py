"""Relearning in the adapter's own LoRA, at its own rate; `relearn`, which has one protocol, takes its place soon."""

import gc
import shutil
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from safeeraser import model as models
from safeeraser.audit.options import Options
from safeeraser.benchmark.files import RUN_FILE, held, run_of
from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.run import forget
from safeeraser.unlearn.settings import Settings

KEPT = {"adapter_model.safetensors", "adapter_config.json", RUN_FILE}  # of a checkpoint, once training is through

# The views that are trained on: two that are harmless, of the training split, and the one that was to be forgotten, of
# records that no point is measured on.
RELEARNED = ("retain", "decoupled", "forget")


def relearn(options: Options, view: str) -> None:
    """Train the adapter on `view`, with a checkpoint after each of `options.steps`; goes on where it was stopped.

    Raises:
        Busy: another process is at it.
    """
    folder, training = _trained_file(options, view).parent, _folder(options, view)
    with held(folder, str(folder)):
        if ended(options, view):
            return
        forget(relearning_settings(options, view))
        gc.collect()  # transformers' Trainer holds itself in circles, and the model with it
        for path in training.glob("checkpoint-*/*"):
            # What resuming needs is far larger than the adapter.
            if path.name not in KEPT:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        _trained_file(options, view).touch()


def ended(options: Options, view: str) -> bool:
    """Whether the training on `view` is through, and its checkpoints in order."""
    return _trained_file(options, view).is_file()


def adapter_after(options: Options, view: str, step: int) -> Path:
    """Where the adapter lies that was trained on `view` for `step` optimizer steps."""
    return _folder(options, view) / f"checkpoint-{step}"


def relearning_settings(options: Options, view: str) -> Settings:
    """One term on one view, otherwise as the adapter was trained: the same rate (now constant), items a step, recipe.

    Raises:
        BadInput: what the adapter's folder tells of its training cannot be used.
    """
    method = {"name": f"relearn_{view}", "terms": {view: {"loss": "nll", "views": [view], "weight": 1.0}}}
    held_out = view == "forget"
    trained, processes = _trained_with(options)
    changes = {
        "forget_loss": method,
        "step": "plain",  # as an attacker would, and all weights
        "mask": None,
        "model_family": "auto",
        "model_path": options.model_path,
        "init_adapter": str(options.checkpoint_path),
        "allow_other_base": options.allow_other_base,
        "data": "safeeraser",  # the two files of an audit are a benchmark's
        "data_path": str(options.val_file if held_out else options.train_file),
        "split": options.split,
        "limit": options.held_out if held_out else None,
        "plan": None,
        "lr": options.relearn_lr or trained.get("lr"),
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0.0,
        "max_train_steps": max(options.steps),
        # One process takes what several took together.
        "gradient_accumulation_steps": trained.get("gradient_accumulation_steps", 1) * processes,
        "gradient_checkpointing": True,  # what fitted on several GPUs is now to fit on one
        "seed": options.generation.seed,
        "stop": {"not_finite": True, "forget_loss": None, "retain_loss": None},
        "probe_every": 0,
        "save_dir": str(_folder(options, view)),
        "overwrite_dir": False,
        "save_model": False,
        "save_steps": list(options.steps),
        "resume_from_checkpoint": "auto",
        "report_to": ["none"],
        "push_to_hub": False,  # what was learned again is not for others
        "dry_run": False,
        "engine": None,
    }
    try:
        config = from_keys(trained | changes)
        OmegaConf.update(config, "recipe.weights", {}, merge=False)  # they weigh the terms of the method before
        return read_settings(config)
    except BadInput as error:
        raise BadInput(f"{options.checkpoint_path / RUN_FILE}: {error}") from None


def _folder(options: Options, view: str) -> Path:
    return options.folder / f"relearn_{view}" / "training"


def _trained_file(options: Options, view: str) -> Path:
    return options.folder / f"relearn_{view}" / "trained"


def _trained_with(options: Options) -> tuple[dict[str, Any], int]:
    """The settings of the adapter's own training, and by how many processes.

    Of an adapter that does not tell them, the defaults with its own LoRA.
    """
    if options.trained:
        engine = run_of(options.checkpoint_path).get("engine")
        processes = engine.get("processes", 1) if isinstance(engine, dict) else 1
        return options.trained, processes
    adapter = models.adapter_config(options.checkpoint_path)
    family = models.family_of(options.model_path)
    lora = {"r": adapter.r, "alpha": adapter.lora_alpha, "dropout": adapter.lora_dropout}
    lora |= {"use_rslora": adapter.use_rslora, "use_dora": adapter.use_dora}
    names = models.read_adapter(options.checkpoint_path).keys()
    tower = "vision_tower" in {family.part_of(name) for name in names}
    tuned = {"projector": models.stored_as(names, family), "tune_vision_tower": tower}
    return OmegaConf.to_container(from_keys({"LoRA": lora} | tuned), resolve=True), 1
