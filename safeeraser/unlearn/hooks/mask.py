"""The gradient mask: trains only the LoRA weights that the loss of one view moves more than the loss of another view.

A weight's saliency is MMUnlearner's (Huo et al. 2025, arXiv 2502.11051): the sum of its squared gradients over the
items of one view, divided by the same sum over the other view, on the initial model. MMUnlearner trains all weights
above a threshold. Here the threshold is 1; if more than the share `top` exceed it, only the most salient are trained.

In a fresh adapter B is 0, so no loss has a gradient on A. A matrix with no gradient on either view is not masked: there
is nothing to compare, and outputs change only where B is trained. Held (untrained) weights keep their exact bits. Their
gradient is set to 0 before any engine sees it, so it enters neither the norm for clipping nor Adam's moments. Their
matrices get no weight decay.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from safetensors.torch import load_file, save
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from safeeraser.benchmark.adapters import run_of
from safeeraser.benchmark.conversation import IGNORE
from safeeraser.benchmark.family import Family
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput
from safeeraser.model.load import choose_dtype
from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.states import logits_and_states
from safeeraser.model.turns import Row
from safeeraser.unlearn.config.sections import Compared
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.batch import PlanDataset
from safeeraser.unlearn.data.items import evenly_spaced
from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.hook import Hook
from safeeraser.unlearn.objective.divergence import divergence
from safeeraser.unlearn.save_dir import MASK_FILE

log = logging.getLogger(__name__)

SCALE = 2.0**12  # scales the loss, since small gradients would vanish in float16. A power of two leaves ratios exact


class Mask(Hook):
    """The choice of LoRA weights that are trained.

    Attributes:
        trained: for each compared matrix, by its parameter's name, a mask that is True where the weight is trained.
        record: the mask's entry in `run.json`.
        held: the names of the matrices in which some weight is not trained.
    """

    file = MASK_FILE

    def __init__(self, trained: dict[str, Tensor], record: dict[str, Any]) -> None:
        self.trained, self.record = trained, record
        self.held = {name for name, each in trained.items() if not each.all()}

    def begin(self, trainer: Any) -> None:
        """Have the gradients of held weights set to 0, before the engine adds them up or shards them."""
        super().begin(trainer)
        parameters = dict(trainer.model.named_parameters())
        for name in self.held:
            held = self.trained[name].logical_not().to(parameters[name].device)
            # Filled, not multiplied by 0: a gradient that is not finite would become NaN, not 0.
            parameters[name].register_hook(lambda gradient, held=held: gradient.masked_fill(held, 0))

    def state_dict(self) -> dict[str, Tensor]:
        return self.trained


def check_holds(arguments: TrainingArguments) -> None:
    """Raise `BadInput` if the optimizer also moves weights whose gradient is 0. Optimizers with 8-bit moments may not
    represent a moment of 0, and some optimizers mix the gradients of a matrix."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
    # 128 x 128, because 8-bit optimizers keep the moments of smaller tensors in 32 bits.
    weights, gradient = nn.Parameter(torch.ones(128, 128, device=arguments.device)), torch.ones(128, 128)
    optimizer = kind([{"params": [weights], "weight_decay": 0.0}], **options)
    for _ in range(2):
        weights.grad = gradient.tril().to(weights.device)
        optimizer.step()
    if (weights.detach().cpu()[gradient.tril() == 0] != 1).any():
        raise BadInput(
            f"mask: trainer.optim={arguments.optim.value} moves weights without a gradient, which are to be held; the "
            "default does not, nor do adafactor and sgd"
        )


def kept_mask(checkpoint: str) -> Mask:
    """The mask of the run that a checkpoint belongs to. Raises `BadInput` if it is missing or not that run's mask."""
    folder = Path(checkpoint)
    file, record = folder / MASK_FILE, run_of(folder).get("mask") or {}
    if not file.is_file():
        raise BadInput(f"{file}: missing; the run that is resumed trains under the mask that it held")
    if sha256(file) != record.get("sha256"):
        raise BadInput(f"{file}: not the mask that the run began with: its hash differs from the one in run.json")
    return Mask(load_file(file), record)


