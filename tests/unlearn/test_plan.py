"""The plan of items: it depends on the seed and not on the number of processes; it is saved, read back and checked.

Rows made from items: the effect of each switch of the recipe, how answers are shortened, which pictures are paired.
"""

import pickle
import resource

import pytest
import torch
from helpers import MODEL, RECORDED, plan_dataset, read_beside, record, refusal, write_dataset, write_json
from torch.utils.data import DataLoader

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.errors import BadInput
from safeeraser.model.load import load_preprocessor
from safeeraser.processes import tensors
from safeeraser.unlearn.config.trainer_arguments import Schedule
from safeeraser.unlearn.data.batch import Collator, PlanDataset
from safeeraser.unlearn.data.plan import Step, make_plan, read_plan, write_plan
from safeeraser.unlearn.data.views import Item
from safeeraser.unlearn.job import make_or_read_plan

from .given import settings

SIZES = {"forget": 20, "retain": 24, "decoupled": 20, "refusal": 3}
REFUSED = read_beside(__file__, "golden/refused.yaml")
OFFICIAL, CORRECTED = (settings(f"recipe={name}").recipe for name in ("official", "corrected"))

# (forget, retain, decoupled, refusal) for two epochs with seed 1, drawn from 4, 9, 5 and 3 choices.
OFFICIAL_DRAWS = [(0, 4, 4, 2), (1, 6, 1, 0), (2, 1, 1, 2), (3, 2, 2, 2)]
OFFICIAL_DRAWS += [(0, 2, 2, 1), (1, 7, 2, 1), (2, 5, 0, 0), (3, 0, 0, 2)]
CORRECTED_DRAWS = [(0, 4, 0, 2), (1, 6, 1, 0), (2, 1, 2, 2), (3, 2, 3, 2)]
CORRECTED_DRAWS += [(2, 5, 2, 0), (0, 2, 0, 1), (1, 7, 1, 1), (3, 0, 3, 2)]


def plan(recipe=CORRECTED, epochs=2, seed=1, sizes=SIZES):
    return make_plan(sizes, epochs=epochs, seed=seed, recipe=recipe)


def drawn(steps):
    return [(step.forget, step.retain, step.decoupled, step.refusal) for step in steps]


def test_the_draws_are_those_that_they_always_were():
    """An earlier run can be repeated, because draws depend on the seed, the epoch and the item alone."""
    small = {"forget": 4, "retain": 9, "decoupled": 5, "refusal": 3}
    assert drawn(plan(OFFICIAL, sizes=small)) == OFFICIAL_DRAWS
    assert drawn(plan(CORRECTED, sizes=small)) == CORRECTED_DRAWS
    assert plan(seed=2) != plan(seed=1)


def test_every_forget_item_comes_once_an_epoch_in_order_or_shuffled_anew():
    assert [step.forget for step in plan(OFFICIAL)] == [*range(20), *range(20)]
    first, second = [step.forget for step in plan()[:20]], [step.forget for step in plan()[20:]]
    assert sorted(first) == sorted(second) == list(range(20)) and first != second != list(range(20)) != first
    # Methods with the same seed share their retain items, so the draw adds no noise to their comparison.
    assert drawn(plan(sizes={"forget": 20, "retain": 24})) == [
        (step.forget, step.retain, None, None) for step in plan()
    ]
    # Shuffling changes the order of the items but not their pairs. A longer plan begins with the shorter one.
    shuffled = OFFICIAL.model_copy(update={"shuffle": True})
    assert sorted(plan(OFFICIAL)[:20], key=str) == sorted(plan(shuffled)[:20], key=str)
    assert plan(epochs=5)[:40] == plan()


def test_the_plan_does_not_depend_on_the_number_of_processes(caplog):
    whole = settings("num_epochs=2", "gradient_accumulation_steps=2")
    assert make_or_read_plan(whole, SIZES, 1) == make_or_read_plan(whole, SIZES, 2)
    # The same number of optimizer steps takes more items on more processes: the same items first, then others.
    steps = settings("max_train_steps=15", "gradient_accumulation_steps=2", "num_epochs=1")
    one, two = make_or_read_plan(steps, SIZES, 1), make_or_read_plan(steps, SIZES, 2)
    assert (len(one), len(two)) == (30, 60) and two[:30] == one
    assert caplog.messages == []
    # The official recipe numbers decoupled items like retain items, so higher numbers are never drawn.
    many = make_or_read_plan(settings("num_epochs=50"), SIZES | {"decoupled": 30}, 1)
    assert {step.decoupled for step in many} == set(range(24))
    assert caplog.messages[0].startswith("note: of 30 decoupled items at most the first 24 are drawn")


def test_a_plan_is_kept_read_back_and_may_be_longer_than_the_run(tmp_path):
    path = tmp_path / "plan.json"
    write_plan(path, "popd", CORRECTED, plan(), {"sha256": "a", "left_out": 0})
    assert read_plan(path, SIZES, {"sha256": "a", "left_out": 0, "more": 1}) == plan()
    with pytest.raises(BadInput, match=r"plan.json: this plan was made for other data \(left_out differ\)"):
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


