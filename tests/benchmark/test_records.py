"""Reading data files: their two forms and spellings, categories, and what is said about a file that cannot be used."""

import json

import pytest
from helpers import record, write_json

from safeeraser.benchmark.records import read_records, read_refusals
from safeeraser.errors import BadInput

SECRET = "how to do the harmful thing"


def read(tmp_path, *records):
    return read_records(write_json(tmp_path / "all_train.json", list(records)))


def error_of(tmp_path, *records) -> str:
    with pytest.raises(BadInput) as error:
        read(tmp_path, *records)
    assert SECRET not in str(error.value)
    assert str(tmp_path / "all_train.json") in str(error.value)
    return str(error.value).removeprefix(str(tmp_path / "all_train.json"))


def test_a_record_is_read_with_its_pairs_in_the_release_order(tmp_path):
    data = read(tmp_path, record(7))
    (read_record,) = data.records
    assert read_record.image_path == "img/Weapon/7.jpg" and read_record.SDImage_path == "pdset/Weapon/7.jpg"
    assert [pair.Question for pair in read_record.unharm.values()] == [
        f"What {name}?" for name in ("text1", "text2", "image1", "image2")
    ]
    assert [pair.Prediction for pair in read_record.unharm.values()][2] == "It is image1 7."
    assert [pair.sd_response for pair in read_record.unsafe_pairs] == ["Fine 0.", "Fine 1.", "Fine 2.", "Fine 3."]
    assert data.raw == [record(7)]


def test_the_other_spelling_of_the_paths(tmp_path):
    value = record()
    value["image_id"] = value.pop("image_path")
    value["SDImage_id"] = value.pop("SDImage_path")
    (read_record,) = read(tmp_path, value).records
    assert (read_record.image_path, read_record.SDImage_path) == ("img/Weapon/0.jpg", "pdset/Weapon/0.jpg")


def test_a_record_has_as_many_retain_pairs_as_it_has_and_need_have_no_benign_picture(tmp_path):
    value = record()
    del value["SDImage_path"], value["UnharmPair_text1"]
    more = {"UnharmPair_zoo": value["UnharmPair_text2"], **value}
    (read_record,) = read(tmp_path, more).records
    assert read_record.SDImage_path == ""
    assert list(read_record.unharm) == [f"UnharmPair_{name}" for name in ("text2", "image1", "image2", "zoo")]


@pytest.mark.parametrize("key", ["image_path", "image_id"])
def test_a_missing_category_is_the_name_of_the_pictures_folder(tmp_path, key):
    value = record(category="Privacy")
    del value["category"]
    value[key] = value.pop("image_path")
    assert read(tmp_path, value).records[0].category == "Privacy"


def test_a_category_that_is_given_wins_over_the_folder(tmp_path):
    assert read(tmp_path, record() | {"category": "Sex"}).records[0].category == "Sex"


def test_a_list_and_json_lines_are_the_same(tmp_path):
    records = [record(0), record(1, "Violence")]
    lines = tmp_path / "lines.json"
    lines.write_text("\n".join(map(json.dumps, records)) + "\n\n")
    assert read_records(lines).records == read(tmp_path, *records).records
    assert read_records(lines).raw == records


def test_one_record_on_one_line_is_a_file_of_one(tmp_path):
    path = write_json(tmp_path / "one.json", record(3))
    assert len(read_records(path).records) == 1


def test_other_keys_are_kept(tmp_path):
    value = record() | {"mine": {"deep": [1]}}
    value["unsafe_pairs"][1]["model_response1_asr"] = "safe"
    data = read(tmp_path, value)
    assert data.raw == [value]
    assert data.records[0].unsafe_pairs[1].model_response1_asr == "safe"


def test_a_split_keeps_the_categories_named_in_the_files_order(tmp_path):
    data = read(tmp_path, record(0), record(1, "Violence"), record(2, "Sex"), record(3))
    assert [r.image_path for r in data.only(["Sex", "Weapon"]).records] == [
        "img/Weapon/0.jpg",
        "img/Sex/2.jpg",
        "img/Weapon/3.jpg",
    ]
    only = data.only("Violence")
    assert [r.category for r in only.records] == ["Violence"] and only.raw == [record(1, "Violence")]
    assert data.only("all") is data


def test_a_split_of_an_unknown_category_names_the_nearest(tmp_path):
    data = read(tmp_path, record(0), record(1, "Violence"))
    with pytest.raises(
        BadInput, match="no records of a category 'Violense'; did you mean 'Violence'\\? known: Violence, Weapon"
    ):
        data.only(["Weapon", "Violense"])


