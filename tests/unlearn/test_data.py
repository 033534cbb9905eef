"""Data as it comes: each view is read where its adapter says, bad items are left out and named, bad records refused."""

import json
import pickle

import pytest
import torch
from helpers import pair, plan_dataset, record, write_dataset, write_json
from PIL import Image
from torch.utils.data import DataLoader

from safeeraser.errors import BadInput
from safeeraser.unlearn.data import load_data
from safeeraser.unlearn.plan import differing
from safeeraser.unlearn.probe import probe_items
from safeeraser.unlearn.views import VIEWS, build_views

from .given import settings

SKIP = ("bad_items=skip", "max_bad_items=0.5")


def loaded(path, *overrides):
    return load_data(settings(f"data_path={path}", *overrides))


def error_of(path, *overrides):
    with pytest.raises(BadInput) as error:
        loaded(path, *overrides)
    return str(error.value)


def shown(items):
    return [(item.picture and item.picture.name, item.question, item.answer) for item in items]


def test_views_of_the_benchmark_are_numbered_record_by_record(tmp_path):
    path = write_dataset(tmp_path, *(record(n, "Sex" if n == 1 else "Weapon") for n in range(3)))
    items = build_views(settings().data, path, list(VIEWS))
    assert {view: len(items[view]) for view in items} == dict.fromkeys(VIEWS, 12)
    harm, benign = tmp_path / "img/Sex/1.jpg", tmp_path / "pdset/Sex/1.jpg"
    # Item 5 is the second of record 1. A refusal's answer is drawn later, by the plan.
    fifth = {view: items[view][5] for view in VIEWS}
    assert {view: (item.picture, item.question, item.answer, item.said) for view, item in fifth.items()} == {
        "forget": (harm, "Secret 1?", "Harm 1.", "unsafe_pairs.1.model_response"),
        "retain": (harm, "What text2?", "It is text2 1.", "UnharmPair_text2.Prediction"),
        "decoupled": (benign, "Secret 1?", "Fine 1.", "unsafe_pairs.1.sd_response"),
        "refusal": (harm, "Secret 1?", "", "unsafe_pairs.1.question"),
    }
    assert fifth["retain"].where == f"{path}: record 1, UnharmPair_text2.Prediction"
    assert [item.category for item in items["forget"]] == ["Weapon"] * 4 + ["Sex"] * 4 + ["Weapon"] * 4
    data = loaded(path, "forget_loss=gd", "limit=1")
    assert (data.records, data.categories) == (2, {"Sex": 1, "Weapon": 1})
    # Chosen records are numbered anew, so that a plan of the part has no gaps.
    assert loaded(path, "forget_loss=gd", "split=Sex").sizes == {"forget": 4, "retain": 4}
    assert "no records of a category 'Violence'; " in error_of(path, "split=[Sex,Violence]")


def test_there_are_as_many_pairs_as_the_data_has_and_only_what_is_read_is_asked_for(tmp_path):
    few, none, many = record(0), record(1, "Sex"), record(2)
    few["unsafe_pairs"], none["unsafe_pairs"], many["unsafe_pairs"] = [pair(0)], [], [pair(n) for n in range(6)]
    for name in ("text1", "text2", "image1", "image2"):
        del few[f"UnharmPair_{name}"]
    few["image_id"] = few.pop("image_path")
    first = {"UnharmPair_zoo": many["UnharmPair_text2"], "UnharmPair_image1": many.pop("UnharmPair_image1")}
    write_dataset(tmp_path, record(0), record(1, "Sex"), record(2))
    path = write_json(tmp_path / "all_train.json", [few, none, first | many])
    data = loaded(path, "forget_loss=gdpd")
    assert data.sizes == {"forget": 7, "retain": 4 + 5, "decoupled": 7} and data.records == 3
    # The known ones in the release's order, then others.
    said = [item.said.partition(".")[0] for item in data.items["retain"][4:]]
    assert said == [f"UnharmPair_{name}" for name in ("text1", "text2", "image1", "image2", "zoo")]
    write_json(path, [few])
    assert loaded(path, "forget_loss=ga").sizes == {"forget": 1}
    says = f"{path}: no record holds anything for view 'retain', which gd reads; data.views.retain says"
    assert error_of(path, "forget_loss=gd").startswith(says)


def own(folder, views="forget forget retain", **names):
    """A data file of flat records, each with a picture of its own; `names`: of the fields."""
    records = []
    for number, view in enumerate(views.split()):
        value = {"image": f"pictures/{number}.png", "question": f"{view} {number}?", "answer": f"So {number}."}
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number * 20, 90, 90)).save(folder / value["image"])
        records.append({names.get(key, key): text for key, text in value.items()} | {"view": view})
    write_json(folder / "prompt.json", {"idk": ["No.", "Never."]})
    return write_json(folder / "data.json", records)


