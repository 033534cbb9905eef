"""LLaVA-1.5 in the release's form: checks that a model has that form, and writes files and names of parameters in it.
The release names parameters as transformers 4 did:

    release  base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight
    here     base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessorPil, LlavaConfig, LlavaProcessor, PreTrainedModel

from safeeraser.benchmark.conversation import CHAT_TEMPLATE, IMAGE, SYSTEM_TEXTS, prompt
from safeeraser.benchmark.files import read_object, write_json
from safeeraser.errors import BadInput

if TYPE_CHECKING:
    from safeeraser.model.preprocess import Preprocessor

ONE_FORM = "of the 'llava' models, this project supports only LLaVA-1.5's form"
PARTS = {  # prefixes of the parameters' names: here, and in the release and on the hub
    "model.language_model.": "language_model.model.",
    "model.vision_tower.": "vision_tower.vision_model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
}
HUB_NAMES = PARTS | {"lm_head.": "language_model.lm_head."}
ADAPTED = {f"base_model.model.{here}": f"base_model.model.{release}" for here, release in PARTS.items()}
# Keys of tokenizer_config.json in transformers 5 and 4. The order matters: 5's first key is 4's name for the second.
OLDER_KEYS = {
    "extra_special_tokens": "additional_special_tokens",
    "model_specific_special_tokens": "extra_special_tokens",
}


def check_form(config: LlavaConfig, model_path: str) -> None:
    """Raise `BadInput` for a model that would fail, or answer wrongly, if it were treated as a LLaVA-1.5."""
    for part, known in (("vision_config", "clip_vision_model"), ("text_config", "llama")):
        if (kind := getattr(config, part).model_type) != known:
            raise BadInput(f"model_path {model_path}: {part}.model_type is '{kind}', not '{known}'; {ONE_FORM}")
    layers, chosen = config.vision_config.num_hidden_layers, config.vision_feature_layer
    numbers = [chosen] if isinstance(chosen, int) else chosen
    # transformers takes a single layer 0 to mean that no hidden states are asked for.
    if not chosen or not all(-layers - 1 <= number <= layers for number in numbers):
        where = f"vision_feature_layer is {chosen}, of a vision tower of {layers} layers"
        raise BadInput(f"model_path {model_path}: {where}; {ONE_FORM}")


def _other_chat(tokenizer: Any, template: str) -> str | None:
    """A short exchange as the chat template writes it; None if it is LLaVA-1.5's wording, with any system text."""
    wanted = f"{prompt('What?', 'user').removeprefix(SYSTEM_TEXTS['user'])} That."
    picture, text = {"type": "image"}, {"type": "text", "text": "What?"}
    written = []
    # Messages in parts, as processors' templates expect them, or as plain text.
    for asked, said in (([picture, text], [text | {"text": "That."}]), (f"{IMAGE}\nWhat?", "That.")):
        chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        with suppress(Exception):  # a template that expects the other kind may raise any error
            written.append(tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False))
    if any(" ".join(wanted.split()) in " ".join(each.split()) for each in written):
        return None
    return shorten(written[0], 80) if written else "nothing at all"


def processor_numbers(config: LlavaConfig) -> dict[str, Any]:
    """The processor's settings that depend on the model; the release's folders do not hold all of them."""
    return {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,  # the vision tower's class token, which `default` drops again
    }


def picture_processor(model_path: str) -> CLIPImageProcessorPil:
    """The release's picture processor (CLIP's), named here because a folder may name none, or use an older name.
    transformers would then choose another one. Raises `BadInput` if the folder names a processor that is not CLIP's."""
    kind = CLIPImageProcessorPil.get_image_processor_dict(model_path)[0].get("image_processor_type") or "CLIP"
    if not kind.startswith("CLIP"):
        raise BadInput(f"model_path {model_path}: its picture processor is '{kind}', not CLIP's; {ONE_FORM}")
    return CLIPImageProcessorPil.from_pretrained(model_path)


