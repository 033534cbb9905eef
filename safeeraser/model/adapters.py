"""Adapters: attaching LoRA and the trained projector, and the two forms in which adapters are stored.

An adapter is an ordinary PEFT folder. The release's `checkpoint.pt` (a dict, name -> fp16 tensor) holds a LLaVA-1.5's
parameters under names of its own (model/llava.py).
"""

import logging
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from safeeraser.benchmark.family import Family, page_of_type
from safeeraser.benchmark.files import RUN_FILE, adapter_file, home, read_object, write_whole, write_whole_folder
from safeeraser.benchmark.release import RELEASED_TYPE
from safeeraser.errors import BadInput, nearest
from safeeraser.model.llava import RENAMED, from_release, to_release
from safeeraser.model.projector import plainly_named, reached

log = logging.getLogger(__name__)

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]  # of an adapter's parameters, by PEFT's names

# Where part of a DoRA is asked for, its layers are merged one by one before PEFT merges the whole.
warnings.filterwarnings("ignore", message="All adapters are already merged")


def lora_config(
    family: Family,
    *,
    r: int,
    alpha: float,
    dropout: float = 0.0,
    projector: bool = True,
    vision: bool = False,
    **more: Any,
) -> LoraConfig:
    """LoRA on the language model's linear layers alone; a copy of the projector (and of the vision tower) beside it.

    `more` goes to PEFT as it is.
    """
    saved = list(family.projector) if projector else []
    if vision:  # what of the projector lies in it is saved with it
        saved = [part for part in saved if not part.startswith(f"{family.vision_tower}.")] + [family.vision_tower]
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        # A pattern rather than suffixes: the vision tower has q_proj, k_proj and v_proj of its own.
        target_modules=rf".*\.{family.language_model}\.layers\.\d+\.\w+\.({'|'.join(family.lora_targets)})",
        modules_to_save=saved or None,
        **more,
    )


def check_parts(model: PreTrainedModel, family: Family) -> None:
    """Raises `BadInput` for a part of the family's page that the model lacks: it would be left out without a word."""
    there = {name for name, _ in model.base_model.named_modules()}
    for part in (family.vision_tower, *family.projector, family.language_model):
        if part not in there:
            hint = nearest(part, [name for name, _ in model.base_model.named_children()])
            raise BadInput(f"model_family={family.name}: the model has no part '{part}'; {hint}")


