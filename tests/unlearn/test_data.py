"""Data as it comes: only what a method reads is asked for, views are read where they are, bad items are left out."""

import json
import pickle

import pytest
import torch
from helpers import MODEL, TRAIN, pair, plan_dataset, record, refused, run, settings, write_dataset, write_json
from PIL import Image
from torch.utils.data import DataLoader

from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.data import load_data
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.plan import differing
from safeeraser.unlearn.probe import probe_items
from safeeraser.unlearn.run import collator

pytestmark = pytest.mark.slow

GIVEN = (f"model_path={MODEL}", "dtype=float32", "workers=0", "gradient_accumulation_steps=1", "max_train_steps=1")


def loaded(path, *overrides):
    return load_data(settings(f"data_path={path}", *overrides))


def error_of(path, *overrides):
    with pytest.raises(BadInput) as error:
        loaded(path, *overrides)
    return str(error.value)


def forget(folder, path, *more):
    done = run("forget", *GIVEN, f"data_path={path}", f"save_dir={folder}", *more)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run.json").read_text()), done.stderr


def only(value, *keys):
    return {key: value[key] for key in ("category", "image_path", *keys)}


def benchmark(folder, *records):
    """A data file of records that lack what no view reads, with their pictures."""
    for value in records:
        for key in {"image_path", "SDImage_path"} & value.keys():
            (folder / value[key]).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), "teal").save(folder / value[key])
    write_json(folder / "prompt.json", {"idk": ["No."]})
    return write_json(folder / "all_train.json", list(records))


# What is asked for


def test_a_method_asks_for_what_its_views_read_alone(tmp_path):
    lean = benchmark(tmp_path / "lean", only(record(0), "unsafe_pairs"), only(record(1, "Sex"), "unsafe_pairs"))
    told, _ = forget(tmp_path / "ga", lean, "forget_loss=ga")
    assert told["data"]["records"] == 2
    given = (*GIVEN, f"data_path={lean}", f"save_dir={tmp_path / 'run'}")
    says = f"{lean}: no record holds anything for view 'retain', which gd reads; data.views.retain says"
    refused(tmp_path, "forget", *given, "forget_loss=gd", says=says)
    says = f"{lean}: record 0, SDImage_path: missing"
    refused(tmp_path, "forget", *given, "forget_loss=gapd", says=says)


def test_there_are_as_many_pairs_as_the_data_has(tmp_path):
    few, none, many = record(0), record(1, "Sex"), record(2)
    few["unsafe_pairs"], none["unsafe_pairs"], many["unsafe_pairs"] = [pair(0)], [], [pair(n) for n in range(6)]
    for name in ("text1", "text2", "image1", "image2"):
        del few[f"UnharmPair_{name}"]
    first = {"UnharmPair_zoo": many["UnharmPair_text2"], "UnharmPair_image1": many.pop("UnharmPair_image1")}
    data = loaded(benchmark(tmp_path, few, none, first | many), "forget_loss=gdpd")
    assert data.sizes == {"forget": 7, "retain": 4 + 5, "decoupled": 7} and data.records == 3
    # The known ones in the release's order, then others.
    said = [item.said.partition(".")[0] for item in data.items["retain"][4:]]
    assert said == [f"UnharmPair_{name}" for name in ("text1", "text2", "image1", "image2", "zoo")]


def test_a_view_of_its_own_length_makes_the_plan(tmp_path):
    """What relearning does: a method that reads one view alone."""
    value = record(0)
    value["unsafe_pairs"] = [pair(0)]
    term = "forget_loss.terms={retain: {loss: nll, views: [retain], weight: 1.0}}"
    read = settings(f"data_path={benchmark(tmp_path, value)}", "forget_loss=ga", "num_epochs=1", "~forget_loss.terms",
                    f"+{term}")  # fmt: skip
    dataset = plan_dataset(read)
    assert load_data(read).sizes == {"forget": 4, "retain": 4} and len(dataset) == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("image_path"), "image_path: missing"),
        (lambda r: r.update(image_path=" "), "image_path: must not be blank"),
        (lambda r: r.update(unsafe_pairs="x"), "unsafe_pairs: must be an object"),
        (lambda r: r["unsafe_pairs"].__setitem__(1, "x"), "unsafe_pairs.1: must be an object"),
        (lambda r: r["unsafe_pairs"][2].update(question=["x"]), "unsafe_pairs.2.question: must be a text"),
        (lambda r: r["unsafe_pairs"][2].update(question=" "), "unsafe_pairs.2.question: must not be blank"),
        (lambda r: r["unsafe_pairs"][0].update(model_response=3), "unsafe_pairs.0.model_response: must be a text"),
    ],
)
def test_a_record_of_another_form_is_named_whatever_becomes_of_bad_items(tmp_path, change, says):
    path = benchmark(tmp_path, record(0), value := record(1))
    change(value)
    write_json(path, [record(0), value])
    assert error_of(path, "forget_loss=ga", "bad_items=skip", "max_bad_items=0.9") == f"{path}: record 1, {says}"


