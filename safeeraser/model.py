"""LLaVA: loading it, attaching LoRA and the trained projector, and the two forms in which adapters are stored.

An adapter is an ordinary PEFT folder. The release's `checkpoint.pt` (a dict, name -> fp16 tensor) holds the same
parameters under the names that transformers 4 gave to LLaVA's modules:

    release  base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.default.weight
    here     base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight

`python -m safeeraser.model convert IN OUT` turns one form into the other, both ways.
"""

import logging
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
)
from transformers.utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from safeeraser.arguments import Arguments
from safeeraser.benchmark.conversation import IMAGE
from safeeraser.benchmark.files import write_whole
from safeeraser.errors import BadInput, command

log = logging.getLogger(__name__)

# PEFT asks transformers by a name that transformers is about to drop: theirs to settle, and nothing a user can act on.
warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
if not sys.stderr.isatty():
    disable_progress_bar()  # of loading weights: in a log file it is only noise

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
RENAMED = (  # (release, here), for parameter names
    ("base_model.model.language_model.model.", "base_model.model.model.language_model."),
    ("base_model.model.multi_modal_projector.", "base_model.model.model.multi_modal_projector."),
    ("base_model.model.vision_tower.", "base_model.model.model.vision_tower."),
)


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


def choose_attention(name: str) -> str:
    """The attention implementation called `name`; `auto` is flash-attn where it can run, else SDPA, said in the log."""
    if name != "auto":
        return name
    if is_flash_attn_2_available():
        log.info("attention: flash-attn")
        return "flash_attention_2"
    log.info("attention: SDPA, since flash-attn is not installed or there is no GPU")
    return "sdpa"


def load_model(
    model_path: str,
    dtype: torch.dtype,
    attention: str = "sdpa",
    *,
    quantization: str = "none",
    device: torch.device | str = "cpu",
    parts: Parts | None = None,
) -> LlavaForConditionalGeneration:
    """The untouched model, frozen, on `device`. Raises `BadInput` if it cannot be loaded.

    Args:
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


def lora_config(
    parts: Parts, *, r: int, alpha: float, dropout: float = 0.0, projector: bool = True, vision: bool = False
) -> LoraConfig:
    """LoRA on the language model's linear layers alone; projector (and vision tower) trained whole beside it."""
    saved = [name for name, wanted in ((parts.projector, projector), (parts.vision_tower, vision)) if wanted]
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        # A pattern rather than suffixes: the vision tower has q_proj, k_proj and v_proj of its own.
        target_modules=rf".*\.{parts.language_model}\.layers\.\d+\.\w+\.({'|'.join(parts.lora_targets)})",
        modules_to_save=saved or None,
    )


def attach(model: LlavaForConditionalGeneration, config: LoraConfig, parts: Parts) -> PeftModel:
    """Attach a fresh adapter and check that it sits where it should: on every linear layer of the language model."""
    adapted = get_peft_model(model, config)
    found = [name for name, module in adapted.named_modules() if hasattr(module, "lora_A")]
    expected = len(parts.lora_targets) * model.config.text_config.num_hidden_layers
    if len(found) != expected or any(f".{parts.language_model}." not in name for name in found):
        raise AssertionError(f"LoRA sits on {len(found)} modules, expected {expected} of {parts.language_model} alone")
    return adapted


def trained_parameters(model: nn.Module, parts: Parts) -> dict[str, int]:
    """Count the trainable parameters by group: `LoRA`, `projector`, `vision_tower`."""
    groups = {"LoRA": 0, "projector": 0, "vision_tower": 0}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            whole = "vision_tower" if f".{parts.vision_tower}." in name else "projector"
            groups["LoRA" if ".lora_" in name else whole] += parameter.numel()
    return groups


