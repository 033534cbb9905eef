"""The plan of items: the seed decides all of it, the number of processes nothing; it is kept, read, and checked."""

import json

import pytest
from helpers import RECORDED

from safeeraser.errors import BadInput
from safeeraser.unlearn.job import make_or_read_plan
from safeeraser.unlearn.plan import Schedule, Step, make_plan, read_plan, write_plan

from .given import settings

SIZES = {"forget": 20, "retain": 24, "decoupled": 20, "refusal": 3}
OFFICIAL, CORRECTED = (settings(f"recipe={name}").recipe for name in ("official", "corrected"))

# (forget, retain, decoupled, refusal) of two epochs, of seed 1, with 4, 9, 5 and 3 to choose from.
OFFICIAL_DRAWS = [(0, 4, 4, 2), (1, 6, 1, 0), (2, 1, 1, 2), (3, 2, 2, 2)]
OFFICIAL_DRAWS += [(0, 2, 2, 1), (1, 7, 2, 1), (2, 5, 0, 0), (3, 0, 0, 2)]
CORRECTED_DRAWS = [(0, 4, 0, 2), (1, 6, 1, 0), (2, 1, 2, 2), (3, 2, 3, 2)]
CORRECTED_DRAWS += [(2, 5, 2, 0), (0, 2, 0, 1), (1, 7, 1, 1), (3, 0, 3, 2)]


def plan(recipe=CORRECTED, epochs=2, seed=1, sizes=SIZES):
    return make_plan(sizes, epochs=epochs, seed=seed, recipe=recipe)


def drawn(steps):
    return [(step.forget, step.retain, step.decoupled, step.refusal) for step in steps]


def test_the_draws_are_those_that_they_always_were():
    """An earlier run can be repeated: by epoch, item and seed alone."""
    small = {"forget": 4, "retain": 9, "decoupled": 5, "refusal": 3}
    assert drawn(plan(OFFICIAL, sizes=small)) == OFFICIAL_DRAWS
    assert drawn(plan(CORRECTED, sizes=small)) == CORRECTED_DRAWS
    assert plan(seed=2) != plan(seed=1)


def test_every_forget_item_comes_once_an_epoch_in_order_or_shuffled_anew():
    assert [step.forget for step in plan(OFFICIAL)] == [*range(20), *range(20)]
    first, second = [step.forget for step in plan()[:20]], [step.forget for step in plan()[20:]]
    assert sorted(first) == sorted(second) == list(range(20)) and first != second != list(range(20)) != first
    # Shuffling moves items but leaves what each is paired with, and a longer run begins with the shorter one.
    shuffled = OFFICIAL.model_copy(update={"shuffle": True})
    assert sorted(plan(OFFICIAL)[:20], key=str) == sorted(plan(shuffled)[:20], key=str)
    assert plan(epochs=5)[:40] == plan()


def test_methods_that_share_a_seed_share_their_retain_items():
    """So their comparison is not blurred by the draw."""
    without = plan(sizes={"forget": 20, "retain": 24})
    assert drawn(without) == [(step.forget, step.retain, None, None) for step in plan()]


def test_the_plan_does_not_depend_on_the_number_of_processes():
    whole = settings("num_epochs=2", "gradient_accumulation_steps=2")
    assert make_or_read_plan(whole, SIZES, 1) == make_or_read_plan(whole, SIZES, 2)
    # A number of optimizer steps takes more items on more processes: the same ones, then more.
    steps = settings("max_train_steps=15", "gradient_accumulation_steps=2", "num_epochs=1")
    one, two = make_or_read_plan(steps, SIZES, 1), make_or_read_plan(steps, SIZES, 2)
    assert (len(one), len(two)) == (30, 60) and two[:30] == one


