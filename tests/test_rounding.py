"""Weights rounded as 8 and 4 bits hold them, beside values worked out by hand."""

import pytest
import torch
from helpers import MODEL

from safeeraser import model as models
from safeeraser.infer.checkpoint import load_merged
from safeeraser.model.rounding import ROUNDINGS, round_to


def test_int4_by_hand():
    # Largest 7, so the scale is 7 / 7 = 1: each weight to the nearest whole number, a half to the even one.
    weight = torch.tensor([[7.0, -3.4, 0.5, 1.5, -6.6, 2.49]])
    assert round_to(weight, 4).tolist() == [[7.0, -3.0, 0.0, 2.0, -7.0, 2.0]]
    # Largest 1.4, so the scale is 0.2: -0.5 lies between -0.6 and -0.4, and -2.5 steps go to -2, which is -0.4.
    assert round_to(torch.tensor([[-1.4, 0.31, -0.5]]), 4).tolist() == [pytest.approx([-1.4, 0.4, -0.4])]


def test_int8_by_hand():
    # Largest 254, so the scale is 254 / 127 = 2.
    weight = torch.tensor([[254.0, 3.1, -4.9, 0.9, -253.1]])
    assert round_to(weight, 8).tolist() == [[254.0, 4.0, -4.0, 0.0, -254.0]]


def test_each_group_of_a_row_has_a_scale_of_its_own():
    # Two groups of two and one of one: scales 1, 10 and 0.1; the second row's are 2, 0 (nothing but zeros) and 1.
    weight = torch.tensor([[7.0, 2.4, 70.0, 24.0, 0.7], [-14.0, 3.1, 0.0, 0.0, 7.0]])
    expected = torch.tensor([[7.0, 2.0, 70.0, 20.0, 0.7], [-14.0, 4.0, 0.0, 0.0, 7.0]])
    torch.testing.assert_close(round_to(weight, 4, group=2), expected)


def test_the_error_is_half_a_step_at_most():
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(1))
    for bits in (8, 4):
        rounded, steps = round_to(weight, bits), 2 ** (bits - 1) - 1
        for start in range(0, 300, 128):
            columns = slice(start, start + 128)
            step = weight[:, columns].abs().amax(1, keepdim=True) / steps
            assert ((rounded - weight)[:, columns].abs() <= step / 2 * (1 + 1e-5)).all()
            assert len((rounded[0, columns] / step[0]).round().unique()) <= 2 * steps + 1
        torch.testing.assert_close(round_to(rounded, bits), rounded, rtol=1e-6, atol=0)


def test_the_dtype_stays():
    weight = torch.randn(3, 200).bfloat16()
    rounded = round_to(weight, 4)
    assert rounded.dtype == torch.bfloat16
    assert torch.equal(rounded, round_to(weight.float(), 4).bfloat16()), "in float32 in between"


def test_nf4_gives_the_sixteen_values_of_normal_float():
    values = torch.tensor([-1.0, -0.6961928009986877, 0.0, 0.07958029955625534, 0.44070982933044434, 1.0])
    weight = torch.cat([values, torch.zeros(58)])[None]  # a block of bitsandbytes is 64 weights
    # Its scales are held in 8 bits too; for one scale alone that loses nothing.
    torch.testing.assert_close(ROUNDINGS["nf4"](weight), weight, rtol=0, atol=1e-6)
    near = torch.where(weight.abs() > 0.5, weight, weight + 0.01)
    torch.testing.assert_close(ROUNDINGS["nf4"](near)[0, :6], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ROUNDINGS)
def test_the_language_model_alone_is_rounded(name):
    plain, rounded = (
        load_merged(str(MODEL), None, dtype="float32", lora_alpha=256, quantization=quantization).model.state_dict()
        for quantization in ("none", name)
    )
    changed = {key for key in plain if not torch.equal(plain[key], rounded[key])}
    assert changed == {
        f"model.language_model.layers.{layer}.{part}_proj.weight"
        for layer in (0, 1)
        for part in (*(f"self_attn.{one}" for one in "qkvo"), *(f"mlp.{one}" for one in ("gate", "up", "down")))
    }


def test_the_names_that_the_command_line_knows():
    from safeeraser.infer.command_line import QUANTIZATIONS

    assert ("none", *models.ROUNDINGS) == QUANTIZATIONS
