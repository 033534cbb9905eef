"""Merging an adapter into its base model, as an ordinary folder for servers and harnesses that take no adapter.

vLLM refuses adapters with `modules_to_save`, such as the trained projector, and other servers take no adapters at all.
All can load weights with a processor and a chat template.
"""

import logging
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from safeeraser.benchmark.adapters import RUN_FILE, adapter_file, home, run_of
from safeeraser.benchmark.files import read_object, sha256, write_json, write_whole_folder
from safeeraser.benchmark.release import RELEASED_MODEL
from safeeraser.errors import BadInput
from safeeraser.model.lineage import check_base, fingerprint, parents
from safeeraser.model.llava import write_released_form
from safeeraser.model.load import DTYPES, choose_dtype, has_flash_attention
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.rounding import round_weights
from safeeraser.model.stored import Change, adapter_config, load_adapted
from safeeraser.model.vlm import VLM

log = logging.getLogger(__name__)

# Files of the generation settings, the processor, the tokenizer and the chat template. They are copied unchanged,
# because transformers would leave out the parts that it does not load on this machine.
WORDS = (
    "generation_config.json",
    "*processor_config.json",
    "tokenizer*",
    "chat_template.*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
)


def base_of(adapter: Path | None) -> str:
    """The base model that an adapter's folder names; the released model if it names none, or without an adapter."""
    if adapter and (home(adapter) / "adapter_config.json").is_file():
        return adapter_config(adapter).base_model_name_or_path or RELEASED_MODEL
    return RELEASED_MODEL


def merge(
    adapter: Path,
    out: Path,
    *,
    model_path: str | None = None,
    dtype: str = "auto",
    lora_alpha: float = 256,
    allow_other_base: bool = False,
) -> None:
    """Write the base model with `adapter` merged into it to the new folder `out`, completely or not at all.

    The model is held in the dtype that is written, so 7B parameters take 14 GB and not the 28 GB of float32. Nothing is
    lost by that: PEFT keeps the adapter's factors in float32 and adds their product before it rounds. Each weight is
    rounded once, as at the end of a merge in float32 (the tests compare the two to the bit).

    Args:
        model_path: the base model; None: see `base_of`.
        dtype: of the weights that are written; `auto`: as the base model is stored.
        lora_alpha: as in `adapter_config`.
        allow_other_base: whether the adapter may have been trained on weights other than the base model's.

    Raises:
        BadInput: `out` exists, adapter or base model is missing or unreadable, or they do not fit or belong together.
    """
    if out.exists():
        raise BadInput(f"{out}: exists; name another")
    weights = adapter_file(adapter)
    model_path = model_path or base_of(adapter)
    base = fingerprint(model_path)
    check_base(adapter, base, allowed=allow_other_base)
    log.info("loading %s", model_path)
    base_model = VLM.load(model_path, DTYPES.get(dtype, "auto"))
    log.info("merging %s", adapter)
    adapted = load_adapted(base_model.model, adapter, alpha=lora_alpha)
    merged = {
        "adapter": str(adapter),
        "adapter_sha256": sha256(weights),
        "lora_alpha": adapted.peft_config["default"].lora_alpha,
        "model_path": model_path,
        "base": base["weights"],
        "dtype": str(base_model.model.dtype).removeprefix("torch."),
    }
    # The record of the adapter's run is kept. Its `parents` take precedence over the base model's.
    record = {"parents": parents(model_path)} | run_of(adapter)
    model = adapted.merge_and_unload()
    log.info("writing %s", out)
    with write_whole_folder(out) as folder:
        write_model(folder, model, base_model.preprocessor)
        write_json(folder / RUN_FILE, record | {"merged": merged})


def copy(model_path: str, out: Path, *, dtype: str = "auto") -> None:
    """Write a base model without an adapter as `merge` writes it, so that a harness asks both in the same words.

    The hub's folder of LLaVA-1.5, for example, has a chat template without the system text.

    Raises:
        BadInput: `out` exists, or the model is missing or unreadable.
    """
    if out.exists():
        raise BadInput(f"{out}: exists; name another")
    log.info("loading %s", model_path)
    base_model = VLM.load(model_path, DTYPES.get(dtype, "auto"))
    log.info("writing %s", out)
    with write_whole_folder(out) as folder:
        write_model(folder, base_model.model, base_model.preprocessor)
        copied = {"model_path": model_path, "dtype": str(base_model.model.dtype).removeprefix("torch.")}
        write_json(folder / RUN_FILE, run_of(Path(model_path)) | {"copied": copied})


def write_model(
    folder: Path, model: PreTrainedModel, preprocessor: Preprocessor, state: dict[str, Tensor] | None = None
) -> None:
    """Write a model with the processor and chat template that servers require.

    Args:
        state: the weights to write; None: the model's own.
    """
    if preprocessor.family.chat:
        write_released_form(folder, model, preprocessor.tokenizer, preprocessor.processor.image_processor, state)
        return
    # With the hub's names of parameters, which transformers remembers from loading.
    model.save_pretrained(folder, state_dict=state, save_original_format=True)
    origin = Path(preprocessor.origin)
    if not origin.is_dir():
        origin = Path(snapshot_download(preprocessor.origin, allow_patterns=[CONFIG_NAME, *WORDS]))
    for file in (file for pattern in WORDS for file in origin.glob(pattern)):
        shutil.copyfile(file, folder / file.name)
    write_json(folder / CONFIG_NAME, _config_in_its_words(read_object(origin / CONFIG_NAME), model))


def _config_in_its_words(config: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """The stored configuration, updated only in the weights' dtype and in whether the head is tied.

    transformers 5 would write some values under keys that transformers 4 does not read, such as the frequencies of the
    positions. 4, which servers and harnesses still use, would silently use its own default instead.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        part |= dict.fromkeys({"dtype", "torch_dtype"} & part.keys(), dtype)
    tied = model.config.tie_word_embeddings
    if tied != type(model.config).from_dict(deepcopy(config)).tie_word_embeddings:
        config["tie_word_embeddings"] = tied
    return {"dtype": dtype, "torch_dtype": dtype} | config


def load_merged(
    model_path: str,
    checkpoint_path: Path | None,
    *,
    dtype: str,
    lora_alpha: float,
    adapter_scale: float = 1.0,
    quantization: str = "none",
    change: Change | None = None,
    device: torch.device | str = "cpu",
) -> VLM:
    """The model with the adapter merged into its weights, on `device`.

    Args:
        adapter_scale, change: `scale` and `change` of `stored.load_adapted`.
        quantization: how the merged weights are rounded, one of `rounding.ROUNDINGS`, or `none`.
    """
    # Not flash-attn: rows have gaps, so it would copy all keys and values for each token. Not cuDNN's kernels either:
    # they would make a plan for each token (see `load._settle_cudnn`).
    vlm = VLM.load(model_path, choose_dtype(dtype), "sdpa", device=device)
    if vlm.family.windowed_tower and vlm.model.device.type == "cuda" and has_flash_attention(vlm.model.dtype):
        log.info("attention of the vision tower: flash-attn")
        vlm.model.set_attn_implementation({"vision_config": "flash_attention_2"})
    if checkpoint_path:
        adapted = load_adapted(vlm.model, checkpoint_path, alpha=lora_alpha, scale=adapter_scale, change=change)
        vlm = replace(vlm, model=adapted.merge_and_unload())
    if quantization != "none":
        round_weights(vlm.model, quantization)
    return vlm