def test_which_decoupled_items_are_never_drawn_is_reported(caplog):
    """The official recipe numbers them like retain items, so of more than there are of those the rest never comes."""
    more = SIZES | {"decoupled": 30}
    for recipe, sizes, drawn in (
        ("official", more, 24), ("official", {"forget": 20, "decoupled": 30}, 20),
        ("official", SIZES | {"decoupled": 24}, 24), ("corrected", more, 20),
    ):  # fmt: skip
        caplog.clear()
        steps = make_or_read_plan(settings(f"recipe={recipe}", "num_epochs=50"), sizes, 1)
        assert {step.decoupled for step in steps} == set(range(drawn))
        told = [f"note: of 30 decoupled items at most the first {drawn} are drawn"]
        expected = told if recipe == "official" and sizes["decoupled"] == 30 else []
        assert [message[: len(told[0])] for message in caplog.messages] == expected


def test_a_plan_is_kept_read_back_and_may_be_longer_than_the_run(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, "popd", CORRECTED, plan(), {"sha256": "a", "left_out": 0})
    assert read_plan(path, SIZES, {"sha256": "a", "left_out": 0, "more": 1}) == plan()
    with pytest.raises(BadInput, match=r"plan.json: a plan of other data \(left_out differ\)"):
        read_plan(path, SIZES, {"sha256": "a", "left_out": 1})
    recorded = RECORDED / "training" / "popd.json"
    sizes = {"forget": 48, "retain": 48, "decoupled": 48, "refusal": 4}
    for wanted, expected in ((3, 12), (12, 48)):
        some = settings(f"plan={recorded}", f"max_train_steps={wanted}", "gradient_accumulation_steps=4")
        assert make_or_read_plan(some, sizes, 1) == read_plan(recorded, sizes)[:expected]
    with pytest.raises(BadInput, match="has 48 items, max_train_steps takes 52"):
        more = settings(f"plan={recorded}", "max_train_steps=13", "gradient_accumulation_steps=4")
        make_or_read_plan(more, sizes, 1)
    path.write_text(json.dumps({"method": "x", "steps": [{"forget": 0, "decoupled": 99, "loss": 1.5}]}))
    assert read_plan(path, {"forget": 1}) == [Step(forget=0, decoupled=99)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "a plan is an object with a list 'steps'"),
        ({"steps": []}, "a plan is an object with a list 'steps'"),
        ({"steps": [{"forget": 0, "retain": 1}, {"forget": -1}]}, "step 1, forget: "),
        ({"steps": [{"forget": 0, "retain": "x"}]}, "step 0, retain: "),
        ({"steps": [{"forget": 0, "retain": 24}]}, "step 0, retain: 24 is none of the 24 that the data has"),
        ({"steps": [{"forget": 0}]}, "step 0, retain: None is none of the 24"),
        ({"steps": [3]}, "step 0"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_its_step(tmp_path, value, says):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(value))
    with pytest.raises(BadInput) as error:
        read_plan(path, {"forget": 20, "retain": 24})
    assert str(error.value).startswith(f"{path}: {says}")


@pytest.mark.parametrize(
    ("items", "batch", "accumulation", "processes", "steps", "left_out"),
    [
        (48, 1, 16, 1, 3, 0),
        (48, 1, 16, 2, 2, 0),
        # One process makes a smaller last micro-step; several take whole rounds alone.
        (7, 2, 2, 1, 2, 0),
        (1, 8, 4, 1, 1, 0),
        (7, 2, 2, 2, 1, 3),
        (48, 5, 1, 2, 4, 8),
        (48, 1, 2, 5, 5, 3),
    ],
)
def test_optimizer_steps_and_what_is_left_out(items, batch, accumulation, processes, steps, left_out):
    shape = {"batch_size": batch, "accumulation": accumulation, "processes": processes}
    assert Schedule.of(items, **shape) == Schedule(steps, 0, left_out)
    assert Schedule.of(items, **shape, warmup_ratio=0.5) == Schedule(steps, round(steps / 2), left_out)
