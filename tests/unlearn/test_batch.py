"""From items to rows: what each switch of the recipe changes, how answers are shortened, which pictures are kept."""

import pickle
import resource

import pytest
import torch
from helpers import MODEL, plan_dataset, record, write_dataset
from torch.utils.data import DataLoader

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.errors import BadInput
from safeeraser.model.load import load_preprocessor
from safeeraser.processes import tensors
from safeeraser.unlearn.data.batch import Collator, PlanDataset
from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.data.views import Item

from .given import settings

PREPROCESSOR = load_preprocessor(str(MODEL))


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """Three records, so twelve items a view, with capitals where `str.capitalize` takes them away."""
    records = [record(i, category) for i, category in enumerate(("Weapon", "Sex", "Weapon"))]
    for pair in (pair for value in records for pair in value["unsafe_pairs"]):
        pair.update({key: text.replace("r", "R") for key, text in pair.items()})
    return write_dataset(tmp_path_factory.mktemp("data"), *records)


def dataset(data_path, *overrides):
    return plan_dataset(settings(f"data_path={data_path}", "num_epochs=1", *overrides))


def row(data_path, *overrides, number=1):
    return dataset(data_path, "forget_loss=ga", *overrides)[number][0].row


def decoded(encoded):
    """(everything masked, everything trained on) as text, without the picture's tokens."""
    pairs = list(zip(encoded.input_ids, encoded.labels, strict=True))
    masked = [token for token, label in pairs if label == IGNORE and token not in (1, 500)]
    trained = [token for token, label in pairs if label != IGNORE]
    return PREPROCESSOR.tokenizer.decode(masked), PREPROCESSOR.tokenizer.decode(trained).strip()


def test_the_texts_of_the_official_recipe_and_of_each_switch(data_path):
    """`str.capitalize` makes all but the first letter small; the system text speaks of a human; no end of answer."""
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
    """No privilege makes it small, but a bound on files' sizes, which it is made of, has the same effect."""

    def bound(_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, resource.RLIM_INFINITY))

    data = dataset(data_path, "forget_loss=ga")
    join = Collator(settings("forget_loss=ga").method, data.preprocessor, torch.float32)
    pickle.loads(pickle.dumps(join))  # as a loading process that is spawned is sent it
    one, other = next(iter(DataLoader(data, 2, num_workers=1, collate_fn=join))), join([data[0], data[1]])
    assert all(torch.equal(each, same) for each, same in zip(tensors(one), tensors(other), strict=True))
    loaded = DataLoader(data, 2, num_workers=1, collate_fn=join, worker_init_fn=bound, timeout=30)
    with pytest.raises(BadInput, match=r"^workers: no room to hand over pictures \(.*\); a container .* --shm-size=8g"):
        next(iter(loaded))
