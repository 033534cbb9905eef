"""Sampling draws from the right distribution, from seed and request alone."""

import pytest
import torch
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from safeeraser.generation.sampling import Generation, _uniform, gumbel, request_seed

DRAWS = 20_000
# What chi-square exceeds once in 1000, by degrees of freedom.
CHI_SQUARE = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47, 5: 20.52, 6: 22.46, 7: 24.32, 63: 103.44}
LOGITS = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -2.0])


def draw(seeds, logits=LOGITS, *, temperature=1.0, top_p=1.0, position=0):
    """One token for each seed."""
    positions = torch.full((len(seeds),), position)
    generation = Generation(temperature=temperature, top_p=top_p)
    return generation.draw(logits.expand(len(seeds), -1), torch.tensor(seeds), positions)


def expected(temperature, top_p):
    """softmax(logits / temperature), cut to the fewest likeliest tokens that hold `top_p`, worked out plainly."""
    probabilities = [float(torch.exp(logit / temperature)) for logit in LOGITS]
    probabilities = [p / sum(probabilities) for p in probabilities]
    kept, mass = [], 0.0
    for p in probabilities:  # LOGITS fall
        if mass >= top_p:
            break
        kept.append(p)
        mass += p
    return [p / mass for p in kept]


@pytest.mark.parametrize(
    ("temperature", "top_p", "tokens"), [(1.0, 1.0, 8), (0.5, 1.0, 8), (2.0, 1.0, 8), (1.0, 0.9, 5), (1.5, 0.7, 4)]
)
def test_draws_follow_the_softmax(temperature, top_p, tokens):
    wanted = expected(temperature, top_p)
    assert len(wanted) == tokens
    seeds = [request_seed(233, f"{i}/unsafe_pairs/0/model_response1") for i in range(DRAWS)]
    counts = torch.bincount(draw(seeds, temperature=temperature, top_p=top_p), minlength=8).tolist()
    assert counts[tokens:] == [0] * (8 - tokens)
    statistic = sum((c - DRAWS * p) ** 2 / (DRAWS * p) for c, p in zip(counts, wanted, strict=False))
    assert statistic < CHI_SQUARE[tokens - 1]


def test_draws_of_one_request_follow_the_softmax_over_its_positions():
    seed, wanted = request_seed(1, "0/unsafe_pairs/0/sd_response"), expected(1.0, 1.0)
    count = DRAWS // 4
    tokens = Generation(top_p=1.0).draw(LOGITS.expand(count, -1), torch.tensor(seed).expand(count), torch.arange(count))
    counts = torch.bincount(tokens, minlength=8).tolist()
    statistic = sum((c - count * p) ** 2 / (count * p) for c, p in zip(counts, wanted, strict=True))
    assert statistic < CHI_SQUARE[7]


@pytest.mark.parametrize("top_p", [0.3, 0.7, 0.9, 0.999])
def test_a_draw_is_the_largest_of_what_the_warpers_leave(top_p):
    """The short way, which sorts only where the first draw falls outside the nucleus, gives what the long way gives."""
    seeds = torch.tensor([request_seed(5, str(i)) for i in range(4000)])
    logits = 3 * torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    warpers = LogitsProcessorList([TemperatureLogitsWarper(0.8), TopPLogitsWarper(top_p)])
    long = (warpers(None, logits) + gumbel(seeds + 3, 50)).argmax(-1)
    positions = torch.full((4000,), 3)
    assert torch.equal(Generation(temperature=0.8, top_p=top_p).draw(logits, seeds, positions), long)


def test_neighbouring_positions_and_samples_are_independent():
    """Pairs of draws over eight equally likely tokens: 64 cells, equally full."""
    flat = torch.zeros(8)
    seeds = {n: [request_seed(7, f"{i}/unsafe_pairs/0/model_response{n}") for i in range(DRAWS)] for n in (1, 2)}
    first = draw(seeds[1], flat)
    for second in (draw(seeds[1], flat, position=1), draw(seeds[2], flat)):
        counts = torch.bincount(first * 8 + second, minlength=64).double()
        statistic = ((counts - DRAWS / 64) ** 2 / (DRAWS / 64)).sum().item()
        assert statistic < CHI_SQUARE[63]


def test_a_draw_does_not_depend_on_the_rows_around_it():
    seeds = [request_seed(233, str(i)) for i in range(64)]
    together = draw(seeds)
    assert torch.equal(torch.cat([draw([seed]) for seed in seeds]), together)
    assert torch.equal(draw(seeds[::-1]).flip(0), together)
    assert len(set(together.tolist())) > 3


def test_rows_may_be_at_different_positions():
    seeds = [request_seed(233, str(i)) for i in range(64)]
    mixed = Generation(top_p=1.0).draw(LOGITS.expand(64, -1), torch.tensor(seeds), torch.arange(64) % 3)
    apart = torch.stack([draw(seeds, position=position) for position in range(3)])
    assert torch.equal(mixed, apart.gather(0, (torch.arange(64) % 3)[None])[0])


def test_greedy_takes_the_likeliest_whatever_the_seed():
    seeds = torch.tensor([request_seed(233, str(i)) for i in range(64)])
    logits = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(Generation(greedy=True).draw(logits, seeds, torch.zeros(64).long()), logits.argmax(-1))


def test_seeds_differ_by_seed_and_request():
    keys = [f"{r}/unsafe_pairs/{i}/model_response{n}" for r in range(50) for i in range(4) for n in (1, 2, 3)]
    seeds = {request_seed(seed, key) for seed in (1, 2, 233) for key in keys}
    assert len(seeds) == 3 * len(keys) and all(0 <= seed < 2**63 for seed in seeds)
    # Worked out once with sha256sum: printf 233/0/UnharmPair_text1/Prediction | sha256sum, its first 63 bits.
    assert request_seed(233, "0/UnharmPair_text1/Prediction") == 3529471581879285045


def test_noise_is_finite_and_of_gumbels_mean_and_spread():
    noise = gumbel(torch.arange(500), 400)
    assert torch.isfinite(noise).all() and noise.dtype == torch.float32
    # Mean 0.5772 and variance pi^2 / 6 = 1.6449; 200,000 draws: five standard errors.
    assert noise.mean().item() == pytest.approx(0.5772, abs=5 * (1.6449 / 200_000) ** 0.5)
    assert noise.var().item() == pytest.approx(1.6449, abs=0.05)


def test_noise_is_finite_at_both_ends():
    """The lowest and the highest of all draws: one of them in millions would otherwise be infinite, and always win."""
    ends = _uniform(torch.tensor([0, -1, 2**63 - 1, -(2**63)]))
    assert (ends > 0).all() and (ends < 1).all()
    assert torch.isfinite(-torch.log(-torch.log(ends))).all()


def test_a_certain_token_is_drawn_from_a_large_vocabulary():
    """LLaVA's vocabulary: 30 million pieces of noise, of which none may outdo a token of probability 1 - 1e-15."""
    logits = torch.zeros(1, 32064)
    logits[0, 17] = 45.0
    for start in range(0, 1000, 100):
        seeds = torch.arange(start, start + 100) * 7919
        for top_p in (0.9, 1.0):
            drawn = Generation(top_p=top_p).draw(logits.expand(100, -1), seeds, torch.zeros(100, dtype=torch.long))
            assert (drawn == 17).all()
