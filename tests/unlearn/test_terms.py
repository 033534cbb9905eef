"""Every loss on plain tensors, against values worked out by hand."""

from math import exp, log, log1p

import pytest
import torch
from helpers import write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.terms import (
    LOSSES,
    Positions,
    ceu,
    dpo,
    flat,
    kl,
    nll,
    npo,
    rmu,
    satimp,
    simnpo,
    states,
    undial,
    wga,
)
from safeeraser.unlearn.vector import control_vector


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


def of_states(rows, item=None, reference=None):
    """Positions that read a layer's states."""
    item = item or [0] * len(rows)
    whole = None if reference is None else torch.tensor(reference)
    nothing = torch.zeros(len(rows), dtype=torch.long)
    return Positions(torch.tensor(rows), nothing, torch.tensor(item), max(item) + 1, whole)


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


def test_npo_weighs_a_whole_answer_against_the_reference():
    # Nothing has changed: (2 / 0.1) log 2, whatever the answer.
    assert npo(at([HALF, QUARTER], nll_then=[log(2), log(4)])).item() == pytest.approx(20 * log(2), rel=1e-6)
    # Two tokens, each half as likely as in the reference: S - S_ref = 2 log 2, so -(2 / b) log(1 / (1 + 2^-2b)).
    fallen = at([QUARTER, EIGHTH], nll_then=[log(2), log(4)])
    assert npo(fallen).item() == pytest.approx(20 * log1p(2**-0.2), rel=1e-6)
    assert npo(fallen, beta=0.5).item() == pytest.approx(4 * log1p(2**-1), rel=1e-6)
    # Of two items the mean of their losses: one that has fallen by 2 log 2, one that has risen by log 2.
    two = at([QUARTER, EIGHTH, HALF], item=[0, 0, 1], nll_then=[log(2), log(4), log(4)])
    assert npo(two, beta=1.0).item() == pytest.approx((2 * log1p(1 / 4) + 2 * log1p(2)) / 2, rel=1e-6)


def test_npo_has_the_gradient_of_ascent_where_nothing_has_changed():
    """(2 / beta) beta sigmoid(-beta 0) = 1: as strong as ascent on the summed NLL, and weaker the less likely it is."""
    logits = logits_of(HALF).float().requires_grad_()
    where = (torch.tensor([0]), torch.tensor([0]), 1)
    npo(Positions(logits, *where, torch.tensor([log(2)]))).backward()
    assert torch.allclose(logits.grad, -torch.tensor([[-1 / 2, 1 / 4, 1 / 4]]), atol=1e-6)
    logits.grad = None
    npo(Positions(logits, *where, torch.tensor([log(2) - 30])), beta=0.1).backward()
    assert torch.allclose(logits.grad, 2 / (1 + exp(3)) * torch.tensor([[1 / 2, -1 / 4, -1 / 4]]), atol=1e-6)


def test_dpo_tells_its_two_views_apart():
    # The wanted answer (view 0) is twice as likely as in the reference, each token of the other half as likely:
    # log 2 + 2 log 2.
    rows, then = [HALF, QUARTER, QUARTER], [log(4), log(2), log(2)]
    assert dpo(at(rows, nll_then=then, view=[0, 1, 1]), beta=1.0).item() == pytest.approx(2 * log1p(1 / 8), rel=1e-6)
    # The other way round: -2 log 2 - log 2, and the rows' order does not matter.
    assert dpo(at(rows, nll_then=then, view=[1, 0, 0]), beta=1.0).item() == pytest.approx(2 * log1p(8), rel=1e-6)
    assert dpo(at(rows, nll_then=[log(2), log(4), log(4)], view=[0, 1, 1])).item() == pytest.approx(20 * log(2))
    two = at(rows * 2, item=[0, 0, 0, 1, 1, 1], nll_then=then * 2, view=[0, 1, 1, 1, 0, 0])
    assert dpo(two, beta=1.0).item() == pytest.approx(log1p(1 / 8) + log1p(8), rel=1e-6)


def test_simnpo_takes_the_mean_over_tokens():
    # Means of log 2 * (1 + 3) / 2 and log 2.
    value = simnpo(at([HALF, EIGHTH, HALF], item=[0, 0, 1]), beta=1.0).item()
    assert value == pytest.approx(log1p(1 / 4) + log1p(1 / 2), rel=1e-6)
    assert simnpo(at([HALF]), beta=2.0, delta=log(2)).item() == pytest.approx(log(2), rel=1e-6)
    # Zero at delta: -(2 / b) log sigmoid(b (log 2 - 3 log 2)) = (2 / b) log(1 + 2^2b).
    assert simnpo(at([HALF]), beta=0.5, delta=3 * log(2)).item() == pytest.approx(4 * log(3), rel=1e-6)


