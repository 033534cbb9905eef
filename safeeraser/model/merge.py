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
from safeeraser.benchmark.files import (
    RUN_FILE,
    adapter_file,
    home,
    read_object,
    run_of,
    sha256,
    write_json,
    write_whole_folder,
)
from safeeraser.errors import BadInput
from safeeraser.model.adapters import adapter_config, load_adapted
from safeeraser.model.fingerprint import fingerprint
from safeeraser.model.lineage import check_base, parents
from safeeraser.model.llava import DTYPES, Preprocessor, load_model, load_preprocessor

log = logging.getLogger(__name__)

RELEASED_MODEL = "llava-hf/llava-1.5-7b-hf"  # the base of an adapter that names none
HUB_NAMES = {
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "lm_head.": "language_model.lm_head.",
}
# In a tokenizer's file. In this order: the second key is a first one too.
OLDER_KEYS = {
    "extra_special_tokens": "additional_special_tokens",
    "model_specific_special_tokens": "extra_special_tokens",
}


def base_of(adapter: Path | None) -> str:
    """The model an adapter was trained on: the one that its folder names; else, and for none, the released one."""
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
    """Write a model with the processor and chat template that servers ask for, for transformers 5 and 4 to read.

    The weights get the names that the hub's LLaVA-1.5 has. By 5's own 4 would not find the vision tower, and take a
    random one with a mere warning; and which of the two 5 writes depends on what the model was loaded from, and how.

    Args:
        state: the weights to write, where they are not to be the model's own as it holds them.
    """
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=model.config.vision_config.patch_size,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # the vision tower's class token, which `default` drops again
        chat_template=CHAT_TEMPLATE,
    )
    state = {_hub_name(name): weight for name, weight in (state or model.state_dict()).items()}
    model.save_pretrained(folder, state_dict=state, save_original_format=False)
    processor.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    _in_older_words(folder, tokenizer.model_input_names)


def _hub_name(name: str) -> str:
    ours, hub = next((ours, hub) for ours, hub in HUB_NAMES.items() if name.startswith(ours))
    return hub + name.removeprefix(ours)


def _in_older_words(folder: Path, inputs: list[str]) -> None:
    """Say in transformers 4's words too what 5 has new ones for: it is what servers and harnesses still bring.

    4 does not know the tokenizer's new class, gives the old one another input that no LLaVA takes unless `inputs` are
    named, and wants the extra tokens each with a name or under another key. It does not read `rope_parameters`, and
    would put Llama's own without a word, nor, before 4.56, `dtype`. Of the image processor it reads the file of its
    own alone, and older ones stumble over a second one. 5 reads what stands here now as what it wrote.
    """
    file = folder / "processor_config.json"
    told = read_object(file)
    del told["image_processor"]
    write_json(file, told)
    file = folder / "tokenizer_config.json"
    told = read_object(file) | {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    for new, old in OLDER_KEYS.items():
        if new in told:
            told[old] = told.pop(new)
    write_json(file, told)
    file = folder / "config.json"
    told = read_object(file)
    scaling = dict(told["text_config"]["rope_parameters"])
    told["text_config"]["rope_theta"] = scaling.pop("rope_theta")
    told["text_config"]["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    write_json(file, told | {"torch_dtype": told["dtype"]})
