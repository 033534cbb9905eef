"""Random draws of tokens by logits, seed and request only, not by batch size, order, processes or interruptions.

The largest logit after adding Gumbel noise is an exact draw from the softmax (Maddison et al., 2014, "A* Sampling").
The noise is a hash of (seed, request, position, token), so any process can draw the same response again.
"""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import TopPLogitsWarper

# SplitMix64 (Steele et al., OOPSLA 2014), with its unsigned constants written as int64. The first constant is 2^64
# divided by the golden ratio: it spreads consecutive counters over all bits.
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


@dataclass(frozen=True)
class Generation:
    """How responses are drawn; the defaults are the release's."""

    greedy: bool = False
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int = 233

    def draw(self, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """The next token of each row, (rows,).

        Args:
            logits: float32, (rows, vocabulary).
            seeds: `request_seed` of each row's request, int64, (rows,).
            positions: the number of tokens in each row's response so far, int64, (rows,).
        """
        if self.greedy:
            return logits.argmax(dim=-1)
        logits = logits / self.temperature
        noise = gumbel(seeds + positions, logits.shape[1])
        drawn = (logits + noise).argmax(dim=-1)
        if self.top_p < 1:
            # Most draws lie in the nucleus; a draw from the nucleus alone would be the same. Only the rest need a sort.
            shares = logits.softmax(dim=-1)
            likelier = shares > shares.gather(1, drawn[:, None])
            outside = ((shares * likelier).sum(dim=-1) >= self.top_p).nonzero()[:, 0]
            nucleus = TopPLogitsWarper(self.top_p)(None, logits[outside])
            drawn[outside] = (nucleus + noise[outside]).argmax(dim=-1)
        return drawn


def request_seed(seed: int, key: str) -> int:
    """A 63-bit seed for the request called `key`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{key}".encode()).digest()[:8], "big") >> 1


def gumbel(seeds: Tensor, tokens: int) -> Tensor:
    """Gumbel noise for each token, float32, (seeds, tokens): a hash of the row's seed and the token."""
    bits = _hash(_hash(seeds)[:, None] + torch.arange(tokens, device=seeds.device))
    # The upper 23 bits plus a half, as a number strictly between 0 and 1. With 24 bits, float32 would round the largest
    # number to 1. One draw in 2^24 would then have infinite noise, so its token would be drawn whatever the logits are.
    uniform = (_shift(bits, 41).float() + 0.5) / 2**23
    return -torch.log(-torch.log(uniform))


def _hash(counter: Tensor) -> Tensor:
    """SplitMix64 of each counter. int64 arithmetic wraps around on every device, as the algorithm requires."""
    value = counter * _STEP
    for bits, factor in _MIX:
        value = (value ^ _shift(value, bits)) * factor
    return value ^ _shift(value, 31)


def _shift(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's own shift copies the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)