def attach(model: PreTrainedModel, config: LoraConfig, family: Family) -> PeftModel:
    """Attach a fresh adapter and check that it sits where it should: on its targets in each of the language model's
    layers, and on those of the projector that its configuration names. It is trained in the model's dtype or, if its
    own is another one, under autocast.

    Raises `BadInput` for a target that is no linear layer there, or an adapter that PEFT cannot make.
    """
    linear = {n for n, module in model.named_modules() if isinstance(module, nn.Linear) and family.in_layers(n)}
    beside = reached(config, model, family)
    known = {name.rpartition(".")[2] for name in linear}
    for target in set(family.lora_targets) - known:
        raise BadInput(f"LoRA.targets: no linear layer '{target}' in the model's layers; {nearest(target, known)}")
    config.modules_to_save = [name for part in config.modules_to_save or [] for name in _members(model, part)] or None
    try:
        adapted = get_peft_model(model, config)
    except ValueError as error:
        raise BadInput(f"LoRA: {str(error).splitlines()[0]}") from None
    found = {name for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    expected = len(set(family.lora_targets)) * model.config.get_text_config().num_hidden_layers
    language = {name for name in found if f".{family.language_model}." in name}
    if len(language) != expected or found - language != beside:
        more = f"and {len(beside)} of the projector" if beside else "alone"
        raise AssertionError(
            f"LoRA sits on {len(found)} modules, expected {expected} of {family.language_model} {more}"
        )
    for module in adapted.modules():
        if isinstance(module, LoraLayer):
            # PEFT would cast what a layer is given to the adapter's dtype. Where that is another one, autocast runs and
            # casts it back for the product: so much more to read and write, for the same bits, or with dropout for a
            # mask drawn in that dtype. Not so DoRA, which takes norms in it.
            module.cast_input_dtype_enabled = config.use_dora
    return adapted


def _members(model: nn.Module, part: str) -> list[str]:
    """The part by its name; of a ModuleList, which PEFT cannot save as one, its members."""
    module = next((each for name, each in model.named_modules() if f".{name}".endswith(f".{part}")), None)
    return [f"{part}.{n}" for n in range(len(module))] if isinstance(module, nn.ModuleList) else [part]


def unfreeze(model: PreTrainedModel, family: Family, groups: Collection[str]) -> PreTrainedModel:
    """Let the parameters of these groups (`Family.part_of`) of a frozen model be trained."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.part_of(name) in groups)
    # transformers writes a model under its hub's names, which its own Trainer does not find again on resuming.
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    return model


def freeze_unseen(model: nn.Module, family: Family) -> None:
    """Freeze what lies behind the vision tower's last layer that a model looks at, where its configuration tells which
    that is. No loss has a gradient for it: DDP would wait for one, and an optimizer that keeps parameters in one flat
    tensor let them decay."""
    chosen = getattr(model.config, "vision_feature_layer", None)
    if chosen is None:
        return
    layers = model.config.vision_config.num_hidden_layers
    # Counted as transformers counts hidden states: layer k makes number k + 1 of number k.
    seen = max(number % (layers + 1) for number in ([chosen] if isinstance(chosen, int) else chosen))
    for name, parameter in model.named_parameters():
        tower, _, inside = name.rpartition(f"{family.vision_tower}.")
        layer = re.search(r"layers\.(\d+)\.", inside)
        if tower and ("post_layernorm." in inside or (layer and int(layer[1]) >= seen)):
            parameter.requires_grad_(False)


def freeze_above(model: nn.Module, family: Family, layer: int) -> None:
    """Freeze what lies behind a layer of the language model, numbered from 0, where nothing behind it is looked at."""
    text = f".{family.language_model}."
    shared = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    head = {id(parameter) for parameter in model.get_output_embeddings().parameters()} - shared
    for name, parameter in model.named_parameters():
        inside = f".{name}".partition(text)[2]
        number = re.match(r"layers\.(\d+)\.", inside)
        if id(parameter) in head or inside.startswith("norm.") or (number and int(number[1]) > layer):
            parameter.requires_grad_(False)


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """What PEFT switches off, by name: LoRA's matrices, and the copies of what is trained whole."""
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if ".lora_" in name or ".modules_to_save." in name}