PREPROCESSOR = load_preprocessor(str(MODEL))


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """Three records, so twelve items per view, with capital letters that `str.capitalize` makes small."""
    records = [record(i, category) for i, category in enumerate(("Weapon", "Sex", "Weapon"))]
    for pair in (pair for value in records for pair in value["unsafe_pairs"]):
        pair.update({key: text.replace("r", "R") for key, text in pair.items()})
    return write_dataset(tmp_path_factory.mktemp("data"), *records)


def dataset(data_path, *overrides):
    return plan_dataset(settings(f"data_path={data_path}", "num_epochs=1", *overrides))


def row(data_path, *overrides, number=1):
    return dataset(data_path, "forget_loss=ga", *overrides)[number][0].row


def decoded(encoded):
    """The masked tokens and the trained tokens as two texts, without the picture's tokens and `<s>`."""
    pairs = list(zip(encoded.input_ids, encoded.labels, strict=True))
    masked = [token for token, label in pairs if label == IGNORE and token not in (1, 500)]
    trained = [token for token, label in pairs if label != IGNORE]
    return PREPROCESSOR.tokenizer.decode(masked), PREPROCESSOR.tokenizer.decode(trained).strip()


def test_the_texts_of_the_official_recipe_and_of_each_switch(data_path):
    """`str.capitalize` makes later letters small, the system text says `human`, and no end token is there."""
    plain = row(data_path)
    head, answer = decoded(plain)
    assert "a curious human and" in head and head.endswith("USER: \nSecret 1? ASSISTANT:") and answer == "Harm 1."
    kept = decoded(row(data_path, "recipe.capitalize=false"))
    assert kept == (head.replace("Secret", "SecRet"), "HaRm 1.")
    assert decoded(row(data_path, "recipe.training_system=user")) == (head.replace("human", "user"), answer)
    ended = row(data_path, "recipe.end_of_answer=true")
    assert (ended.input_ids, ended.labels) == ([*plain.input_ids, 2], [*plain.labels, 2])


def test_a_refusal_takes_the_answers_place_of_the_forget_item(data_path):
    for switch, answer in (("true", "No. i will not."), ("false", "No. I WILL not.")):
        data = dataset(data_path, "forget_loss=popd", f"recipe.capitalize={switch}")
        assert list(data.items) == ["retain", "decoupled", "refusal"]
        data.plan[:] = [Step(forget=5, retain=0, decoupled=0, refusal=0)]
        item = data.item("refusal", data.plan[0])
        assert (item.question, item.answer) == ("SecRet 1?", "No. I WILL not.")
        assert item.picture == data_path.parent / "img/Sex/1.jpg"
        assert decoded(next(viewed for viewed in data[0] if viewed.view == "refusal").row)[1] == answer


def test_which_benign_picture_goes_with_a_harmful_one(data_path):
    released, mended = (
        dataset(data_path, "forget_loss=gdpd", f"recipe.decoupled={switch}") for switch in ("retain_index", "own_pair")
    )
    for step in released.plan:
        assert released.item("decoupled", step) is released.items["decoupled"][step.retain]
    for step in mended.plan:
        forget, own = mended.item("forget", step), mended.item("decoupled", step)
        assert own.question == forget.question
        assert own.picture.name == forget.picture.name and own.picture.parents[1].name == "pdset"


def test_max_length_shortens_answers_and_names_an_item_without_room(data_path):
    whole = row(data_path, number=0)
    prompt = whole.labels.count(IGNORE) - 15  # 16 image tokens count as one
    short = row(data_path, f"max_length={prompt + 2}", number=0)
    assert (short.input_ids, short.labels) == (whole.input_ids[: prompt + 17], whole.labels[: prompt + 17])
    with pytest.raises(BadInput, match=r"record 0, unsafe_pairs\.0\.model_response: a prompt of"):
        dataset(data_path, "forget_loss=ga", f"max_length={prompt}")
    data = PlanDataset([], {}, [], PREPROCESSOR, settings().recipe, 3000)
    with pytest.raises(BadInput, match=r"^F: record 1, answer: a conversation of \d+ tokens, and the .* holds 1024; a"):
        data.encode(Item(None, "What?", "word " * 1500, "F: record 1", None, "answer"))
    with pytest.raises(BadInput, match=r"^F: record 1, answer: the text itself contains '<image>'"):
        data.encode(Item(None, "What is <image>?", "So.", "F: record 1", None, "answer"))


def test_a_loading_process_whose_shared_memory_is_full_ends_the_run_with_what_helps(data_path):
    """Shared memory consists of files, so a bound on their size acts like a full /dev/shm, and needs no privilege."""

    def bound(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, resource.RLIM_INFINITY))

    data = dataset(data_path, "forget_loss=ga")
    join = Collator(settings("forget_loss=ga").method, data.preprocessor, torch.float32)
    pickle.loads(pickle.dumps(join))  # a spawned loading process receives it pickled
    one, other = next(iter(DataLoader(data, 2, num_workers=1, collate_fn=join))), join([data[0], data[1]])
    assert all(torch.equal(each, same) for each, same in zip(tensors(one), tensors(other), strict=True))
    loaded = DataLoader(data, 2, num_workers=1, collate_fn=join, worker_init_fn=bound, timeout=30)
    with pytest.raises(BadInput, match=r"^workers: no room to hand over pictures \(.*\); a container .* --shm-size=8g"):
        next(iter(loaded))
