"""The plan depends on seed, epoch and item alone; it can be kept, and a plan that does not fit is refused."""

import json

import pytest
from helpers import RECORDED, settings

from safeeraser.errors import BadInput
from safeeraser.unlearn.job import make_or_read_plan
from safeeraser.unlearn.plan import Schedule, Step, make_plan, read_plan, write_plan

SIZES = {"forget": 20, "retain": 24, "decoupled": 20, "refusal": 3}
OFFICIAL, CORRECTED = (settings(f"recipe={name}").recipe for name in ("official", "corrected"))


def plan(recipe=CORRECTED, epochs=2, seed=1, sizes=SIZES):
    return make_plan(sizes, epochs=epochs, seed=seed, recipe=recipe)


@pytest.mark.parametrize("recipe", [OFFICIAL, CORRECTED])
def test_the_same_seed_is_the_same_plan_and_another_is_another(recipe):
    assert plan(recipe) == plan(recipe)
    assert plan(recipe) != plan(recipe, seed=2)


@pytest.mark.parametrize("recipe", [OFFICIAL, CORRECTED])
def test_a_longer_run_begins_with_the_shorter_one(recipe):
    assert plan(recipe, epochs=5)[:40] == plan(recipe, epochs=2)


def test_every_forget_item_comes_once_an_epoch_in_order_or_shuffled_anew():
    official, shuffled = plan(OFFICIAL), plan(CORRECTED)
    assert [step.forget for step in official] == [*range(20), *range(20)]
    first, second = [step.forget for step in shuffled[:20]], [step.forget for step in shuffled[20:]]
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second and first != list(range(20))


def test_shuffling_moves_items_but_leaves_what_each_is_paired_with():
    same = OFFICIAL.model_copy(update={"shuffle": True})
    assert sorted(plan(OFFICIAL)[:20], key=str) == sorted(plan(same)[:20], key=str)


def test_an_items_draw_differs_between_epochs():
    one, two = plan(OFFICIAL)[:20], plan(OFFICIAL)[20:]
    assert sum(a.retain == b.retain for a, b in zip(one, two, strict=True)) < 10


def test_the_decoupled_item_is_the_retain_index_or_the_own_pair():
    assert all(step.decoupled == step.retain % 20 for step in plan(OFFICIAL))
    assert all(step.decoupled == step.forget for step in plan(CORRECTED))


def test_what_the_official_recipe_never_draws_is_told(caplog):
    """Its decoupled item is numbered like the retain item, so of more than there are of those the rest never comes."""
    more = SIZES | {"decoupled": 30}
    drawn = make_or_read_plan(settings("recipe=official", "num_epochs=50"), more, 1)
    assert {step.decoupled for step in drawn} == set(range(24))
    assert caplog.messages[0].startswith("note: of 30 decoupled items at most the first 24 are drawn")
    caplog.clear()
    make_or_read_plan(settings("recipe=official", "num_epochs=1"), {"forget": 20, "decoupled": 30}, 1)
    assert caplog.messages[0].startswith("note: of 30 decoupled items at most the first 20 are drawn")
    caplog.clear()
    for given, sizes in (("recipe=corrected", more), ("recipe=official", SIZES), ("recipe=official", {"forget": 9})):
        make_or_read_plan(settings(given, "num_epochs=1"), sizes, 1)
    assert not caplog.messages


def test_a_method_without_a_view_draws_the_rest_as_one_with_it():
    """Methods that share a seed share their retain items, so their comparison is not blurred by the draw."""
    without = plan(sizes={"forget": 20, "retain": 24})
    assert [(s.forget, s.retain) for s in without] == [(s.forget, s.retain) for s in plan()]
    assert all(step.decoupled is None and step.refusal is None for step in without)


def test_draws_are_uniform_over_the_whole_range():
    steps = plan(sizes={"forget": 100, "retain": 4, "refusal": 4}, epochs=40)
    for view in ("retain", "refusal"):
        counts = [sum(getattr(step, view) == i for step in steps) for i in range(4)]
        # Chi-square of 3 degrees of freedom: 16.27 is passed once in 1000.
        assert sum((count - 1000) ** 2 / 1000 for count in counts) < 16.27


