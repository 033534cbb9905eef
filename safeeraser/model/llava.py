"""LLaVA: what turns text and pictures into its input, and loading it."""

import logging
import sys
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from safeeraser.benchmark.conversation import IMAGE
from safeeraser.errors import BadInput

log = logging.getLogger(__name__)

# PEFT asks transformers by a name that transformers is about to drop: theirs to settle, and nothing a user can act on.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
if not sys.stderr.isatty():
    disable_progress_bar()  # of loading weights: in a log file it is only noise

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Parts:
    """What a model family calls its parts (config/model_family/)."""

    vision_tower: str = "vision_tower"
    projector: str = "multi_modal_projector"
    language_model: str = "language_model"
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Preprocessor:
    """What turns text and pictures into the model's input."""

    tokenizer: Any
    image_processor: CLIPImageProcessorPil
    image_token: int  # the id of `<image>`
    image_length: int  # image tokens a picture: 576 for LLaVA-1.5

    def pixels(self, picture: Image.Image) -> Tensor:
        """The picture as the vision tower sees it: float32, shape (3, height, width)."""
        return self.image_processor(picture, return_tensors="pt")["pixel_values"][0]

    @property
    def pad_token(self) -> int:
        """The token that fills up rows; LLaVA's own tokenizer has one."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad


def load_config(model_path: str) -> Any:
    """The model's configuration. Raises `BadInput` if there is no LLaVA at `model_path`."""
    try:
        config = AutoConfig.from_pretrained(model_path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f"model_path {model_path}: no model in this folder, and none of that name from the hub ({reason})"
        ) from None
    if config.model_type != "llava":
        raise BadInput(f"model_path {model_path}: a '{config.model_type}' model; this project unlearns 'llava'")
    return config


def load_preprocessor(model_path: str) -> Preprocessor:
    """Tokenizer and picture processor of the model at `model_path`. Raises `BadInput` if one is missing or unfit."""
    config = load_config(model_path)
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        # By name: without torchvision the automatic choice warns, and the pixels are the release's with this one.
        image_processor = CLIPImageProcessorPil.from_pretrained(model_path)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"model_path {model_path}: no tokenizer or no picture processor ({reason})") from None
    if not tokenizer.is_fast or tokenizer.convert_tokens_to_ids(IMAGE) != config.image_token_id:
        raise BadInput(f"model_path {model_path}: needs a fast tokenizer that has the token '{IMAGE}'")
    return Preprocessor(
        tokenizer,
        image_processor,
        config.image_token_id,
        patches if config.vision_feature_select_strategy == "default" else patches + 1,
    )


def choose_dtype(name: str) -> torch.dtype:
    """The dtype called `name`; `auto` is bfloat16 on a GPU and float32 on a CPU. Raises `BadInput`."""
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    if name not in DTYPES:
        raise BadInput(f"dtype {name}: must be one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def choose_attention(name: str, dtype: torch.dtype) -> str:
    """The attention implementation called `name`; `auto` is flash-attn where it can run, else SDPA, said in the log."""
    if name != "auto":
        return name
    if is_flash_attn_2_available() and dtype != torch.float32:
        log.info("attention: flash-attn")
        return "flash_attention_2"
    log.info("attention: SDPA, since flash-attn is not installed, there is no GPU, or the dtype is float32")
    return "sdpa"


def load_model(
    model_path: str,
    dtype: torch.dtype | Literal["auto"],
    attention: str = "sdpa",
    *,
    quantization: str = "none",
    device: torch.device | str = "cpu",
    parts: Parts | None = None,
) -> LlavaForConditionalGeneration:
    """The untouched model, frozen, on `device`. Raises `BadInput` if it cannot be loaded.

    Args:
        dtype: of the weights; `auto`: as they are stored.
        quantization: `nf4` keeps the language model's linear layers in 4 bits (QLoRA's NormalFloat, arXiv 2305.14314),
            its constants quantized too; all else stays in `dtype`, in which the products are computed.
    """
    load_config(model_path)
    options = {}
    if quantization == "nf4":
        if find_spec("bitsandbytes") is None:
            raise BadInput("quantization=nf4: needs bitsandbytes; 'pip install -e \".[quant]\"' brings it")
        parts = parts or Parts()
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            # Patterns of full names; transformers' own list keeps the head.
            llm_int8_skip_modules=[rf".*\.{parts.vision_tower}", rf".*\.{parts.projector}", "lm_head"],
        )
    try:
        model = LlavaForConditionalGeneration.from_pretrained(
            model_path, dtype=dtype, attn_implementation=attention, **options
        )
    except (OSError, ValueError, ImportError) as error:
        raise BadInput(f"model_path {model_path}: {str(error).strip().splitlines()[0]}") from None
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On some CPUs bitsandbytes would repack 4-bit weights whenever the model is evaluated, and training after
            # that would go on with wrong gradients and only a warning.
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False) if options else model.requires_grad_(False).to(device)