# A user's own data


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


def texts(data, view):
    return [(item.picture.name, item.question, item.answer) for item in data.items[view]]


def test_flat_records_name_their_view(tmp_path):
    path = own(tmp_path, "retain forget retain forget decoupled")
    data = loaded(path, "data=own", "forget_loss=gdpd")
    assert texts(data, "forget") == [("1.png", "forget 1?", "So 1."), ("3.png", "forget 3?", "So 3.")]
    assert [item.picture.name for item in data.items["retain"]] == ["0.png", "2.png"]
    assert data.items["retain"][1].where == f"{path}: record 2, answer" and data.sizes["decoupled"] == 1
    # Refusals need no set of their own: the questions are those of forget.
    refusal = loaded(path, "data=own", "forget_loss=po").items["refusal"]
    assert [(item.picture.name, item.question, item.answer) for item in refusal] == [
        ("1.png", "forget 1?", ""),
        ("3.png", "forget 3?", ""),
    ]


def test_fields_are_named_on_the_command_line_and_lines_are_read(tmp_path):
    path = own(tmp_path, question="ask", answer="caption")
    lines = tmp_path / "data.jsonl"
    lines.write_text("\n".join(map(json.dumps, json.loads(path.read_text()))))
    fields = [f"data.views.{view}.{key}" for view in ("forget", "retain") for key in ("question=ask", "answer=caption")]
    data = loaded(lines, "data=own", "forget_loss=gd", *fields)
    assert texts(data, "retain") == [("2.png", "retain 2?", "So 2.")]
    assert error_of(lines, "data=own", "forget_loss=gd") == f"{lines}: record 0, question: missing"


def test_a_view_may_have_a_file_of_its_own(tmp_path):
    path, more = own(tmp_path / "a"), own(tmp_path / "b", "any any any")
    write_json(tmp_path / "a" / "keep.json", json.loads(more.read_text()))
    whole = ("data.views.retain.file=keep.json", "data.views.retain.where=null")
    told, _ = forget(tmp_path / "run", path, "data=own", "forget_loss=gd", *whole)
    assert told["data"]["records"] == 2 + 3
    assert list(told["data"]["files"]) == [str(tmp_path / "a" / "keep.json")]
    assert told["settings"]["data"]["views"]["retain"]["file"] == "keep.json"
    says = f"{tmp_path / 'a' / 'lost.json'}: no such file"
    assert error_of(path, "data=own", "forget_loss=gd", "data.views.retain.file=lost.json").startswith(says)


def test_where_every_view_has_a_file_the_data_path_is_one_all_the_same(tmp_path):
    own(tmp_path)
    whole = [f"data.views.{view}.{key}" for view in ("forget", "retain") for key in ("file=data.json", "where=null")]
    data = loaded(tmp_path / "data.json", "data=own", "forget_loss=gd", *whole)
    assert data.sizes == {"forget": 3, "retain": 3} and data.files == [tmp_path / "data.json"]
    assert "lost.json: no such file" in error_of(tmp_path / "lost.json", "data=own", "forget_loss=gd", *whole)


