"""What is known of the checkpoint whose responses are wanted, and the model that it makes."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from safeeraser import model as models
from safeeraser.benchmark.files import sha256, trained_settings
from safeeraser.benchmark.release import ALIASES
from safeeraser.errors import BadInput

log = logging.getLogger(__name__)


def load_merged(
    model_path: str,
    checkpoint_path: Path | None,
    *,
    dtype: str,
    lora_alpha: float,
    adapter_scale: float = 1.0,
    quantization: str = "none",
    change: models.Change | None = None,
    device: torch.device | str = "cpu",
) -> models.VLM:
    """The model with the adapter merged into its weights, on `device`.

    Args:
        adapter_scale: how much of the adapter, see `model.load_adapted`.
        quantization: how the merged weights are rounded, one of `model.ROUNDINGS`, or `none`.
        change: what is made of the adapter's parameters first, see `model.load_adapted`.
    """
    # Not flash-attn: rows have gaps, and around those it would copy all keys and values for each token. Nor cuDNN's
    # kernels, see `load_model`: they would make a plan for each.
    vlm = models.VLM.load(model_path, models.choose_dtype(dtype), "sdpa", device=device)
    if vlm.family.windowed_tower and vlm.model.device.type == "cuda" and models.has_flash_attention(vlm.model.dtype):
        log.info("attention of the vision tower: flash-attn")
        vlm.model.set_attn_implementation({"vision_config": "flash_attention_2"})
    if checkpoint_path:
        adapted = models.load_adapted(vlm.model, checkpoint_path, alpha=lora_alpha, scale=adapter_scale, change=change)
        vlm = replace(vlm, model=adapted.merge_and_unload())
    if quantization != "none":
        models.round_weights(vlm.model, quantization)
    return vlm


def training_of(folder: Path | None) -> dict[str, Any] | None:
    """Method and recipe that an adapter, or the one merged into a model, was trained with, where `run.json` tells."""
    settings = trained_settings(folder) if folder else None
    return {"method": settings["forget_loss"]["name"], "recipe": settings["recipe"]} if settings else None


def check_method(loss_type: str, checkpoint_path: Path | None, model_path: str) -> None:
    """Refuse a `loss_type` that contradicts what is known of the checkpoint, or of the runs that made the model."""
    where = checkpoint_path or Path(model_path)
    training = training_of(where)
    if loss_type == "vanilla" and (checkpoint_path or models.parents(model_path)):
        raise BadInput(f"--loss_type vanilla: the untouched model has no checkpoint, yet {where} was given")
    if loss_type and training and ALIASES["forget_loss"].get(loss_type, loss_type) != training["method"]:
        raise BadInput(f"--loss_type {loss_type}: {where} was trained with {training['method']}")


def adapter_hash(checkpoint_path: Path | None) -> str | None:
    """The SHA-256 of the adapter's weights. Raises `BadInput` if there are none."""
    return sha256(models.adapter_file(checkpoint_path)) if checkpoint_path else None
