"""The requests of each view, in the release's order and under keys of their own; each answer lands in its field."""

import json

import pytest
from helpers import record, write_dataset, write_json

from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import ASKED
from safeeraser.errors import BadInput
from safeeraser.infer.predictions import nulls, predictions
from safeeraser.infer.requests import Selection, build_requests, swap_partner

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
    one = read_records(write_dataset(tmp_path, record(0), record(0), record(2)))  # one category: the next other picture
    assert [swap_partner(one, index) for index in range(3)] == [2, 2, 0]
    with pytest.raises(BadInput, match="all records have the same benign picture"):
        swap_partner(read_records(write_dataset(tmp_path, record(0), record(0))), 0)


def test_categories_skip_and_limit_choose_records_under_their_own_numbers(tmp_path):
    values = [record(n, category) for n, category in enumerate(["Sex", "Sex", "Sex", "Weapon", "Weapon", "Privacy"])]
    data = read_records(write_dataset(tmp_path, *values))
    some = Selection(categories=("Weapon", "Privacy"), limit=1)
    for selection, chosen in (
        (Selection(limit=2), [0, 1, 3, 4, 5]),
        (Selection(skip=1, limit=1), [1, 4]),
        (some, [3, 5]),
    ):
        assert selection.records(data) == chosen
        assert {r.record for r in build_requests(data, selection)} == set(chosen)
    assert Selection(skip=1).held_out(data).numbers == [0, 3, 5], "what is left out can be learned from"


def test_an_audits_samples_and_draws_by_keyword(tmp_path):
    data = read_records(write_dataset(tmp_path, *(record(n, keyword=f"k{n % 3}") for n in range(12))))
    drawn = [Selection(limit=3, by_keyword=seed).records(data) for seed in range(5)]
    assert len(set(map(tuple, drawn))) > 1 and all({n % 3 for n in chosen} == {0, 1, 2} for chosen in drawn)
    asked = build_requests(data, Selection(("forget",), samples=10, limit=1))
    assert [r.place[-1] for r in asked[:10]] == [f"model_response{n}" for n in range(1, 11)] and len(asked) == 40
    assert Selection(samples=2, by_keyword=5).drawn == {"by_keyword": 5, "samples": 2}


def test_only_what_a_view_reads_must_be_there(tmp_path):
    lean, other = record(0), record(1, "Sex")
    path = write_dataset(tmp_path, lean, other)
    lean = {key: value for key, value in lean.items() if not key.startswith(("UnharmPair_", "SDImage_path"))}
    data, alone = read_records(write_json(path, [lean, other])), read_records(write_json(tmp_path / "a.json", [lean]))
    assert len(build_requests(data, Selection(("forget", "retain")))) == 2 * 12 + 4
    assert len(build_requests(alone, Selection(("forget",)))) == 12
    with pytest.raises(BadInput, match="record 0, SDImage_path: missing"):
        build_requests(data, Selection(("decoupled",)))
    with pytest.raises(BadInput, match=r"record 0, UnharmPair_\*: missing, .*'retain' reads it"):
        build_requests(alone, Selection(("forget", "retain")))


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
    """In these fields the data file holds the vanilla model's answers, which must not pass for this model's."""
    requests = build_requests(data, Selection(views=("decoupled",)))
    filled = predictions(data, requests, {r.key: "D" for r in requests if r.record == 0})
    pairs = [pair for value in filled for pair in value["unsafe_pairs"]]
    assert [pair["sd_response"] for pair in pairs] == ["D"] * 4 + [None] * 4
    assert {pair[f"model_response{n}"] for pair in pairs for n in (1, 2, 3)} == {None}
    assert {value[f"UnharmPair_{name}"]["Prediction"] for value in filled for name in TEXTS} == {None}
    assert nulls(filled) == 4 + 2 * (12 + 4) and filled[0]["UnharmPair_text1"]["Answer"] == "text1"
