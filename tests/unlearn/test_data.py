"""Data: each view is read where its adapter says, bad items are left out and named, and bad records are refused."""

import json

import pytest
from helpers import pair, plan_dataset, read_beside, record, refusal, write_dataset, write_json
from PIL import Image

from safeeraser.errors import BadInput
from safeeraser.unlearn.data.items import load_data
from safeeraser.unlearn.data.views import build_views
from safeeraser.unlearn.hooks.probe import probe_items
from safeeraser.unlearn.objective.method import VIEWS

from .given import settings

SKIP = ("bad_items=skip", "max_bad_items=0.5")
LONG = "n" * 300
RECORDS = read_beside(__file__, "golden/refused.yaml")["records"]


def loaded(path, *overrides):
    return load_data(settings(f"data_path={path}", *overrides))


def error_of(path, *overrides):
    return refusal(loaded, path, *overrides)


def shown(items):
    return [(item.picture and item.picture.name, item.question, item.answer) for item in items]


def test_views_of_the_benchmark_are_numbered_record_by_record(tmp_path):
    path = write_dataset(tmp_path, *(record(n, "Sex" if n == 1 else "Weapon") for n in range(3)))
    items = build_views(settings().data, path, list(VIEWS))
    harm, benign = tmp_path / "img/Sex/1.jpg", tmp_path / "pdset/Sex/1.jpg"
    # Item 5 is the second item of record 1. A refusal has no answer yet, because the plan draws it later.
    fifth = {view: items[view][5] for view in VIEWS}
    assert {view: (item.picture, item.question, item.answer, item.said) for view, item in fifth.items()} == {
        "forget": (harm, "Secret 1?", "Harm 1.", "unsafe_pairs.1.model_response"),
        "retain": (harm, "What text2?", "It is text2 1.", "UnharmPair_text2.Prediction"),
        "decoupled": (benign, "Secret 1?", "Fine 1.", "unsafe_pairs.1.sd_response"),
        "refusal": (harm, "Secret 1?", "", "unsafe_pairs.1.question"),
    }
    assert [item.category for item in items["forget"]] == ["Weapon"] * 4 + ["Sex"] * 4 + ["Weapon"] * 4
    assert loaded(path, "forget_loss=gd", "limit=1").categories == {"Sex": 1, "Weapon": 1}
    # The items of chosen records are numbered from 0, so that their plan has no gaps.
    assert loaded(path, "forget_loss=gd", "split=Sex").sizes == {"forget": 4, "retain": 4}
    assert "no records of a category 'Violence'; " in error_of(path, "split=[Sex,Violence]")


def test_there_are_as_many_pairs_as_the_data_has_and_only_what_is_read_is_asked_for(tmp_path):
    few, many = record(0, unsafe_pairs=[pair(0)]), record(2, unsafe_pairs=[pair(n) for n in range(6)])
    for name in ("text1", "text2", "image1", "image2"):
        del few[f"UnharmPair_{name}"]
    many = {"UnharmPair_zoo": many["UnharmPair_text2"]} | many
    write_dataset(tmp_path, record(0), record(1), record(2))
    path = write_json(tmp_path / "all_train.json", [few, record(1, unsafe_pairs=[]), many])
    data = loaded(path, "forget_loss=gdpd")
    assert data.sizes == {"forget": 7, "retain": 4 + 5, "decoupled": 7} and data.records == 3
    # The release's keys come in the release's order, then other keys.
    said = [item.said.partition(".")[0] for item in data.items["retain"][4:]]
    assert said == [f"UnharmPair_{name}" for name in ("text1", "text2", "image1", "image2", "zoo")]
    write_json(path, [few])
    assert loaded(path, "forget_loss=ga").sizes == {"forget": 1}
    said = error_of(path, "forget_loss=gd")
    assert f"{path}: no record holds anything for view 'retain', which gd reads" in said
    assert said.endswith("where it is looked for, and data=own reads flat records")


def own(folder, views="forget forget retain", **names):
    """Write a data file of flat records, each with its own picture. `names`: other names for the fields."""
    records = []
    for number, view in enumerate(views.split()):
        value = {"image": f"pictures/{number}.png", "question": f"{view} {number}?", "answer": f"So {number}."}
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number * 20, 90, 90)).save(folder / value["image"])
        records.append({names.get(key, key): text for key, text in value.items()} | {"view": view})
    write_json(folder / "prompt.json", {"idk": ["No.", "Never."]})
    return write_json(folder / "data.json", records)


