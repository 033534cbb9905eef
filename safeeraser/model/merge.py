"""An adapter merged into its base model, as an ordinary folder: for servers and harnesses that take no adapter.

vLLM refuses adapters with `modules_to_save`, which the trained projector is, and others take none at all. What they all
take is weights, a processor and a chat template.
"""

import logging
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration, LlavaProcessor

from safeeraser.benchmark.conversation import CHAT_TEMPLATE
from safeeraser.benchmark.files import RUN_FILE, adapter_file, home, run_of, sha256, write_json, write_whole_folder
from safeeraser.errors import BadInput
from safeeraser.model.adapters import adapter_config, load_adapted
from safeeraser.model.fingerprint import fingerprint
from safeeraser.model.lineage import check_base, parents
from safeeraser.model.llava import DTYPES, Preprocessor, load_model, load_preprocessor

log = logging.getLogger(__name__)

RELEASED_MODEL = "llava-hf/llava-1.5-7b-hf"  # the base of an adapter that names none


def base_of(adapter: Path | None) -> str:
    """The model an adapter was trained on: the one that its folder names; else, and for none, the released one."""
    told = adapter and (home(adapter) / "adapter_config.json").is_file()
    return (adapter_config(adapter).base_model_name_or_path if told else None) or RELEASED_MODEL


def merge(
    adapter: Path,
    out: Path,
    *,
    model_path: str | None = None,
    dtype: str = "auto",
    lora_alpha: float = 256,
    allow_other_base: bool = False,
) -> None:
    """Write the base model with `adapter` merged into it to the new folder `out`, whole or not at all.

    The model is held in the dtype that is written, so 7B take 14 GB and not the 28 of float32; nothing is lost by that.
    PEFT keeps the adapter's factors in float32 beside 16-bit weights and adds their product before it rounds, so each
    weight is rounded once, as at the end of a merge in float32 (the tests compare the two to the bit).

    Args:
        model_path: the base model; none: the one that the adapter's folder names, else the released one.
        dtype: of the weights that are written; `auto`: as the base model is stored.
        lora_alpha: as in `adapter_config`.
        allow_other_base: whether the adapter may have been trained on other weights than those of `model_path`.

    Raises:
        BadInput: `out` exists, or adapter and base model are not there, cannot be read, do not fit or belong together.
    """
    if out.exists():
        raise BadInput(f"{out}: exists; name another")
    weights = adapter_file(adapter)
    model_path = model_path or base_of(adapter)
    base = fingerprint(model_path)
    check_base(adapter, base, allowed=allow_other_base)
    model, preprocessor = _load(model_path, dtype)
    log.info("merging %s", adapter)
    adapted = load_adapted(model, adapter, alpha=lora_alpha)
    merged = {
        "adapter": str(adapter),
        "adapter_sha256": sha256(weights),
        "lora_alpha": adapted.peft_config["default"].lora_alpha,
        "model_path": model_path,
        "base": base["weights"],
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    # Whatever the adapter's run tells goes on, its own parents before those of a base that it does not know.
    told = {"parents": parents(model_path)} | run_of(adapter)
    model = adapted.merge_and_unload()
    log.info("writing %s", out)
    with write_whole_folder(out) as folder:
        write_model(folder, model, preprocessor.tokenizer, preprocessor.image_processor)
        write_json(folder / RUN_FILE, told | {"merged": merged})


def copy(model_path: str, out: Path, *, dtype: str = "auto") -> None:
    """Write a base model as `merge` writes it, without an adapter: what a harness asks it is then in the same words.

    The hub's own folder of LLaVA-1.5 has a template without the system text.

    Raises:
        BadInput: `out` exists, or the model is not there or cannot be read.
    """
    if out.exists():
        raise BadInput(f"{out}: exists; name another")
    model, preprocessor = _load(model_path, dtype)
    log.info("writing %s", out)
    with write_whole_folder(out) as folder:
        write_model(folder, model, preprocessor.tokenizer, preprocessor.image_processor)
        copied = {"model_path": model_path, "dtype": str(model.dtype).removeprefix("torch.")}
        write_json(folder / RUN_FILE, run_of(Path(model_path)) | {"copied": copied})


def _load(model_path: str, dtype: str) -> tuple[LlavaForConditionalGeneration, Preprocessor]:
    log.info("loading %s", model_path)
    preprocessor = load_preprocessor(model_path)
    return load_model(model_path, DTYPES.get(dtype, "auto")), preprocessor


def write_model(
    folder: Path,
    model: LlavaForConditionalGeneration,
    tokenizer: Any,
    image_processor: CLIPImageProcessorPil,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write a model with the processor and chat template that servers ask for.

    The image processor gets a file of its own too, as older readers look for it there.

    Args:
        state: the weights to write, where they are not to be the model's own as it holds them. They keep their names:
            of a model that DeepSpeed's third stage split as it was loaded, transformers misspells LLaVA's older ones.
    """
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # the vision tower's class token, which `default` drops again
        chat_template=CHAT_TEMPLATE,
    )
    model.save_pretrained(folder, state_dict=state, save_original_format=state is None)
    processor.save_pretrained(folder)
    image_processor.save_pretrained(folder)
