"""Loading a vision-language model: its configuration, what prepares its input, and its weights."""

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

# PEFT asks transformers by a name that transformers is about to drop: theirs to settle, and nothing a user can act on.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
if not sys.stderr.isatty():
    disable_progress_bar()  # of loading weights: in a log file it is only noise

CUDNN = "sdpa_cudnn"  # an attention: SDPA that may take cuDNN's kernels too
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FAMILY_KEY = "model_family"  # in a model's configuration: its page, where its type alone would lead to another
# The parts of a processor that are used here. One for films, which some have too, wants torchvision.
PARTS = ("image_processor", "tokenizer")


def family_of(model_path: str) -> Family:
    """The family of the model at `model_path`: the page that names this path, else the one that its configuration
    names, else the one for its type.

    Raises:
        BadInput: there is no model, or config/model_family/ has no page for its kind.
    """
    return page_for(model_path) or _page_of(_raw_config(model_path), model_path)


def family_if_known(model_path: str) -> Family | None:
    """The family of a model by its path alone, or by the configuration in its folder; None where neither says it.

    For what somebody else has loaded, under whatever name: nothing need lie at `model_path`, and no hub is asked.
    """
    known = page_for(model_path) or (Path(model_path) / "config.json").is_file()
    return family_of(model_path) if known else None


def check_family(family: Family, model_path: str) -> None:
    """Raises `BadInput` where the model at `model_path` is of another family than `family`."""
    if (kind := _raw_config(model_path)["model_type"]) != family.model_type:
        raise BadInput(
            f"model_family={family.name}: of '{family.model_type}' models, and model_path {model_path} is a '{kind}'; "
            "model_family=auto takes what the model says"
        )


def _page_of(config: dict[str, Any], model_path: str) -> Family:
    return page_of(config["model_type"], config.get(FAMILY_KEY), model_path)


def _raw_config(model_path: str) -> dict[str, Any]:
    """What the model's configuration says, as it is stored."""
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
    """What prepares the input of the model at `model_path`. Raises `BadInput` if a part of it is missing or unfit."""
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


# A process that is sent one loads its own.
copyreg.pickle(Preprocessor, lambda sent: (load_preprocessor, (sent.origin,)))


def _load_processor(model_path: str, config: Any, family: Family) -> ProcessorMixin:
    """transformers' processor for the model. Some have parts for films and sound; they are loaded without."""
    kind: Any = PROCESSOR_MAPPING[type(config)]
    # On Pillow, whatever is installed: so the pixels are the same everywhere.
    find = picture_processor if family.chat else partial(AutoImageProcessor.from_pretrained, backend="pil")
    given = dict(zip(PARTS, (find(model_path), AutoTokenizer.from_pretrained(model_path)), strict=True))
    args = kind.get_processor_dict(model_path)[0] | (processor_numbers(config) if family.chat else {})
    parts = [given.get(name) for name in kind.get_attributes()]  # in the order in which the class takes them
    if more := [name for name in kind.get_attributes() if name not in PARTS]:
        _note_stills(kind.__name__, ", ".join(more))
        kind, args = type(kind.__name__, (kind, _Stills), {}), {key: args[key] for key in args if key not in more}
    return kind.from_args_and_dict(parts, args)


class _Stills(ProcessorMixin):
    """Stands between a processor's class and what all have in common, and hands on the parts that are used."""

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
    """Whether flash-attn is here, with a GPU, and takes this dtype."""
    return is_flash_attn_2_available() and dtype != torch.float32


def choose_attention(name: str, dtype: torch.dtype, family: Family) -> str:
    """The attention implementation called `name` to train with; `auto` is what is fastest here, said in the log.

    Raises:
        BadInput: flash-attn is asked for and is not here.
    """
    if name == "flash_attention_2" and not is_flash_attn_2_available():
        raise BadInput(f"attention={name}: flash-attn or a GPU is missing; attention=auto takes the best that is here")
    if name != "auto":
        return name
    if has_flash_attention(dtype) and family.flash_attention:
        log.info("attention: flash-attn")
        return "flash_attention_2"
    if dtype == torch.bfloat16 and not torch.cuda.is_available():
        log.info("attention: eager, since the backward pass of SDPA in bfloat16 is slow on CPUs")
        return "eager"
    log.info(
        "attention: SDPA, since flash-attn or a GPU is missing, the dtype is float32, or the family's mask is its own"
    )
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
        attention: `sdpa`, `sdpa_cudnn`, `eager` or `flash_attention_2`. Whether SDPA may take cuDNN's kernels is
            settled with it, for the whole process.
        quantization: `nf4` keeps the language model's linear layers in 4 bits (QLoRA's NormalFloat, arXiv 2305.14314),
            its constants quantized too; all else stays in `dtype`, in which the products are computed.
        device: each weight is read straight to it, none waits in CPU memory; None: where an engine that shards weights
            wants them.
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
    except Exception as error:  # whatever damaged weights make the readers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(f"model_path {model_path}: cannot be loaded ({reason})") from None
    if missing := sorted(loading["missing_keys"]):
        # transformers makes up random ones, and only notes it.
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise BadInput(f"model_path {model_path}: its weights lack {missing[0]}{more}")
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # On some CPUs bitsandbytes would repack 4-bit weights whenever the model is evaluated, and training after
            # that would go on with wrong gradients and only a warning.
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def _four_bits(dtype: torch.dtype | Literal["auto"], family: Family) -> BitsAndBytesConfig:
    """NF4 for the language model's linear layers. Raises `BadInput` where bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise BadInput("quantization=nf4: needs bitsandbytes; 'pip install -e \".[quant]\"' brings it")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # Patterns of full names; transformers' own list keeps the head.
        llm_int8_skip_modules=[rf".*\.{part}" for part in (family.vision_tower, *family.projector)] + ["lm_head"],
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
