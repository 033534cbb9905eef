"""Intervals by hand. How often they hold the truth is counted by benchmarks/coverage.py."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest, t

from safeeraser.benchmark.intervals import interval


def exact(hits, trials):
    """Clopper and Pearson's bounds, from scipy."""
    return pytest.approx(tuple(binomtest(hits, trials).proportion_ci(method="exact")), abs=1e-9)


def pictures(*answers):
    """(picture, value) pairs from each picture's answers."""
    return [(picture, float(value)) for picture, values in enumerate(answers) for value in values]


@pytest.mark.parametrize("kind", ["rate", "mean"])
def test_all_alike_is_the_exact_bound_for_as_many_pictures(kind):
    """Twenty pictures of ten answers each, none unsafe: 1 - 0.025 ** (1 / 20) = 0.1684 (Clopper and Pearson, 1934)."""
    low, high = interval([(picture, 0.0) for picture in range(20) for _ in range(10)], kind)
    assert low == 0.0 and high == pytest.approx(0.16843, abs=1e-5)
    assert interval([], kind) == interval([("a", 1.0), ("a", 0.0)], kind) == (None, None)


def test_korn_and_graubard_by_hand():
    """Sixteen pictures of two answers, half of them wholly unsafe.

    The ratio's variance is 16/15 * 16 / 32**2 = 1/60, that of 32 independent answers 0.25/31: deff 31/15. Of 32 answers
    are left 15.484, less for the estimate (2.0395 / 2.1314)**2: 14.177, half of them positive.
    """
    trials = 32 / (31 / 15) * (t.ppf(0.975, 31) / t.ppf(0.975, 15)) ** 2
    assert trials == pytest.approx(14.177, abs=1e-3)
    low, high = interval(pictures(*[[1, 1]] * 8, *[[0, 0]] * 8))
    assert low == pytest.approx(beta.ppf(0.025, trials / 2, trials / 2 + 1), abs=1e-9)
    assert high == pytest.approx(1 - low, abs=1e-9)
    assert interval(pictures(*[[1]] * 12, *[[0]] * 28)) == exact(12, 40), "one answer each: as if independent"


def test_few_positive_pictures_count_as_pictures():
    """Three of 50 pictures with one unsafe answer of eight: that their answers do not agree may be chance."""
    assert interval(pictures(*[[1] * 8] * 3, *[[0] * 8] * 47)) == exact(3, 50)
    _, high = interval(pictures(*[[1] + [0] * 7] * 3, *[[0] * 8] * 47))
    assert high == pytest.approx(beta.ppf(0.975, 3 / 8 + 1, 50 - 3 / 8), abs=1e-9)
    # Seven that differ are few, eight are not: those of two answers each agree wholly, or as they are seen to.
    few = (beta.ppf(0.025, 3.5, 47.5), beta.ppf(0.975, 4.5, 46.5))
    assert interval(pictures(*[[1, 0]] * 7, *[[0, 0]] * 43)) == pytest.approx(few, abs=1e-9)
    assert interval(pictures(*[[1, 0]] * 8, *[[0, 0]] * 42)) == exact(8, 100)


def test_many_pictures_of_even_values_have_the_interval_of_t():
    values = np.random.default_rng(0).random(400)
    half = t.ppf(0.975, 399) * values.std(ddof=1) / 20
    for kind in ("mean", "difference"):
        low, high = interval(list(enumerate(values)), kind)
        assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.06)
    assert values.mean() - low == pytest.approx(high - values.mean()), "of a difference equally far to both sides"


def test_differences_by_hand():
    """Of 50 pictures one is lost: 0.05% to 10.65% are, and up to 7.11% may be gained (Newcombe's method 10)."""
    low, high = interval(pictures([-1], *[[0]] * 49), "difference")
    assert low == pytest.approx(-0.1065, abs=1e-4)
    assert high == pytest.approx(-0.02 + np.hypot(0.0711, 0.02 - 0.0005), abs=1e-4)
    assert interval([(picture, 0.0) for picture in range(20)], "difference") == (None, None), "all the same: no telling"
