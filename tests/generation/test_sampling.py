"""Sampling draws from the right distribution, from seed and request alone."""

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from safeeraser.generation.sampling import Generation, gumbel, request_seed

DRAWS = 20_000
# What chi-square exceeds once in 1000, by degrees of freedom.
CHI_SQUARE = {3: 16.27, 4: 18.47, 7: 24.32, 63: 103.44}
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])


def seeds_of(count, seed=233, sample=1):
    return torch.tensor([request_seed(seed, f"{i}/unsafe_pairs/0/model_response{sample}") for i in range(count)])


def draw(seeds, logits=LOGITS, *, position=0, **settings):
    """One token for each seed."""
    positions = torch.as_tensor(position).expand(len(seeds))
    return Generation(**{"top_p": 1.0} | settings).draw(logits.expand(len(seeds), -1), seeds, positions)


def chi_square(tokens, probabilities):
    """How far the counts of tokens are from what is expected."""
    expected = torch.tensor(probabilities) * len(tokens)
    counts = torch.bincount(tokens, minlength=len(LOGITS))
    assert not counts[len(expected) :].any()
    return ((counts[: len(expected)] - expected) ** 2 / expected).sum().item()


@pytest.mark.parametrize(
    ("temperature", "top_p", "tokens"), [(1.0, 1.0, 8), (0.5, 1.0, 8), (2.0, 1.0, 8), (1.0, 0.9, 5), (1.5, 0.7, 4)]
)
def test_draws_follow_the_softmax(temperature, top_p, tokens):
    """Cut to the fewest likeliest tokens that hold `top_p`: so many of LOGITS, which fall."""
    shares = (LOGITS / temperature).softmax(0)
    assert shares[: tokens - 1].sum() < top_p and shares[:tokens].sum() >= top_p - 1e-6
    wanted = (shares[:tokens] / shares[:tokens].sum()).tolist()
    drawn = draw(seeds_of(DRAWS), temperature=temperature, top_p=top_p)
    assert chi_square(drawn, wanted) < CHI_SQUARE[tokens - 1]


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_a_draw_is_the_largest_of_what_the_warpers_leave(top_p):
    """The short way, which sorts only where the first draw falls outside the nucleus, gives what the long way gives."""
    seeds, logits = seeds_of(4000), 3 * torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopPLogitsWarper(top_p)])
    long = (warpers(None, logits) + gumbel(seeds + 3, 50)).argmax(-1)
    assert torch.equal(draw(seeds, logits, position=3, temperature=0.8, top_p=top_p), long)


def test_neighbouring_positions_and_samples_are_independent():
    """Pairs of draws over eight equally likely tokens: 64 cells, equally full."""
    flat, (one, two) = torch.zeros(8), (seeds_of(DRAWS, sample=sample) for sample in (1, 2))
    first = draw(one, flat)
    for second in (draw(one, flat, position=1), draw(two, flat)):
        counts = torch.bincount(first * 8 + second, minlength=64).double()
        assert ((counts - DRAWS / 64) ** 2 / (DRAWS / 64)).sum().item() < CHI_SQUARE[63]


def test_a_draw_depends_on_its_own_seed_and_position_alone():
    seeds, places = seeds_of(64), torch.arange(64) % 3
    together = draw(seeds, position=places)
    alone = [draw(seed[None], position=place) for seed, place in zip(seeds, places, strict=True)]
    assert torch.equal(torch.cat(alone), together) and len(set(together.tolist())) > 3
    greedy = Generation(greedy=True).draw(LOGITS.roll(3).expand(64, -1), seeds, places)
    assert greedy.tolist() == [3] * 64, "the likeliest, whatever the seed"


def test_seeds_differ_by_seed_and_request():
    keys = [f"{r}/unsafe_pairs/{i}/model_response{n}" for r in range(50) for i in range(4) for n in (1, 2, 3)]
    assert len({request_seed(seed, key) for seed in (1, 2, 233) for key in keys}) == 3 * len(keys)
    # Worked out once with sha256sum: printf 233/0/UnharmPair_text1/Prediction | sha256sum, its first 63 bits.
    assert request_seed(233, "0/UnharmPair_text1/Prediction") == 3529471581879285045


def test_noise_is_what_its_hash_says():
    """SplitMix64 of seed and token, worked out with Python's whole numbers: responses can be drawn again anywhere."""

    def mixed(counter):
        value = counter * 0x9E3779B97F4A7C15 % 2**64
        value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
        return value ^ value >> 31

    seeds = [0, 7, 2**63 - 1]
    uniform = [[((mixed(mixed(seed) + token) >> 41) + 0.5) / 2**23 for token in range(40)] for seed in seeds]
    wanted = -torch.log(-torch.log(torch.tensor(uniform)))
    assert torch.equal(gumbel(torch.tensor(seeds), 40), wanted)
