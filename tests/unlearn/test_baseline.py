"""The plain implementation that benchmarks/training.py measures against: it computes what the project computes."""

import importlib.util

import pytest
from helpers import METHODS, ROOT

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("sides", ROOT / "benchmarks" / "sides.py")
sides = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sides)

TINY = sides.Sizes(
    vocabulary=97,
    width=16,
    mlp=32,
    layers=2,
    vision_layers=2,
    side=28,
    system=3,
    question=(2, 6),
    answer=(3, 9),
    refusal=(2, 4),
)


@pytest.mark.parametrize("method", METHODS)
def test_ours_and_plain_agree(method):
    terms = sides.compare(method, TINY)
    assert all(value > 0.001 for value in terms.values()), terms


def test_a_difference_is_not_passed_over(monkeypatch):
    right = sides.plain_batch
    monkeypatch.setattr(sides, "plain_batch", lambda rows, sizes, length=0: right(rows, sizes, 60))
    # Cross-entropy does not mind the padding; KL over all positions does.
    sides.compare("gd", TINY)
    with pytest.raises(AssertionError, match="klpd: term 'kl' is "):
        sides.compare("klpd", TINY)