def from_release(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the release's parameters to PEFT's; names that are PEFT's already stay."""
    return {_rename(name.replace(".default.", "."), RENAMED): tensor for name, tensor in tensors.items()}


def to_release(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename PEFT's parameters to the release's."""
    back = tuple((here, release) for release, here in RENAMED)
    return {
        _rename(name, back).replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): tensor
        for name, tensor in tensors.items()
    }


def adapter_file(path: str | Path) -> Path:
    """The file with an adapter's weights: a PEFT folder's, or `path` itself. Raises `BadInput` if there is none."""
    path = Path(path)
    file = path / "adapter_model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{path}: no adapter there (a PEFT folder, a .safetensors or the release's checkpoint.pt)")
    return file


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """The parameters of an adapter, under PEFT's names, in whichever form it is stored. Raises `BadInput`."""
    file = adapter_file(path)
    try:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about how it was pickled: it loads or it does not
                tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise BadInput(f"{file}: not a readable adapter ({type(error).__name__})") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BadInput(f"{file}: holds no dict of named tensors")
    return from_release(tensors)


def load_adapter(model: PeftModel, path: str | Path) -> None:
    """Put an adapter's parameters into `model`. Raises `BadInput` listing names or shapes that do not match."""
    tensors = read_adapter(path)
    check_adapter(model, tensors, path)
    set_peft_model_state_dict(model, tensors)


def check_adapter(model: PeftModel, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises `BadInput` listing names or shapes of `tensors`, read from `path`, that do not match the model's."""
    expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"{name} is unknown" for name in sorted(found.keys() - expected.keys())]
    wrong += [
        f"{name} has shape {found[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name] != found[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadInput(f"{path}: this adapter does not fit the model: {'; '.join(wrong[:3])}{more}")


def load_adapted(model: LlavaForConditionalGeneration, path: str | Path, *, alpha: float = 256) -> PeftModel:
    """The model with a stored adapter on it, whichever form it is stored in; `alpha` as in `adapter_config`."""
    config = adapter_config(path, alpha)
    config.inference_mode = True
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise BadInput(f"{path}: this adapter does not fit the model ({str(error).splitlines()[0]})") from None
    load_adapter(adapted, path)
    return adapted


def adapter_config(path: str | Path, alpha: float) -> LoraConfig:
    """The configuration of a stored adapter.

    A PEFT folder holds it. A bare file of tensors says its rank by the shapes, and nothing of the scaling: `alpha` then
    gives it (the release hard-codes 256).
    """
    if (Path(path) / "adapter_config.json").is_file():
        return LoraConfig.from_pretrained(path)
    tensors = read_adapter(path)
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise BadInput(f"{path}: holds no LoRA of one rank (found ranks {sorted(ranks)})")
    parts = Parts()
    whole = [any(f".{part}." in name for name in tensors) for part in (parts.projector, parts.vision_tower)]
    return lora_config(parts, r=ranks.pop(), alpha=alpha, projector=whole[0], vision=whole[1])


def convert(source: Path, target: Path, *, alpha: float = 256, model_path: str | None = None) -> None:
    """Write a stored adapter in the other form: `target` ends in `.pt` for the release's, else it is a PEFT folder.

    The release's file is float16, so converting to it rounds; converting from it changes nothing. `model_path` is noted
    in the folder as the base model.

    Raises:
        BadInput: `source` is no adapter, `target` exists, or the release would read `target` at another scaling.
    """
    if target.exists():
        raise BadInput(f"{target}: exists; name another")
    config, tensors = adapter_config(source, alpha), read_adapter(source)
    if target.suffix == ".pt":
        if (config.r, config.lora_alpha) != (32, 256):
            log.warning(
                "note: r %s, alpha %s is not written down there; the release assumes 32 and 256, and this project asks "
                "for --lora_alpha",
                config.r,
                config.lora_alpha,
            )
        with write_whole(target, "wb") as handle:
            torch.save({name: tensor.half() for name, tensor in to_release(tensors).items()}, handle)
    else:
        config.base_model_name_or_path = model_path or config.base_model_name_or_path
        target.mkdir(parents=True)
        config.save_pretrained(target)
        with write_whole(target / "adapter_model.safetensors", "wb") as handle:
            handle.write(save(tensors))


def _rename(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


@command
def main() -> None:
    """`python -m safeeraser.model convert IN OUT`."""
    parser = Arguments(description="Adapters in their two forms.")
    action = parser.add_subparsers(dest="action", required=True).add_parser(
        "convert", help="turn a PEFT folder into the release's checkpoint.pt, or the other way round"
    )
    action.add_argument("source", type=Path, metavar="IN", help="a PEFT folder, a .safetensors or a .pt")
    action.add_argument("target", type=Path, metavar="OUT", help="a file ending in .pt, or a folder to make")
    action.add_argument("--lora_alpha", type=float, default=256, help="of a .pt, which does not say (default: 256)")
    action.add_argument("--model_path", help="the base model to note in a PEFT folder")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target, alpha=arguments.lora_alpha, model_path=arguments.model_path)


if __name__ == "__main__":
    main()