def broken(change) -> dict:
    value = record()
    for pair in value["unsafe_pairs"]:
        pair["question"] = SECRET
    change(value)
    return value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.pop("image_path"), "image_path: missing"),
        (lambda r: r.update(SDImage_path=" "), "SDImage_path: must not be blank"),
        (lambda r: r.pop("unsafe_pairs"), "unsafe_pairs: missing"),
        (lambda r: r["UnharmPair_image2"].update(Prediction=[SECRET]), "UnharmPair_image2.Prediction: must be a text"),
        (lambda r: r.update(UnharmPair_zoo={"Question": ""}), "UnharmPair_zoo.Question: must not be blank"),
        (lambda r: r["UnharmPair_text2"].pop("Question"), "UnharmPair_text2.Question: missing"),
        (lambda r: r["unsafe_pairs"][2].pop("question"), "unsafe_pairs.2.question: missing"),
        (lambda r: r["unsafe_pairs"][3].update(question="  \n"), "unsafe_pairs.3.question: must not be blank"),
        (lambda r: r["unsafe_pairs"][0].update(question=[SECRET]), "unsafe_pairs.0.question: must be a text"),
        (lambda r: r["unsafe_pairs"][1].update(sd_response={"t": SECRET}), "unsafe_pairs.1.sd_response: must be a"),
        (lambda r: r["unsafe_pairs"].__setitem__(1, SECRET), "unsafe_pairs.1: "),
        (lambda r: r.update(unsafe_pairs=[]), "unsafe_pairs: "),
        (lambda r: r.update(unsafe_pairs=SECRET), "unsafe_pairs: "),
        (lambda r: r.update(UnharmPair_text1=SECRET), "UnharmPair_text1: "),
        (lambda r: r.update(image_path=""), "image_path: must not be blank"),
    ],
)
def test_a_fault_is_named_by_file_record_and_key_without_its_text(tmp_path, change, says):
    assert error_of(tmp_path, record(), record(), broken(change)).startswith(f": record 2, {says}")


def test_several_faults_in_a_record_are_counted(tmp_path):
    def change(value):
        del value["image_path"], value["UnharmPair_text1"]["Question"], value["unsafe_pairs"]

    assert error_of(tmp_path, broken(change)).endswith("(and 2 more in this record)")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "holds no records"),
        ("", "holds no records"),
        (f'[["{SECRET}"]]', "record 0 is a list, not an object"),
        (f'"{SECRET}"', "record 0 is a str, not an object"),
        (f'[{{"question": "{SECRET}"', "not valid JSON"),
        (f'{{"a": 1}}\n{{"question": "{SECRET}\n', "line 2 is not valid JSON"),
    ],
)
def test_a_file_that_holds_no_records(tmp_path, text, says):
    path = tmp_path / "all_train.json"
    path.write_text(text)
    with pytest.raises(BadInput) as error:
        read_records(path)
    assert str(error.value).startswith(f"{path}: {says}") and SECRET not in str(error.value)


def test_no_dataset_says_how_to_get_it(tmp_path):
    with pytest.raises(BadInput, match=r"all_train\.json: no such file; put the benchmark there \(dataset/README"):
        read_records(tmp_path / "all_train.json")


def test_refusals_stand_beside_the_data_file(tmp_path):
    write_json(tmp_path / "prompt.json", {"idk": ["No.", "Never."], "other": 1})
    assert read_refusals(tmp_path / "all_train.json") == ["No.", "Never."]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"idk": []}, "key 'idk' must be a list of refusals"),
        ({"refusals": ["No."]}, "key 'idk' must be a list of refusals"),
        (["No."], "key 'idk' must be a list of refusals"),
        ({"idk": ["No.", " "]}, "idk.1 must be a text that is not blank"),
        ({"idk": [3]}, "idk.0 must be a text that is not blank"),
    ],
)
def test_refusals_that_cannot_be_used(tmp_path, value, says):
    write_json(tmp_path / "prompt.json", value)
    with pytest.raises(BadInput) as error:
        read_refusals(tmp_path / "all_train.json")
    assert str(error.value) == f"{tmp_path / 'prompt.json'}: {says}"


def test_no_refusals(tmp_path):
    with pytest.raises(BadInput, match=r"prompt\.json: no such file"):
        read_refusals(tmp_path / "all_train.json")


def test_records_are_drawn_from_all_keywords_alike(tmp_path):
    """A keyword of forty records takes no more places than one of five; which record is drawn depends on no other."""
    keywords = ["common"] * 40 + ["rare"] * 5 + ["lone"]
    records = [record(n) | {"keyword": keyword} for n, keyword in enumerate(keywords)]
    data = read(tmp_path, *records)

    def drawn(limit):
        return [keywords[number] for number in data.some(0, limit, 1).numbers]

    assert sorted(drawn(3)) == ["common", "lone", "rare"]
    assert sorted(drawn(9)) == ["common"] * 4 + ["lone"] + ["rare"] * 4
    assert sorted(drawn(20)) == ["common"] * 14 + ["lone"] + ["rare"] * 5
    first, more = data.some(2, 6, 1).numbers, data.some(2, 12, 1).numbers
    assert set(first) < set(more) and min(more) >= 2, "those held out are the first of the file, as ever"
    assert data.some(0, 6, 1).numbers == data.some(0, 6, 1).numbers != data.some(0, 6, 2).numbers
    assert data.some(0, 6).numbers == [0, 1, 2, 3, 4, 5], "without a seed the first ones"
