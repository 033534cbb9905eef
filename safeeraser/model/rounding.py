"""Weights rounded as in a quantised model, and written back as ordinary numbers.

The purpose is to measure how rounding changes the answers, so nothing is packed. The model takes its usual memory and
runs on any device. It answers like a quantised model whose kernels restore weights to `dtype` before they multiply.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor
from transformers import PreTrainedModel

from safeeraser.benchmark.family import page_of_type
from safeeraser.errors import BadInput

GROUP = 128  # weights along a row that share a scale


def round_to(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """Round each group of weights to the nearest of 2^bits - 1 multiples of its scale, zero among them.

    Round-to-nearest, symmetric: scale = max|w| / (2^(bits-1) - 1), w' = scale * round(w / scale). A half is rounded to
    the even multiple. The computation is in float32 for every dtype.

    Args:
        weight: (rows, columns).
        group: columns that share a scale; the last group of a row may have fewer.

    Returns:
        (rows, columns) in the dtype of `weight`.
    """
    most = 2 ** (bits - 1) - 1
    rounded = []
    for columns in weight.float().split(group, dim=1):
        scale = columns.abs().amax(1, keepdim=True) / most
        # A group that is all zeros has no scale, and stays as it is.
        steps = torch.where(scale > 0, columns / scale, 0).round()
        rounded.append(steps * scale)
    return torch.cat(rounded, dim=1).to(weight.dtype)


def round_to_nf4(weight: Tensor) -> Tensor:
    """Round to NormalFloat's 16 values (QLoRA, arXiv 2305.14314) with bitsandbytes, which quantises constants too."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit  # an optional package, and slow to import

    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state).to(weight.dtype)


ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "int8": lambda weight: round_to(weight, 8),
    "int4": lambda weight: round_to(weight, 4),
    "nf4": round_to_nf4,
}


@torch.no_grad()
def round_weights(model: PreTrainedModel, name: str) -> None:
    """Round the language model's linear layers in place by `ROUNDINGS[name]`; head, projector and vision tower stay.

    Raises:
        BadInput: `name` needs bitsandbytes, which is not installed.
    """
    if name == "nf4" and find_spec("bitsandbytes") is None:
        raise BadInput("quantization nf4: needs bitsandbytes; 'pip install -e \".[quant]\"' brings it")
    family = page_of_type(model.config.model_type)
    for path, module in model.named_modules():
        if path.rpartition(".")[2] in family.lora_targets and family.in_layers(path):
            module.weight.copy_(ROUNDINGS[name](module.weight))
