"""Every loss on plain tensors has the value and the gradient that its definition gives by hand."""

import math
from dataclasses import replace
from math import log

import pytest
import torch
from helpers import read_beside, write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.objective.losses import LOSSES, Positions, control_vector, flat, kl, nll
from safeeraser.unlearn.objective.method import TERM_OF

HALF, QUARTER = [1 / 2, 1 / 4, 1 / 4], [1 / 4, 1 / 2, 1 / 4]
CASES = read_beside(__file__, "golden/terms.yaml")


def logits_of(*rows):
    """Logits whose softmax is the given probabilities. Each row has a constant added, which must not matter."""
    return torch.tensor(rows, dtype=torch.float64).log() + torch.arange(len(rows), dtype=torch.float64)[:, None]


def at(probabilities, targets=None, item=None, reference=None, nll_then=None, view=None):
    """Positions with `probabilities`. `nll_then`: the targets' NLL in the reference, for losses that need no more."""
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
    """Positions with the numbers in `rows` as their logits, or as a layer's states."""
    targets, reference = torch.zeros(len(rows), dtype=torch.long), reference and torch.tensor(reference)
    return Positions(torch.tensor(rows), targets, torch.tensor(item), max(item) + 1, reference)


def worked_out(value):
    """The value with each text in it evaluated as a formula; `bit` is log 2."""
    if isinstance(value, dict):
        return {key: worked_out(each) for key, each in value.items()}
    if isinstance(value, list):
        return [worked_out(each) for each in value]
    return eval(value, vars(math) | {"bit": log(2)}) if isinstance(value, str) else value


@pytest.mark.parametrize(("name", "given", "parameters", "expected"), CASES["values"])
def test_the_value_by_hand(name, given, parameters, expected):
    loss, positions = LOSSES[name], (plain if "rows" in given else at)(**worked_out(given))
    plainly = {"loss": name, "views": ["retain", "forget"][: loss.views or 1], "weight": 1}
    term = TERM_OF[name].model_validate(plainly | worked_out(parameters))
    ready = loss.ready(term.parameters, width=3, seed=0)
    assert ready(positions).item() == pytest.approx(worked_out(expected), rel=2e-6, abs=1e-7)


@pytest.mark.parametrize(("name", "parameters", "given", "expected"), CASES["gradients"])
def test_the_gradient_by_hand(name, parameters, given, expected):
    positions = at([HALF], **worked_out(given))
    logits = positions.logits.float().requires_grad_()
    LOSSES[name].function(replace(positions, logits=logits), **worked_out(parameters)).backward()
    assert torch.allclose(logits.grad, torch.tensor([worked_out(expected)], dtype=torch.float32), atol=1e-6)


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
    # Mean squared distances from it: (1/4 + 9) / 2 and (9/4 + 1) / 2 in item 0, (25/4 + 4) / 2 in item 1.
    ready = LOSSES["rmu"].ready({"coefficient": 20, "control_vector": file}, width=2, seed=0)
    states = [[1.0, 1.0], [3.0, -1.0], [4.0, 0.0]]
    assert ready(plain(states, [0, 0, 1])).item() == pytest.approx((12.5 / 4 + 10.25 / 2) / 2)
    with pytest.raises(BadInput, match=r"vector of 2 numbers; .* 3$"):
        control_vector(3, 233, control_vector=file)
    for value in ({}, [], "a", [1, None]):
        with pytest.raises(BadInput, match=r"vector\.json: a control vector is"):
            control_vector(2, 233, control_vector=write_json(tmp_path / "vector.json", value))