def test_a_view_may_be_of_text_alone(tmp_path):
    """Whether its records name a picture or not; and none is looked for, there or in what is told of the run."""
    path = own(tmp_path)
    records = json.loads(path.read_text())
    write_json(path, [*records[:2], {"view": "retain", "question": "Why?", "answer": "So."}, records[2]])
    (tmp_path / records[2]["image"]).unlink()
    text = ("data=own", "forget_loss=gd", "data.views.retain.image=null")
    items = loaded(path, *text).items["retain"]
    assert [(item.picture, item.question, item.category) for item in items] == [
        (None, "Why?", ""),
        (None, "retain 2?", ""),
    ]
    dataset = plan_dataset(settings(f"data_path={path}", *text))
    forget, retain = (viewed.row for viewed in dataset[0])
    picture = dataset.preprocessor.picture_token
    assert forget.inputs and picture in forget.input_ids and not retain.inputs and picture not in retain.input_ids
    told = run("forget", *GIVEN, f"data_path={path}", *text, "dry_run=true", f"save_dir={tmp_path / 'no'}")
    assert told.returncode == 0 and " ".join(told.stdout.split()).count("pictures 2") == 1, told.stderr


def test_a_text_that_speaks_of_a_picture_is_named(tmp_path):
    path = own(tmp_path)
    records = json.loads(path.read_text())
    records[2]["question"] = "What is on <image>?"
    write_json(path, records)
    with pytest.raises(BadInput, match="record 2, answer: the text itself contains '<image>'"):
        plan_dataset(settings(f"data_path={path}", "data=own", "forget_loss=gd", "data.views.retain.image=null"))


def test_an_adapter_is_chosen_and_changed_by_keywords_too(tmp_path):
    keys = {"data": "own", "data.views.retain.answer": "caption", "data_path": str(own(tmp_path))}
    read = read_settings(from_keys(keys))
    assert (read.data.name, read.data.views["retain"].answer, read.data.views["forget"].answer) == (
        "own",
        "caption",
        "answer",
    )


def test_categories_and_a_limit_choose_among_the_records_of_each_view(tmp_path):
    path = own(tmp_path, "forget forget forget retain retain")
    assert loaded(path, "data=own", "forget_loss=gd", "limit=2").sizes == {"forget": 2, "retain": 2}
    assert loaded(path, "data=own", "forget_loss=gd", "split=pictures").sizes == {"forget": 3, "retain": 2}
    assert "no records of a category 'Sex'; " in error_of(path, "data=own", "forget_loss=gd", "split=Sex")


def test_pairs_that_are_trained_as_pairs_must_be_as_many(tmp_path):
    path = own(tmp_path, "forget forget decoupled")
    given = ("data=own", "forget_loss=gapd")
    assert loaded(path, *given).sizes == {"forget": 2, "decoupled": 1}
    says = f"{path}: 2 forget, 1 decoupled items, which are paired one by one; recipe.decoupled=retain_index"
    assert error_of(path, *given, "recipe.decoupled=own_pair").startswith(says)


def test_records_of_no_view_are_told_of(tmp_path, caplog):
    path = own(tmp_path, "forget retain retian Forget")
    assert loaded(path, "data=own", "forget_loss=gd").sizes == {"forget": 1, "retain": 1}
    assert caplog.messages == [f"note: {path}: 2 records are of no view, the first is record 2"]


def test_a_mistyped_answer_is_no_blank_one(tmp_path):
    says = error_of(own(tmp_path), "data=own", "forget_loss=gd", "bad_items=skip", "data.views.retain.answer=caption")
    assert says == f"{tmp_path / 'data.json'}: no record has an answer 'caption' (data.views.retain.answer)"


@pytest.mark.parametrize("key", ["question", "answer"])
def test_half_a_character_is_named(tmp_path, key):
    path = own(tmp_path)
    records = json.loads(path.read_text())
    records[1][key] = "a \ud800 b"
    write_json(path, records)
    assert error_of(path, "data=own", "forget_loss=gd") == (
        f"{path}: record 1, {key}: holds half a character (a lone surrogate), which no tokenizer takes"
    )


def test_other_refusals_are_other_data(tmp_path):
    path = own(tmp_path)
    before = loaded(path, "data=own", "forget_loss=po").record
    write_json(tmp_path / "prompt.json", {"idk": ["No.", "Not now."]})
    after = loaded(path, "data=own", "forget_loss=po").record
    assert differing(before, after) == ["refusals_sha256"]


