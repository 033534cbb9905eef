"""The plain implementation that benchmarks/training.py measures against: it computes what the project computes."""

import importlib.util
import sys

import pytest
from helpers import METHODS, ROOT

from safeeraser.benchmark.methods import pages
from safeeraser.errors import BadInput

pytestmark = pytest.mark.slow


def script(name):
    """A script of benchmarks/, which finds those beside it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sides = script("sides")
training = script("training")

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


@pytest.mark.parametrize(
    "row", [*pages(), "npo+pd", "gd gradient_checkpointing=true", "npo finetune=full batch_size=2"]
)
def test_every_method_is_trained_as_forget_would(tmp_path, row):
    layer = "forget_loss.terms.forget.layer=0 " if row == "rmu" else ""
    read = sides.settings(f"{row} {layer}stop.not_finite=false", tmp_path, "gradient_accumulation_steps=1")
    entries = sides.build_entries(read.method, TINY, 2 * read.batch_size)
    assert len(sides.train("ours", entries, read, TINY)) == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("npx", "forget_loss: no 'npx'; did you mean 'npo'"),
        ("npo LoRA.rr=1", "no key 'LoRA.rr'; did you mean 'r'"),
        ("npo LoRA.r", "'LoRA.r' is no KEY=VALUE"),
        ("npo retain={", "retain: '{' is no value of YAML's"),
        ("", "forget_loss"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path, row, says):
    with pytest.raises(BadInput) as refused:
        sides.settings(row, tmp_path)
    assert says in str(refused.value)


def runs(**figures):
    return [training.Run(row, "ours", seconds, seconds, 100, peak) for row, (seconds, peak) in figures.items()]


def test_ratios_are_over_the_one_beside_and_a_step_is_over_the_same_without_it():
    made = [*runs(gd=(1.0, 1100), dpo=(1.5, 1200)), training.Run("dpo step=sam", "ours", 3.0, 3.0, 100, 1300)]
    rows = ["gd", "dpo", "dpo step=sam"]
    said = list(training.conclude_beside(rows, "gd", made, made))
    assert said[:2] == [
        "memory of dpo over gd: 1.09, net 1.10 (aim: at most 1.15)",
        "time of dpo step=sam over dpo: 2.00 (aim: at most 2.10)",
    ]
    assert len(list(training.conclude_beside(rows, "dpo", [], made))) == 1


def test_seven_billion_weights_are_foretold_without_any():
    """Three views beside two: their activations alone."""
    gd, npo, dpo = (training.foretold(f"{name} gradient_checkpointing=true") for name in ("gd", "npo", "dpo"))
    assert 15 < gd == npo < dpo < 1.05 * gd
