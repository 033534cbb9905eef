"""How optimizer steps are taken: each step by hand on plain tensors, and its gradient against a loop of plain torch."""

import math

import pytest
import torch
from helpers import read_lines, write_json

from safeeraser.unlearn.moved import seed_of
from safeeraser.unlearn.steps import Average, Plain, Sam, Smooth, taken

from .built import Gradients, built, checked


def test_sam_moves_uphill_by_rho():
    """Of (x² + y²) / 2 at (3, 4) the gradient is (3, 4), of length 5."""
    x, y = torch.tensor([3.0]), torch.tensor([[4.0]])
    shift = Sam(rho=0.5).shift(lambda: [x.clone(), y.clone()], [x, y], 0)
    assert shift.told == {"ascent": 5.0}
    assert torch.allclose(shift.by[0], torch.tensor([0.3])) and torch.allclose(shift.by[1], torch.tensor([[0.4]]))


@pytest.mark.parametrize(("gradient", "rho"), [(0.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (2.0, 0)])
def test_nothing_is_moved_by_0_or_along_a_gradient_that_is_0_or_not_finite(gradient, rho):
    x = torch.tensor([gradient])
    shift = Sam(rho=rho).shift(lambda: [x], [x], 0)
    assert shift.by is None and shift.told["ascent"] == pytest.approx(gradient, nan_ok=True)
    assert Smooth(std=0).shift(None, [x], 0) == Plain().shift(None, [x], 0) == (None, {})


@pytest.mark.parametrize(
    ("share", "steps", "counts"),
    [(0.0, 4, [0, 0, 0, 0]), (0.5, 4, [0, 0, 1, 2]), (1.0, 3, [1, 2, 3]), (0.01, 3, [0, 0, 1])],
)
def test_of_how_many_steps_the_mean_is(share, steps, counts):
    assert [taken(share, step, steps) for step in range(1, steps + 1)] == counts


@pytest.mark.parametrize(
    ("name", "step", "terms", "cost"),
    [
        ("gd", {"name": "plain"}, [], ""),
        ("klpd", {"name": "sam"}, ["forget"], "2 more passes, forward and backward, over forget"),
        ("dpo", {"name": "sam"}, ["forget"], "2 more passes, forward and backward, over forget, refusal"),
        ("po", {"name": "smooth"}, ["preference"], "1 more pass, forward and backward, over retain, refusal"),
        ("none", {"name": "smooth", "terms": "all"}, ["retain"], "1 more pass, forward and backward, over retain"),
        (
            "npo+pd",
            {"name": "sam", "terms": "all"},
            ["forget", "retain", "decoupled"],
            "over forget, retain, decoupled",
        ),
        ("gd", {"name": "average"}, [], "keeps the mean of the weights after the last 2 of 8 optimizer steps"),
    ],
)
def test_which_terms_are_taken_at_moved_weights_and_what_a_step_takes(name, step, terms, cost):
    read = checked(name, {"step": step})
    assert read.moved_terms == terms
    said = read.step.cost(read.method, 8)
    assert said.endswith(cost) and bool(said) == bool(cost)
    if terms:
        assert said.startswith(f"takes the gradient of {', '.join(terms)} at moved weights: ")
    assert read.step.averaged == (Average().last if step["name"] == "average" else 0)


def of_step(folder, method, keys, by=None):
    """The gradient that the second optimizer step takes, where the first moves nothing, and its row of the log.

    Of five items three make the first step, and two the second. `by`: how far the weights are moved beforehand.
    """
    plan = write_json(
        folder / "plan.json", {"steps": [{"forget": k, "retain": k, "decoupled": k, "refusal": 0} for k in range(5)]}
    )
    keys = {"plan": str(plan), "gradient_accumulation_steps": 3, "lr": 1e-12, **keys}
    kept = Gradients()
    trainer = built(folder, method, keys, steps=2, callbacks=[kept])
    for name, shift in (by or {}).items():
        trainer.model.get_parameter(name).data += shift
    trainer.train()
    return kept.steps[1], read_lines(folder / "train_log.jsonl")[1]


def length(gradient):
    return sum(each.square().sum() for each in gradient.values()).item() ** 0.5


ALL_OF_NPO = ("npo+pd", {"name": "sam", "rho": 0.5, "terms": "all"}, ["forget", "retain", "decoupled"], [])
ALL_OF_RMU = ("rmu", {"name": "smooth", "std": 0.005, "terms": "all"}, ["forget", "retain"], [])


def without(*names):
    return {f"recipe.weights.{name}": 0 for name in names}


@pytest.mark.parametrize(
    ("method", "step", "forgets", "others"),
    [
        ("klpd", {"name": "sam", "rho": 0.5}, ["forget"], ["kl", "decoupled"]),
        pytest.param(*ALL_OF_NPO, marks=pytest.mark.slow),
        ("popd", {"name": "smooth", "std": 0.005}, ["preference"], ["decoupled"]),
        pytest.param(*ALL_OF_RMU, marks=pytest.mark.slow),
    ],
)
def test_the_gradient_of_a_step_is_put_together_of_plain_ones(tmp_path, method, step, forgets, others):
    """That of f at moved weights, and of r where they are, as plain steps on f or r alone take them."""
    more = {"forget_loss.terms.forget.layer": 1} if method == "rmu" else {}
    ascent, row = of_step(tmp_path / "f", method, more | without(*others))
    drawn = torch.Generator().manual_seed(seed_of(233, 1, 0))
    by = {
        name: each / length(ascent) * 0.5 if step["name"] == "sam" else torch.randn(each.shape, generator=drawn) * 0.005
        for name, each in ascent.items()
    }
    there, _ = of_step(tmp_path / "moved", method, more | without(*others), by)
    rest, _ = of_step(tmp_path / "r", method, more | without(*forgets)) if others else (dict.fromkeys(by, 0), row)
    expected, plain = ({name: each[name] + rest[name] for name in by} for each in (there, ascent))
    found, told = of_step(tmp_path / "run", method, more | {"step": step, "gradient_checkpointing": method == "klpd"})
    assert found.keys() == expected.keys()
    assert length({name: found[name] - expected[name] for name in by}) < 1e-5 * length(expected)
    assert length({name: plain[name] - expected[name] for name in by}) > 1e-3 * length(expected)
    # The losses in the log are those of the weights that the step began with.
    assert told["terms"] == pytest.approx(row["terms"], rel=1e-5)
    assert told["moved"].pop("by") == pytest.approx(length(by), rel=1e-4)
    assert told["moved"] == ({"ascent": pytest.approx(length(ascent), rel=1e-4)} if step["name"] == "sam" else {})


def test_a_move_of_nothing_is_a_plain_step_to_the_bit(tmp_path):
    given = {"LoRA.dropout": 0.1}
    plain, row = of_step(tmp_path / "plain", "npo", given)
    still, told = of_step(tmp_path / "sam", "npo", given | {"step": {"name": "sam", "rho": 0}})
    assert all(torch.equal(plain[name], still[name]) for name in plain)
    assert told.pop("moved")["by"] == 0 and row == told
