"""Each view asks what the release asks, in its order and under keys of its own; each answer lands in its field."""

import json
from pathlib import Path

import pytest
from helpers import record, write_dataset, write_json
from PIL import Image

from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import ASKED, RELEASED
from safeeraser.errors import BadInput
from safeeraser.infer.outputs import nulls, predictions
from safeeraser.infer.requests import (
    Selection,
    build_requests,
    check_questions,
    pictures_of,
    show,
    size_of,
    swap_partner,
)

TEXTS = ("text1", "text2", "image1", "image2")


@pytest.fixture
def data(tmp_path):
    return read_records(write_dataset(tmp_path, record(0), record(1, "Sex", mine={"kept": [1]})))


def rows(requests, folder):
    """Each request as (key, picture, question)."""
    return [(r.key, r.file and str(r.file.relative_to(folder)), r.question) for r in requests]


def test_the_release_asks_twenty_responses_of_a_record_question_by_question(data):
    harmful, benign = "img/Sex/1.jpg", "pdset/Sex/1.jpg"
    fields = (("model_response1", harmful), ("model_response2", harmful), ("model_response3", harmful))
    fields += (("sd_response", benign),)
    of_pairs = [(f"1/unsafe_pairs/{n}/{field}", at, f"Secret {n}?") for n in range(4) for field, at in fields]
    of_texts = [(f"1/UnharmPair_{name}/Prediction", harmful, f"What {name}?") for name in TEXTS]
    requests = build_requests(data)
    assert len(requests) == 2 * 20
    assert rows(requests[20:], data.path.parent) == of_pairs + of_texts
    assert all(r.system is None for r in requests)
    # The same, view by view.
    parts = [build_requests(data, Selection(views=(view,))) for view in RELEASED]
    assert [len(part) for part in parts] == [24, 8, 8]
    assert {r.key for part in parts for r in part} == {r.key for r in requests}


def test_crossed_views_show_another_picture_or_none(tmp_path):
    data = read_records(write_dataset(tmp_path, record(0), record(1), record(2, "Sex")))
    requests = build_requests(data, Selection(tuple(ASKED)))
    kept = [row for row in rows(requests, tmp_path) if row[0].startswith(("1/unsafe_pairs/3", "1/UnharmPair_text2"))]
    own, benign = "img/Weapon/1.jpg", "pdset/Weapon/1.jpg"
    asked = [("model_response", own), *((f"model_response{n}", own) for n in (1, 2, 3)), ("sd_response", benign)]
    asked += [("image_free_response", None), ("swapped_response", "pdset/Sex/2.jpg")]
    elsewhere = [("Prediction", own), ("benign_prediction", benign), ("image_free_prediction", None)]
    assert kept == [(f"1/unsafe_pairs/3/{field}", at, "Secret 3?") for field, at in asked] + [
        (f"1/UnharmPair_text2/{field}", at, "What text2?") for field, at in elsewhere
    ]
    swapped = build_requests(data, Selection(("swapped",)))
    filled = predictions(data, swapped, {r.key: f"said {r.key}" for r in swapped})
    assert [value["SwappedImage_path"] for value in filled] == ["pdset/Sex/2.jpg"] * 2 + ["pdset/Weapon/0.jpg"]
    assert filled[2]["unsafe_pairs"][1]["swapped_response"] == "said 2/unsafe_pairs/1/swapped_response"


def test_in_a_file_of_one_category_the_next_other_benign_picture_is_swapped_in(tmp_path):
    values = [record(n, "Sex") for n in range(3)]
    values[1]["SDImage_path"] = values[0]["SDImage_path"]
    data = read_records(write_dataset(tmp_path, *values))
    assert [swap_partner(data, index) for index in range(3)] == [2, 2, 0]
    values[2]["SDImage_path"] = values[0]["SDImage_path"]
    with pytest.raises(BadInput, match="all records have the same benign picture"):
        swap_partner(read_records(write_dataset(tmp_path, *values)), 0)


@pytest.mark.parametrize("count", [1, 10])
def test_samples_number_the_responses_of_each_harmful_question(data, count):
    asked = build_requests(data, Selection(samples=count))
    assert len(asked) == 2 * (4 * count + 4 + 4)
    pair = predictions(data, asked, {r.key: r.key for r in asked})[1]["unsafe_pairs"][2]
    said = {key: pair[key] for key in pair if key.startswith("model_response") and pair[key]}
    numbers = {f"model_response{n}": f"1/unsafe_pairs/2/model_response{n}" for n in range(1, count + 1)}
    assert said == {"model_response": "Harm 2."} | numbers


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"limit": 2}, [0, 1, 3, 4, 5]),
        ({"skip": 1}, [1, 2, 4]),
        ({"skip": 1, "limit": 1}, [1, 4]),
        ({"categories": ("Weapon", "Privacy")}, [3, 4, 5]),
        ({"categories": ("Weapon", "Privacy"), "limit": 1}, [3, 5]),
    ],
)
def test_categories_skip_and_limit_choose_records_under_their_own_numbers(tmp_path, given, chosen):
    values = [record(n, category) for n, category in enumerate(["Sex", "Sex", "Sex", "Weapon", "Weapon", "Privacy"])]
    data = read_records(write_dataset(tmp_path, *values))
    selection = Selection(**given)
    assert selection.records(data) == chosen
    assert {r.record for r in build_requests(data, selection)} == set(chosen)
    if selection.skip:  # what is left out can be learned from
        assert selection.held_out(data).numbers == [0, 3, 5]


