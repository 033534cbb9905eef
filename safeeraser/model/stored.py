"""Stored adapters in their two forms: an ordinary PEFT folder, and the release's `checkpoint.pt`.

The release's file is a dict, name -> fp16 tensor, of LLaVA-1.5's parameters under the release's names (model/llava.py).
"""

import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from safeeraser.benchmark.adapters import RUN_FILE, adapter_file, home
from safeeraser.benchmark.family import page_of_type
from safeeraser.benchmark.files import read_object, write_whole, write_whole_folder
from safeeraser.benchmark.release import RELEASED_TYPE
from safeeraser.errors import BadInput
from safeeraser.model.llava import from_release, in_release, to_release
from safeeraser.model.lora import lora_config
from safeeraser.model.projector import plainly_named

log = logging.getLogger(__name__)

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # changes an adapter's parameters, by PEFT's names

# `load_adapted` merges the layers of a scaled DoRA one by one, and PEFT warns of that when it merges the model.
warnings.filterwarnings("ignore", message="All adapters are already merged")


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """The parameters of an adapter, stored in either form, under PEFT's names. Raises `BadInput`."""
    file = adapter_file(path)
    try:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            with warnings.catch_warnings(action="ignore"):  # about the pickle format: the file loads or it does not
                tensors = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds of error for a damaged file
        raise BadInput(f"{file}: not a readable adapter ({type(error).__name__})") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise BadInput(f"{file}: holds no dict of named tensors")
    return from_release(tensors)


def load_adapter(model: PeftModel, path: str | Path, change: Change | None = None) -> None:
    """Load an adapter's parameters, changed by `change` if it is given, into `model`.

    Raises `BadInput` with the names or shapes that do not match.
    """
    check_kind(model.config.model_type, path)
    tensors = read_adapter(path)
    check_adapter(model, tensors, path)
    set_peft_model_state_dict(model, change(tensors) if change else tensors)