def test_undial_plays_the_target_down():
    # The target's logit less log 2: its odds are halved, 1/2 : 1/4 : 1/4 becomes 1 : 1 : 1.
    expected = -(log(1 / 4) + log(1 / 2) + log(1 / 4)) / 3
    assert undial(at([QUARTER], reference=[HALF]), beta=log(2)).item() == pytest.approx(expected, rel=1e-6)
    # With beta 0 the cross-entropy to the reference itself: KL and its entropy.
    entropy = 1 / 2 * log(2) + 1 / 2 * log(4)
    assert undial(at([QUARTER], reference=[HALF]), beta=0.0).item() == pytest.approx(entropy + log(2) / 4, rel=1e-6)
    # Tokens pool within an item, items are averaged: halved odds twice and once.
    own = at([HALF, HALF, HALF], [1, 1, 0], [0, 0, 1], [HALF] * 3)
    other = (4 * log(2) + 1 * log(4) + 2 * log(4)) / 7  # 1/2 : 1/8 : 1/4
    assert undial(own, beta=log(2)).item() == pytest.approx((other + 5 / 3 * log(2)) / 2, rel=1e-6)


def test_wga_weighs_by_the_targets_probability():
    # -(1/2 log 2 + 1/8 log 8) / 2.
    assert wga(at([HALF, EIGHTH])).item() == pytest.approx(-7 / 16 * log(2), rel=1e-6)
    assert wga(at([QUARTER]), beta=0.5).item() == pytest.approx(-1 / 2 * log(4), rel=1e-6)
    assert wga(at([HALF, EIGHTH, EIGHTH]), beta=0.0).item() == -nll(at([HALF, EIGHTH, EIGHTH])).item()


def test_flat_is_the_squared_distance_of_the_largest_from_the_mean_logit():
    def value(rows, item):
        return flat(Positions(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.long), torch.tensor(item), 2))

    # 4 - 1, 2 - 2, 3 - 1: item 0 (9 + 0) / 2, item 1 4; a constant beside them does not matter, the targets neither.
    rows = [[4.0, 0.0, -1.0], [2.0, 2.0, 2.0], [0.0, 3.0, 0.0]]
    assert value(rows, [0, 0, 1]).item() == pytest.approx((9 / 2 + 4) / 2)
    assert value([[x + 5 for x in row] for row in rows], [0, 0, 1]).item() == pytest.approx((9 / 2 + 4) / 2)
    # By the probabilities 1/2, 1/4, 1/4: log 1/2 less their logs' mean is log(2) 2/3.
    assert flat(at([HALF])).item() == pytest.approx((2 / 3 * log(2)) ** 2)


def test_the_gradient_of_flat():
    """2 d at the largest, less 2 d / V at all; as plain torch has it, and in narrow logits as near as they are."""
    logits = torch.tensor([[4.0, 0.0, -1.0]], requires_grad=True)
    where = (torch.tensor([0]), torch.tensor([0]), 1)
    flat(Positions(logits, *where)).backward()
    assert torch.allclose(logits.grad, torch.tensor([[6.0 - 2, -2, -2]]))
    many = (torch.randn(150, 40, generator=torch.Generator().manual_seed(0)) * 9).bfloat16().float().requires_grad_()
    item = torch.arange(150) // 50
    ((many.max(-1).values - many.mean(-1)) ** 2).mean().backward()
    expected, many.grad = many.grad, None
    flat(Positions(many, torch.zeros(150, dtype=torch.long), item, 3)).backward()
    assert torch.allclose(many.grad, expected, rtol=1e-5, atol=1e-8)
    narrow = many.detach().bfloat16().requires_grad_()
    flat(Positions(narrow, torch.zeros(150, dtype=torch.long), item, 3)).backward()
    assert narrow.grad.dtype is torch.bfloat16 and torch.allclose(narrow.grad.float(), expected, rtol=2**-7)


def test_satimp_weighs_by_what_is_left_and_by_what_matters():
    # p^2 (1 - p): 1/8 of log 2, and 1/16 * 3/4 of log 4.
    value = satimp(at([HALF, QUARTER]), beta1=2.0, beta2=1.0).item()
    assert value == pytest.approx(-(1 / 8 + 3 / 32) / 2 * log(2), rel=1e-6)
    assert satimp(at([QUARTER])).item() == pytest.approx(-(4**-5) * 3 / 4 * log(4), rel=1e-5)
    assert satimp(at([HALF, EIGHTH]), beta1=1.0, beta2=0.0).item() == pytest.approx(wga(at([HALF, EIGHTH])).item())