def test_records_drawn_by_keyword_depend_on_the_seed(tmp_path):
    values = [record(n, keyword=f"k{n % 3}") for n in range(12)]
    data = read_records(write_dataset(tmp_path, *values))
    drawn = {seed: Selection(limit=3, by_keyword=seed).records(data) for seed in range(5)}
    assert len({tuple(chosen) for chosen in drawn.values()}) > 1
    assert all({n % 3 for n in chosen} == {0, 1, 2} for chosen in drawn.values())
    assert Selection(samples=2, by_keyword=5).drawn == {"by_keyword": 5, "samples": 2}


def test_only_what_a_view_reads_must_be_there(tmp_path):
    lean, other = record(0), record(1, "Sex")
    path = write_dataset(tmp_path, lean, other)
    for key in ("SDImage_path", *(key for key in lean if key.startswith("UnharmPair_"))):
        del lean[key]
    other["UnharmPair_zoo"] = other.pop("UnharmPair_text1")
    data = read_records(write_json(path, [lean, other]))
    asked = build_requests(data, Selection(("forget", "retain")))
    assert len(asked) == 2 * 12 + 4 and asked[-1].place == ("UnharmPair_zoo", "Prediction")
    assert predictions(data, asked, {asked[-1].key: "R"})[1]["UnharmPair_zoo"]["Prediction"] == "R"
    with pytest.raises(BadInput, match="record 0, SDImage_path: missing"):
        build_requests(data, Selection(("decoupled",)))
    alone = read_records(write_json(path, [lean]))
    with pytest.raises(BadInput, match=r"record 0, UnharmPair_\*: missing, .*'retain' reads it"):
        build_requests(alone, Selection(("forget", "retain")))
    assert len(build_requests(alone, Selection(("forget",)))) == 12


def test_a_question_that_holds_the_pictures_own_word_is_refused(tmp_path):
    odd = record(0)
    odd["unsafe_pairs"][2]["question"] = "And <image>?"
    data = read_records(write_dataset(tmp_path, odd))
    with pytest.raises(BadInput, match=r"record 0, unsafe_pairs\.2: its question contains '<image>'"):
        check_questions(data, build_requests(data), ["<film>", "<image>"])
    check_questions(data, build_requests(data), ["<film>"])


def test_pictures_are_listed_once_and_shown_in_rgb(data):
    folder = data.path.parent
    Image.new("L", (4, 6)).save(folder / "img/Weapon/0.jpg")
    pictures = pictures_of(build_requests(data))
    kinds = ("img/Weapon/0", "pdset/Weapon/0", "img/Sex/1", "pdset/Sex/1")
    assert pictures == [folder / f"{name}.jpg" for name in kinds]
    assert (show(pictures[0]).mode, size_of(pictures[0])) == ("RGB", (4, 6))
    assert pictures_of(build_requests(data, Selection(("image_free",)))) == []
    (folder / "img/Weapon/0.jpg").unlink()  # a name that is nowhere stays in the list, to be reported later
    assert pictures_of(build_requests(data))[0] == Path("img/Weapon/0.jpg")


def test_predictions_hold_each_answer_and_keep_every_other_field(data):
    before = json.dumps(data.raw)
    requests = build_requests(data)
    filled = predictions(data, requests, {r.key: f"R {r.key}" for r in requests})
    expected = json.loads(before)
    for number, value in enumerate(expected):
        for n, pair in enumerate(value["unsafe_pairs"]):
            for field in ("model_response1", "model_response2", "model_response3", "sd_response"):
                pair[field] = f"R {number}/unsafe_pairs/{n}/{field}"
        for name in TEXTS:
            value[f"UnharmPair_{name}"]["Prediction"] = f"R {number}/UnharmPair_{name}/Prediction"
    assert json.dumps(filled) == json.dumps(expected), "the order of the keys too"
    assert json.dumps(data.raw) == before and nulls(filled) == 0


def test_what_was_not_asked_or_not_answered_is_null(data):
    """The data file holds the vanilla model's answers there, which must not pass for this model's."""
    requests = build_requests(data, Selection(views=("decoupled",)))
    filled = predictions(data, requests, {r.key: "D" for r in requests if r.record == 0})
    pairs = [pair for value in filled for pair in value["unsafe_pairs"]]
    assert [pair["sd_response"] for pair in pairs] == ["D"] * 4 + [None] * 4
    assert {pair[f"model_response{n}"] for pair in pairs for n in (1, 2, 3)} == {None}
    assert {value[f"UnharmPair_{name}"]["Prediction"] for value in filled for name in TEXTS} == {None}
    assert nulls(filled) == 4 + 2 * (12 + 4) and filled[0]["UnharmPair_text1"]["Answer"] == "text1"
