"""How optimizer steps are taken: each step by hand on plain tensors, and its gradient against a loop of plain torch."""

import math

import pytest
import torch
from helpers import read_beside, read_lines, write_json

from safeeraser.unlearn.hooks.moved import seed_of
from safeeraser.unlearn.objective.step import Average, Plain, Sam, Smooth, taken

from .built import Gradients, built, checked


def test_sam_moves_uphill_by_rho_and_nothing_where_there_is_no_hill():
    """Of (x² + y²) / 2 at (3, 4) the gradient is (3, 4), of length 5."""
    x, y = torch.tensor([3.0]), torch.tensor([[4.0]])
    shift = Sam(rho=0.5).shift(lambda: ([x.clone(), y.clone()], 12.5), [x, y], 0)
    assert shift.told == {"ascent": 5.0}
    assert torch.allclose(shift.by[0], torch.tensor([0.3])) and torch.allclose(shift.by[1], torch.tensor([[0.4]]))
    for gradient, rho in ((0.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (2.0, 0)):
        slope = [torch.tensor([gradient])]
        shift = Sam(rho=rho).shift(lambda slope=slope: (slope.copy(), 0.0), slope, 0)
        assert shift.by is None and shift.told["ascent"] == pytest.approx(gradient, nan_ok=True)
    assert Smooth(std=0).shift(None, [x], 0) == Plain().shift(None, [x], 0) == (None, {})


def test_of_how_many_steps_the_mean_is():
    for share, counts in {0.0: [0, 0, 0, 0], 0.5: [0, 0, 1, 2], 1.0: [1, 2, 3, 4], 0.01: [0, 0, 0, 1]}.items():
        assert [taken(share, step, 4) for step in (1, 2, 3, 4)] == counts
    read = checked("gd", "step.name=average")
    assert (read.step.averaged, read.moved_terms) == (Average().last, [])


def of_step(folder, method, keys, by=None):
    """The gradient that the second optimizer step takes, where the first moves nothing, and its row of the log.

    Of five items three make the first step, and two the second. `by`: how far the weights are moved beforehand.
    """
    steps = [{"forget": k, "retain": k, "decoupled": k, "refusal": 0} for k in range(5)]
    plan = write_json(folder / "plan.json", {"steps": steps})
    keys = {"plan": str(plan), "gradient_accumulation_steps": 3, "lr": 1e-12, **keys}
    kept = Gradients()
    trainer = built(folder, method, keys, steps=2, callbacks=[kept])
    for name, shift in (by or {}).items():
        trainer.model.get_parameter(name).data += shift
    trainer.train()
    return kept.steps[1], read_lines(folder / "train_log.jsonl")[1]


def length(gradient):
    return sum(each.square().sum() for each in gradient.values()).item() ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "step", "forgets", "others"),
    read_beside(__file__, "golden/steps.yaml")["moved"],
)
def test_the_gradient_of_a_step_is_put_together_of_plain_ones(tmp_path, method, step, forgets, others):
    """That of f at moved weights, and of r where they are, as plain steps on f or r alone take them."""
    no_others, no_forgets = ({f"recipe.weights.{name}": 0 for name in names} for names in (others, forgets))
    ascent, row = of_step(tmp_path / "f", method, no_others)
    drawn = torch.Generator().manual_seed(seed_of(233, 1, 0))
    by = {
        name: each / length(ascent) * 0.5 if step["name"] == "sam" else torch.randn(each.shape, generator=drawn) * 0.005
        for name, each in ascent.items()
    }
    there, _ = of_step(tmp_path / "moved", method, no_others, by)
    rest, _ = of_step(tmp_path / "r", method, no_forgets) if others else (dict.fromkeys(by, 0), row)
    expected, plain = ({name: each[name] + rest[name] for name in by} for each in (there, ascent))
    found, told = of_step(tmp_path / "run", method, {"step": step, "gradient_checkpointing": method == "klpd"})
    assert found.keys() == expected.keys()
    assert length({name: found[name] - expected[name] for name in by}) < 1e-5 * length(expected)
    assert length({name: plain[name] - expected[name] for name in by}) > 1e-3 * length(expected)
    # The losses in the log are those of the weights that the step began with.
    assert told["terms"] == pytest.approx(row["terms"], rel=1e-5)
    assert told["moved"].pop("by") == pytest.approx(length(by), rel=1e-4)
    assert told["moved"] == ({"ascent": pytest.approx(length(ascent), rel=1e-4)} if step["name"] == "sam" else {})