def test_ceu_rules_the_target_out():
    # The first token is left out. Of the second, target 0: 1/3 : 2/3 of the others, which have 1/4 and 1/2.
    first, second = HALF, [1 / 4, 1 / 4, 1 / 2]
    expected = 1 / 3 * log(4) + 2 / 3 * log(2)
    assert ceu(at([first, second])).item() == pytest.approx(expected, rel=1e-6)
    both = (log(4) + expected) / 2
    assert ceu(at([first, second]), ignore_first=0).item() == pytest.approx(both, rel=1e-6)
    # Each item has a first token of its own; an item that is no longer counts as nothing.
    assert ceu(at([first, second, first], item=[0, 0, 1])).item() == pytest.approx(expected / 2, rel=1e-6)


def test_rmu_is_the_mean_square_over_width_tokens_and_items():
    control = torch.tensor([1.0, -1.0])
    # Item 0: (0 + 4) / 2 = 2 and (4 + 0) / 2 = 2 -> 2; item 1: (9 + 1) / 2 = 5.
    where = of_states([[1.0, 1.0], [3.0, -1.0], [4.0, 0.0]], [0, 0, 1])
    assert rmu(where, control).item() == pytest.approx(3.5)
    then = of_states([[1.0, 1.0], [3.0, -1.0], [4.0, 0.0]], [0, 0, 1], [[1.0, 1.0], [3.0, 3.0], [4.0, 2.0]])
    assert states(then).item() == pytest.approx((8 / 2 + 2) / 2)
    assert states(of_states([[1.0, 1.0]], reference=[[1.0, 1.0]])).item() == 0


def test_a_control_vector_is_drawn_from_the_seed_or_read(tmp_path):
    drawn = control_vector(64, 233)
    assert drawn.shape == (64,) and drawn.min() >= 0 and drawn.norm().item() == pytest.approx(20)
    assert torch.equal(control_vector(64, 233), drawn) and not torch.equal(control_vector(64, 234), drawn)
    assert control_vector(64, 233, coefficient=5.0).norm().item() == pytest.approx(5)
    for value in ([1.5, -2], {"control_vector": [1.5, -2]}):
        file = write_json(tmp_path / "vector.json", value)
        assert control_vector(2, 233, control_vector=file).tolist() == [1.5, -2]
    with pytest.raises(BadInput, match="a vector of 2 numbers; the model's states have 3"):
        control_vector(3, 233, control_vector=file)
    for value in ({}, [], "a", [1, None]):
        with pytest.raises(BadInput, match=r"vector\.json: a control vector is a list of numbers"):
            control_vector(2, 233, control_vector=write_json(tmp_path / "vector.json", value))


def test_gradients_of_weighted_losses_take_the_weight_for_a_constant():
    for function, weight in ((wga, 1 / 2), (satimp, 2**-5 * (1 / 2))):
        logits = logits_of(HALF).float().requires_grad_()
        function(Positions(logits, torch.tensor([0]), torch.tensor([0]), 1)).backward()
        assert torch.allclose(logits.grad, weight * torch.tensor([[1 / 2, -1 / 4, -1 / 4]]), atol=1e-6)
    # Of ceu: softmax less what is wanted.
    logits = logits_of(HALF).float().requires_grad_()
    ceu(Positions(logits, torch.tensor([0]), torch.tensor([0]), 1), ignore_first=0).backward()
    assert torch.allclose(logits.grad, torch.tensor([[1 / 2, -1 / 4, -1 / 4]]), atol=1e-6)


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


def test_what_each_loss_asks_for():
    assert {name: loss.reference for name, loss in LOSSES.items() if loss.needs_reference} == {
        **dict.fromkeys(("kl", "undial", "states"), "whole"),
        **dict.fromkeys(("npo", "dpo"), "nll"),
    }
    assert {name for name, loss in LOSSES.items() if loss.layer} == {"rmu", "states"}
    declared = {name: loss.checked({}, ()) for name, loss in LOSSES.items()}
    assert declared == {
        "nll": {},
        "kl": {},
        "npo": {"beta": 0.1},
        "dpo": {"beta": 0.1},
        "simnpo": {"beta": 4.5, "delta": 0.0},
        "undial": {"beta": 10.0},
        "wga": {"beta": 1.0},
        "satimp": {"beta1": 5.0, "beta2": 1.0},
        "ceu": {"ignore_first": 1},
        "flat": {},
        "rmu": {"coefficient": 20.0, "control_vector": None, "layer": 7},
        "states": {"layer": 7},
    }
