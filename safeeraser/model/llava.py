"""LLaVA: what turns text and pictures into its input, and loading it."""

import logging
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from safeeraser.benchmark.conversation import IMAGE, SYSTEM_TEXTS, prompt
from safeeraser.errors import BadInput

log = logging.getLogger(__name__)

# PEFT asks transformers by a name that transformers is about to drop: theirs to settle, and nothing a user can act on.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
if not sys.stderr.isatty():
    disable_progress_bar()  # of loading weights: in a log file it is only noise

ONE_FORM = "this project so far knows LLaVA-1.5's form alone"
CUDNN = "sdpa_cudnn"  # an attention: SDPA that may take cuDNN's kernels too
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
    context: int | None = None  # tokens that the model can tell the places of

    def pixels(self, picture: Image.Image) -> Tensor:
        """The picture as the vision tower sees it: float32, shape (3, height, width)."""
        return self.image_processor(picture, return_tensors="pt")["pixel_values"][0]

    @property
    def pad_token(self) -> int:
        """The token that fills up rows; LLaVA's own tokenizer has one."""
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad


def load_config(model_path: str) -> Any:
    """The model's configuration. Raises `BadInput` if there is no LLaVA at `model_path`, or one of another form."""
    try:
        config = AutoConfig.from_pretrained(model_path)
    except (OSError, ValueError, StrictDataclassError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(
            f"model_path {model_path}: no model in this folder, and none of that name from the hub ({reason})"
        ) from None
    if config.model_type != "llava":
        raise BadInput(f"model_path {model_path}: a '{config.model_type}' model; this project unlearns 'llava'")
    if differs := _other_form(config):
        raise BadInput(f"model_path {model_path}: {differs}; {ONE_FORM}")
    return config


def _other_form(config: Any) -> str | None:
    """What in a LLaVA's configuration would fail, or be answered wrongly, if it were taken for LLaVA-1.5's."""
    for part, known in (("vision_config", "clip_vision_model"), ("text_config", "llama")):
        if (kind := getattr(config, part).model_type) != known:
            return f"{part}.model_type is '{kind}', not '{known}'"
    layers, chosen = config.vision_config.num_hidden_layers, config.vision_feature_layer
    numbers = [chosen] if isinstance(chosen, int) else chosen
    # A layer 0 on its own transformers takes for none at all.
    if not chosen or not all(-layers - 1 <= number <= layers for number in numbers):
        return f"vision_feature_layer is {chosen}, of a vision tower of {layers} layers"
    return None


def _other_chat(tokenizer: Any, template: str) -> str | None:
    """How a chat template writes a short exchange, if neither as LLaVA-1.5's does nor with a system text besides."""
    wanted = f"{prompt('What?', 'user').removeprefix(SYSTEM_TEXTS['user'])} That."
    picture, text = {"type": "image"}, {"type": "text", "text": "What?"}
    written = []
    # Messages in parts, as processors' templates want them, or as plain text.
    for asked, said in (([picture, text], [text | {"text": "That."}]), (f"{IMAGE}\nWhat?", "That.")):
        chat = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        with suppress(Exception):  # whatever one that wants the other raises
            written.append(tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False))
    if any(" ".join(wanted.split()) in " ".join(each.split()) for each in written):
        return None
    return shorten(written[0], 80) if written else "nothing at all"


