"""Attention that computes or rounds wrongly does not keep the bounds; figures by hand."""

import math

import pytest
import torch
from torch.nn import functional

from safeeraser.selftest.precision import Observed, Text, compare, confused, observe, off_by

pytestmark = pytest.mark.slow

RIGHT = functional.scaled_dot_product_attention


def eighth(tensor):
    """Rounded to the 8 bits of float8_e4m3fn, the gradient passing through."""
    return tensor + (tensor.to(torch.float8_e4m3fn).to(tensor.dtype) - tensor).detach()


BROKEN = {
    "a scale that is 3% off": lambda q, k, v, mask, scale: RIGHT(q * 1.03, k, v, attn_mask=mask, scale=scale),
    "no mask": lambda q, k, v, mask, scale: RIGHT(q, k, v, scale=scale),
    "keys in 8 bits": lambda q, k, v, mask, scale: RIGHT(q, eighth(k), v, attn_mask=mask, scale=scale),
    "values in 8 bits": lambda q, k, v, mask, scale: RIGHT(q, k, eighth(v), attn_mask=mask, scale=scale),
    "not a number": lambda q, k, v, mask, scale: RIGHT(q, k, v, attn_mask=mask, scale=scale) * math.nan,
}


@pytest.fixture(scope="module")
def reference(bench):
    """Float32, eager."""
    return observe(bench, "float32", "eager")


@pytest.fixture(scope="module")
def eager(bench):
    """Bfloat16, eager."""
    return observe(bench, "bfloat16", "eager")


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_attention_fails(bench, reference, eager, monkeypatch, kind):
    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        if attn_mask is None and is_causal and kind != "no mask":
            attn_mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        return BROKEN[kind](q, k, v, attn_mask, scale)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    found = observe(bench, "bfloat16", "sdpa")
    figures = list(compare("sdpa", found, reference, off_by(torch.bfloat16, "tiny"), beside=eager))
    bad = {figure.name for figure in figures if not figure.good}
    assert {"sdpa: gradient", "sdpa: logits"} <= bad


def test_eager_attention_that_rounds_too_much_fails_too(bench, reference):
    """Held to theory alone: each weight's product in 8 bits."""

    def narrow(model):
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(lambda _, given, output: eighth(output))

    found = observe(bench, "bfloat16", "eager", change=narrow)
    figures = {figure.name: figure for figure in compare("", found, reference, off_by(torch.bfloat16, "tiny"))}
    assert not figures[": gradient"].good and not figures[": logits"].good


def test_what_is_expected_by_hand():
    # 2 layers of the language model and 2 of the vision tower's 3; 8 results each.
    assert off_by(torch.bfloat16, "tiny") == pytest.approx(2**-8 * math.sqrt(8 * 4))
    assert off_by(torch.float32, "tiny") == pytest.approx(2**-24 * math.sqrt(8 * 4 * 128))
    assert off_by(torch.bfloat16, "7b") == pytest.approx(2**-8 * math.sqrt(8 * (32 + 23)))


def test_confused_tokens_by_hand():
    # Deviation of (3, 2, 1, 0): sqrt(5/3). The texts part at their second token, chosen 1 below the best.
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(3, 1)
    its = Text([0, 0, 0], logits)
    assert confused([Text([0, 1, 3], logits)], [its]) == pytest.approx(1 / math.sqrt(5 / 3))
    assert confused([Text([0, 0, 0], logits)], [its]) == 0


def test_distances_by_hand():
    logits = torch.tensor([[3.0, 4.0]])
    one = Observed(2.0, {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, [Text([1], logits)])
    two = Observed(2.5, {"b": torch.tensor([4.0]), "a": torch.tensor([0.0])}, [Text([1], logits * 1.1)])
    found = {figure.name: figure.value for figure in compare("", two, one, 1.0)}
    assert found[": loss"] == 0.5 and found[": gradient"] == pytest.approx(3 / 5)
    assert found[": logits"] == pytest.approx(0.1)
