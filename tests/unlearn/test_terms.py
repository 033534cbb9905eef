"""Every loss on plain tensors has the value and the gradient that its definition gives by hand."""

from math import exp, log, log1p

import pytest
import torch
from helpers import write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.terms import LOSSES, Positions, flat, kl, nll
from safeeraser.unlearn.vector import control_vector

HALF, QUARTER, EIGHTH = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4], [1 / 8, 3 / 8, 1 / 2]
TWO = log(2)


def logits_of(*rows):
    """Logits whose softmax is the probabilities given; a constant is added to each row, since it must not matter."""
    return torch.tensor(rows, dtype=torch.float64).log() + torch.arange(len(rows), dtype=torch.float64)[:, None]


def at(probabilities, targets=None, item=None, reference=None, nll_then=None, view=None):
    """Positions with these probabilities; `nll_then`: the targets' NLL in the reference, where that is all of it."""
    item = item or [0] * len(probabilities)
    whole = None if reference is None else logits_of(*reference)
    return Positions(
        logits=logits_of(*probabilities),
        targets=torch.tensor(targets or [0] * len(probabilities)),
        item=torch.tensor(item),
        items=max(item) + 1,
        reference=whole if nll_then is None else torch.tensor(nll_then),
        view=None if view is None else torch.tensor(view),
    )


def plain(rows, item, reference=None):
    """Positions that hold these numbers themselves: logits, or a layer's states."""
    targets, reference = torch.zeros(len(rows), dtype=torch.long), reference and torch.tensor(reference)
    return Positions(torch.tensor(rows), targets, torch.tensor(item), max(item) + 1, reference)


# Two tokens, each half as likely as in the reference; then one that is twice as likely.
FALLEN, THEN = [QUARTER, EIGHTH], [2 * TWO - TWO, 3 * TWO - TWO]
STATES = [[1.0, 1.0], [3.0, -1.0], [4.0, 0.0]]
ROWS = [[4.0, 0.0, -1.0], [2.0, 2.0, 2.0], [0.0, 3.0, 0.0]]

VALUES = [
    # The mean over tokens: of 1, 2 and 3 bits.
    ("nll", at([HALF, QUARTER, EIGHTH]), {}, 2 * TWO),
    # The mean of the items, not of all tokens: (1.5 + 3) / 2. Rows of an item need not follow each other.
    ("nll", at([HALF, QUARTER, EIGHTH, EIGHTH], item=[0, 1, 0, 1]), {}, 2.25 * TWO),
    # From the reference to the model, whose two directions differ; by positions, then by items.
    ("kl", at([QUARTER], reference=[HALF]), {}, TWO / 4),
    ("kl", at([EIGHTH], reference=[HALF]), {}, 1 / 2 * log(4) + 1 / 4 * log(2 / 3) + 1 / 4 * log(1 / 2)),
    ("kl", at([QUARTER, HALF, QUARTER], [2, 1, 1], [0, 0, 1], [HALF] * 3), {}, (1 / 8 + 1 / 4) / 2 * TWO),
    # Nothing has changed: (2 / beta) log 2. S - S_ref = 2 log 2. Of two items the mean of their losses.
    ("npo", at([HALF, QUARTER], nll_then=[TWO, 2 * TWO]), {}, 20 * TWO),
    ("npo", at(FALLEN, nll_then=THEN), {}, 20 * log1p(2**-0.2)),
    ("npo", at([*FALLEN, HALF], item=[0, 0, 1], nll_then=[*THEN, 2 * TWO]), {"beta": 1.0}, log1p(1 / 4) + log1p(2)),
    # The wanted answer, view 0, has gained log 2, the other lost 2 log 2.
    ("dpo", at([HALF, QUARTER, QUARTER], nll_then=[2 * TWO, TWO, TWO], view=[0, 1, 1]), {"beta": 1.0}, 2 * log(9 / 8)),
    # Means of 2 log 2 and log 2 over tokens; 2 / beta log(1 + 2^(beta 2)) at a delta of 3 log 2.
    ("simnpo", at([HALF, EIGHTH, HALF], item=[0, 0, 1]), {"beta": 1.0}, log1p(1 / 4) + log1p(1 / 2)),
    ("simnpo", at([HALF]), {"beta": 0.5, "delta": 3 * TWO}, 4 * log(3)),
    # With beta 0: KL and the reference's entropy. With log 2 the target's odds are halved:
    ("undial", at([QUARTER], reference=[HALF]), {"beta": 0.0}, (1 / 2 + 1 / 2 * 2 + 1 / 4) * TWO),
    # 2 : 1 : 1 becomes 2 : 1/2 : 1, twice, and 1 : 1 : 1; an item each.
    ("undial", at([HALF] * 3, [1, 1, 0], [0, 0, 1], [HALF] * 3), {"beta": TWO}, ((4 + 2 + 4) / 7 + 5 / 3) / 2 * TWO),
    # -(1/2 of 1 bit, 1/8 of 3 bits) / 2.
    ("wga", at([HALF, EIGHTH]), {}, -7 / 16 * TWO),
    ("wga", at([QUARTER]), {"beta": 0.5}, -TWO),
    # p^2 (1 - p): 1/8 of 1 bit, 3/64 of 2 bits.
    ("satimp", at([HALF, QUARTER]), {"beta1": 2.0, "beta2": 1.0}, -(1 / 8 + 3 / 32) / 2 * TWO),
    ("satimp", at([QUARTER]), {}, -(4**-5) * 3 / 4 * 2 * TWO),
    # Without its first token, each item has 1/3 : 2/3 of the other tokens, which have 1/4 and 1/2, or nothing.
    ("ceu", at([HALF, [1 / 4, 1 / 4, 1 / 2], HALF], item=[0, 0, 1]), {}, 2 / 3 * TWO),
    # The largest less the mean: 3, 0 and 2.
    ("flat", plain(ROWS, [0, 0, 1]), {}, (9 / 2 + 4) / 2),
    # Squares over the width, tokens, items: (0 + 4) / 2 and (4 + 4) / 2, then 9 + 1.
    ("states", plain(STATES, [0, 0, 1], [[1.0, 1.0], [3.0, 3.0], [4.0, 2.0]]), {}, (8 / 2 + 2) / 2),
]


