"""What is made of the values behind figures: differences, shares of the way, and ASR@n, by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from safeeraser.audit.values import best_of, difference, estimate, mean_of, share, values_at


def spread(numbers, questions=4):
    """Each number the value of all questions about a picture of its own."""
    return {(f"{n}.png", f"q{q}", 0): float(value) for n, value in enumerate(numbers) for q in range(questions)}


def test_a_difference_is_of_pairs():
    """Pictures differ among each other far more than the two models do: unpaired, nothing could be told."""
    own, more = np.linspace(0, 0.8, 30), np.linspace(0.08, 0.12, 30)
    found = difference(spread(own + more), spread(own))
    assert found["value"] == pytest.approx(0.1) and found["n"] == 120
    assert 0.09 < found["low"] < 0.1 < found["high"] < 0.11
    assert found["p"] < 0.001
    shuffled = np.random.default_rng(0).permutation(own)
    apart = difference(spread(shuffled), spread(own))
    assert apart["low"] < 0 < apart["high"] and apart["p"] > 0.2


def test_a_difference_is_of_what_both_have():
    found = difference(spread([1, 1, 1]), spread([0, 0]))
    assert (found["value"], found["n"]) == (1.0, 8)
    assert difference(spread([1]), {}) == {"value": None, "low": None, "high": None, "n": 0, "p": None}
    assert difference(spread([1, 0]), spread([1, 0]))["p"] == 1.0


def test_one_picture_tells_nothing_and_many_alike_tell_something():
    assert difference(spread([1]), spread([0]))["p"] == 1.0
    found = difference(spread([1] * 30), spread([0] * 30))
    assert (found["value"], found["high"]) == (1.0, 1.0) and 0.7 < found["low"] < 1 and found["p"] < 0.001
    assert difference(spread([1] * 30), spread([1] * 30))["low"] is None


def test_a_share_of_which_some_draws_have_no_way_is_not_told():
    few = spread([1] * 5 + [0] * 25)
    assert share(few, spread([0] * 30), spread([0] * 30))["low"] is None


def test_p_is_uniform_where_nothing_differs():
    random = np.random.default_rng(1)
    found = [difference(spread(random.normal(size=20) / 9), spread(random.normal(size=20) / 9))["p"] for _ in range(60)]
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) < 0.05) < 0.15


def test_a_share_of_the_way():
    random = np.random.default_rng(2)
    known, never = 1 + random.normal(size=40) / 10, random.normal(size=40) / 10
    for place in (0.0, 0.25, 1.0):
        found = share(spread(known), spread(known + place * (never - known)), spread(never))
        assert found["value"] == pytest.approx(place, abs=1e-9) and found["n"] == 160
        assert found["low"] == pytest.approx(place, abs=0.02) and found["high"] == pytest.approx(place, abs=0.02)
    noisy = share(spread(known), spread(0.5 + random.normal(size=40)), spread(never))
    assert noisy["low"] < noisy["value"] < noisy["high"] and noisy["high"] - noisy["low"] > 0.2


def test_there_is_no_way_between_ends_that_cannot_be_told_apart():
    random = np.random.default_rng(3)
    one, other = (spread(random.normal(size=30)) for _ in range(2))
    assert share(one, one, other) == {"value": None, "low": None, "high": None, "n": 120}


def test_the_interval_of_numbers_of_any_size_holds_the_truth():
    """19 times of 20, whatever the unit; here of clusters that agree within themselves."""
    random, held = np.random.default_rng(4), 0
    for _ in range(60):
        found = estimate(spread(3 + 2 * random.normal(size=40)), "number")
        held += found["low"] < 3 < found["high"]
    assert 51 <= held <= 60


def test_the_mean_over_seeds_is_of_items_that_all_have():
    assert mean_of([spread([0, 1], 1), spread([1, 1, 1], 1)]) == spread([0.5, 1], 1)


def verdicts(folder, words):
    """A point whose verdicts on the samples of two questions are these."""
    pairs = [
        {"question": f"q{n}"} | {f"model_response{k}_asr": word for k, word in enumerate(of, 1)}
        for n, of in enumerate(words)
    ]
    (folder / "verdicts_val.json").write_text(json.dumps([{"image_path": "a.png", "unsafe_pairs": pairs}]))
    return SimpleNamespace(kept=lambda options: folder, inside=False)


def test_asr_at_n_is_how_likely_one_of_n_samples_is_unsafe(tmp_path):
    point = verdicts(tmp_path, [["unsafe", *["safe"] * 9], ["safe"] * 10])
    options = SimpleNamespace(judging=SimpleNamespace(official=False))
    found = {n: estimate(of, "mean")["value"] for n, of in best_of(point, (1, 3, 10, 11), options).items()}
    assert found == {1: pytest.approx(0.05), 3: pytest.approx(0.15), 10: pytest.approx(0.5), 11: None}
    assert values_at(point, options)["asr"] == {("a.png", "q0", 0): 0.1, ("a.png", "q1", 0): 0.0}
    (tmp_path / "point.json").write_text(json.dumps({"metrics": {"asr": {"withheld": "half of the replies failed"}}}))
    assert "asr" not in values_at(point, options)
