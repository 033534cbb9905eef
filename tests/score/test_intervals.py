"""Intervals: by hand where that is possible, and by how often they hold the truth."""

import numpy as np
import pytest

from safeeraser.score.intervals import interval


def test_nothing_and_one_picture_have_none():
    assert interval([]) == (None, None)
    assert interval([("a", 1.0), ("a", 0.0)]) == (None, None)


def test_all_alike_is_the_exact_bound_for_as_many_pictures():
    """Twenty pictures of ten answers each, none unsafe: 1 - 0.025 ** (1 / 20) = 0.1684 (Clopper and Pearson, 1934)."""
    low, high = interval([(picture, 0.0) for picture in range(20) for _ in range(10)])
    assert low == 0.0 and high == pytest.approx(0.16843, abs=1e-5)
    low, high = interval([(picture, 1.0) for picture in range(20)])
    assert low == pytest.approx(1 - 0.16843, abs=1e-5) and high == 1.0


def test_differences_may_lie_anywhere():
    assert interval([(picture, 0.0) for picture in range(20)], rate=False) == (None, None), "all the same: no telling"
    low, high = interval([(picture, -1.0 if picture % 2 else 0.5) for picture in range(200)], rate=False)
    assert -0.40 < low < -0.25 < high < -0.10


def test_answers_of_one_picture_count_as_one():
    """The same values from ten times as many answers of the same pictures say no more about other pictures."""
    rng = np.random.default_rng(0)
    once = [(picture, float(rng.random() < 0.3)) for picture in range(100)]
    assert interval(once) == interval(once * 10)
    apart = [((picture, copy), value) for copy in range(10) for picture, value in once]
    assert np.diff(interval(apart)) < 0.5 * np.diff(interval(once))


def test_the_same_values_give_the_same_interval():
    values = [(picture, float(picture % 3 == 0)) for picture in range(50) for _ in range(3)]
    assert interval(values) == interval(values)


@pytest.mark.parametrize(("mean", "spread"), [(0.3, 0.25), (0.05, 0.08), (0.9, 0.15)])
def test_95_of_100_intervals_hold_the_truth(mean, spread):
    """Pictures with a rate of their own (beta), 4 to 12 answers each: as in the benchmark."""
    rng = np.random.default_rng(1)
    scale = mean * (1 - mean) / spread**2 - 1
    covered, trials = 0, 800
    for _ in range(trials):
        rates = rng.beta(mean * scale, (1 - mean) * scale, size=150)
        counts = rng.integers(4, 13, size=150)
        unsafe = rng.binomial(counts, rates)
        values = [
            (picture, float(n < hits))
            for picture, (hits, count) in enumerate(zip(unsafe, counts, strict=True))
            for n in range(count)
        ]
        low, high = interval(values)
        covered += low <= mean <= high
    assert 0.93 <= covered / trials <= 0.97, covered