@pytest.mark.parametrize(("name", "positions", "parameters", "expected"), VALUES)
def test_the_value_by_hand(name, positions, parameters, expected):
    loss = LOSSES[name]
    ready = loss.ready(loss.checked(parameters, ()), width=3, seed=0)
    assert ready(positions).item() == pytest.approx(expected, rel=2e-6, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "parameters", "then", "expected"),
    [
        ("nll", {}, None, [-1 / 2, 1 / 4, 1 / 4]),
        ("kl", {}, logits_of(EIGHTH).float(), [3 / 8, -1 / 8, -1 / 4]),
        # 2 sigmoid(-beta 30) of ascent's where it has fallen by 30.
        ("npo", {}, torch.tensor([TWO - 30]), [1 / (1 + exp(3)), -1 / 2 / (1 + exp(3)), -1 / 2 / (1 + exp(3))]),
        ("undial", {"beta": TWO}, logits_of(HALF).float(), [1 / 6, -1 / 12, -1 / 12]),
        # The weight counts as a constant.
        ("wga", {}, None, [1 / 4, -1 / 8, -1 / 8]),
        ("satimp", {}, None, [2**-7, -(2**-8), -(2**-8)]),
        ("ceu", {"ignore_first": 0}, None, [1 / 2, -1 / 4, -1 / 4]),
    ],
)
def test_the_gradient_by_hand(name, parameters, then, expected):
    logits = logits_of(HALF).float().requires_grad_()
    positions = Positions(logits, torch.tensor([0]), torch.tensor([0]), 1, then)
    LOSSES[name].function(positions, **parameters).backward()
    assert torch.allclose(logits.grad, torch.tensor([expected]), atol=1e-6)


def test_the_gradient_of_flat_is_that_of_plain_torch_also_of_many_and_of_narrow_logits():
    many = (torch.randn(150, 40, generator=torch.Generator().manual_seed(0)) * 9).bfloat16().float().requires_grad_()
    where = (torch.zeros(150, dtype=torch.long), torch.arange(150) // 50, 3)
    ((many.max(-1).values - many.mean(-1)) ** 2).mean().backward()
    expected, many.grad = many.grad, None
    flat(Positions(many, *where)).backward()
    assert torch.allclose(many.grad, expected, rtol=1e-5, atol=1e-8)
    narrow = many.detach().bfloat16().requires_grad_()
    flat(Positions(narrow, *where)).backward()
    assert narrow.grad.dtype is torch.bfloat16 and torch.allclose(narrow.grad.float(), expected, rtol=2**-7)


def test_many_logits_in_half_precision_are_summed_in_single():
    logits = torch.randn(150, 300, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets, item = torch.arange(150), torch.zeros(150, dtype=torch.long)
    for function in (nll, kl):
        exact = function(Positions(logits.double(), targets, item, 1, logits.flip(0).double())).item()
        found = function(Positions(logits, targets, item, 1, logits.flip(0)))
        assert found.dtype == torch.float32 and found.item() == pytest.approx(exact, rel=1e-5)


def test_a_control_vector_is_drawn_from_the_seed_or_read(tmp_path):
    drawn = control_vector(64, 233)
    assert drawn.shape == (64,) and drawn.min() >= 0 and drawn.norm().item() == pytest.approx(20)
    assert torch.equal(control_vector(64, 233), drawn) and not torch.equal(control_vector(64, 234), drawn)
    assert torch.allclose(control_vector(64, 233, coefficient=5.0), drawn / 4)
    file = write_json(tmp_path / "vector.json", {"control_vector": [1.5, -2]})
    # The distance of states from it: items of (1/4 + 9 and 9/4 + 1) / 2 and of (25/4 + 4) / 2.
    ready = LOSSES["rmu"].ready(LOSSES["rmu"].checked({"control_vector": file}, ()), width=2, seed=0)
    assert ready(plain(STATES, [0, 0, 1])).item() == pytest.approx((12.5 / 4 + 10.25 / 2) / 2)
    with pytest.raises(BadInput, match=r"vector of 2 numbers; .* 3$"):
        control_vector(3, 233, control_vector=file)
    for value in ({}, [], "a", [1, None]):
        with pytest.raises(BadInput, match=r"vector\.json: a control vector is"):
            control_vector(2, 233, control_vector=write_json(tmp_path / "vector.json", value))
