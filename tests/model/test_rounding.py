"""Weights rounded as 8 and 4 bits hold them, compared with values worked out by hand."""

import pytest
import torch

from safeeraser import model as models
from safeeraser.model.rounding import round_to

from .conftest import TARGETS


@pytest.mark.parametrize(
    ("bits", "more", "weight", "expected"),
    [
        # Largest 7, so the scale is 7 / 7 = 1: each weight to the nearest whole number, a half to the even one.
        (4, {}, [7.0, -3.4, 0.5, 1.5, -6.6, 2.49], [7.0, -3.0, 0.0, 2.0, -7.0, 2.0]),
        # Largest 254, so the scale is 254 / 127 = 2.
        (8, {}, [254.0, 3.1, -4.9, 0.9, -253.1], [254.0, 4.0, -4.0, 0.0, -254.0]),
        # Groups of two and one of one have scales of their own: 2, none (nothing but zeros) and 1.
        (4, {"group": 2}, [-14.0, 3.1, 0.0, 0.0, 7.0], [-14.0, 4.0, 0.0, 0.0, 7.0]),
        # 128 columns share a scale, unless told otherwise.
        (4, {}, [7.0] + [0.4] * 128, [7.0] + [0.0] * 127 + [0.4]),
    ],
)
def test_a_row_by_hand(bits, more, weight, expected):
    torch.testing.assert_close(round_to(torch.tensor([weight]), bits, **more), torch.tensor([expected]))
    half = torch.tensor([weight]).bfloat16()  # the dtype stays, float32 in between
    assert torch.equal(round_to(half, bits, **more), round_to(half.float(), bits, **more).bfloat16())


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4), ("nf4", None)])
def test_the_language_model_alone_is_rounded_in_place(base, name, bits):
    before = {key: value.clone() for key, value in base.state_dict().items()}
    models.round_weights(base, name)
    changed = {key for key, value in base.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {f"model.language_model.layers.{n}.{target}.weight" for n in (0, 1) for target in TARGETS}
    assert not bits or all(torch.equal(base.state_dict()[key], round_to(before[key], bits)) for key in changed)
