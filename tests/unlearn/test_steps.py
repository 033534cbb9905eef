"""Optimizer steps: how far they move the weights, by hand, and their gradients, compared with plain steps' gradients.

The gradient mask: which weights it chooses, by hand and on the model, and that held weights keep their exact bits.
"""

import math

import pytest
import torch
from helpers import read_beside, read_lines, record, write_dataset, write_json
from safetensors.torch import load_file

from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.hooks.mask import choose, items_compared
from safeeraser.unlearn.hooks.moved import seed_of
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.objective.step import Average, Plain, Sam, Smooth, taken
from safeeraser.unlearn.run import forget
from safeeraser.unlearn.save_dir import MASK_FILE

from .built import ADAPTER, Gradients, built, checked
from .given import settings


def test_sam_moves_uphill_by_rho_and_nothing_where_there_is_no_hill():
    """The gradient of (x² + y²) / 2 at (3, 4) is (3, 4), whose length is 5."""
    x, y = torch.tensor([3.0]), torch.tensor([[4.0]])
    shift = Sam(rho=0.5).shift(lambda: ([x.clone(), y.clone()], 12.5), [x, y], 0)
    assert shift.logged == {"ascent": 5.0}
    assert torch.allclose(shift.by[0], torch.tensor([0.3])) and torch.allclose(shift.by[1], torch.tensor([[0.4]]))
    for gradient, rho in ((0.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (2.0, 0)):
        slope = [torch.tensor([gradient])]
        shift = Sam(rho=rho).shift(lambda slope=slope: (slope.copy(), 0.0), slope, 0)
        assert shift.by is None and shift.logged["ascent"] == pytest.approx(gradient, nan_ok=True)
    assert Smooth(std=0).shift(None, [x], 0) == Plain().shift(None, [x], 0) == (None, {})


def test_of_how_many_steps_the_mean_is():
    for share, counts in {0.0: [0, 0, 0, 0], 0.5: [0, 0, 1, 2], 1.0: [1, 2, 3, 4], 0.01: [0, 0, 0, 1]}.items():
        assert [taken(share, step, 4) for step in (1, 2, 3, 4)] == counts
    read = checked("gd", "step.name=average")
    assert (read.step.averaged, read.moved_terms) == (Average().last, [])


def of_step(folder, method, keys, by=None):
    """The gradient of the second optimizer step, and its row of the log. The first step hardly moves the weights.

    Three of the five items make the first step, and two the second. `by`: how far the weights are moved beforehand.
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
    """It is the moved terms' gradient at moved weights plus the other terms' at current ones, each from plain steps."""
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
    # The log has the losses at the weights that the step began with.
    assert told["terms"] == pytest.approx(row["terms"], rel=1e-5)
    assert told["moved"].pop("by") == pytest.approx(length(by), rel=1e-4)
    assert told["moved"] == ({"ascent": pytest.approx(length(ascent), rel=1e-4)} if step["name"] == "sam" else {})


CHOSEN = read_beside(__file__, "golden/mask.yaml")


@pytest.mark.parametrize(("mine", "other", "top", "expected"), CHOSEN)
def test_it_trains_what_exceeds_the_other_and_of_that_the_greatest_ratios(mine, other, top, expected):
    one, two = ({name: torch.tensor(value) for name, value in values.items()} for values in (mine, other))
    assert {name: each.tolist() for name, each in choose(one, two, top).items()} == expected


def test_the_items_are_spread_over_the_plan_and_none_comes_twice():
    plan = [Step(forget=number, retain=epoch) for epoch in range(3) for number in range(8)]
    assert [(step.forget, step.retain) for step in items_compared(plan, 4)] == [(0, 0), (2, 0), (4, 0), (6, 0)]
    assert [step.forget for step in items_compared(plan, 3)] == [0, 2, 5] and items_compared(plan, 99) == plan[:8]


@pytest.mark.parametrize("method", ["gapd", "popd"])
def test_a_mask_changes_nothing_of_what_is_trained_on(tmp_path, method):
    """The mask's own items change neither the plan's draws nor, if one is bad, the training items that are left out."""
    records = [record(number) for number in range(3)]
    del records[0]["UnharmPair_text1"]
    records[1]["unsafe_pairs"][2]["model_response"] = " "
    words = (f"data_path={write_dataset(tmp_path, *records)}", f"forget_loss={method}", f"save_dir={tmp_path / 'no'}")
    words += ("bad_items=skip", "max_bad_items=0.5")
    plain, masked = (prepare(settings(*words, *more)) for more in ((), ("mask={items: 99}",)))
    assert (masked.plan, masked.data.items) == (plain.plan, plain.data.items)
    assert len(masked.compared) == len(masked.data.compared.items["forget"]) == 11
    assert None not in {step.retain for step in masked.compared}


def saliencies(folder, plan):
    """The sums of squared gradients of transformers' own loss over a plan's items, by view and LoRA matrix."""
    trainer = built(folder, "gd", {"plan": str(plan), "projector": "lora"}, noise=0)
    model, prepares, sums = trainer.model.eval(), trainer.train_dataset.preprocessor, {"forget": {}, "retain": {}}
    lora = {n: each for n, each in model.named_parameters() if ".lora_" in n and ".layers." in n}
    for viewed in (row for item in trainer.train_dataset for row in item):
        loss = model(**prepares.join([viewed.row]), labels=torch.tensor([viewed.row.labels])).loss
        for name, gradient in zip(lora, torch.autograd.grad(loss, list(lora.values())), strict=True):
            sums[viewed.view][name] = sums[viewed.view].get(name, 0) + gradient.square()
    return sums


def test_the_greatest_saliencies_are_trained_and_the_rest_is_held_to_the_bit(tmp_path, caplog):
    """The mask is made without dropout, and holds weights under `step=sam`. In a fresh adapter only B is compared."""
    caplog.set_level("INFO")
    steps = [{"forget": 8 * k, "retain": 8 * k, "decoupled": 8 * k, "refusal": 0} for k in range(3)]
    plan = write_json(tmp_path / "plan.json", {"steps": steps})
    words = ("forget_loss=gd", "projector=lora", "step=sam", "step.rho=0.5", "lr=0.02", "weight_decay=0.5")
    words += ("warmup_ratio=0", "max_train_steps=1", "gradient_accumulation_steps=3", "LoRA.dropout=0.5")
    words += ("mask.top=0.2", "mask.items=3", f"plan={plan}", f"save_dir={tmp_path / 'run'}")
    record = forget(settings(*words)).record["mask"]
    mask, after = load_file(tmp_path / "run" / MASK_FILE), load_file(tmp_path / "run" / ADAPTER)
    mine, other = saliencies(tmp_path, plan).values()
    assert mask.keys() == {name for name in mine if ".lora_B." in name} and len(mask) == 14
    ratio = torch.cat([(mine[name] / other[name]).flatten() for name in mask])
    least = ratio.sort(descending=True).values[(most := int(0.2 * len(ratio))) - 1]
    found = torch.cat([each.flatten() for each in mask.values()])
    clear = (ratio / least - 1).abs() > 1e-3  # in float32 a ratio at the bound may round to either side
    assert (ratio > 1).sum() > most and clear.float().mean() > 0.99
    assert torch.equal(found[clear], (ratio >= least)[clear])
    layers = {n: torch.cat([mask[name].flatten() for name in mask if f".layers.{n}." in name]) for n in "01"}
    assert record["layers"] == pytest.approx({n: each.float().mean().item() for n, each in layers.items()}, abs=1e-4)
    counts = {"items": 3, "trained": most, "compared": len(ratio), "not_compared": 32 * 2 * (6 * 64 + 128)}
    assert counts.items() <= record.items()
    says = f"mask: {most:,} of {len(ratio):,} LoRA weights are trained (20.0%; forget against retain, 3 items); "
    (line,) = [line for line in caplog.messages if line.startswith(says)]
    shares = ", ".join(f"{layer} {share:.1%}" for layer, share in record["layers"].items())
    assert line.endswith(f"; 32,768 more have no gradient to compare, and are trained; share of each layer: {shares}")
    for name, trains in mask.items():  # only of B, which begins at 0
        value = after[name.replace(".default", "")]
        assert not value[~trains].any() and (value[trains] != 0).float().mean() >= 0.95, name
