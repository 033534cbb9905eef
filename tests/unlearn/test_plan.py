"""The plan of items: the seed decides all of it, the number of processes nothing; it is kept, read, and checked."""

import pytest
from helpers import RECORDED, read_beside, refusal, write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.data.plan import Schedule, make_plan, read_plan, write_plan
from safeeraser.unlearn.job import make_or_read_plan

from .given import settings

SIZES = {"forget": 20, "retain": 24, "decoupled": 20, "refusal": 3}
REFUSED = read_beside(__file__, "golden/refused.yaml")
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
    # Methods that share a seed share their retain items: their comparison is not blurred by the draw.
    assert drawn(plan(sizes={"forget": 20, "retain": 24})) == [
        (step.forget, step.retain, None, None) for step in plan()
    ]
    # Shuffling moves items but leaves what each is paired with, and a longer run begins with the shorter one.
    shuffled = OFFICIAL.model_copy(update={"shuffle": True})
    assert sorted(plan(OFFICIAL)[:20], key=str) == sorted(plan(shuffled)[:20], key=str)
    assert plan(epochs=5)[:40] == plan()


def test_the_plan_does_not_depend_on_the_number_of_processes(caplog):
    whole = settings("num_epochs=2", "gradient_accumulation_steps=2")
    assert make_or_read_plan(whole, SIZES, 1) == make_or_read_plan(whole, SIZES, 2)
    # A number of optimizer steps takes more items on more processes: the same ones, then more.
    steps = settings("max_train_steps=15", "gradient_accumulation_steps=2", "num_epochs=1")
    one, two = make_or_read_plan(steps, SIZES, 1), make_or_read_plan(steps, SIZES, 2)
    assert (len(one), len(two)) == (30, 60) and two[:30] == one
    assert caplog.messages == []
    # The official recipe numbers decoupled items like retain items: what is beyond those never comes.
    many = make_or_read_plan(settings("num_epochs=50"), SIZES | {"decoupled": 30}, 1)
    assert {step.decoupled for step in many} == set(range(24))
    assert caplog.messages[0].startswith("note: of 30 decoupled items at most the first 24 are drawn")


def test_a_plan_is_kept_read_back_and_may_be_longer_than_the_run(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, "popd", CORRECTED, plan(), {"sha256": "a", "left_out": 0})
    assert read_plan(path, SIZES, {"sha256": "a", "left_out": 0, "more": 1}) == plan()
    with pytest.raises(BadInput, match=r"plan.json: a plan of other data \(left_out differ\)"):
        read_plan(path, SIZES, {"sha256": "a", "left_out": 1})
    recorded, sizes = RECORDED / "training" / "popd.json", SIZES | dict.fromkeys(("forget", "retain", "decoupled"), 48)
    some = [settings(f"plan={recorded}", f"max_train_steps={n}", "gradient_accumulation_steps=4") for n in (3, 13)]
    sizes["refusal"] = 4
    assert make_or_read_plan(some[0], sizes, 1) == read_plan(recorded, sizes)[:12]
    with pytest.raises(BadInput, match="has 48 items, max_train_steps takes 52"):
        make_or_read_plan(some[1], sizes, 1)


@pytest.mark.parametrize(("value", "says"), REFUSED["plans"], ids=str)
def test_a_plan_that_does_not_fit_is_refused_with_its_step(tmp_path, value, says):
    path = write_json(tmp_path / "plan.json", value)
    assert refusal(read_plan, path, {"forget": 20, "retain": 24}).startswith(f"{path}: {says}")


def test_optimizer_steps_and_what_is_left_out():
    for items, batch, accumulation, processes, steps, left_out in read_beside(__file__, "golden/rounds.yaml"):
        shape = {"batch_size": batch, "accumulation": accumulation, "processes": processes}
        assert Schedule.of(items, **shape) == Schedule(steps, 0, left_out)
        assert Schedule.of(items, **shape, warmup_ratio=0.5) == Schedule(steps, round(steps / 2), left_out)
