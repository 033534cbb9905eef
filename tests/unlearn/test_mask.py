"""The gradient mask: what it chooses, by hand and on the model, and that what it holds never moves, to the bit."""

import json
import shutil

import pytest
import torch
from helpers import record, run, trained, write_dataset, write_json
from safetensors.torch import load_file, save_file

from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.mask import choose, items_compared
from safeeraser.unlearn.plan import Step
from safeeraser.unlearn.save_dir import MASK_FILE

from .built import ADAPTER, GIVEN, Gradients, built
from .given import settings

# A rate and a decay at which whatever may move does: 0.01 of each weight in each step.
MOVES = ("lr=0.02", "weight_decay=0.5", "warmup_ratio=0", "lr_scheduler_type=constant", "max_train_steps=3")
MINE, OTHER = {"a": [[4.0, 1.0], [3.0, 2.0]], "b": [6.0, 0.5]}, {"a": [[1.0, 2.0], [1.0, 1.0]], "b": [1.0, 0.0]}


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """An adapter that has been trained a little, so that none of its matrices is 0."""
    words = ("forget_loss=gd", "max_train_steps=2", "lr=0.01", "warmup_ratio=0")
    return trained(tmp_path_factory.mktemp("moved") / "run", *GIVEN, *words)


@pytest.mark.parametrize(
    ("mine", "other", "top", "expected"),
    [
        # Ratios 4, 1/2, 3, 2 and 6, infinity: what exceeds 1, and of it the greatest of all matrices.
        (MINE, OTHER, 1.0, {"a": [[True, False], [True, True]], "b": [True, True]}),
        (OTHER, MINE, 1.0, {"a": [[False, True], [False, False]], "b": [False, False]}),
        (MINE, OTHER, 0.5, {"a": [[True, False], [False, False]], "b": [True, True]}),
        (MINE, OTHER, 0.3, {"a": [[False, False], [False, False]], "b": [False, True]}),
        # What is equal does not exceed; of equal ratios the first are taken, infinite ones too.
        ({"a": [1.0, 2.0]}, {"a": [1.0, 2.0]}, 1.0, {"a": [False, False]}),
        ({"a": [2.0] * 3, "b": [2.0]}, {"a": [1.0] * 3, "b": [1.0]}, 0.5, {"a": [True, True, False], "b": [False]}),
        # A matrix on which neither has a gradient is left out.
        ({"c": [0.0, 0.0], "d": [0.0, 1.0]}, {"c": [0.0, 0.0], "d": [0.0, 0.0]}, 1.0, {"d": [False, True]}),
    ],
)
def test_it_trains_what_exceeds_the_other_and_of_that_the_greatest_ratios(mine, other, top, expected):
    one, two = ({name: torch.tensor(value) for name, value in values.items()} for values in (mine, other))
    assert {name: each.tolist() for name, each in choose(one, two, top).items()} == expected


def test_the_items_are_spread_over_the_plan_and_none_comes_twice():
    plan = [Step(forget=number, retain=epoch) for epoch in range(3) for number in range(8)]
    assert [(step.forget, step.retain) for step in items_compared(plan, 4)] == [(0, 0), (2, 0), (4, 0), (6, 0)]
    assert [step.forget for step in items_compared(plan, 3)] == [0, 2, 5] and items_compared(plan, 99) == plan[:8]


@pytest.mark.parametrize("method", ["gapd", "popd"])
def test_a_mask_changes_nothing_of_what_is_trained_on(tmp_path, method):
    """Neither the draws, for which retain items of its own do not count, nor what is left out for a bad one of them."""
    records = [record(number) for number in range(3)]
    del records[0]["UnharmPair_text1"]
    records[1]["unsafe_pairs"][2]["model_response"] = " "
    words = (f"data_path={write_dataset(tmp_path, *records)}", f"forget_loss={method}", f"save_dir={tmp_path / 'no'}")
    words += ("bad_items=skip", "max_bad_items=0.5")
    plain, masked = (prepare(settings(*words, *more)) for more in ((), ("mask={items: 99}",)))
    assert (masked.plan, masked.data.items) == (plain.plan, plain.data.items)
    assert len(masked.compared) == len(masked.data.compared.items["forget"]) == 11
    assert None not in {step.retain for step in masked.compared}


