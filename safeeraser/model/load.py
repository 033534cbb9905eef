"""Loading a vision-language model: its configuration, its preprocessor and its weights."""

import copyreg
import logging
import sys
import warnings
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from safeeraser.benchmark.adapters import ADAPTER_FILES
from safeeraser.benchmark.family import Family, page_for, page_of
from safeeraser.errors import BadInput
from safeeraser.model.llava import check_form, check_pictures, picture_processor, processor_numbers
from safeeraser.model.preprocess import Preprocessor

log = logging.getLogger(__name__)

# PEFT uses a deprecated name of transformers. A user can do nothing about the warning.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
if not sys.stderr.isatty():
    disable_progress_bar()  # the bar of loading weights is only noise in a log file

CUDNN = "sdpa_cudnn"  # an attention implementation: SDPA that may use cuDNN's kernels too
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILY_KEY = "model_family"  # in a model's configuration: its family, if `model_type` would choose another one
# The parts of a processor that are used here. Some processors also have a part for videos, which requires torchvision.
PARTS = ("image_processor", "tokenizer")


def family_of(model_path: str) -> Family:
    """The family of the model at `model_path`, from a config file in config/model_family/: the file that names this
    path, else the file that the model's configuration names, else the file for its `model_type`.

    Raises:
        BadInput: there is no model, or config/model_family/ has no file for its kind.
    """
    return page_for(model_path) or _page_of(_raw_config(model_path), model_path)


def family_if_known(model_path: str) -> Family | None:
    """The family of a model by its path alone, or by the configuration in its folder; None if neither gives it.

    Meant for a model that a server has loaded, under any name: `model_path` need not exist, and the hub is not asked.
    """
    known = page_for(model_path) or (Path(model_path) / "config.json").is_file()
    return family_of(model_path) if known else None


def check_family(family: Family, model_path: str) -> None:
    """Raise `BadInput` if the model at `model_path` has another `model_type` than `family`."""
    if (kind := _raw_config(model_path)["model_type"]) != family.model_type:
        raise BadInput(
            f"model_family={family.name}: is for '{family.model_type}' models, and model_path {model_path} is a "
            f"'{kind}'; model_family=auto takes the model's own family"
        )


def _page_of(config: dict[str, Any], model_path: str) -> Family:
    return page_of(config["model_type"], config.get(FAMILY_KEY), model_path)


def _raw_config(model_path: str) -> dict[str, Any]:
    """The model's stored configuration as a dict."""
    try:
        config = PreTrainedConfig.get_config_dict(model_path)[0]
    except (OSError, ValueError) as error:
        raise _no_model(model_path, error) from None
    if "model_type" not in config:  # a folder without a configuration is read as an empty one
        if any((Path(model_path) / name).is_file() for name in ADAPTER_FILES):
            raise BadInput(
                f"model_path {model_path}: holds an adapter, not a model; --checkpoint_path (or init_adapter=) names "
                "one, and 'python -m safeeraser.model merge' puts it into its model"
            )
        raise _no_model(model_path, ValueError("no config.json that names a model_type"))
    return config


def _no_model(model_path: str, error: Exception) -> BadInput:
    if not Path(model_path).exists():
        try:
            validate_repo_id(model_path)
        except HFValidationError:
            return BadInput(f"model_path {model_path}: no such folder, and a name on the hub has the form OWNER/NAME")
    reason = str(error).strip().splitlines()[0]
    return BadInput(f"model_path {model_path}: no model in this folder, and none of that name from the hub ({reason})")


def load_config(model_path: str) -> Any:
    """The model's configuration. Raises `BadInput` if there is no model at `model_path`, or none of a known family."""
    return _config_and_family(model_path)[0]


def _config_and_family(model_path: str) -> tuple[Any, Family]:
    raw = _raw_config(model_path)
    family = page_for(model_path) or _page_of(raw, model_path)
    try:
        config = AutoConfig.from_pretrained(model_path)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise _no_model(model_path, error) from None
    if family.chat:
        check_form(config, model_path)
    return config, family


def load_preprocessor(model_path: str) -> Preprocessor:
    """The preprocessor of the model at `model_path`. Raises `BadInput` if a part of it is missing or does not fit."""
    config, family = _config_and_family(model_path)
    try:
        processor = _load_processor(model_path, config, family)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"model_path {model_path}: no tokenizer or no picture processor ({reason})") from None
    if not processor.tokenizer.is_fast:
        raise BadInput(f"model_path {model_path}: needs a fast tokenizer")
    if family.end_of_turn not in processor.tokenizer.get_vocab():
        raise BadInput(f"model_path {model_path}: its tokenizer lacks '{family.end_of_turn}', which ends an answer")
    context = config.get_text_config().max_position_embeddings
    prepared = Preprocessor(processor, family, context, config.image_token_id, model_path)
    if family.chat:
        check_pictures(prepared, config, model_path)
    return prepared


# A process that receives a pickled preprocessor loads it anew from `origin`.
copyreg.pickle(Preprocessor, lambda sent: (load_preprocessor, (sent.origin,)))


def _load_processor(model_path: str, config: Any, family: Family) -> ProcessorMixin:
    """transformers' processor for the model, without the parts for videos and sound that some processors have."""
    kind: Any = PROCESSOR_MAPPING[type(config)]
    # Always on Pillow, so that the pixels do not depend on the installed packages.
    find = picture_processor if family.chat else partial(AutoImageProcessor.from_pretrained, backend="pil")
    given = dict(zip(PARTS, (find(model_path), AutoTokenizer.from_pretrained(model_path)), strict=True))
    args = kind.get_processor_dict(model_path)[0] | (processor_numbers(config) if family.chat else {})
    parts = [given.get(name) for name in kind.get_attributes()]  # in the order of the class's arguments
    if more := [name for name in kind.get_attributes() if name not in PARTS]:
        _note_stills(kind.__name__, ", ".join(more))
        kind, args = type(kind.__name__, (kind, _Stills), {}), {key: args[key] for key in args if key not in more}
    return kind.from_args_and_dict(parts, args)