def check_pictures(prepared: "Preprocessor", config: LlavaConfig, model_path: str) -> None:
    """Raise `BadInput` if the tokenizer, the picture processor or the chat template is not LLaVA-1.5's."""
    tokenizer, pictures = prepared.tokenizer, prepared.processor.image_processor
    if tokenizer.convert_tokens_to_ids(IMAGE) != config.image_token_id:
        raise BadInput(f"model_path {model_path}: needs a fast tokenizer that has the token '{IMAGE}'")
    template = prepared.processor.chat_template or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if template and (chat := _other_chat(tokenizer, template)):
        raise BadInput(f"model_path {model_path}: its chat template writes '{chat}' where Vicuna v1 asks; {ONE_FORM}")
    side = config.vision_config.image_size
    shape = tuple(pictures(Image.new("RGB", (2 * side, side)), return_tensors="pt")["pixel_values"].shape[1:])
    if shape != (3, side, side):
        raise BadInput(
            f"model_path {model_path}: its picture processor makes {shape}, its vision tower sees {(3, side, side)}"
        )


def write_released_form(
    folder: Path, model: PreTrainedModel, tokenizer: Any, pictures: Any, state: dict[str, Tensor] | None = None
) -> None:
    """Write a model with its processor and the release's wording, readable by transformers 5 and 4.

    The weights get the names of the hub's LLaVA-1.5. With transformers 5's names, 4 would initialise the vision tower
    at random and only warn. Which names 5 itself writes depends on where the model was loaded from, and how.

    Args:
        pictures: the picture processor.
        state: as in `write_model`.
    """
    processor = LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, chat_template=CHAT_TEMPLATE, **processor_numbers(model.config)
    )
    state = _renamed(state or model.state_dict(), HUB_NAMES)
    model.save_pretrained(folder, state_dict=state, save_original_format=False)
    processor.save_pretrained(folder)
    pictures.save_pretrained(folder)
    _in_older_words(folder, tokenizer.model_input_names)


def _in_older_words(folder: Path, inputs: list[str]) -> None:
    """Rewrite the files so that transformers 4, which servers and harnesses still use, reads them as 5 does.

    4 does not know the tokenizer's new class, and the old class adds an input that no LLaVA takes, unless `inputs` are
    named. 4 expects extra tokens by name or under another key. It ignores `rope_parameters` and silently uses Llama's
    default; before 4.56 it also ignores `dtype`. It reads the image processor from a file of its own only, and older
    versions fail on a second copy. 5 reads the rewritten files as it would read the original ones.
    """
    names = ("processor_config.json", "tokenizer_config.json", "config.json")
    processor, tokenizer, config = files = [read_object(folder / name) for name in names]
    del processor["image_processor"]
    tokenizer |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    for new, old in OLDER_KEYS.items():
        if new in tokenizer:
            tokenizer[old] = tokenizer.pop(new)
    scaling = dict(config["text_config"]["rope_parameters"])
    config["text_config"]["rope_theta"] = scaling.pop("rope_theta")
    config["text_config"]["rope_scaling"] = None if scaling["rope_type"] == "default" else scaling
    config["torch_dtype"] = config["dtype"]
    for name, words in zip(names, files, strict=True):
        write_json(folder / name, words)


def from_release(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the release's parameters to PEFT's names; PEFT's names stay as they are."""
    plain = {name.replace(".default.", "."): tensor for name, tensor in tensors.items()}
    return _renamed(plain, {release: here for here, release in ADAPTED.items()})


def to_release(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename PEFT's parameters to the release's names."""
    named = {re.sub(r"(\.lora_[AB]\.)", r"\1default.", name): tensor for name, tensor in tensors.items()}
    return _renamed(named, ADAPTED)


def in_release(name: str) -> bool:
    """Whether the release's form has a name for a parameter. It has LoRA only on the language model."""
    parts = tuple(ADAPTED)
    return name.startswith(parts[:1] if ".lora_" in name else parts)


def _renamed(tensors: Mapping[str, Tensor], beginnings: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors with the prefixes of their names replaced by `beginnings`; other names stay."""

    def rename(name: str) -> str:
        old = next(filter(name.startswith, beginnings), "")
        return beginnings.get(old, "") + name.removeprefix(old)

    return {rename(name): tensor for name, tensor in tensors.items()}
