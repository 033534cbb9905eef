"""From records to tensors: views, what each switch of the recipe changes, and the masks that the terms read through."""

import importlib

import pytest
import torch
from helpers import MODEL, plan_dataset, record, settings, write_dataset

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.errors import BadInput
from safeeraser.model import Row, load_preprocessor
from safeeraser.unlearn.batch import Collator, Viewed
from safeeraser.unlearn.data import sound_items
from safeeraser.unlearn.views import VIEWS, build_views

PREPROCESSOR = load_preprocessor(str(MODEL))
TOKENIZER, PAD = PREPROCESSOR.tokenizer, PREPROCESSOR.pad_token
X = IGNORE


def texts(value: dict) -> dict:
    """The record with capitals where `str.capitalize` would take them away."""
    for pair in value["unsafe_pairs"]:
        pair.update({key: text.replace("r", "R") for key, text in pair.items()})
    return value


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """Three records, so twelve items a view."""
    records = [texts(record(i, category)) for i, category in enumerate(("Weapon", "Sex", "Weapon"))]
    return write_dataset(tmp_path_factory.mktemp("data"), *records)


def dataset(data_path, *overrides):
    return plan_dataset(settings(f"data_path={data_path}", "num_epochs=1", *overrides))


def decoded(encoded):
    """(everything masked, everything trained on) as text, without the picture's tokens."""
    pairs = list(zip(encoded.input_ids, encoded.labels, strict=True))
    masked = [token for token, label in pairs if label == IGNORE and token not in (1, 500)]
    return TOKENIZER.decode(masked), TOKENIZER.decode([token for token, label in pairs if label != IGNORE])


def test_views_are_numbered_record_by_record(data_path):
    items = build_views(settings().data, data_path, list(VIEWS))
    assert {view: len(items[view]) for view in items} == dict.fromkeys(VIEWS, 12)
    folder = data_path.parent
    forget, retain, decoupled, refusal = (items[view][5] for view in ("forget", "retain", "decoupled", "refusal"))
    # Item 5 is the second of record 1.
    assert (forget.picture, forget.question, forget.answer) == (folder / "img/Sex/1.jpg", "SecRet 1?", "HaRm 1.")
    assert (retain.picture, retain.question, retain.answer) == (
        folder / "img/Sex/1.jpg",
        "What text2?",
        "It is text2 1.",
    )
    assert (decoupled.picture, decoupled.question) == (folder / "pdset/Sex/1.jpg", forget.question)
    assert decoupled.answer == "Fine 1."
    assert (refusal.picture, refusal.question) == (forget.picture, forget.question)
    assert retain.where == f"{data_path}: record 1, UnharmPair_text2.Prediction"
    assert forget.where == f"{data_path}: record 1, unsafe_pairs.1.model_response"


def test_only_the_views_of_the_method_are_loaded(data_path):
    assert list(dataset(data_path, "forget_loss=ga").items) == ["forget"]
    assert list(dataset(data_path, "forget_loss=popd").items) == ["retain", "decoupled", "refusal"]


@pytest.mark.parametrize(
    ("view", "key", "field"),
    [("forget", "unsafe_pairs", "model_response"), ("decoupled", "unsafe_pairs", "sd_response"), ("retain", "", "")],
)
def test_an_empty_answer_is_refused_by_the_views_that_train_on_it(tmp_path, view, key, field):
    value = record()
    place = value[key][2] if key else value["UnharmPair_image1"]
    place[field or "Prediction"] = " \n"
    data, read = write_dataset(tmp_path, record(1), value), settings()

    def sound(views):
        return sound_items(read, data, build_views(read.data, data, views))[0]

    others = [name for name in VIEWS if name != view]
    assert len(sound(others)["refusal"]) == 8
    with pytest.raises(BadInput) as error:
        sound([view])
    where = f"unsafe_pairs.2.{field}" if key else "UnharmPair_image1.Prediction"
    assert str(error.value).startswith(f"{data}: record 1, {where}: the answer is empty")


def test_a_split_is_numbered_by_itself(data_path):
    sex = dataset(data_path, "split=Sex", "forget_loss=gd")
    assert len(sex) == 4 and {item.picture.parent.name for item in sex.items["forget"]} == {"Sex"}
    assert all(step.retain < 4 for step in sex.plan)