class _Stills(ProcessorMixin):
    """A base class inserted between a processor's class and `ProcessorMixin`; it passes on only the used parts."""

    def __init__(self, *parts: Any, **more: Any) -> None:
        super().__init__(*parts, **{key: each for key, each in more.items() if key in (*PARTS, "chat_template")})

    @classmethod
    def get_attributes(cls) -> list[str]:
        return list(PARTS)


@cache
def _note_stills(name: str, without: str) -> None:
    log.info("pictures: %s on Pillow, without its %s: films and sound are not used here", name, without)


def choose_dtype(name: str) -> torch.dtype:
    """The dtype called `name`; `auto` is bfloat16 on a GPU and float32 on a CPU. Raises `BadInput`."""
    if name == "auto":
        return torch.bfloat16 if torch.cuda.is_available() else torch.float32
    if name not in DTYPES:
        raise BadInput(f"dtype {name}: must be one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def has_flash_attention(dtype: torch.dtype) -> bool:
    """Whether flash-attn is installed, there is a GPU for it, and it supports this dtype."""
    return is_flash_attn_2_available() and dtype != torch.float32


def choose_attention(name: str, dtype: torch.dtype, family: Family, *, padding: bool = False) -> str:
    """The attention implementation to train with: `name`, or for `auto` the fastest one available, which is logged.

    Args:
        padding: whether the loss reads padding, whose states flash-attn sets to 0.

    Raises:
        BadInput: `name` is `flash_attention_2`, and flash-attn or a GPU is missing.
    """
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise BadInput(f"attention={name}: flash-attn or a GPU is missing; attention=auto takes the best that is here")
    if name != "auto":
        return name
    if has_flash_attention(dtype) and family.flash_attention and not padding:
        log.info("attention: flash-attn")
        return "flash_attention_2"
    if dtype == torch.bfloat16 and not torch.cuda.is_available():
        log.info("attention: eager, since the backward pass of SDPA in bfloat16 is slow on CPUs")
        return "eager"
    log.info("attention: SDPA; docs/reference/engines.md says when flash-attn is taken")
    return "sdpa"


def load_model(
    model_path: str,
    dtype: torch.dtype | Literal["auto"],
    attention: str = "sdpa",
    *,
    quantization: str = "none",
    device: torch.device | str | None = "cpu",
) -> PreTrainedModel:
    """The untouched model, frozen, on `device`. Raises `BadInput` if it cannot be loaded.

    Args:
        dtype: of the weights; `auto`: as they are stored.
        attention: `sdpa`, `sdpa_cudnn`, `eager` or `flash_attention_2`. It also decides, for the entire process,
            whether SDPA may use cuDNN's kernels.
        quantization: `nf4` keeps the language model's linear layers in 4 bits (QLoRA's NormalFloat, arXiv 2305.14314),
            with quantized constants. Everything else stays in `dtype`, and products are computed in `dtype`.
        device: weights are read directly to it, without a copy in CPU memory. None: a training engine shards the
            weights and places them.
    """
    _, family = _config_and_family(model_path)
    attention = _settle_cudnn(attention, device)
    options = {} if device is None else {"device_map": {"": device}}
    if quantization == "nf4":
        options["quantization_config"] = _four_bits(dtype, family)
    try:
        model, loading = AutoModelForImageTextToText.from_pretrained(
            model_path, dtype=dtype, attn_implementation=attention, output_loading_info=True, **options
        )
    except SafetensorError:
        raise BadInput(f"{_damaged(Path(model_path))}: not readable as safetensors; is it cut off?") from None
    except Exception as error:  # the readers raise many kinds of error for damaged weights
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"model_path {model_path}: cannot be loaded ({reason})") from None
    if missing := sorted(loading["missing_keys"]):
        # transformers initialises missing weights at random and only logs a note.
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"model_path {model_path}: its weights lack {missing[0]}{more}")
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On some CPUs bitsandbytes would repack 4-bit weights when the model is evaluated. Training after that
            # would continue with wrong gradients and only a warning.
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def _four_bits(dtype: torch.dtype | Literal["auto"], family: Family) -> BitsAndBytesConfig:
    """NF4 for the language model's linear layers. Raises `BadInput` if bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise BadInput("quantization=nf4: needs bitsandbytes; 'pip install -e \".[quant]\"' brings it")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # Patterns of full names. The list replaces transformers' own, which would leave the head unquantized.
        llm_int8_skip_modules=[rf".*\.{part}" for part in (family.vision_tower, *family.projector)] + ["lm_head"],
    )


def _settle_cudnn(attention: str, device: torch.device | str | None) -> str:
    """Allow or forbid cuDNN's kernels in SDPA, for the entire process; return transformers' name for `attention`.

    On Hopper and newer GPUs torch prefers cuDNN's kernels. They make a plan for each batch size and length, in some
    30 ms, and inference has a new length at every token. Their masked backward pass also gives NaN at some lengths.
    """
    torch.backends.cuda.enable_cudnn_sdp(attention == CUDNN)
    on_gpu = torch.cuda.is_available() if device is None else torch.device(device).type == "cuda"
    if on_gpu and attention in ("sdpa", CUDNN):
        log.info("attention on the GPU: SDPA, cuDNN's kernels %s", "among others" if attention == CUDNN else "left out")
    return "sdpa" if attention == CUDNN else attention


def _damaged(folder: Path) -> Path:
    """The first file of weights that cannot be opened (the reader's error does not name it), else the folder."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return file
    return folder