def test_records_of_ones_own_are_read_as_the_adapter_says(tmp_path, caplog):
    """Flat records that name their view, other names of fields, JSON lines, a view's own file, and text alone."""
    path = own(tmp_path, "retain forget retian forget decoupled", answer="caption")
    keys = ("data=own", *(f"data.views.{view}.answer=caption" for view in ("forget", "retain", "decoupled")))
    data = loaded(path, *keys, "forget_loss=gdpd")
    forget = [("1.png", "forget 1?", "So 1."), ("3.png", "forget 3?", "So 3.")]
    assert {view: shown(items) for view, items in data.items.items()} == {
        "forget": forget,
        "retain": [("0.png", "retain 0?", "So 0.")],
        "decoupled": [("4.png", "decoupled 4?", "So 4.")],
    }
    assert caplog.messages == [f"note: {path}: 1 records are of no view, the first is record 2"]
    assert data.items["forget"][1].where == f"{path}: record 3, caption"
    # Refusals need no set of their own: the questions are those of forget.
    assert shown(loaded(path, *keys, "forget_loss=po").items["refusal"]) == [(*item[:2], "") for item in forget]
    lines = tmp_path / "data.jsonl"
    lines.write_text("\n".join(map(json.dumps, json.loads(path.read_text()))))
    assert loaded(lines, *keys, "forget_loss=gd").items["retain"][0].question == "retain 0?"
    write_json(tmp_path / "keep.json", [{"question": "Why?", "caption": "So."}, {"question": "How?", "caption": "So."}])
    whole = [f"data.views.retain.{key}" for key in ("file=keep.json", "where=null", "image=null")]
    data = loaded(path, *keys, "forget_loss=gd", *whole)
    assert shown(data.items["retain"]) == [(None, "Why?", "So."), (None, "How?", "So.")]
    assert list(data.record["files"]) == [str(tmp_path / "keep.json")] and data.record["records"] == 2 + 2
    row = plan_dataset(settings(f"data_path={path}", *keys, "forget_loss=gd", *whole))[0]
    assert [bool(viewed.row.inputs) for viewed in row] == [True, False]
    assert error_of(path, "data=own", "forget_loss=gd") == (
        f"{path}: no record has an answer 'answer' (data.views.forget.answer)"
    )


def test_what_is_told_of_the_data_changes_with_them(tmp_path):
    path = own(tmp_path)
    before = loaded(path, "data=own", "forget_loss=po").record
    assert before["records"] == 3 and before["categories"] == {"pictures": 3} and before["skipped"] == []
    write_json(tmp_path / "prompt.json", {"idk": ["No.", "Not now."]})
    assert differing(before, loaded(path, "data=own", "forget_loss=po").record) == ["refusals_sha256"]


OWN = {
    "image: missing": lambda r: r.pop("image"),
    "image: must not be blank": lambda r: r.update(image=" "),
    f"image: picture {'n' * 300} not found": lambda r: r.update(image="n" * 300),
    "image: picture pictures not found": lambda r: r.update(image="pictures"),
    "image: {torn}: picture cannot be decoded (OSError)": lambda r: r.update(image="torn.png"),
    "question: must be a text": lambda r: r.update(question=["x"]),
    "question: must not be blank": lambda r: r.update(question=" "),
    "question: holds half a character": lambda r: r.update(question="a \ud800 b"),
    "answer: holds half a character": lambda r: r.update(answer="a \ud800 b"),
    "answer: must be a text": lambda r: r.update(answer=3),
    "answer: the answer is empty, and view 'forget' trains on it (bad_items=skip": lambda r: r.update(answer=" \n"),
}


@pytest.mark.parametrize("says", OWN)
def test_a_record_that_cannot_be_used_is_named_with_its_key(tmp_path, says):
    path, torn = own(tmp_path), tmp_path / "torn.png"
    Image.effect_noise((300, 300), 60).save(torn)
    torn.write_bytes(torn.read_bytes()[:3000])
    records = json.loads(path.read_text())
    OWN[says](records[1])
    write_json(path, records)
    assert error_of(path, "data=own", "forget_loss=gd").startswith(f"{path}: record 1, {says.format(torn=torn)}")


PAIRS = {
    "unsafe_pairs: must be an object": lambda r: r.update(unsafe_pairs="x"),
    "unsafe_pairs.1: must be an object": lambda r: r["unsafe_pairs"].__setitem__(1, "x"),
    "unsafe_pairs.3.question: missing": lambda r: r["unsafe_pairs"][3].pop("question"),
    "UnharmPair_text2.Prediction: must be a text": lambda r: r["UnharmPair_text2"].update(Prediction=3),
}


@pytest.mark.parametrize("says", PAIRS)
def test_a_pair_of_another_form_is_named_whatever_becomes_of_bad_items(tmp_path, says):
    PAIRS[says](value := record(1))
    path = write_dataset(tmp_path, record(0), value)
    assert error_of(path, "forget_loss=gd", *SKIP) == f"{path}: record 1, {says}"


