"""Every loss on plain tensors, against values worked out by hand."""

from math import log

import pytest
import torch

from safeeraser.unlearn.terms import LOSSES, Positions, kl, nll


def logits_of(*rows):
    """Logits whose softmax is the probabilities given; a constant is added to each row, since it must not matter."""
    return torch.tensor(rows, dtype=torch.float64).log() + torch.arange(len(rows), dtype=torch.float64)[:, None]


def at(probabilities, targets=None, item=None, reference=None):
    item = item or [0] * len(probabilities)
    return Positions(
        logits=logits_of(*probabilities),
        targets=torch.tensor(targets or [0] * len(probabilities)),
        item=torch.tensor(item),
        items=max(item) + 1,
        reference=None if reference is None else logits_of(*reference),
    )


HALF, QUARTER, EIGHTH = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4], [1 / 8, 3 / 8, 1 / 2]


def test_nll_is_the_mean_over_tokens():
    # -log of 1/2, 1/2 (token 1 of QUARTER) and 1/2 (token 2 of EIGHTH); then of 1/2, 1/4, 1/8.
    assert nll(at([HALF, QUARTER, EIGHTH], [0, 1, 2])).item() == pytest.approx(log(2), rel=1e-6)
    assert nll(at([HALF, QUARTER, EIGHTH], [0, 0, 0])).item() == pytest.approx(2 * log(2), rel=1e-6)


def test_nll_of_several_items_is_the_mean_of_the_items_not_of_the_tokens():
    # Item 0: (1 + 2) / 2 = 1.5 bits, item 1: 3 bits; their mean is 2.25 bits, that of the tokens would be 2.
    value = nll(at([HALF, QUARTER, EIGHTH], [0, 0, 0], [0, 0, 1])).item()
    assert value == pytest.approx(2.25 * log(2), rel=1e-6)


def test_nll_over_two_views_pools_their_tokens():
    # po: a refusal of one token at 1 bit, a retain answer of three at 2 bits: 7 / 4, not (1 + 2) / 2.
    value = nll(at([HALF, QUARTER, QUARTER, QUARTER], [0, 0, 0, 0])).item()
    assert value == pytest.approx(1.75 * log(2), rel=1e-6)


def test_pooled_nll_of_items_whose_rows_are_interleaved():
    # Rows come view by view or item by item: the item's number decides. Items: {1, 3} and {2, 3} bits.
    value = nll(at([HALF, QUARTER, EIGHTH, EIGHTH], [0, 0, 0, 0], [0, 1, 0, 1])).item()
    assert value == pytest.approx((2 + 2.5) / 2 * log(2), rel=1e-6)


def test_kl_is_from_the_reference_to_the_model():
    # 1/2 log(1/2 / 1/4) + 1/4 log(1/4 / 1/2) + 1/4 log(1) = 1/4 log 2.
    assert kl(at([QUARTER], reference=[HALF])).item() == pytest.approx(0.25 * log(2), rel=1e-6)
    # The two directions differ here: sum of p_ref log(p_ref / p).
    forward = 1 / 8 * log(1 / 4) + 3 / 8 * log(3 / 2) + 1 / 2 * log(2)
    backward = 1 / 2 * log(4) + 1 / 4 * log(2 / 3) + 1 / 4 * log(1 / 2)
    assert kl(at([HALF], reference=[EIGHTH])).item() == pytest.approx(forward, rel=1e-6)
    assert kl(at([EIGHTH], reference=[HALF])).item() == pytest.approx(backward, rel=1e-6)
    assert abs(forward - backward) > 0.05


def test_kl_of_equal_distributions_is_zero():
    assert kl(at([HALF, EIGHTH], reference=[HALF, EIGHTH])).item() == pytest.approx(0, abs=1e-7)


def test_kl_is_the_mean_over_positions_then_over_items():
    # 1/4 log 2 where they differ, 0 where not. Item 0: (1/4 + 0 + 0) / 3, item 1: 1/4; targets do not matter.
    value = kl(at([QUARTER, HALF, EIGHTH, QUARTER], [2, 1, 0, 1], [0, 0, 0, 1], [HALF, HALF, EIGHTH, HALF])).item()
    assert value == pytest.approx((1 / 12 + 1 / 4) / 2 * log(2), rel=1e-6)


def test_gradients_flow_into_the_model_alone():
    for function in (nll, kl):
        logits = logits_of(HALF, QUARTER).float().requires_grad_()
        reference = logits_of(EIGHTH, EIGHTH).float().requires_grad_(function is nll)
        function(Positions(logits, torch.tensor([0, 1]), torch.tensor([0, 0]), 1, reference)).backward()
        assert logits.grad.norm() > 0 and reference.grad is None
    # Of nll, by hand: (softmax - one-hot) / tokens.
    logits = logits_of(HALF).float().requires_grad_()
    nll(Positions(logits, torch.tensor([0]), torch.tensor([0]), 1)).backward()
    assert torch.allclose(logits.grad, torch.tensor([[-1 / 2, 1 / 4, 1 / 4]]), atol=1e-6)


def test_half_precision_logits_are_summed_in_single():
    torch.manual_seed(0)
    logits = torch.randn(50, 300).bfloat16()
    targets, item = torch.randint(300, (50,)), torch.zeros(50, dtype=torch.long)
    exact = Positions(logits.double(), targets, item, 1, logits.flip(0).double())
    half = Positions(logits, targets, item, 1, logits.flip(0))
    for function in (nll, kl):
        assert function(half).dtype == torch.float32
        assert function(half).item() == pytest.approx(function(exact).item(), rel=1e-5)


def test_only_kl_asks_for_the_reference():
    assert {name: loss.needs_reference for name, loss in LOSSES.items()} == {"nll": False, "kl": True}
