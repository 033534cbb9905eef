"""Numbers from curves, by hand."""

import pytest

from safeeraser.audit.curve import area_between, steps_to

# On the axis log2(1 + step) these stand at 0, 1, 2, 3.
STEPS = (0, 1, 3, 7)


def curve(*values):
    return list(zip(STEPS, values, strict=True))


@pytest.mark.parametrize(
    ("values", "bound", "steps"),
    [
        ((0.0, 0.2, 0.6, 0.8), 0.5, 2.5),  # three quarters of the way from 1 step to 3
        ((0.0, 0.2, 0.6, 0.8), 0.6, 3.0),
        ((0.0, 0.2, 0.6, 0.8), 0.9, None),
        ((0.7, 0.2, 0.6, 0.8), 0.5, 0.0),  # there from the beginning
        ((0.0, 0.5, 0.1, 0.8), 0.25, 0.5),  # once is enough
    ],
)
def test_steps_to_a_bound(values, bound, steps):
    found = steps_to(curve(*values), bound)
    assert found == (steps if steps is None else pytest.approx(steps))


def test_a_curve_without_points_comes_to_nothing():
    assert steps_to([], 0.5) is None and area_between([], curve(0, 0, 0, 0)) is None


def test_the_area_between_two_curves_is_a_mean_over_the_logarithm_of_steps():
    flat = curve(0.1, 0.1, 0.1, 0.1)
    assert area_between(curve(0.3, 0.3, 0.3, 0.3), flat) == pytest.approx(0.2)
    # Trapezoids of width 1: (0 + .2) / 2 + (.2 + .6) / 2 + (.6 + .8) / 2 = 1.2, less 0.1 on each of three.
    assert area_between(curve(0.0, 0.2, 0.6, 0.8), flat) == pytest.approx((1.2 - 0.3) / 3)
    assert area_between(flat, curve(0.0, 0.2, 0.6, 0.8)) == pytest.approx(-0.3)


def test_curves_that_cross_set_off_against_each_other():
    assert area_between(curve(0, 1, 0, 1), curve(1, 0, 1, 0)) == pytest.approx(0)


def test_only_the_stretch_in_common_counts():
    """From 1 step to 3, where the second curve has a point at 1 and 3 alone."""
    assert area_between(curve(9, 0.2, 0.6, 9), [(1, 0.0), (3, 0.2)]) == pytest.approx(0.3)
    assert area_between(curve(1, 1, 1, 1), [(7, 0.0), (15, 0.0)]) is None
    # A point between is taken from the line: at 3 steps half way from 1 step to 7.
    assert area_between(curve(0, 0, 0, 0), [(0, -1), (1, -1), (7, -3)]) == pytest.approx((1 + 2 * 2) / 3)
