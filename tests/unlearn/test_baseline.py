"""The plain implementation that benchmarks/training.py measures against computes what the project computes."""

import importlib.util
import sys

import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow


spec = importlib.util.spec_from_file_location("sides", ROOT / "benchmarks" / "sides.py")
sys.modules["sides"] = sides = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sides)
SMALL = {"vocabulary": 97, "width": 16, "mlp": 32, "layers": 2, "vision_layers": 2, "side": 28, "system": 3}
TINY = sides.Sizes(**SMALL, question=(2, 6), answer=(3, 9), refusal=(2, 4))


@pytest.mark.parametrize("method", ["gapd", "gdpd", "klpd", "popd"])
def test_ours_and_plain_agree(method):
    assert all(value > 0.001 for value in sides.compare(method, TINY).values())


def test_a_difference_is_not_passed_over(monkeypatch):
    """Cross-entropy does not mind the padding; KL over all positions does."""
    right = sides.plain_batch
    monkeypatch.setattr(sides, "plain_batch", lambda rows, sizes, length=0: right(rows, sizes, 60))
    sides.compare("gd", TINY)
    with pytest.raises(AssertionError, match="klpd: term 'kl' is "):
        sides.compare("klpd", TINY)


@pytest.mark.parametrize("row", ["dpo", "gd gradient_checkpointing=true", "npo finetune=full batch_size=2"])
def test_rows_are_trained_as_forget_would(tmp_path, row):
    read = sides.settings(f"{row} stop.not_finite=false", tmp_path, "gradient_accumulation_steps=1")
    entries = sides.build_entries(read.method, TINY, 2 * read.batch_size)
    assert len(sides.train("ours", entries, read, TINY)) == 2
