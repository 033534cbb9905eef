"""LoRA and other trained parts of a model, and freezing the layers whose output no loss uses."""

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
    """LoRA on the language model's linear layers only, with trained copies of the projector and the vision tower.

    `projector` and `vision` select the copies. `more` is passed to PEFT unchanged.
    """
    saved = list(family.projector) if projector else []
    if vision:  # parts of the projector inside the tower are saved with the tower
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
    """Raise `BadInput` if the model lacks a part that its family names; otherwise it would silently be left out."""
    there = {name for name, _ in model.base_model.named_modules()}
    for part in (family.vision_tower, *family.projector, family.language_model):
        if part not in there:
            hint = nearest(part, [name for name, _ in model.base_model.named_children()])
            raise BadInput(f"model_family={family.name}: the model has no part '{part}'; {hint}")


def attach(model: PreTrainedModel, config: LoraConfig, family: Family) -> PeftModel:
    """Attach a fresh adapter and check that it is on the right layers: its targets in the language model's layers (some
    layers may lack some targets) and the projector's layers that its configuration names. Training computes in the
    model's dtype, under autocast if the adapter's dtype differs.

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
            # PEFT would cast a layer's input to the adapter's dtype. If that is not the model's, autocast casts it back
            # for the product: the two casts cost memory traffic and change no bit, except that dropout would draw its
            # mask in the adapter's dtype. DoRA keeps the cast, because it computes norms in the adapter's dtype.
            module.cast_input_dtype_enabled = config.use_dora
    return adapted


def _members(model: nn.Module, part: str) -> list[str]:
    """The name of the part, or the names of its members if it is a ModuleList, which PEFT cannot save as one."""
    module = next((each for name, each in model.named_modules() if f".{name}".endswith(f".{part}")), None)
    return [f"{part}.{n}" for n in range(len(module))] if isinstance(module, nn.ModuleList) else [part]


def unfreeze(model: PreTrainedModel, family: Family, groups: Collection[str]) -> PreTrainedModel:
    """Make the parameters of some groups (`Family.part_of`) of a model trainable, and freeze all others."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(family.part_of(name) in groups)
    # By default transformers writes the hub's names of parameters, which its own Trainer cannot load when it resumes.
    model.save_pretrained = partial(model.save_pretrained, save_original_format=False)
    return model


def freeze_unseen(model: nn.Module, family: Family) -> None:
    """Freeze the vision tower behind the last layer that the model uses, if its configuration names the layers it uses.
    No loss has a gradient for the rest: DDP would wait for one, and an optimizer that keeps all parameters in one flat
    tensor would apply weight decay to it."""
    chosen = getattr(model.config, "vision_feature_layer", None)
    if chosen is None:
        return
    layers = model.config.vision_config.num_hidden_layers
    # transformers numbers hidden states so that layer k computes state k + 1 from state k.
    seen = max(number % (layers + 1) for number in ([chosen] if isinstance(chosen, int) else chosen))
    for name, parameter in model.named_parameters():
        tower, _, inside = name.rpartition(f"{family.vision_tower}.")
        layer = re.search(r"layers\.(\d+)\.", inside)
        if tower and ("post_layernorm." in inside or (layer and int(layer[1]) >= seen)):
            parameter.requires_grad_(False)


def freeze_above(model: nn.Module, family: Family, layer: int) -> None:
    """Freeze the language model's later layers, norm and untied head: losses read only up to `layer` (from 0)."""
    text = f".{family.language_model}."
    shared = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
    head = {id(parameter) for parameter in model.get_output_embeddings().parameters()} - shared
    for name, parameter in model.named_parameters():
        inside = f".{name}".partition(text)[2]
        number = re.match(r"layers\.(\d+)\.", inside)
        if id(parameter) in head or inside.startswith("norm.") or (number and int(number[1]) > layer):
            parameter.requires_grad_(False)


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """The parameters that PEFT can switch off, by name: LoRA's matrices, and the trained copies of modules."""
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if ".lora_" in name or ".modules_to_save." in name}


def trained_parameters(model: nn.Module, family: Family) -> dict[str, int]:
    """Count the trainable parameters by group: `LoRA`, `projector`, `vision_tower`; without LoRA, `language_model`."""
    groups: dict[str, int] = dict.fromkeys(("LoRA", "projector", "vision_tower"), 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = family.part_of(name).replace("head", "language_model")
            groups[group] = groups.get(group, 0) + parameter.numel()
    return groups