def make_mask(wanted: Compared, settings: Settings, model: nn.Module, dataset: PlanDataset) -> Mask:
    """Make the mask by comparing the gradients of the two views that `wanted` names, on the model as it is.

    Every process compares the same items in the same order. All then use the first process's mask, because results on
    GPUs could differ in a bit.

    Args:
        model: the model with its adapter, not yet wrapped by an engine.
        dataset: the items to compare, of both views.

    Raises:
        BadInput: a gradient is not finite, or no weight would be trained.
    """
    model.eval()  # no dropout and no other random draw; Trainer calls train() in each step
    if settings.gradient_checkpointing:  # otherwise one row may need more memory than several do in training
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.training = True  # the layer's flag alone: it checkpoints only in training mode
    norms, against = (gradient_norms(model, dataset, view, settings) for view in (wanted.from_, wanted.against))
    trained = choose(norms, against, wanted.top)
    broadcast({name: each.view(torch.uint8) for name, each in trained.items()})  # in place
    trained = {name: each.cpu() for name, each in trained.items()}
    record = {
        "items": len(dataset),
        "items_sha256": hashlib.sha256(json.dumps([step.model_dump() for step in dataset.plan]).encode()).hexdigest(),
        "compared": sum(each.numel() for each in trained.values()),
        "trained": sum(int(each.sum()) for each in trained.values()),
        "not_compared": sum(each.numel() for name, each in norms.items() if name not in trained),
        "layers": shares(trained, settings.family),
        "sha256": hashlib.sha256(save(trained)).hexdigest(),
    }
    if not record["trained"]:
        raise BadInput(
            f"mask: none of the {record['compared']:,} weights compared on {wanted.from_} and {wanted.against} would "
            "be trained; swap mask.from and mask.against, or raise mask.top"
        )
    uncompared = f"; {record['not_compared']:,} more have no gradient to compare, and are trained"
    log.info(
        f"mask: {record['trained']:,} of {record['compared']:,} LoRA weights are trained "
        f"({record['trained'] / record['compared']:.1%}; {wanted.from_} against {wanted.against}, {record['items']} "
        f"items){uncompared if record['not_compared'] else ''}; share of each layer: "
        + ", ".join(f"{layer} {share:.1%}" for layer, share in record["layers"].items())
    )
    return Mask(trained, record)


def items_compared(plan: Sequence[Step], count: int) -> list[Step]:
    """Choose `count` of the plan's steps, or all if there are fewer, such that no forget item comes twice. They are
    evenly spaced, so they cover all categories even if the plan follows the file's order."""
    first: dict[int, Step] = {}
    for step in plan:
        first.setdefault(step.forget, step)
    return evenly_spaced(list(first.values()), count)


def gradient_norms(model: nn.Module, dataset: PlanDataset, view: str, settings: Settings) -> dict[str, Tensor]:
    """The root of the summed squared gradients of each LoRA weight in the language model's layers, times `SCALE`.

    Each item adds one gradient: that of its mean token cross-entropy. The norms are float32 tensors by parameter name.
    Raises `BadInput` if one is not finite.
    """
    family = settings.family
    named = model.named_parameters()
    lora = {name: each for name, each in named if each.requires_grad and ".lora_" in name and family.in_layers(name)}
    norms = {name: torch.zeros_like(each, dtype=torch.float32) for name, each in lora.items()}
    dtype, kept_in = choose_dtype(settings.dtype), next(iter(lora.values())).dtype
    for step in dataset.plan:
        # As in training: products are autocast if the trained weights are wider than the frozen ones.
        with torch.autocast(next(iter(lora.values())).device.type, dtype, enabled=dtype is not kept_in):
            loss = answer_loss(model, dataset.preprocessor, dataset.row(view, step), family)
        gradients = torch.autograd.grad(SCALE * loss, list(lora.values()), materialize_grads=True)
        for norm, gradient in zip(norms.values(), gradients, strict=True):
            torch.hypot(norm, gradient.float(), out=norm)  # plain squares could underflow
        if not all(norm.isfinite().all() for norm in norms.values()):
            raise BadInput(f"{dataset.item(view, step).where}: mask: its gradient on view {view} is not finite")
    return norms


def answer_loss(model: nn.Module, preprocessor: Preprocessor, row: Row, family: Family) -> Tensor:
    """The mean token cross-entropy of a row's answer, a scalar."""
    device = next(model.parameters()).device
    targets = torch.tensor(row.labels[1:], device=device)  # position t predicts token t + 1
    read = (targets != IGNORE).nonzero()[:, 0]
    inputs = {key: each.to(device) for key, each in preprocessor.join([row], side="right").items()}
    logits, _ = logits_and_states(model, inputs, read, {}, family)
    return divergence(logits, targets[read]).mean()


def choose(norms: Mapping[str, Tensor], against: Mapping[str, Tensor], top: float) -> dict[str, Tensor]:
    """Choose the weights whose norm exceeds their norm in `against`: at most the share `top` of all compared weights.
    The greatest ratios win, the first among equals. A matrix with no gradient on either view is left out."""
    compared = [name for name in norms if norms[name].any() or against[name].any()]
    if not compared:
        return {}
    mine, other = (torch.cat([each[name].flatten() for name in compared]).cpu() for each in (norms, against))
    trained = mine > other
    if int(trained.sum()) > (most := int(top * len(mine))):
        order = torch.where(trained, mine / other, 0).argsort(descending=True, stable=True)
        trained = torch.zeros_like(trained)
        trained[order[:most]] = True
    parts = trained.split([norms[name].numel() for name in compared])
    return {
        name: part.reshape(norms[name].shape).to(norms[name].device, copy=True)
        for name, part in zip(compared, parts, strict=True)
    }


def shares(trained: Mapping[str, Tensor], family: Family) -> dict[str, float]:
    """The trained share of the compared weights in each layer of the language model, by the layer's number."""
    layers: dict[str, list[Tensor]] = {}
    for name, each in trained.items():
        inside = f".{name}".partition(f".{family.language_model}.layers.")[2]
        layers.setdefault(inside.partition(".")[0], []).append(each)
    return {
        layer: round(sum(int(each.sum()) for each in masks) / sum(each.numel() for each in masks), 4)
        for layer, masks in layers.items()
    }
