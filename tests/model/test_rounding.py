"""Weights rounded as 8 and 4 bits hold them, compared with values worked out by hand."""

import pytest
import torch

from safeeraser import model as models
from safeeraser.model.rounding import ROUNDINGS, round_to

from .conftest import TARGETS


@pytest.mark.parametrize(
    ("bits", "more", "weight", "expected"),
    [
        # Largest 7, so the scale is 7 / 7 = 1: each weight to the nearest whole number, a half to the even one.
        (4, {}, [7.0, -3.4, 0.5, 1.5, -6.6, 2.49], [7.0, -3.0, 0.0, 2.0, -7.0, 2.0]),
        # Largest 1.4, so the scale is 0.2: -0.5 lies between -0.6 and -0.4, and -2.5 steps go to -2, which is -0.4.
        (4, {}, [-1.4, 0.31, -0.5], [-1.4, 0.4, -0.4]),
        # Largest 254, so the scale is 254 / 127 = 2.
        (8, {}, [254.0, 3.1, -4.9, 0.9, -253.1], [254.0, 4.0, -4.0, 0.0, -254.0]),
        # Groups of two and one of one have scales of their own: 1, 10 and 0.1; 2, none (nothing but zeros) and 1.
        (4, {"group": 2}, [7.0, 2.4, 70.0, 24.0, 0.7], [7.0, 2.0, 70.0, 20.0, 0.7]),
        (4, {"group": 2}, [-14.0, 3.1, 0.0, 0.0, 7.0], [-14.0, 4.0, 0.0, 0.0, 7.0]),
        # 128 columns share a scale, unless told otherwise.
        (4, {}, [7.0] + [0.4] * 128, [7.0] + [0.0] * 127 + [0.4]),
    ],
)
def test_a_row_by_hand(bits, more, weight, expected):
    torch.testing.assert_close(round_to(torch.tensor([weight]), bits, **more), torch.tensor([expected]))
    half = torch.tensor([weight]).bfloat16()  # the dtype stays, float32 in between
    assert torch.equal(round_to(half, bits, **more), round_to(half.float(), bits, **more).bfloat16())


def test_nf4_gives_the_sixteen_values_of_normal_float():
    values = torch.tensor([-1.0, -0.6961928009986877, 0.0, 0.07958029955625534, 0.44070982933044434, 1.0])
    weight = torch.cat([values, torch.zeros(58)])[None]  # a block of bitsandbytes is 64 weights
    # Its scales are held in 8 bits too; for one scale alone that loses nothing.
    near = torch.where(weight.abs() > 0.5, weight, weight + 0.01)
    torch.testing.assert_close(ROUNDINGS["nf4"](weight), weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(ROUNDINGS["nf4"](near)[0, :6], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4), ("nf4", None)])
def test_the_language_model_alone_is_rounded_in_place(base, name, bits):
    before = {key: value.clone() for key, value in base.state_dict().items()}
    models.round_weights(base, name)
    changed = {key for key, value in base.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {f"model.language_model.layers.{n}.{target}.weight" for n in (0, 1) for target in TARGETS}
    assert not bits or all(torch.equal(base.state_dict()[key], round_to(before[key], bits)) for key in changed)