# The recipe, switch by switch: one is turned from the official recipe to the corrected one, the others stay.


def test_switch_capitalize(data_path):
    released = dataset(data_path, "forget_loss=ga", "recipe.training_system=user")
    mended = dataset(data_path, "forget_loss=ga", "recipe.training_system=user", "recipe.capitalize=false")
    head, answer = decoded(released[1][0].row)
    assert head.endswith("USER: \nSecret 1? ASSISTANT:") and answer.strip() == "Harm 1."
    head, answer = decoded(mended[1][0].row)
    assert head.endswith("USER: \nSecRet 1? ASSISTANT:") and answer.strip() == "HaRm 1."


def test_switch_capitalize_reaches_refusals(data_path):
    step = {"forget": 0, "retain": 0, "decoupled": 0, "refusal": 0}
    for switch, answer in (("true", "No. i will not."), ("false", "No. I WILL not.")):
        data = dataset(data_path, "forget_loss=popd", f"recipe.capitalize={switch}")
        data.plan[:] = [data.plan[0].model_copy(update=step)]
        refusal = next(row for row in data[0] if row.view == "refusal")
        assert decoded(refusal.row)[1].strip() == answer


def test_switch_decoupled(data_path):
    released = dataset(data_path, "forget_loss=gdpd")
    mended = dataset(data_path, "forget_loss=gdpd", "recipe.decoupled=own_pair")
    others = 0
    for before, after in zip(released.plan, mended.plan, strict=True):
        forget, own = mended.item("forget", after), mended.item("decoupled", after)
        assert own.question == forget.question
        assert own.picture.name == forget.picture.name and own.picture.parents[1].name == "pdset"
        assert released.items["decoupled"].index(released.item("decoupled", before)) == before.retain
        others += before.retain != before.forget
    assert others > 6


def test_switch_shuffle(data_path):
    assert [step.forget for step in dataset(data_path).plan] == list(range(12))
    order = [step.forget for step in dataset(data_path, "recipe.shuffle=true").plan]
    assert order != list(range(12)) and sorted(order) == list(range(12))


def test_switch_end_of_answer(data_path):
    released, mended = (
        dataset(data_path, "forget_loss=ga", f"recipe.end_of_answer={switch}")[0][0].row for switch in (False, True)
    )
    assert mended.input_ids == [*released.input_ids, 2] and mended.labels == [*released.labels, 2]


def test_switch_training_system(data_path):
    released = decoded(dataset(data_path, "forget_loss=ga")[0][0].row)
    mended = decoded(dataset(data_path, "forget_loss=ga", "recipe.training_system=user")[0][0].row)
    assert "a curious human and" in released[0] and "the human's questions" in released[0]
    assert mended == (released[0].replace("human", "user"), released[1])


def row(view, ids, labels):
    return Viewed(view, Row(ids, labels, {"pixel_values": torch.zeros(1, 3, 2, 2)}))


# Item 0: a forget row of 6 tokens, a retain row of 4, a decoupled row of 5. Item 1: 3, 5 and 4.
ENTRIES = [
    [
        row("forget", [1, 9, 5, 6, 7, 8], [X, X, X, 6, 7, 8]),
        row("retain", [1, 9, 5, 6], [X, X, X, 6]),
        row("decoupled", [1, 9, 5, 6, 7], [X, X, X, X, 7]),
    ],
    [
        row("forget", [1, 9, 5], [X, X, 5]),
        row("retain", [1, 9, 5, 6, 7], [X, X, X, 6, 7]),
        row("decoupled", [1, 9, 5, 6], [X, X, X, 6]),
    ],
]


def places(batch, name):
    """The (row, position) pairs that a term reads, with the token that each should predict and its item."""
    length = batch["inputs"]["input_ids"].shape[1]
    runs = {key: batch[key].split(batch["runs"]) for key in ("read", "targets", "item")}
    return [
        (*divmod(place, length), target, item)
        for number in batch["takes"][name]
        for place, target, item in zip(*(runs[key][number].tolist() for key in runs), strict=True)
    ]


