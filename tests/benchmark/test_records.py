"""Data files: forms, spellings, categories and draws. A fault is named by file, record and key, never with its text.

And the answers in a record: a model's own answers are put in and taken out again.
"""

import json
import operator
from functools import reduce

import pytest
from helpers import read_beside, record, refusal, run, write_dataset, write_json

from safeeraser.benchmark.answered import mark_of, with_answers, without_answers
from safeeraser.benchmark.check import check_folder
from safeeraser.benchmark.records import read_records, read_refusals
from safeeraser.errors import BadInput

FAULTS = read_beside(__file__, "faults.yaml")


def read(tmp_path, *records):
    return read_records(write_json(tmp_path / "all_train.json", list(records)))


def test_a_record_is_read_whole_whatever_its_spelling_and_extra_keys(tmp_path):
    """Retain pairs come in the release's order. A missing category is the name of the picture's folder."""
    value = {"UnharmPair_zoo": {"Question": "Zoo?"}, **record(7, "Sex", mine={"deep": [1]})}
    value["unsafe_pairs"][1] |= {"model_response1_asr": "safe", "sd_response": None}
    spelled = record(8, "Privacy")
    for key in ("image", "SDImage"):
        spelled[f"{key}_id"] = spelled.pop(f"{key}_path")
    del spelled["category"], spelled["UnharmPair_text1"]
    data = read(tmp_path, value, spelled)
    assert data.raw == [value, spelled]
    first, second = data.records
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, data.raw)) + "\n\n")
    lines = read_records(tmp_path / "lines.json")
    assert (lines.raw, lines.records) == (data.raw, data.records)
    assert list(first.unharm) == [f"UnharmPair_{name}" for name in ("text1", "text2", "image1", "image2", "zoo")]
    assert [pair.Prediction for pair in first.unharm.values()][2:] == ["It is image1 7.", "It is image2 7.", ""]
    assert (second.image_path, second.SDImage_path) == ("img/Privacy/8.jpg", "pdset/Privacy/8.jpg")
    assert [one.category for one in data.records] == ["Sex", "Privacy"]


def test_a_split_keeps_the_categories_named_in_the_files_order(tmp_path):
    data = read(tmp_path, record(0), record(1, "Violence"), record(2, "Sex"), record(3))
    some = data.only(["Sex", "Weapon"])
    assert [one.image_path for one in some.records] == ["img/Weapon/0.jpg", "img/Sex/2.jpg", "img/Weapon/3.jpg"]
    assert data.only("Violence").raw == [record(1, "Violence")] and data.only("all") is data
    assert some.where(1, "key") == f"{data.path}: record 2, key" and data.where(1) == f"{data.path}: record 1"
    # A selection of records keeps their numbers in the file.
    assert some.some(1).numbers == [3] and some.some(0, 1).numbers == [0, 2]
    with pytest.raises(BadInput, match="no records of a category 'Violense'; did you mean 'Violence'"):
        data.only(["Weapon", "Violense"])


def test_records_are_drawn_from_all_keywords_alike(tmp_path):
    keywords = ["common"] * 40 + ["rare"] * 5 + ["lone"]
    data = read(tmp_path, *(record(n) | {"keyword": keyword} for n, keyword in enumerate(keywords)))
    drawn = [keywords[number] for number in data.some(0, 9, 1).numbers]
    assert [drawn.count(keyword) for keyword in ("common", "rare", "lone")] == [4, 4, 1]
    first, more = data.some(2, 6, 1).numbers, data.some(2, 12, 1).numbers
    assert set(first) < set(more) and min(more) >= 2, "those held out are the first of the file, as ever"
    assert data.some(0, 6, 1).numbers == data.some(0, 6, 1).numbers != data.some(0, 6, 2).numbers


