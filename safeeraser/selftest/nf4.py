"""Four bits: bitsandbytes' packed weights and its products, beside the same weights rounded and multiplied by torch.

NF4 (QLoRA, arXiv 2305.14314) holds each block of 64 weights as 16 values between -1 and 1, times the largest of them.
The widest gap is from -1 to -0.696, so a weight is off by 0.152 of its block's largest at most; that largest is itself
held in 8 bits, off by 2% at most: 0.172. Weights that were packed in a wrong order would be off by 1 and more.

Products of packed weights only differ from those of the rounded ones by rounding: held to the bounds of `precision`.
"""

from collections.abc import Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from safeeraser.model.load import choose_dtype
from safeeraser.model.rounding import ROUNDINGS, round_weights
from safeeraser.selftest.material import Bench
from safeeraser.selftest.precision import compare, observe, off_by
from safeeraser.selftest.result import Figure, Skip

BLOCK, GAP = 64, 0.172


def check(bench: Bench) -> Iterator[Figure]:
    """A weight, then a step and greedy text."""
    if find_spec("bitsandbytes") is None:
        raise Skip("bitsandbytes is not installed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype("auto")
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    yield Figure("a weight's error over its block's largest", error(weight), most=GAP)
    name = str(dtype).removeprefix("torch.")
    rounded = observe(bench, name, "sdpa", change=lambda model: round_weights(model, "nf4"))
    packed = observe(bench, name, "sdpa", quantization="nf4")
    yield from compare(f"nf4, {name}", packed, rounded, off_by(dtype, bench.size))


def error(weight: Tensor) -> float:
    """The largest error that rounding to NF4 makes, over the largest weight of its block."""
    apart = (ROUNDINGS["nf4"](weight).float() - weight.float()).abs()
    return (apart.view(-1, BLOCK) / weight.float().abs().view(-1, BLOCK).amax(1, keepdim=True)).max().item()