def test_records_of_ones_own_are_read_as_the_adapter_says(tmp_path, caplog):
    """Flat records that name their view, renamed fields, JSON lines, a separate file for a view, and text alone."""
    path = own(tmp_path, "retain forget retian forget decoupled", answer="caption")
    keys = ("data=own", *(f"data.views.{view}.answer=caption" for view in ("forget", "retain", "decoupled")))
    data = loaded(path, *keys, "forget_loss=gdpd")
    forget = [("1.png", "forget 1?", "So 1."), ("3.png", "forget 3?", "So 3.")]
    assert {view: shown(items) for view, items in data.items.items()} == {
        "forget": forget,
        "retain": [("0.png", "retain 0?", "So 0.")],
        "decoupled": [("4.png", "decoupled 4?", "So 4.")],
    }
    assert caplog.messages == [f"note: {path}: 1 records belong to no view; the first is record 2"]
    # The refusal view needs no records of its own: its questions are the forget view's.
    assert shown(loaded(path, *keys, "forget_loss=po").items["refusal"]) == [(*item[:2], "") for item in forget]
    lines = tmp_path / "data.jsonl"
    lines.write_text("\n".join(map(json.dumps, json.loads(path.read_text()))))
    write_json(tmp_path / "keep.json", [{"question": "Why?", "caption": "So."}, {"question": "How?", "caption": "So."}])
    whole = [f"data.views.retain.{key}" for key in ("file=keep.json", "where=null", "image=null")]
    data = loaded(lines, *keys, "forget_loss=gd", *whole)
    assert data.items["forget"][1].where == f"{lines}: record 3, caption"
    assert shown(data.items["retain"]) == [(None, "Why?", "So."), (None, "How?", "So.")]
    row = plan_dataset(settings(f"data_path={path}", *keys, "forget_loss=gd", *whole))[0]
    assert [bool(viewed.row.inputs) for viewed in row] == [True, False]
    says = f"{path}: no record has an answer 'answer' (data.views.forget.answer)"
    assert error_of(path, "data=own", "forget_loss=gd") == says


@pytest.mark.parametrize(("key", "value", "says"), [*RECORDS, ("image", LONG, f"picture {LONG} not found")], ids=str)
def test_a_record_that_cannot_be_used_is_named_with_its_key(tmp_path, key, value, says):
    path, torn = own(tmp_path), tmp_path / "torn.png"
    Image.effect_noise((300, 300), 60).save(torn)
    torn.write_bytes(torn.read_bytes()[:3000])
    records = json.loads(path.read_text())
    records[1][key] = value
    if value is None:
        del records[1][key]
    write_json(path, records)
    says = f"{path}: record 1, {key}: {says.format(folder=tmp_path)}"
    assert error_of(path, "data=own", "forget_loss=gd").startswith(says)


def test_data_that_do_not_fit_the_method(tmp_path):
    path = own(tmp_path, "forget forget decoupled")
    assert "lost.json: no such file" in error_of(path, "data=own", "forget_loss=gd", "data.views.retain.file=lost.json")
    says = "2 forget, 1 decoupled items, which"
    assert says in error_of(path, "data=own", "forget_loss=gapd", "recipe.decoupled=own_pair")


def test_a_refusal_keeps_its_question_however_many_decoupled_items_there_are(tmp_path):
    path = own(tmp_path, "forget forget forget forget decoupled retain")
    records = json.loads(path.read_text())
    records[1]["answer"] = " "
    write_json(path, records)
    dataset = plan_dataset(settings(f"data_path={path}", "data=own", "forget_loss=dpo", "pd=1", *SKIP))
    asked = {view: [dataset.item(view, step).question for step in dataset.plan[:3]] for view in ("forget", "refusal")}
    assert asked["forget"] == asked["refusal"] == ["forget 0?", "forget 2?", "forget 3?"]


def test_bad_items_are_left_out_and_named(tmp_path):
    """In four records a harmful picture is missing, a benign picture is damaged, and a retain answer is blank."""
    records = [record(n, "Sex" if n % 2 else "Weapon") for n in range(4)]
    records[3]["UnharmPair_text2"]["Prediction"] = " "
    spoilt = write_dataset(tmp_path, *records)
    (tmp_path / "img/Weapon/0.jpg").unlink()
    (torn := tmp_path / "pdset/Weapon/2.jpg").write_bytes(b"torn")
    told = loaded(spoilt, "forget_loss=gdpd", *SKIP).record
    assert told["skipped"] == [
        f"{spoilt}: record 0, image_path: picture img/Weapon/0.jpg not found",
        f"{spoilt}: record 3, UnharmPair_text2.Prediction: the answer is empty, and view 'retain' trains on it",
        f"{spoilt}: record 2, SDImage_path: {torn}: picture cannot be decoded (UnidentifiedImageError)",
    ]
    # Two views lose the eight pairs of records 0 and 2; retain loses record 0's four items and the blank one.
    assert told["left_out"] == 2 * 8 + 4 + 1 and told["records"] == 3
    # If benign pictures are not read, record 2 has no fault.
    assert loaded(spoilt, "forget_loss=gd", *SKIP).sizes == {"forget": 12, "retain": 11}
    says = "not found: 8 of 16 forget items would be left out, more than max_bad_items=0.49"
    assert says in error_of(spoilt, "forget_loss=gdpd", "bad_items=skip", "max_bad_items=0.49")
    assert "img/Weapon/0.jpg not found and 2 more like it (bad_items=skip" in error_of(spoilt, "forget_loss=gdpd")
    asked = probe_items(settings(f"probe.data_path={spoilt}", "probe.prompts=99", *SKIP))
    assert {view: len(items) for view, items in asked.items()} == {"forget": 8, "decoupled": 8, "retain": 11}
    with pytest.raises(BadInput, match=r"probe\.data_path: .*data\.json: nothing to ask there \(data=own\)"):
        probe_items(settings("data=own", f"probe.data_path={own(tmp_path, 'x y')}"))