@pytest.mark.parametrize(("where", "value", "says"), FAULTS["records"])
def test_a_fault_is_named_by_file_record_and_key_without_its_text(tmp_path, where, value, says):
    broken = record()
    broken["unsafe_pairs"][0]["question"] = "SECRET"
    *path, last = where
    place = reduce(operator.getitem, path, broken)
    if value is None:
        del place[last]
    else:
        place[last] = value
    said = refusal(read, tmp_path, record(), record(), broken)
    assert said.startswith(f"{tmp_path / 'all_train.json'}: record 2, {says}") and "SECRET" not in said


@pytest.mark.parametrize(("text", "says"), FAULTS["files"])
def test_a_file_that_holds_no_records(tmp_path, text, says):
    path = tmp_path / "all_train.json"
    if text is not None:
        path.write_text(text)
    said = refusal(read_records, path)
    assert said.startswith(f"{path}: {says}") and "SECRET" not in said


@pytest.mark.parametrize(("value", "says"), FAULTS["refusals"])
def test_refusals_that_cannot_be_used(tmp_path, value, says):
    if value:
        write_json(tmp_path / "prompt.json", value)
    assert refusal(read_refusals, tmp_path / "all_train.json") == f"{tmp_path / 'prompt.json'}: {says}"


def test_the_check_of_a_folder_counts_and_names_all_that_is_wrong(tmp_path):
    """Also keys that a user's own data may lack, but the benchmark's may not. The command exits with 2."""
    write_json(tmp_path / "all_val.json", [record(0), record(1, "Sex")])
    train = write_dataset(tmp_path, record(0), record(1, "Sex"))
    assert read_refusals(train) == ["No. I WILL not.", "Never."]
    done = run("safeeraser.benchmark.check", tmp_path)
    assert done.returncode == 0 and "nothing wrong" in done.stdout
    rows = [line.replace("│", " ").split() for line in done.stdout.splitlines()]
    assert ["Sex", "1", "1"] in rows and ["all", "2", "2"] in rows
    values = [record(0), record(1, "Sex")]
    del values[0]["SDImage_path"], values[1]["unsafe_pairs"][2]["sd_response"]
    values[1]["UnharmPair_text1"]["Prediction"], values[1]["image_path"] = "", "no/such.jpg"
    write_json(train, [*values, {}])
    torn = tmp_path / "pdset/Sex/1.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    (tmp_path / "prompt.json").unlink()
    faults = [
        f"{tmp_path / 'prompt.json'}: no such file",
        f"{train}: record 0, SDImage_path: missing",
        f"{train}: record 1, UnharmPair_text1.Prediction: empty",
        f"{train}: record 1, unsafe_pairs.2.sd_response: empty",
        f"{train}: record 1, image_path: picture no/such.jpg not found",
        f"{train}: record 1, SDImage_path: {torn}: picture cannot be decoded (OSError)",
        f"{train}: record 2, image_path: missing",
        f"{train}: record 2, unsafe_pairs: missing",
        f"{tmp_path / 'all_val.json'}: record 1, SDImage_path: {torn}: picture cannot be decoded (OSError)",
    ]
    assert check_folder(tmp_path)[1] == faults
    done = run("safeeraser.benchmark.check", tmp_path)
    assert done.returncode == 2 and all(fault in done.stdout for fault in faults) and "9 faults" in done.stdout


MARK = {"model": "m", "weights": None, "fields": ["model_response", "sd_response"]}
NEW = {("unsafe_pairs", n, field): f"New {n}." for n in range(4) for field in MARK["fields"]}


def test_a_record_is_what_it_was_without_its_answers():
    """Also if an answer was missing, or if `answered_by` held something else."""
    value = record(0, answered_by="somebody")
    del value["unsafe_pairs"][1]["sd_response"]
    filled = with_answers(value, NEW, MARK)
    assert mark_of(value) is None and mark_of(filled).model == "m"
    both = {"model_response": "New 1.", "sd_response": "New 1.", "original_model_response": "Harm 1."}
    assert filled["unsafe_pairs"][1] == {"question": "Secret 1?"} | both
    del value["answered_by"]
    assert without_answers(filled) == value and without_answers(value) == value
