"""Sampling draws from the right distribution, and its draws depend on seed and request alone."""

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from safeeraser.generation.sampling import Generation, gumbel, request_seed

DRAWS = 20_000
# The values that chi-square exceeds once in 1000 times, by degrees of freedom.
CHI_SQUARE = {3: 16.27, 4: 18.47, 7: 24.32}
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])


def seeds_of(count):
    return torch.tensor([request_seed(233, f"{i}/unsafe_pairs/0/model_response1") for i in range(count)])


def draw(seeds, logits=LOGITS, *, position=0, **settings):
    """One token for each seed."""
    positions = torch.tensor(position).expand(len(seeds))
    return Generation(**{"top_p": 1.0} | settings).draw(logits.expand(len(seeds), -1), seeds, positions)


@pytest.mark.parametrize(
    ("temperature", "top_p", "tokens"), [(1.0, 1.0, 8), (0.5, 1.0, 8), (2.0, 1.0, 8), (1.0, 0.9, 5), (1.5, 0.7, 4)]
)
def test_draws_follow_the_softmax(temperature, top_p, tokens):
    """The nucleus is the fewest likeliest tokens that reach `top_p`: the first `tokens`, because LOGITS fall."""
    shares = (LOGITS / temperature).softmax(0)
    assert shares[: tokens - 1].sum() < top_p and shares[:tokens].sum() >= top_p - 1e-6
    expected = DRAWS * shares[:tokens] / shares[:tokens].sum()
    counts = torch.bincount(draw(seeds_of(DRAWS), temperature=temperature, top_p=top_p), minlength=len(LOGITS))
    assert ((counts[:tokens] - expected) ** 2 / expected).sum() < CHI_SQUARE[tokens - 1]
    assert not counts[tokens:].any()


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_draw_is_the_largest_of_what_the_warpers_leave(top_p):
    """The fast way, which sorts only if the first draw falls outside the nucleus, gives the same as the slow way."""
    seeds, logits = seeds_of(4000), 3 * torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopPLogitsWarper(top_p)])
    long = (warpers(None, logits) + gumbel(seeds + 3, 50)).argmax(-1)
    assert torch.equal(draw(seeds, logits, position=3, temperature=0.8, top_p=top_p), long)


def test_seeds_differ_by_seed_and_request():
    keys = [f"{r}/unsafe_pairs/{i}/model_response{n}" for r in range(50) for i in range(4) for n in (1, 2, 3)]
    assert len({request_seed(seed, key) for seed in (1, 2, 233) for key in keys}) == 3 * len(keys)
    # Worked out once with sha256sum: printf 233/0/UnharmPair_text1/Prediction | sha256sum, its first 63 bits.
    assert request_seed(233, "0/UnharmPair_text1/Prediction") == 3529471581879285045


def test_noise_is_what_its_hash_says():
    """SplitMix64 of seed and token, computed with Python's integers: any machine can draw the responses again."""

    def mixed(counter):
        value = counter * 0x9E3779B97F4A7C15 % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    seeds = [0, 7, 2**63 - 1]
    uniform = [[((mixed(mixed(seed) + token) >> 41) + 0.5) / 2**23 for token in range(40)] for seed in seeds]
    wanted = -torch.log(-torch.log(torch.tensor(uniform)))
    assert torch.equal(gumbel(torch.tensor(seeds), 40), wanted)