def test_data_that_do_not_fit_the_method(tmp_path):
    for number, (views, words, says) in enumerate((
        ("forget retain", "forget_loss=gd data.views.retain.file=lost.json", "lost.json: no such file"),
        ("forget retain", "forget_loss=gd ~data.views.retain", "data=own: has no view 'retain'; known: forget, de"),
        ("forget forget decoupled", "forget_loss=gapd recipe.decoupled=own_pair", "2 forget, 1 decoupled items, which"),
        ("retain retain", "forget_loss=ga", "no record holds anything for view 'forget', which ga reads"),
    )):  # fmt: skip
        assert says in error_of(own(tmp_path / str(number), views), "data=own", *words.split())


@pytest.fixture
def spoilt(tmp_path):
    """Four records of four: a harmful picture missing, a benign one damaged, a retain answer blank."""
    records = [record(n, "Sex" if n % 2 else "Weapon") for n in range(4)]
    records[3]["UnharmPair_text2"]["Prediction"] = " "
    path = write_dataset(tmp_path / "data", *records)
    (path.parent / "img/Weapon/0.jpg").unlink()
    torn = path.parent / "pdset/Weapon/2.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    return path


def test_bad_items_are_left_out_and_named(spoilt):
    torn = spoilt.parent / "pdset/Weapon/2.jpg"
    told = loaded(spoilt, "forget_loss=gdpd", *SKIP).record
    assert told["skipped"] == [
        f"{spoilt}: record 0, image_path: picture img/Weapon/0.jpg not found",
        f"{spoilt}: record 3, UnharmPair_text2.Prediction: the answer is empty, and view 'retain' trains on it",
        f"{spoilt}: record 2, SDImage_path: {torn}: picture cannot be decoded (OSError)",
    ]
    # Of records 0 and 2 all eight pairs, and of retain the first record's four and the blank one.
    assert told["left_out"] == 2 * 8 + 4 + 1 and told["records"] == 3
    # Where the benign picture is not read, nothing is wrong with its record.
    assert loaded(spoilt, "forget_loss=gd", *SKIP).sizes == {"forget": 12, "retain": 11}
    says = "not found: 8 of 16 forget items would be left out, more than max_bad_items=0.49"
    assert says in error_of(spoilt, "forget_loss=gdpd", "bad_items=skip", "max_bad_items=0.49")
    assert "img/Weapon/0.jpg not found and 2 more like it (bad_items=skip" in error_of(spoilt, "forget_loss=gdpd")
    # What is paired stays paired.
    words = ("forget_loss=gdpd", "recipe=corrected", "num_epochs=1", *SKIP)
    dataset = plan_dataset(settings(f"data_path={spoilt}", *words))
    assert len(dataset) == 8
    for step in dataset.plan:
        forget, benign = dataset.item("forget", step), dataset.item("decoupled", step)
        assert (forget.record, forget.question) == (benign.record, benign.question)


def test_probes_ask_the_views_that_are_there_but_no_bad_item(tmp_path, spoilt):
    asked = probe_items(settings(f"probe.data_path={spoilt}", "probe.prompts=99", *SKIP))
    assert {view: len(items) for view, items in asked.items()} == {"forget": 8, "decoupled": 8, "retain": 11}
    path = own(tmp_path, "forget forget forget retain")
    asked = probe_items(settings("data=own", f"probe.data_path={path}", "probe.prompts=2"))
    assert {view: len(items) for view, items in asked.items()} == {"forget": 2, "retain": 1}
    with pytest.raises(BadInput, match=r"probe\.data_path: .*data\.json: nothing to ask there \(data=own\)"):
        probe_items(settings("data=own", f"probe.data_path={own(tmp_path / 'other', 'x y')}"))


def test_loading_processes_get_the_same_and_a_lost_picture_is_one_line(tmp_path):
    """Though torch hands on what a loading process raises with its traceback."""
    path = write_dataset(tmp_path, record(0))
    dataset = plan_dataset(settings(f"data_path={path}", "forget_loss=gdpd", "num_epochs=1"))
    first = dataset[0]  # its pictures are in memory now
    sent = pickle.loads(pickle.dumps(dataset))  # as a process is given it that is spawned
    for here, there in zip(first, sent[0], strict=True):
        assert (here.view, here.row.input_ids, here.row.labels) == (there.view, there.row.input_ids, there.row.labels)
        assert torch.equal(here.row.inputs["pixel_values"], there.row.inputs["pixel_values"])
    (tmp_path / "img/Weapon/0.jpg").unlink()
    with pytest.raises(BadInput) as error:
        next(iter(DataLoader(pickle.loads(pickle.dumps(dataset)), 1, collate_fn=list, num_workers=1)))
    assert str(error.value) == f"{tmp_path / 'img/Weapon/0.jpg'}: picture not found"