def test_a_view_that_the_adapter_lacks(tmp_path):
    path = own(tmp_path)
    says = "data=own: has no view 'retain'; known: forget, decoupled, refusal"
    assert error_of(path, "data=own", "forget_loss=gd", "~data.views.retain") == says


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+data.views.retain.answr=x", "no key 'data.views.retain.answr'; did you mean 'answer'?"),
        ("+data.views.retane={image: x, question: y}", "no view 'retane'; did you mean 'retain'?"),
        ("data.views.retain.answer=null", "view 'retain' names no answer"),
        ("data.views.retain.image=[]", "data.views.retain.image=[]: "),
        ("max_bad_items=1", "max_bad_items=1"),
        ("bad_items=drop", "bad_items=drop"),
    ],
)
def test_an_adapter_that_cannot_be_used(override, says):
    with pytest.raises(BadInput) as error:
        settings("data=own", override)
    assert str(error.value).startswith("config: ") and says in str(error.value)


def test_a_mistyped_key_of_an_adapter_on_the_command_line(tmp_path):
    says = "no key 'data.views.retain.answr'; did you mean 'data.views.retain.answer'?"
    refused(tmp_path, "forget", "data=own", "data.views.retain.answr=x", says=says)


def test_probes_ask_the_views_that_are_there(tmp_path):
    path = own(tmp_path, "forget forget forget retain")
    asked = probe_items(settings("data=own", f"probe.data_path={path}", "probe.prompts=2"))
    assert {view: [item.question for item in items] for view, items in asked.items()} == {
        "forget": ["forget 0?", "forget 1?"],
        "retain": ["retain 3?"],
    }
    # A view's own file is what is trained on.
    read = settings("data=own", f"data_path={path}", f"probe.data_path={path}", "data.views.retain.file=data.json")
    assert list(probe_items(read)) == ["forget"]
    with pytest.raises(BadInput, match=r"probe\.data_path: .*data\.json: nothing to ask there \(data=own\)"):
        probe_items(settings("data=own", f"probe.data_path={own(tmp_path / 'other', 'x y')}"))


# Items that cannot be trained on


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


SKIP = ("bad_items=skip", "max_bad_items=0.5")


def test_bad_items_are_left_out_and_named(tmp_path, spoilt):
    told, log = forget(tmp_path / "run", spoilt, "forget_loss=gdpd", *SKIP)
    torn = spoilt.parent / "pdset/Weapon/2.jpg"
    assert told["data"]["skipped"] == [
        f"{spoilt}: record 0, image_path: picture img/Weapon/0.jpg not found",
        f"{spoilt}: record 3, UnharmPair_text2.Prediction: the answer is empty, and view 'retain' trains on it",
        f"{spoilt}: record 2, SDImage_path: {torn}: picture cannot be decoded (OSError)",
    ]
    # Of records 0 and 2 all eight pairs, and of retain the first record's four and the blank one.
    assert told["data"]["left_out"] == 2 * 8 + 4 + 1
    assert "3 records, 3 faults skipped, 1 items" in log
    assert told["settings"]["bad_items"] == "skip" and told["settings"]["max_bad_items"] == 0.5


def test_pairs_stay_pairs(spoilt):
    dataset = plan_dataset(
        settings(f"data_path={spoilt}", "forget_loss=gdpd", "recipe=corrected", "num_epochs=1", *SKIP)
    )
    assert len(dataset) == 8 and len(dataset.items["retain"]) == 11
    for step in dataset.plan:
        forget, benign = dataset.item("forget", step), dataset.item("decoupled", step)
        assert (forget.record, forget.question) == (benign.record, benign.question)
    # Where the benign picture is not read, nothing is wrong with its record.
    assert loaded(spoilt, "forget_loss=gd", *SKIP).sizes == {"forget": 12, "retain": 11}


def test_the_dry_run_counts_them(tmp_path, spoilt):
    done = run("forget", *GIVEN, f"data_path={spoilt}", f"save_dir={tmp_path / 'no'}", "dry_run=true", *SKIP)
    rows = dict(line.strip().rsplit(maxsplit=1) for line in done.stdout.splitlines() if "  " in line.strip())
    rows = {name.strip(): int(count) for name, count in rows.items() if count.isdecimal()}
    assert rows["bad items left out"] == 2 * 8 + 4 + 1
    assert (rows["decoupled items"], rows["retain items"]) == (8, 11)


