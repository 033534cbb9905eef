"""The trained parameters in float32, wherever the engine keeps them.

In bfloat16 most updates of unlearning's size would round to nothing. One process, DDP and FSDP therefore train float32
parameters, and compute products under autocast. DeepSpeed computes in the model's dtype throughout. It trains float32
copies, the masters, which are sharded among the processes; its model holds the masters' rounded values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from peft.utils.integrations import gather_params_ctx  # gathers what ZeRO-3 has split, and does nothing elsewhere
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

Copies = tuple[int, list[Tensor]]  # a number that describes the copies, and the copies


def add_up_in_float32(accelerator: Accelerator) -> None:
    """Have gradients summed in float32: over micro-steps, and under FSDP over processes too. By default the engines
    sum in 16 bits, in which small summands vanish.

    An optimizer that DeepSpeed offloads ignores this and sums in the model's dtype.
    """
    deepspeed, fsdp = (getattr(accelerator.state, f"{name}_plugin", None) for name in ("deepspeed", "fsdp"))
    if deepspeed and deepspeed.zero_stage >= 2:
        deepspeed.deepspeed_config.setdefault("data_types", {"grad_accum_dtype": "fp32"})
    if fsdp and fsdp.mixed_precision_policy:
        fsdp.mixed_precision_policy = replace(fsdp.mixed_precision_policy, reduce_dtype=torch.float32)


def shared_out(parameter: nn.Parameter) -> bool:
    """Whether `local_part` gives only this process's part of a trained parameter."""
    return isinstance(parameter, DTensor) or _has_master(parameter)


def local_part(parameter: nn.Parameter) -> Tensor:
    """The values that this process trains of a parameter: all, or its part under the engine; `take_up` sets them."""
    if isinstance(parameter, DTensor):
        return parameter.to_local().detach()
    if hasattr(parameter, "ds_id"):
        return parameter._z3_optimizer.get_local_fp32_param(parameter).detach()
    if hasattr(parameter, "_hp_mapping"):
        mapping = parameter._hp_mapping
        return parameter.data.new_empty(0) if mapping is None else mapping.get_hp_fragment().detach()
    return parameter.data


def trained_of(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def copies(parameters: Sequence[nn.Parameter], into: list[Tensor]) -> list[Tensor]:
    """Copy each parameter's `local_part` to CPU memory: to the tensors `into`, or to new ones if `into` is empty."""
    owned = [local_part(parameter) for parameter in parameters]
    if not into:
        return [tensor.detach().to("cpu", copy=True) for tensor in owned]
    for target, tensor in zip(into, owned, strict=True):
        target.copy_(tensor)
    return into


def gathered(named: Mapping[str, nn.Parameter]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter's name and its values in full; where it has a master, the master's values. All processes must
    take all of them, together. A process that keeps none holds one at a time."""
    frozen = [each for each in named.values() if not each.requires_grad]
    with gather_params_ctx(frozen, modifier_rank=None):
        for name, each in named.items():
            yield name, _master(each) if _has_master(each) else _full(each.detach())


def take_up(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Set parameters and their masters to values that `local_part` has given. All processes call this together."""
    for each, value in zip(parameters, values, strict=True):
        if hasattr(each, "ds_id"):  # `local_part` may be a GPU copy of a master in CPU memory
            each._z3_optimizer.set_local_hp_param(value, each)
        else:
            local_part(each).copy_(value)
    with gather_params_ctx(parameters, modifier_rank=0):
        for each in parameters:
            if _has_master(each):
                each.data.copy_(_master(each))


@contextmanager
def moved(parameters: Sequence[nn.Parameter], by: Sequence[Tensor]) -> Iterator[Callable[[], list[Tensor]]]:
    """Within the context, compute with each parameter moved from its float32 value. Afterwards restore it to the bit.

    A master does not change; the model holds the moved value, rounded. The context yields a function that returns how
    far each parameter of the model has actually moved. Not for engines that shard the weights. All processes call this
    together.
    """
    before = [each.detach().clone() for each in parameters]
    try:
        for each, shift in zip(parameters, by, strict=True):
            each.data.copy_((_master(each) if _has_master(each) else each.data) + shift)
        yield lambda: [each.detach().float() - was for each, was in zip(parameters, before, strict=True)]
    finally:
        for each, was in zip(parameters, before, strict=True):
            each.data.copy_(was)


def shared_out_again(model: nn.Module) -> None:
    """Reshard after a forward pass that has no backward pass. FSDP keeps parameters outside the layers gathered until
    the backward pass, and `local_part` would give them in full."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def _has_master(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and (hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping"))


def _master(parameter: nn.Parameter) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param  # slow to import, so only where there is a master

    return safe_get_full_fp32_param(parameter)