def test_the_plan_does_not_depend_on_the_number_of_processes():
    whole = settings("num_epochs=2", "gradient_accumulation_steps=2")
    assert make_or_read_plan(whole, SIZES, 1) == make_or_read_plan(whole, SIZES, 2)
    # A number of optimizer steps takes more items on more processes: the same ones, then more.
    steps = settings("max_train_steps=15", "gradient_accumulation_steps=2", "num_epochs=1")
    one, two = make_or_read_plan(steps, SIZES, 1), make_or_read_plan(steps, SIZES, 2)
    assert (len(one), len(two)) == (30, 60) and two[:30] == one


def test_a_plan_is_kept_and_read_back(tmp_path):
    write_plan(tmp_path / "plan.json", "popd", CORRECTED, plan())
    assert read_plan(tmp_path / "plan.json", SIZES) == plan()


def test_a_plan_of_other_data_is_refused(tmp_path):
    """Its numbers would mean other items."""
    write_plan(tmp_path / "plan.json", "popd", CORRECTED, plan(), {"sha256": "a", "left_out": 0})
    assert read_plan(tmp_path / "plan.json", SIZES, {"sha256": "a", "left_out": 0, "more": 1}) == plan()
    with pytest.raises(BadInput, match=r"plan.json: a plan of other data \(left_out differ\)"):
        read_plan(tmp_path / "plan.json", SIZES, {"sha256": "a", "left_out": 1})


def test_max_train_steps_takes_the_beginning_of_a_plan_or_refuses():
    recorded = RECORDED / "training" / "popd.json"
    sizes = {"forget": 48, "retain": 48, "decoupled": 48, "refusal": 4}
    some = settings(f"plan={recorded}", "max_train_steps=3", "gradient_accumulation_steps=4")
    assert make_or_read_plan(some, sizes, 1) == read_plan(recorded, sizes)[:12]
    more = settings(f"plan={recorded}", "max_train_steps=13", "gradient_accumulation_steps=4")
    with pytest.raises(BadInput, match="has 48 items, max_train_steps takes 52"):
        make_or_read_plan(more, sizes, 1)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "a plan is an object with a list 'steps'"),
        ({"steps": []}, "a plan is an object with a list 'steps'"),
        ({"step": [{"forget": 0}]}, "a plan is an object with a list 'steps'"),
        ({"steps": [{"forget": 0, "retain": 1}, {"retain": 0}]}, "step 1, forget: "),
        ({"steps": [{"forget": 0, "retain": 1}, {"forget": -1}]}, "step 1, forget: "),
        ({"steps": [{"forget": 0, "retain": "x"}]}, "step 0, retain: "),
        ({"steps": [{"forget": 0, "retain": 24}]}, "step 0, retain: 24 is none of the 24 that the data has"),
        ({"steps": [{"forget": 0}]}, "step 0, retain: None is none of the 24"),
        ({"steps": [3]}, "step 0"),
    ],
)
def test_a_plan_that_does_not_fit(tmp_path, value, says):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(value))
    with pytest.raises(BadInput) as error:
        read_plan(path, {"forget": 20, "retain": 24})
    assert str(error.value).startswith(f"{path}: {says}")


def test_a_plan_may_carry_more_than_is_read(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"method": "x", "steps": [{"forget": 0, "decoupled": 99, "loss": 1.5}]}))
    assert read_plan(path, {"forget": 1}) == [Step(forget=0, decoupled=99)]


@pytest.mark.parametrize(
    ("items", "batch", "accumulation", "processes", "steps", "left_out"),
    [
        (48, 1, 4, 1, 12, 0),
        (48, 1, 16, 1, 3, 0),
        (48, 1, 16, 2, 2, 0),
        (7200, 1, 16, 2, 225, 0),
        # One process makes a smaller last micro-step; several take whole rounds alone.
        (7, 2, 2, 1, 2, 0),
        (1, 8, 4, 1, 1, 0),
        (7, 2, 2, 2, 1, 3),
        (48, 5, 1, 2, 4, 8),
        (48, 1, 2, 5, 5, 3),
    ],
)
def test_optimizer_steps_and_what_is_left_out(items, batch, accumulation, processes, steps, left_out):
    schedule = Schedule.of(items, batch_size=batch, accumulation=accumulation, processes=processes)
    assert (schedule.steps, schedule.left_out) == (steps, left_out)