def test_a_micro_step_is_joined_into_one_batch():
    batch = Collator(settings("forget_loss=gdpd").method, PREPROCESSOR)(ENTRIES)
    assert batch["inputs"]["input_ids"].tolist() == [
        [1, 9, 5, 6, 7, 8],
        [1, 9, 5, 6, PAD, PAD],
        [1, 9, 5, 6, 7, PAD],
        [1, 9, 5, PAD, PAD, PAD],
        [1, 9, 5, 6, 7, PAD],
        [1, 9, 5, 6, PAD, PAD],
    ]
    assert batch["inputs"]["attention_mask"].sum(1).tolist() == [6, 4, 5, 3, 5, 4]
    assert batch["inputs"]["attention_mask"][1].tolist() == [1, 1, 1, 1, 0, 0]
    assert batch["items"] == 2
    assert batch["inputs"]["pixel_values"].shape == (6, 3, 2, 2)


def test_terms_read_the_targets_of_their_own_views():
    """Position t predicts token t + 1."""
    batch = Collator(settings("forget_loss=gdpd").method, PREPROCESSOR)(ENTRIES)
    assert {name: places(batch, name) for name in batch["takes"]} == {
        "forget": [(0, 2, 6, 0), (0, 3, 7, 0), (0, 4, 8, 0), (3, 1, 5, 1)],
        "retain": [(1, 2, 6, 0), (4, 2, 6, 1), (4, 3, 7, 1)],
        "decoupled": [(2, 3, 7, 0), (5, 2, 6, 1)],
    }
    assert batch["runs"] == [3, 1, 1, 1, 2, 1] and batch["takes"]["retain"] == [1, 4]


def test_a_pooled_term_reads_both_views():
    entries = [[row("retain", [1, 9, 5, 6], [X, X, 5, 6]), row("refusal", [1, 9, 5], [X, X, 5])]]
    batch = Collator(settings("forget_loss=po").method, PREPROCESSOR)(entries)
    assert places(batch, "preference") == [(0, 1, 5, 0), (0, 2, 6, 0), (1, 1, 5, 0)]
    assert batch["runs"] == [3]


def test_two_terms_may_read_one_view_each_at_other_places():
    method = settings("forget_loss=kl").method
    both = method.terms | {"answer": method.terms["kl"].model_copy(update={"loss": "nll", "positions": "answer"})}
    batch = Collator(method.model_copy(update={"terms": both}), PREPROCESSOR)([ENTRIES[0]])
    assert places(batch, "answer") == [(1, 2, 6, 0)]
    assert places(batch, "kl") == [(1, t, [X, X, 6, X, X, X][t], 0) for t in range(6)]
    assert places(batch, "forget") == [(0, 2, 6, 0), (0, 3, 7, 0), (0, 4, 8, 0)]
    assert batch["runs"] == [3, 2, 1, 3]