def check_adapter(model: PeftModel, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raise `BadInput` with the names or shapes of `tensors`, read from `path`, that do not match the model's."""
    with plainly_named(model):
        expected = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(model).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - shapes.keys())]
    wrong += [f"{name} is unknown" for name in sorted(shapes.keys() - expected.keys())]
    wrong += [
        f"{name} has shape {shapes[name]}, not {expected[name]}"
        for name in sorted(expected.keys() & shapes.keys())
        if expected[name] != shapes[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise BadInput(f"{path}: this adapter does not fit the model: {'; '.join(wrong[:3])}{more}")


def _kinds(path: str | Path) -> list[str]:
    """The `model_type`s that an adapter may belong to by its files; empty if the files do not say."""
    file = home(path) / "adapter_config.json"
    if not file.is_file():
        return [] if adapter_file(path).suffix == ".safetensors" else [RELEASED_TYPE]
    of = ((read_object(file).get("auto_mapping") or {}).get("base_model_class") or "").removeprefix("FSDP")
    return [kind for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items() if name == of]


def check_kind(model_type: str, path: str | Path) -> None:
    """Raise `BadInput` if an adapter belongs to another kind of model. Some kinds have parts of the same names and
    shapes, so that `check_adapter` would accept them. For the others this error is clearer than a list of names."""
    if (kinds := _kinds(path)) and model_type not in kinds:
        raise BadInput(f"{path}: an adapter of '{kinds[0]}' models, and this is a '{model_type}'")


def load_adapted(
    model: PreTrainedModel,
    path: str | Path,
    *,
    alpha: float = 256,
    scale: float = 1.0,
    change: Change | None = None,
) -> PeftModel:
    """The model with a stored adapter on it, which may be in either form; `alpha` as in `adapter_config`.

    Args:
        scale: how much of the adapter is applied. 0 is the untouched model and 1 the trained one, both to the bit.
            Other values give weights on the line through the two (Ilharco et al., 2023, arXiv 2212.04089): LoRA's alpha
            is multiplied by `scale`, and trained copies of modules are interpolated. A DoRA's magnitudes do not vanish
            with alpha, so for a `scale` other than 1 its layers are merged and interpolated too.
        change: applied to the adapter's parameters before they are loaded.
    """
    check_kind(model.config.model_type, path)
    config = adapter_config(path, alpha)
    config.inference_mode = True
    config.lora_alpha *= 1 if config.use_dora else scale
    # PEFT would warn of a base path that is only written differently; names and shapes are checked below.
    config.base_model_name_or_path = model.name_or_path
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise BadInput(f"{path}: this adapter does not fit the model ({str(error).splitlines()[0]})") from None
    load_adapter(adapted, path, change)
    for module in adapted.modules():
        if isinstance(module, ModulesToSaveWrapper):
            _scale_trained(module, scale)
        elif config.use_dora and scale != 1 and isinstance(module, LoraLayer):
            _scale_merged(module, scale)
    return adapted


@torch.no_grad()
def _scale_trained(module: ModulesToSaveWrapper, scale: float) -> None:
    """Move the trained copy of a module to `scale` of the way from the untouched module."""
    (trained,) = module.modules_to_save.values()
    untouched = dict(module.original_module.named_parameters())
    for name, parameter in trained.named_parameters():
        # lerp is exact at both ends.
        parameter.copy_(torch.lerp(untouched[name].to(parameter.dtype), parameter, scale))


@torch.no_grad()
def _scale_merged(module: LoraLayer, scale: float) -> None:
    """Merge a layer's adapter, and move the weights to `scale` of the way from the untouched ones."""
    weight = module.get_base_layer().weight
    untouched = weight.to(torch.float32, copy=True)
    module.merge()
    weight.copy_(torch.lerp(untouched, weight.float(), scale))


def adapter_config(path: str | Path, alpha: float = 256) -> LoraConfig:
    """The configuration of a stored adapter.

    A PEFT folder holds it. For a bare file of tensors, or a folder with the release's file, the shapes give the rank.
    They do not give the scaling, so `alpha` does (the release hard-codes 256).
    """
    path = home(path)
    file = path / "adapter_config.json"
    if file.is_file():
        try:
            return LoraConfig.from_pretrained(path)
        except Exception as error:  # PEFT raises many kinds of error for a damaged file
            raise BadInput(f"{file}: not the configuration of a LoRA ({type(error).__name__})") from None
    if file.parent.is_dir() and adapter_file(path).suffix == ".safetensors":
        raise BadInput(f"{file}: missing, and only it has the adapter's scaling")
    tensors = read_adapter(path)
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise BadInput(f"{path}: holds no LoRA of one rank (found ranks {sorted(ranks)})")
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors if ".lora_" in name}
    released = page_of_type(RELEASED_TYPE)
    family = released.model_copy(update={"lora_targets": tuple(sorted(targets))})
    parts = {family.part_of(name) for name in tensors}
    return lora_config(
        family, r=ranks.pop(), alpha=alpha, projector="projector" in parts, vision="vision_tower" in parts
    )


def convert(source: Path, target: Path, *, lora_alpha: float = 256, model_path: str | None = None) -> None:
    """Write a stored adapter in the release's form if `target` ends in `.pt`, otherwise as a PEFT folder.

    The release's file is float16, so conversion to it rounds. Conversion from it changes no value. A PEFT folder names
    `model_path`, if it is given, as its base model, and keeps the `run.json` of a source folder.

    Raises:
        BadInput: `source` is no adapter, `target` exists, or the release's form cannot represent the adapter.
    """
    if target.exists():
        raise BadInput(f"{target}: exists; name another")
    config, tensors = adapter_config(source, lora_alpha), read_adapter(source)
    if target.suffix == ".pt":
        if variants := [name for name in ("use_rslora", "use_dora") if getattr(config, name)]:
            raise BadInput(f"{source}: trained with {' and '.join(variants)}, which the release's form cannot say")
        if (kinds := _kinds(source)) and RELEASED_TYPE not in kinds:
            raise BadInput(f"{source}: an adapter of '{kinds[0]}' models; the release's form is LLaVA-1.5's alone")
        if other := next((name for name in tensors if not in_release(name)), None):
            raise BadInput(f"{source}: has {other}, which the release's form, made for LLaVA-1.5, cannot name")
        if (config.r, config.lora_alpha) != (32, 256):
            log.warning(
                "note: the .pt does not record r %s, alpha %s; the release assumes 32 and 256, and this project takes "
                "alpha from --lora_alpha",
                config.r,
                config.lora_alpha,
            )
        with write_whole(target, "wb") as handle:
            torch.save({name: tensor.half() for name, tensor in to_release(tensors).items()}, handle)
    else:
        config.base_model_name_or_path = model_path or config.base_model_name_or_path
        with write_whole_folder(target) as folder:
            config.save_pretrained(folder)
            (folder / "adapter_model.safetensors").write_bytes(save(tensors))
            if (source / RUN_FILE).is_file():
                shutil.copy(source / RUN_FILE, folder)
