"""Probes of states that are made for it, and of the tiny model's."""

import numpy as np
import pytest

from safeeraser.audit.inside.probe import held_out, probe, told_apart

from .knowing import knowing, some_pairs, untouched

KEYWORDS = [f"k{n}" for n in range(12)]


def drawn(pairs=240, width=20):
    """Keywords of two answers a pair, and states in which there is nothing to find."""
    random = np.random.default_rng(0)
    sources = [tuple(map(str, random.choice(KEYWORDS, 2, replace=False))) for _ in range(pairs)]
    return sources, random.normal(size=(pairs, 2, width))


def test_what_is_marked_is_found_and_what_is_not_is_chance():
    sources, states = drawn()
    assert np.mean(held_out(sources, states, states)) == pytest.approx(0.5, abs=0.1)
    marked = states + np.array([6, -6])[:, None] * np.eye(20)[0]
    assert set(held_out(sources, marked, marked)) == {1.0}
    assert set(held_out(sources, marked, marked[:, ::-1])) == {0.0}
    assert set(held_out(sources, marked, np.ones_like(marked))) == {0.5}


def test_labels_that_are_shuffled_are_chance():
    sources, states = drawn()
    marked = states + np.array([6, -6])[:, None] * np.eye(20)[0]
    flipped = np.random.default_rng(1).random(len(sources)) < 0.5
    marked[flipped] = marked[flipped, ::-1]
    assert np.mean(held_out(sources, marked, marked)) == pytest.approx(0.5, abs=0.1)


def test_whose_an_answer_is_tells_nothing():
    """A keyword's answers are true of its own pictures only; a probe that has met them as others' alone would find them
    wrong everywhere."""
    sources, states = drawn(width=12)
    states += 6 * np.array([[np.eye(12)[KEYWORDS.index(keyword)] for keyword in both] for both in sources])
    assert np.mean(held_out(sources, states, states)) == pytest.approx(0.5, abs=0.1)


def test_states_that_are_not_finite_are_left_out():
    sources, states = drawn()
    broken = states.copy()
    broken[3, 1, 0] = np.inf
    values = held_out(sources, states, broken)
    assert values[3] is None and None not in values[:3] + values[4:]
    assert held_out(sources[:1] * 5, states[:5], states[:5]) == [None] * 5  # nothing else to train on


def test_features_are_means_over_the_answers_of_two_layers():
    one, eight = (probe(untouched(), some_pairs(), size) for size in (1, 8))
    assert one.shape == (8, 2, 2 * 64) and one.dtype == np.float32
    assert eight == pytest.approx(one, abs=1e-5)
    pairs = some_pairs()
    found = told_apart(untouched(), pairs, probe(knowing(), pairs, 8), 8)["probe"]
    assert found.keys() == {pair.key for pair in pairs} and set(found.values()) <= {0.0, 0.5, 1.0, None}
