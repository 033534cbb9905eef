"""Sampling that depends on the seed and the request alone: not on batch size, order, processes or interruptions.

Adding Gumbel noise to the logits and taking the largest draws from their softmax exactly (Maddison et al., 2014,
"A* Sampling"). The noise is a hash of (seed, request, position, token), so that a response can be drawn again anywhere.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

_STEP = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: spreads consecutive counters over all bits
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # SplitMix64 (Steele et al., OOPSLA 2014)


def request_seed(seed: int, key: str) -> int:
    """A 63-bit seed for the request called `key`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1


class SeededNoise(LogitsProcessor):
    """Adds Gumbel noise of each row's own seed, so that the largest score is a sample.

    Args:
        seeds: one for each row of the batch.
        prompt_length: tokens of the padded prompt; what follows it is counted as position 0, 1, ...
    """

    def __init__(self, seeds: Sequence[int], prompt_length: int) -> None:
        self.seeds, self.prompt_length = torch.tensor(list(seeds)), prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores plus noise, both of shape (rows, vocabulary), in float32."""
        position = input_ids.shape[1] - self.prompt_length
        tokens = torch.arange(scores.shape[1], device=scores.device)
        rows = _hash(self.seeds.to(scores.device) + position)[:, None]
        # 24 bits, shifted by half a step: strictly between 0 and 1 in float32.
        uniform = (_shift(_hash(rows + tokens[None]), 40).float() + 0.5) / 2**24
        return scores.float() - torch.log(-torch.log(uniform))


def sampler(seeds: Sequence[int], prompt_length: int, temperature: float, top_p: float) -> LogitsProcessorList:
    """What turns the greedy search of `generate` into sampling at `temperature` and `top_p`."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(float(temperature))])
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    warpers.append(SeededNoise(seeds, prompt_length))
    return warpers


def _hash(counter: Tensor) -> Tensor:
    """SplitMix64 of each counter: int64 arithmetic wraps around, as the algorithm wants, on every device."""
    value = counter * _signed(_STEP)
    for bits, factor in _MIX:
        value = (value ^ _shift(value, bits)) * _signed(factor)
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's own copies the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