def saliencies(folder, views, plan, more):
    """The ratio of the sums of squared gradients over a plan's items of two views, as plain training takes them."""
    sums = []
    for view in views:
        kept, keys = Gradients(), {"forget_loss.terms.forget.views": [view], "plan": str(plan), "lr": 1e-12}
        keys |= {"gradient_accumulation_steps": 1, **more}
        built(folder / view, "ga", keys, steps=5, noise=0, callbacks=[kept]).train()
        sums.append({name: sum(step[name] ** 2 for step in kept.steps) for name in kept.steps[0]})
    return {name: sums[0][name] / sums[1][name] for name in sums[0]}


def lora(folder):
    """An adapter's LoRA matrices in the language model, by the names that a mask has."""
    found = {name.replace(".weight", ".default.weight"): each for name, each in load_file(folder / ADAPTER).items()}
    return {name: each for name, each in found.items() if ".layers." in name}


def assert_held(mask, after, before):
    """What a mask holds is to the bit what it was; nearly all else has moved."""
    for name, trains in mask.items():
        assert torch.equal(after[name][~trains], before[name][~trains]), name
        assert (after[name] != before[name])[trains].float().mean() >= 0.95, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "views", "words"),
    [
        ("fresh", ("forget", "retain"), ("forget_loss=gd", "projector=lora")),
        ("moved", ("decoupled", "refusal"), ("forget_loss=npo", "step=sam")),
    ],
)
def test_the_greatest_saliencies_are_trained_and_the_rest_is_held_to_the_bit(request, tmp_path, start, views, words):
    """Without dropout; also where the gradient is taken at moved weights. Of a fresh adapter B alone is compared."""
    steps = [{"forget": 8 * k, "retain": 8 * k, "decoupled": 8 * k, "refusal": 0} for k in range(5)]
    plan = write_json(tmp_path / "plan.json", {"steps": steps})
    before = request.getfixturevalue("moved") if start == "moved" else None
    words += (f"init_adapter={before}", "step.rho=0.5") if before else ()
    words += (*MOVES, "max_train_steps=5", "LoRA.dropout=0.5", "gradient_accumulation_steps=1", f"plan={plan}")
    words += (f"mask={{top: 0.2, from: {views[0]}, against: {views[1]}, items: 5}}",)
    folder = trained(tmp_path / "run", *GIVEN, *words)
    mask, record = load_file(folder / MASK_FILE), json.loads((folder / "run.json").read_text())["mask"]
    by_hand = saliencies(tmp_path, views, plan, {"init_adapter": str(before)} if before else {"projector": "lora"})
    assert len(mask) == (28 if before else 14) and all(before or ".lora_B." in name for name in mask)
    ratio = torch.cat([by_hand[name].flatten() for name in mask])
    least = ratio.sort(descending=True).values[(most := int(0.2 * len(ratio))) - 1]
    found = torch.cat([each.flatten() for each in mask.values()])
    clear = (ratio / least - 1).abs() > 1e-3  # in float32 what lies at the bound may fall to the other side
    assert (ratio > 1).sum() > most and clear.float().mean() > 0.99
    assert torch.equal(found[clear], (ratio >= least)[clear])
    after = lora(folder)
    layers = {n: torch.cat([mask[name].flatten() for name in mask if f".layers.{n}." in name]) for n in "01"}
    assert record["layers"] == pytest.approx({n: each.float().mean().item() for n, each in layers.items()}, abs=1e-4)
    assert (record["items"], record["trained"], record["compared"]) == (5, most, len(ratio))
    assert record["not_compared"] == sum(each.numel() for each in after.values()) - len(ratio)
    assert_held(mask, after, lora(before) if before else {name: torch.zeros_like(each) for name, each in after.items()})


@pytest.mark.slow
def test_a_mask_of_nothing_and_a_gradient_that_is_not_finite_are_refused(moved, tmp_path):
    broken = shutil.copytree(moved, tmp_path / "broken")
    save_file({name: each * float("nan") for name, each in load_file(moved / ADAPTER).items()}, broken / ADAPTER)
    for start, mask, says in (
        (moved, "mask={top:1e-6,items:2}", "mask: of 69,632 weights that forget and retain could be compared on, none"),
        (broken, "mask={items:2}", "mask: its gradient on view forget is not finite"),
    ):
        done = run("forget", *GIVEN, "forget_loss=gd", f"init_adapter={start}", mask, f"save_dir={tmp_path / 'no'}")
        assert done.returncode == 2 and says in done.stderr.splitlines()[-1]