def load_preprocessor(model_path: str) -> Preprocessor:
    """Tokenizer and picture processor of the model at `model_path`. Raises `BadInput` if one is missing or unfit."""
    config = load_config(model_path)
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    try:
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        # By name: without torchvision the automatic choice warns, and the pixels are the release's with this one.
        image_processor = CLIPImageProcessorPil.from_pretrained(model_path)
        kind = CLIPImageProcessorPil.get_image_processor_dict(model_path)[0].get("image_processor_type") or "CLIP"
        template = LlavaProcessor.get_processor_dict(model_path)[0].get("chat_template") or tokenizer.chat_template
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"model_path {model_path}: no tokenizer or no picture processor ({reason})") from None
    if not tokenizer.is_fast or tokenizer.convert_tokens_to_ids(IMAGE) != config.image_token_id:
        raise BadInput(f"model_path {model_path}: needs a fast tokenizer that has the token '{IMAGE}'")
    if not kind.startswith("CLIP"):
        raise BadInput(f"model_path {model_path}: its picture processor is '{kind}', not CLIP's; {ONE_FORM}")
    if isinstance(template, dict):
        template = template.get("default")
    if template and (chat := _other_chat(tokenizer, template)):
        raise BadInput(f"model_path {model_path}: its chat template writes '{chat}' where Vicuna v1 asks; {ONE_FORM}")
    prepared = Preprocessor(
        tokenizer,
        image_processor,
        config.image_token_id,
        patches if config.vision_feature_select_strategy == "default" else patches + 1,
        config.text_config.max_position_embeddings,
    )
    wanted = (3, vision.image_size, vision.image_size)
    if (found := tuple(prepared.pixels(Image.new("RGB", (2 * wanted[1], wanted[1]))).shape)) != wanted:
        raise BadInput(f"model_path {model_path}: its picture processor makes {found}, its vision tower sees {wanted}")
    return prepared


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
    device: torch.device | str | None = "cpu",
    parts: Parts | None = None,
) -> LlavaForConditionalGeneration:
    """The untouched model, frozen, on `device`. Raises `BadInput` if it cannot be loaded.

    Args:
        dtype: of the weights; `auto`: as they are stored.
        attention: `sdpa`, `sdpa_cudnn`, `eager` or `flash_attention_2`. Whether SDPA may take cuDNN's kernels is
            settled with it, for the whole process.
        quantization: `nf4` keeps the language model's linear layers in 4 bits (QLoRA's NormalFloat, arXiv 2305.14314),
            its constants quantized too; all else stays in `dtype`, in which the products are computed.
        device: each weight is read straight to it, none waits in CPU memory; None: where an engine that shards weights
            wants them.
    """
    load_config(model_path)
    attention = _settle_cudnn(attention, device)
    options = {} if device is None else {"device_map": {"": device}}
    if quantization == "nf4":
        options["quantization_config"] = _four_bits(dtype, parts or Parts())
    try:
        model, told = LlavaForConditionalGeneration.from_pretrained(
            model_path, dtype=dtype, attn_implementation=attention, output_loading_info=True, **options
        )
    except SafetensorError:
        raise BadInput(f"{_damaged(Path(model_path))}: not readable as safetensors; is it cut off?") from None
    except Exception as error:  # whatever damaged weights make the readers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"model_path {model_path}: cannot be loaded ({reason})") from None
    if missing := sorted(told["missing_keys"]):
        # transformers makes up random ones, and only notes it.
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"model_path {model_path}: its weights lack {missing[0]}{more}")
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On some CPUs bitsandbytes would repack 4-bit weights whenever the model is evaluated, and training after
            # that would go on with wrong gradients and only a warning.
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def _four_bits(dtype: torch.dtype | Literal["auto"], parts: Parts) -> BitsAndBytesConfig:
    """NF4 for the language model's linear layers. Raises `BadInput` where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise BadInput("quantization=nf4: needs bitsandbytes; 'pip install -e \".[quant]\"' brings it")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # Patterns of full names; transformers' own list keeps the head.
        llm_int8_skip_modules=[rf".*\.{parts.vision_tower}", rf".*\.{parts.projector}", "lm_head"],
    )


def _settle_cudnn(attention: str, device: torch.device | str | None) -> str:
    """Let SDPA take cuDNN's kernels or not, for the whole process; returns what transformers calls `attention`.

    From Hopper on torch would take them first. For each batch size and length they make a plan, in some 30 ms, which is
    a new one at every token of inference; and the masked backward pass gives NaN at some lengths.
    """
    torch.backends.cuda.enable_cudnn_sdp(attention == CUDNN)
    on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    if on_gpu and attention in ("sdpa", CUDNN):
        log.info("attention on the GPU: SDPA, cuDNN's kernels %s", "among others" if attention == CUDNN else "left out")
    return "sdpa" if attention == CUDNN else attention


def _damaged(folder: Path) -> Path:
    """The file of weights that cannot be opened, which the reader's error does not name."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return file
    return folder
