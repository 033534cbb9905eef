"""LoRA on a model, the trained parts beside it, and what of a model is frozen because nothing looks at it."""

import re
from collections.abc import Collection
from functools import partial
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel

from safeeraser.benchmark.family import Family
from safeeraser.errors import BadInput, nearest
from safeeraser.model.projector import reached


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
        target_modules=rf".*\.{family.language_model}\.layers\.\d+\.(\w+\.)*({'|'.join(family.lora_targets)})",
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
    """Attach a fresh adapter and check that it sits where it should: on its targets in the language model's layers, of
    which some may have fewer than others, and on those of the projector that its configuration names. It is trained in
    the model's dtype or, if its own is another one, under autocast.

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
    adapted_modules = {name for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    expected = {f"base_model.model.{name}" for name in linear if name.rpartition(".")[2] in family.lora_targets}
    if adapted_modules != expected | beside:
        more = f"and {len(beside)} of the projector" if beside else "alone"
        raise AssertionError(
            f"LoRA sits on {len(adapted_modules)} modules, expected {len(expected)} of {family.language_model} {more}"
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
    """Freeze what lies behind the vision tower's last layer that a model looks at, where its configuration says which
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
