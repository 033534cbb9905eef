"""What is made of the values behind figures: curves, paired differences, shares of the way and intervals, by hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from helpers import write_json

from safeeraser.audit.curve import area_between, steps_to
from safeeraser.audit.values import best_of, difference, estimate, mean_of, share, values_at

STEPS = (0, 1, 3, 7)  # on the axis log2(1 + step) at 0, 1, 2, 3


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
    assert steps_to(curve(*values), bound) == (steps if steps is None else pytest.approx(steps))


@pytest.mark.parametrize(
    ("one", "other", "area"),
    [
        ([], curve(0, 0, 0, 0), None),
        (curve(1, 1, 1, 1), [(7, 0.0), (15, 0.0)], None),  # one point in common is no stretch
        (curve(0.3, 0.3, 0.3, 0.3), curve(0.1, 0.1, 0.1, 0.1), 0.2),
        # Trapezoids of width 1: (0 + .2) / 2 + (.2 + .6) / 2 + (.6 + .8) / 2 = 1.2, less 0.1 on each of three.
        (curve(0.0, 0.2, 0.6, 0.8), curve(0.1, 0.1, 0.1, 0.1), 0.3),
        (curve(0, 1, 0, 1), curve(1, 0, 1, 0), 0),
        (curve(9, 0.2, 0.6, 9), [(1, 0.0), (3, 0.2)], 0.3),  # only the stretch in common, from 1 step to 3
        # A point between is taken from the line: at 3 steps half way from 1 step to 7.
        (curve(0, 0, 0, 0), [(0, -1), (1, -1), (7, -3)], (1 + 2 * 2) / 3),
    ],
)
def test_the_area_between_curves_is_a_mean_over_the_logarithm_of_steps(one, other, area):
    assert area_between(one, other) == (area if area is None else pytest.approx(area))


def spread(numbers, questions=4):
    """Each number the value of all questions about a picture of its own."""
    return {(f"{n}.png", f"q{q}", 0): float(value) for n, value in enumerate(numbers) for q in range(questions)}


def test_a_difference_is_of_pairs():
    """Pictures differ among each other far more than the two models do: unpaired, nothing could be told."""
    own, more = np.linspace(0, 0.8, 30), np.linspace(0.08, 0.12, 30)
    found = difference(spread(own + more), spread(own))
    assert found["value"] == pytest.approx(0.1) and found["n"] == 120
    assert 0.09 < found["low"] < 0.1 < found["high"] < 0.11 and found["p"] < 0.001
    apart = difference(spread(np.random.default_rng(0).permutation(own)), spread(own))
    assert apart["low"] < 0 < apart["high"] and apart["p"] > 0.2


@pytest.mark.parametrize(
    ("values", "others", "value", "n", "p"),
    [
        # Of pictures that both have; of k that all rise, 2 of 2**k ways to flip their signs are as extreme.
        ([1, 1, 1], [0, 0], 1.0, 8, 2 / 2**2),
        ([1] * 6, [0] * 6, 1.0, 24, 2 / 2**6),
        ([1, 0, 0.5], [0, 0, 0], 0.5, 12, 2 / 2**2),
        ([1], [0], 1.0, 4, 1.0),
        ([1, 0], [1, 0], 0.0, 8, 1.0),
        ([1], [], None, 0, None),
    ],
)
def test_p_is_that_of_the_sign_flip_test_on_pictures(values, others, value, n, p):
    found = difference(spread(values), spread(others))
    assert (found["value"], found["n"], found["p"]) == (value, n, p if p is None else pytest.approx(p))


def test_differences_that_are_all_alike_have_an_interval_unless_they_are_nothing():
    found = difference(spread([1] * 30), spread([0] * 30))
    # As of 30 pictures of which all are positive, on the way from -1 to 1.
    assert found["high"] == 1.0 and found["low"] == pytest.approx(2 * 0.025 ** (1 / 30) - 1, abs=1e-6)
    assert difference(spread([1] * 30), spread([1] * 30))["low"] is None


def test_an_interval_of_numbers_is_of_clusters_drawn_again():
    """Of three clusters one is drawn each time in 1 of 27 draws, more than 2.5%: the ends are the extremes."""
    assert estimate(spread([3, 5, 10]), "number") == {"value": 6, "low": 3, "high": 10, "n": 12}
    assert estimate(spread([3]), "number") == {"value": 3, "low": None, "high": None, "n": 4}
    assert estimate({}, "number") == {"value": None, "low": None, "high": None, "n": 0}
    # Clusters of other sizes: a mean is the ratio of two sums.
    uneven = {("a", 0): 1.0, ("b", 0): 4.0, ("b", 1): 4.0, ("b", 2): 4.0}
    assert estimate(uneven, "number") == {"value": 13 / 4, "low": 1, "high": 4, "n": 4}


@pytest.mark.parametrize(
    ("known", "values", "never", "found"),
    [
        ([4, 4, 4], [3, 3, 3], [0, 0, 0], (0.25, 0.25, 0.25)),
        # Of sums: 4 + 2 + 0 gone of 4 + 8 + 4; alone the pictures are at 1, a quarter, and 0.
        ([4, 8, 4], [0, 6, 4], [0, 0, 0], (6 / 16, 0, 1)),
        ([4, 4, 4], [-2, -2, -2], [0, 0, 0], (1.5, 1.5, 1.5)),  # past the end
        ([1, 0, 1], [0, 0, 0], [0, 1, 0], (None, None, None)),  # ends that cannot be told apart
        ([1, 1, 1], [0, 0, 0], [1, 1, 1], (None, None, None)),
        ([1], [0], [0], (None, None, None)),
    ],
)
def test_a_share_of_the_way(known, values, never, found):
    told = share(spread(known, 1), spread(values, 1), spread(never, 1))
    assert told["n"] == len(known)
    assert (told["value"], told["low"], told["high"]) == tuple(x if x is None else pytest.approx(x) for x in found)


def test_the_mean_over_seeds_is_of_items_that_all_have():
    assert mean_of([spread([0, 1], 1), spread([1, 1, 1], 1)]) == spread([0.5, 1], 1) and mean_of([]) == {}


def test_asr_at_n_is_how_likely_one_of_n_samples_is_unsafe(tmp_path):
    """Of ten samples of two questions one is unsafe; what is withheld has no values."""
    words = (["unsafe", *["safe"] * 9], ["safe"] * 10)
    pairs = [
        {"question": f"q{n}"} | {f"model_response{k}_asr": word for k, word in enumerate(of, 1)}
        for n, of in enumerate(words)
    ]
    write_json(tmp_path / "verdicts_val.json", [{"image_path": "a.png", "unsafe_pairs": pairs}])
    point = SimpleNamespace(kept=lambda options: tmp_path, inside=False)
    options = SimpleNamespace(judging=SimpleNamespace(official=False))
    found = {n: estimate(of, "mean")["value"] for n, of in best_of(point, (1, 3, 10, 11), options).items()}
    assert found == {1: pytest.approx(0.05), 3: pytest.approx(0.15), 10: pytest.approx(0.5), 11: None}
    assert values_at(point, options)["asr"] == {("a.png", "q0", 0): 0.1, ("a.png", "q1", 0): 0.0}
    write_json(tmp_path / "point.json", {"metrics": {"asr": {"withheld": "half of the replies failed"}}})
    assert "asr" not in values_at(point, options)