def trained_parameters(model: nn.Module, family: Family) -> dict[str, int]:
    """Count the trainable parameters by group: `LoRA`, `projector`, `vision_tower`, and whole, `language_model`."""
    groups: dict[str, int] = dict.fromkeys(("LoRA", "projector", "vision_tower"), 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = family.part_of(name).replace("head", "language_model")
            groups[group] = groups.get(group, 0) + parameter.numel()
    return groups


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


def load_adapter(model: PeftModel, path: str | Path, change: Change | None = None) -> None:
    """Put an adapter's parameters into `model`, as `change` makes them where it is given.

    Raises `BadInput` listing names or shapes that do not match.
    """
    check_kind(model.config.model_type, path)
    tensors = read_adapter(path)
    check_adapter(model, tensors, path)
    set_peft_model_state_dict(model, change(tensors) if change else tensors)


def check_adapter(model: PeftModel, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Raises `BadInput` listing names or shapes of `tensors`, read from `path`, that do not match the model's."""
    with plainly_named(model):
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


def _kinds(path: str | Path) -> list[str]:
    """The kinds of model that an adapter tells that it is of; none where it does not tell."""
    file = home(path) / "adapter_config.json"
    if not file.is_file():
        return [] if adapter_file(path).suffix == ".safetensors" else [RELEASED_TYPE]
    of = ((read_object(file).get("auto_mapping") or {}).get("base_model_class") or "").removeprefix("FSDP")
    return [kind for kind, name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items() if name == of]


def check_kind(model_type: str, path: str | Path) -> None:
    """Raises `BadInput` where an adapter is of another kind of model: some have parts alike to the name and the shape,
    and of the others a list of names says less."""
    if (told := _kinds(path)) and model_type not in told:
        raise BadInput(f"{path}: an adapter of '{told[0]}' models, and this is a '{model_type}'")


def load_adapted(
    model: PreTrainedModel,
    path: str | Path,
    *,
    alpha: float = 256,
    scale: float = 1.0,
    change: Change | None = None,
) -> PeftModel:
    """The model with a stored adapter on it, whichever form it is stored in; `alpha` as in `adapter_config`.

    Args:
        scale: how much of the adapter: 0 is the untouched model and 1 the trained one, both to the bit; between and
            beyond lie the weights on the line through the two (Ilharco et al., 2023, arXiv 2212.04089). LoRA's alpha
            is multiplied by it; what was trained whole moves along that line too, and so do the layers of a DoRA,
            whose magnitudes do not vanish with alpha: these are merged then.
        change: what is made of the adapter's parameters first.
    """
    check_kind(model.config.model_type, path)
    config = adapter_config(path, alpha)
    config.inference_mode = True
    config.lora_alpha *= 1 if config.use_dora else scale
    # Names and shapes are checked below; PEFT would warn of a path that is only written otherwise.
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
    """Move a module that was trained whole to `scale` of the way from the untouched one."""
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

    A PEFT folder holds it. A bare file of tensors, the release's in its folder too, says its rank by the shapes, and
    nothing of the scaling: `alpha` then gives it (the release hard-codes 256).
    """
    path = home(path)
    file = path / "adapter_config.json"
    if file.is_file():
        try:
            return LoraConfig.from_pretrained(path)
        except Exception as error:  # whatever a damaged file makes PEFT raise
            raise BadInput(f"{file}: not the configuration of a LoRA ({type(error).__name__})") from None
    if file.parent.is_dir() and adapter_file(path).suffix == ".safetensors":
        raise BadInput(f"{file}: missing, and only it tells the adapter's scaling")
    tensors = read_adapter(path)
    ranks = {tensor.shape[0] for name, tensor in tensors.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise BadInput(f"{path}: holds no LoRA of one rank (found ranks {sorted(ranks)})")
    targets = {name.split(".lora_")[0].rpartition(".")[2] for name in tensors if ".lora_" in name}
    released = page_of_type(RELEASED_TYPE)
    family = released.model_copy(update={"lora_targets": tuple(sorted(targets))})
    whole = {family.part_of(name) for name in tensors}
    return lora_config(
        family, r=ranks.pop(), alpha=alpha, projector="projector" in whole, vision="vision_tower" in whole
    )


def _released(name: str) -> bool:
    """Whether the release's form has a name for this: it knows LoRA on the language model alone."""
    parts = tuple(here for _, here in RENAMED)
    return name.startswith(parts[:1] if ".lora_" in name else parts)


def convert(source: Path, target: Path, *, alpha: float = 256, model_path: str | None = None) -> None:
    """Write a stored adapter in the other form: `target` ends in `.pt` for the release's, else it is a PEFT folder.

    The release's file is float16, so converting to it rounds; converting from it changes nothing. `model_path` is noted
    in the folder as the base model. A folder made from a folder takes along what is known of its run.

    Raises:
        BadInput: `source` is no adapter, `target` exists, or the release's form cannot say what the adapter is.
    """
    if target.exists():
        raise BadInput(f"{target}: exists; name another")
    config, tensors = adapter_config(source, alpha), read_adapter(source)
    if target.suffix == ".pt":
        if told := [name for name in ("use_rslora", "use_dora") if getattr(config, name)]:
            raise BadInput(f"{source}: trained with {' and '.join(told)}, which the release's form cannot say")
        if (kinds := _kinds(source)) and RELEASED_TYPE not in kinds:
            raise BadInput(f"{source}: an adapter of '{kinds[0]}' models; the release's form is LLaVA-1.5's alone")
        if other := next((name for name in tensors if not _released(name)), None):
            raise BadInput(f"{source}: has {other}, for which the release's form, of LLaVA-1.5 alone, has no name")
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
        with write_whole_folder(target) as folder:
            config.save_pretrained(folder)
            (folder / "adapter_model.safetensors").write_bytes(save(tensors))
            if (source / RUN_FILE).is_file():
                shutil.copy(source / RUN_FILE, folder)
