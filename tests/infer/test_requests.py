"""What is asked about each record, under which names, and that every answer finds its place in the output."""

import json

import pytest
from helpers import record, write_dataset

from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.infer.partial import Partial
from safeeraser.infer.requests import build_requests
from safeeraser.infer.run import predictions


@pytest.fixture
def data(tmp_path):
    return read_records(write_dataset(tmp_path, record(0), record(1, "Sex", mine={"kept": [1]})))


def test_a_record_asks_for_twelve_harmful_four_decoupled_and_four_retain_responses(data):
    requests = build_requests(data)
    assert len(requests) == 2 * (12 + 4 + 4)
    second = {request.key: request for request in requests if request.record == 1}
    assert set(second) == (
        {f"1/unsafe_pairs/{i}/model_response{n}" for i in range(4) for n in (1, 2, 3)}
        | {f"1/unsafe_pairs/{i}/sd_response" for i in range(4)}
        | {f"1/UnharmPair_{name}/Prediction" for name in ("text1", "text2", "image1", "image2")}
    )
    folder = data.path.parent
    for key, request in second.items():
        benign = key.endswith("sd_response")
        assert request.picture == folder / ("pdset/Sex/1.jpg" if benign else "img/Sex/1.jpg")
    assert second["1/unsafe_pairs/2/model_response3"].question == "Secret 2?"
    assert second["1/unsafe_pairs/2/sd_response"].question == "Secret 2?"
    assert second["1/UnharmPair_image1/Prediction"].question == "What image1?"


def test_a_picture_that_is_damaged_or_missing_is_named(data):
    path = data.path.parent / "pdset/Sex/1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"pdset/Sex/1\.jpg: picture cannot be decoded"):
        build_requests(data)
    path.unlink()
    with pytest.raises(BadInput, match=r"record 1, SDImage_path: picture pdset/Sex/1\.jpg not found"):
        build_requests(data)


def test_predictions_keep_every_other_field(data):
    before = json.dumps(data.raw)
    requests = build_requests(data)
    filled = predictions(data, {r.key: (r.record, r.place) for r in requests}, {r.key: f"R {r.key}" for r in requests})
    assert json.dumps(data.raw) == before
    expected = json.loads(before)
    for number, value in enumerate(expected):
        for i, pair in enumerate(value["unsafe_pairs"]):
            for field in ("model_response1", "model_response2", "model_response3", "sd_response"):
                pair[field] = f"R {number}/unsafe_pairs/{i}/{field}"
        for name in ("text1", "text2", "image1", "image2"):
            value[f"UnharmPair_{name}"]["Prediction"] = f"R {number}/UnharmPair_{name}/Prediction"
    # The harmful answer of the vanilla model stays too, and the order of the keys with it.
    assert json.dumps(filled) == json.dumps(expected)
    assert filled[0]["unsafe_pairs"][0]["model_response"] == "Harm 0." and filled[1]["mine"] == {"kept": [1]}


SETTINGS = {"model_path": "m", "top_p": 0.9}


def test_a_partial_file_goes_on_where_it_was_stopped(tmp_path):
    first = Partial(tmp_path / "out.json", SETTINGS)
    first.add([("a", "one\nline"), ("b", "two\u2028ü\x85🙂")])
    again = Partial(tmp_path / "out.json", SETTINGS)
    assert again.done == {"a": "one\nline", "b": "two\u2028ü\x85🙂"}
    again.add([("c", "")])
    assert Partial(tmp_path / "out.json", SETTINGS).done == again.done | {"c": ""}
    assert again.path.name == "out.json.partial.jsonl"
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path):
    kept = Partial(tmp_path / "out.json", SETTINGS)
    kept.add([("a", "one")])
    sound = kept.path.read_bytes()
    kept.add([("b", "ü🙂")])
    torn = kept.path.read_bytes()
    for end in range(len(sound), len(torn)):
        kept.path.write_bytes(torn[:end])
        again = Partial(tmp_path / "out.json", SETTINGS)
        assert again.done == {"a": "one"}, end
        again.add([("b", "anew")])
        assert Partial(tmp_path / "out.json", SETTINGS).done == {"a": "one", "b": "anew"}


def test_a_first_line_torn_starts_anew(tmp_path):
    kept = Partial(tmp_path / "out.json", SETTINGS)
    kept.add([])
    kept.path.write_bytes(kept.path.read_bytes()[:9])
    again = Partial(tmp_path / "out.json", SETTINGS)
    assert again.done == {}
    again.add([("a", "one")])
    assert [json.loads(line) for line in again.path.read_text().splitlines()] == [
        {"settings": SETTINGS},
        {"key": "a", "response": "one"},
    ]


def test_nothing_is_written_before_the_first_response(tmp_path):
    """Else a run that could not start would have to be removed by hand before one with other settings can."""
    Partial(tmp_path / "out.json", SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"model_path": "m", "top_p": 0.8}, "begun with top_p=0.9, now top_p=0.8; give the same settings to go on"),
        ({"model_path": "m", "top_p": 0.9, "seed": 1}, "begun with seed=None, now seed=1"),
        ({"model_path": "m"}, "begun with top_p=0.9, now top_p=None"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, now, says):
    kept = Partial(tmp_path / "out.json", SETTINGS)
    kept.add([("a", "one")])
    before = kept.path.read_bytes()
    with pytest.raises(BadInput) as error:
        Partial(tmp_path / "out.json", now)
    assert says in str(error.value) and kept.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"notes\n", b"[1]\n", b"3\n", b'{"settings": 3}\n', b"\xff\n", b"{}\n{}\n"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "out.json.partial.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a partial file of this program"):
        Partial(tmp_path / "out.json", SETTINGS)
    assert path.read_bytes() == content