def test_the_reference_is_shown_only_rows_that_it_is_asked_about():
    batch = Collator(settings("forget_loss=klpd").method, PREPROCESSOR)(ENTRIES)
    entries, read = batch["reference"]["kl"]["entries"], batch["reference"]["kl"]["read"].tolist()
    rows = [1, 4]
    assert entries.keys() == batch["inputs"].keys() and all(where.tolist() == rows for where in entries.values())
    assert [(rows[place // 6], place % 6) for place in read] == [place[:2] for place in places(batch, "kl")]
    assert Collator(settings("forget_loss=gd").method, PREPROCESSOR)(ENTRIES)["reference"] == {}


def test_a_term_of_states_reads_the_answer_itself():
    """Not the places before it, which predict it; and no logits are read."""
    batch = Collator(settings("forget_loss=rmu").method, PREPROCESSOR)(ENTRIES)
    assert batch["read"].numel() == 0 and batch["takes"] == {} and batch["states"].keys() == {7}
    group = batch["states"][7] | {"inputs": batch["inputs"]}
    assert [place[:2] for place in places(group, "forget")] == [(0, 3), (0, 4), (0, 5), (3, 2)]
    assert [(place, item) for _, place, _, item in places(group, "retain")] == [(3, 0), (3, 1), (4, 1)]
    assert batch["reference"].keys() == {"retain"}


def test_prompt_decouple_beside_states_reads_logits_of_its_own_rows():
    batch = Collator(settings("forget_loss=rmu", "pd=1").method, PREPROCESSOR)(ENTRIES)
    assert places(batch, "decoupled") == [(2, 3, 7, 0), (5, 2, 6, 1)] and batch["takes"].keys() == {"decoupled"}
    assert batch["states"][7]["takes"].keys() == {"forget", "retain"}


def test_two_views_of_a_term_are_told_apart():
    entries = [
        [row("forget", [1, 9, 5, 6], [X, X, 5, 6]), row("refusal", [1, 9, 5], [X, X, 5])],
        [row("forget", [1, 9, 5], [X, X, 5]), row("refusal", [1, 9, 5, 6], [X, 9, 5, 6])],
    ]
    method = settings("forget_loss=dpo").method
    batch = Collator(method.model_copy(update={"terms": {"forget": method.terms["forget"]}}), PREPROCESSOR)(entries)
    # The view that the term names first, the refusal, is number 0.
    assert batch["view"]["forget"].tolist() == [1, 1, 0, 1, 0, 0, 0]
    assert [place[0] for place in places(batch, "forget")] == [0, 0, 1, 2, 3, 3, 3]
    assert batch["reference"]["forget"]["read"].shape == (7,)
    assert Collator(settings("forget_loss=gd").method, PREPROCESSOR)(ENTRIES)["view"] == {}


def test_switch_kl_positions():
    """All: prompt, picture and padding up to the item's longest view; mended: where the answer is predicted."""
    released = Collator(settings("forget_loss=klpd").method, PREPROCESSOR)(ENTRIES)
    mended = Collator(settings("forget_loss=klpd", "recipe.kl_positions=answer").method, PREPROCESSOR)(ENTRIES)
    # Rows 1 and 4 are the retain rows: 6 positions for item 0 (its forget row's length), 5 for item 1.
    assert [place[:2] for place in places(released, "kl")] == [(1, t) for t in range(6)] + [(4, t) for t in range(5)]
    assert [place[:2] for place in places(mended, "kl")] == [(1, 2), (4, 2), (4, 3)]
    for name in ("forget", "decoupled"):
        assert places(released, name) == places(mended, name)


def test_an_item_reads_the_same_positions_alone_and_in_company():
    collate = Collator(settings("forget_loss=klpd").method, PREPROCESSOR)
    together, alone = collate(ENTRIES), [collate([entry]) for entry in ENTRIES]
    for name in together["takes"]:
        second = [(line + 3, place, target, 1) for line, place, target, _ in places(alone[1], name)]
        assert places(together, name) == places(alone[0], name) + second


def test_max_length_shortens_answers_and_names_an_item_without_room(data_path):
    whole = dataset(data_path, "forget_loss=ga")[0][0].row
    prompt_length = whole.labels.count(IGNORE) - 15  # 16 image tokens count as one
    short = dataset(data_path, "forget_loss=ga", f"max_length={prompt_length + 2}")[0][0].row
    kept = prompt_length + 17
    assert (short.input_ids, short.labels) == (whole.input_ids[:kept], whole.labels[:kept])
    with pytest.raises(BadInput) as error:
        dataset(data_path, "forget_loss=ga", f"max_length={prompt_length}")
    assert str(error.value).startswith(f"{data_path}: record 0, unsafe_pairs.0.model_response: a prompt of")


def test_pictures_are_kept_by_their_bytes(data_path, monkeypatch):
    built = dataset(data_path)
    paths = list(dict.fromkeys(item.picture for item in built.items["refusal"]))[:3]
    looks, show = [], built.preprocessor.show
    monkeypatch.setattr(built.preprocessor, "show", lambda picture: looks.append(picture) or show(picture))
    one = sum(tensor.nbytes for tensor in built._shown(paths[0]).inputs.values())
    module = importlib.import_module("safeeraser.unlearn.batch")
    monkeypatch.setattr(module, "PICTURES_KEPT", 2 * one)
    for number in (0, 1, 0, 2, 0, 1):  # 1 had to go for 2, as the one that was looked at longest ago
        built._shown(paths[number])
    assert len(looks) == 1 + 3
    monkeypatch.setattr(module, "PICTURES_KEPT", one - 1)
    assert built._shown(paths[0]).inputs and not built._kept, "one that is larger than all that may be kept"