def test_more_than_a_share_is_refused(tmp_path, spoilt):
    given = (*GIVEN, f"data_path={spoilt}", f"save_dir={tmp_path / 'run'}", "forget_loss=gdpd", "bad_items=skip")
    says = "not found: 8 of 16 forget items would be left out, more than max_bad_items=0.05"
    refused(tmp_path, "forget", *given, says=says)
    refused(
        tmp_path, "forget", *given[:-1], says="img/Weapon/0.jpg not found and 2 more like it (bad_items=skip leaves"
    )


@pytest.mark.parametrize("name", ["n" * 300, "n\0n", "..", "pictures/1.png"])
def test_a_picture_that_is_none_is_named(tmp_path, name):
    """Whatever is wrong with it: a name that no disk can hold, a folder, a chunk that Pillow calls a syntax error."""
    path = own(tmp_path)
    records = json.loads(path.read_text())
    records[1]["image"] = name
    write_json(path, records)
    torn = tmp_path / "pictures/1.png"
    Image.effect_noise((300, 300), 60).save(torn)  # so large that its data take two chunks
    first, last = torn.read_bytes().rsplit(b"IDAT", 1)
    torn.write_bytes(first + b"\1\2\3\4" + last)
    reason = (
        f"{torn}: picture cannot be decoded (SyntaxError)" if name == "pictures/1.png" else f"picture {name} not found"
    )
    line = error_of(path, "data=own", "forget_loss=gd")
    assert line == f"{path}: record 1, image: {reason} (bad_items=skip leaves such items out)"


def test_probes_leave_them_out_too(spoilt):
    asked = probe_items(settings(f"probe.data_path={spoilt}", "probe.prompts=99", *SKIP))
    assert {view: len(items) for view, items in asked.items()} == {"forget": 8, "decoupled": 8, "retain": 11}
    with pytest.raises(
        BadInput, match=r"probe\.data_path: .*record 0, image_path: picture img/Weapon/0\.jpg not found"
    ):
        probe_items(settings(f"probe.data_path={spoilt}"))


# Going on


def test_a_run_that_an_earlier_version_began_is_gone_on_with(tmp_path):
    """It knew no data adapters; whatever else decides the result is compared as ever."""
    folder = tmp_path / "run"
    forget(folder, TRAIN, "forget_loss=ga", "max_train_steps=2", "save_steps=1")
    told = json.loads((folder / "run.json").read_text())
    for key in ("data", "bad_items", "max_bad_items"):
        del told["settings"][key]
    del told["finished"]
    write_json(folder / "run.json", told)
    again = ("forget_loss=ga", "max_train_steps=2", "save_steps=1", "resume_from_checkpoint=auto")
    assert forget(folder, TRAIN, *again)[0]["finished"]
    given = (*GIVEN, f"data_path={TRAIN}", f"save_dir={folder}", *again, "bad_items=skip")
    assert "another bad_items (stop, now skip)" in run("forget", *given).stderr


def test_a_loading_process_that_is_spawned_loads_the_same(tmp_path):
    """As on macOS and Windows, where nothing is inherited."""
    read = settings(f"data_path={write_dataset(tmp_path, record(0))}", "forget_loss=gdpd", "num_epochs=1")
    dataset = plan_dataset(read)
    dataset[0]  # a picture is in its memory
    assert pickle.loads(pickle.dumps(dataset)).item("retain", dataset.plan[1]) == dataset.item(
        "retain", dataset.plan[1]
    )
    collate = collator(read, dataset)
    spawned = DataLoader(dataset, 2, collate_fn=collate, num_workers=1, multiprocessing_context="spawn")
    for here, there in zip(DataLoader(dataset, 2, collate_fn=collate), spawned, strict=True):
        assert here["inputs"].keys() == there["inputs"].keys()
        for name in ("targets", "item"):
            assert torch.equal(here[name], there[name]), name
        assert all(torch.equal(value, there["inputs"][name]) for name, value in here["inputs"].items())


def test_a_picture_that_is_lost_while_training_is_one_line(tmp_path):
    """Though torch hands on what a loading process raises with its traceback."""
    dataset = plan_dataset(
        settings(f"data_path={write_dataset(tmp_path, record(0))}", "forget_loss=ga", "num_epochs=1")
    )
    picture = tmp_path / "img/Weapon/0.jpg"
    picture.unlink()
    with pytest.raises(BadInput) as error:
        next(iter(DataLoader(dataset, 1, collate_fn=list, num_workers=1)))
    assert str(error.value) == f"{picture}: picture not found"
