"""What is asked about each record, under which names, and that every answer finds its place in the output."""

import json
import resource
from pathlib import Path

import pytest
from helpers import record, write_dataset, write_json

from safeeraser.benchmark.checked import unreadable
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import RELEASED, VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer.outputs import predictions
from safeeraser.infer.partial import Partial
from safeeraser.infer.requests import Selection, build_requests, check_questions, pictures_of, swap_partner


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


@pytest.mark.parametrize("count", [1, 10])
def test_more_samples_or_fewer_of_each_harmful_question(data, count):
    """The first ones are the release's, drawn alike; all find their place, and what was not asked is null."""
    asked = build_requests(data, Selection(samples=count))
    keys = {request.key for request in asked}
    assert len(asked) == 2 * (4 * count + 4 + 4)
    assert {f"0/unsafe_pairs/3/model_response{n}" for n in range(1, count + 1)} < keys
    filled = predictions(data, asked, {request.key: request.key for request in asked})
    pair = filled[1]["unsafe_pairs"][2]
    assert pair[f"model_response{count}"] == f"1/unsafe_pairs/2/model_response{count}"
    assert (pair["model_response3"] is None) == (count < 3) and "model_response11" not in pair


def test_pictures_that_are_missing_or_cannot_be_decoded_are_told(data):
    torn, lost = (data.path.parent / name for name in ("pdset/Sex/1.jpg", "img/Weapon/0.jpg"))
    torn.write_bytes(torn.read_bytes()[:200])
    lost.unlink()
    assert unreadable(pictures_of(build_requests(data)), data.path) == {
        Path("img/Weapon/0.jpg"): "img/Weapon/0.jpg: picture not found",
        torn: f"{torn}: picture cannot be decoded (OSError)",
    }
    asked = build_requests(data, Selection(views=("image_free",)))
    assert pictures_of(asked) == [], "where no view shows them, they are not missed"


def test_a_question_that_names_a_picture_of_its_own_is_refused(tmp_path):
    odd = record(0)
    odd["unsafe_pairs"][2]["question"] = "And <image>?"
    data = read_records(write_dataset(tmp_path, odd))
    with pytest.raises(BadInput, match=r"record 0, unsafe_pairs\.2: its question contains '<image>'"):
        check_questions(data, build_requests(data), ["<film>", "<image>"])
    check_questions(data, build_requests(data), ["<film>"])


def test_views_are_chosen(data):
    for view in VIEWS:
        chosen = build_requests(data, Selection(views=(view,)))
        assert len(chosen) == 2 * (12 if view == "forget" else 4)
    whole = {request.key for request in build_requests(data)}
    parts = [{r.key for r in build_requests(data, Selection(views=(view,)))} for view in RELEASED]
    assert set.union(*parts) == whole and sum(map(len, parts)) == len(whole)


def test_categories_and_a_limit_choose_records_under_their_own_numbers(tmp_path):
    values = [record(n, category) for n, category in enumerate(["Sex", "Sex", "Sex", "Weapon", "Weapon", "Privacy"])]
    data = read_records(write_dataset(tmp_path, *values))
    assert Selection().records(data) == [0, 1, 2, 3, 4, 5]
    assert Selection(limit=2).records(data) == [0, 1, 3, 4, 5]
    assert Selection(skip=1).records(data) == [1, 2, 4]
    assert Selection(skip=1, limit=1).records(data) == [1, 4]
    assert Selection(categories=("Weapon", "Privacy")).records(data) == [3, 4, 5]
    assert Selection(categories=("Weapon", "Privacy"), limit=1).records(data) == [3, 5]
    assert {r.key.split("/")[0] for r in build_requests(data, Selection(categories=("Privacy",)))} == {"5"}
    with pytest.raises(BadInput, match="no records of a category 'Wepon'; did you mean 'Weapon'"):
        Selection(categories=("Wepon",)).records(data)


def test_crossed_requests_ask_the_harmful_question_elsewhere(tmp_path):
    values = [record(n, category) for n, category in enumerate(["Sex", "Sex", "Weapon"])]
    data = read_records(write_dataset(tmp_path, *values))
    free = build_requests(data, Selection(views=("image_free",)))
    assert all(request.picture is None for request in free)
    assert [request.key for request in free[:2]] == [f"0/unsafe_pairs/{n}/image_free_response" for n in (0, 1)]
    swapped = build_requests(data, Selection(views=("swapped",)))
    shown = [str(request.picture.relative_to(tmp_path)) for request in swapped[::4]]
    assert shown == ["pdset/Weapon/2.jpg", "pdset/Weapon/2.jpg", "pdset/Sex/0.jpg"]
    assert [r.question for r in swapped[:4]] == [r.question for r in free[:4]] == [f"Secret {n}?" for n in range(4)]
    filled = predictions(data, swapped, {request.key: "S" for request in swapped})
    assert [value["SwappedImage_path"] for value in filled] == shown
    assert {pair["swapped_response"] for value in filled for pair in value["unsafe_pairs"]} == {"S"}


def test_harmless_questions_are_asked_elsewhere_too(data):
    views = ("retain", "retain_benign", "retain_image_free")
    of_first = [request for request in build_requests(data, Selection(views)) if request.record == 0]
    pictures = {view: {r.picture for r in of_first if r.place[-1] in VIEWS[view].fields} for view in views}
    folder = data.path.parent
    assert pictures == {
        "retain": {folder / "img/Weapon/0.jpg"},
        "retain_benign": {folder / "pdset/Weapon/0.jpg"},
        "retain_image_free": {None},
    }
    assert [r.place for r in of_first[:3]] == [("UnharmPair_text1", VIEWS[view].fields[0]) for view in views]
    assert {r.question for r in of_first[:3]} == {"What text1?"}


def test_only_what_a_view_reads_is_asked_of_a_record(tmp_path):
    lean, other = record(0), record(1, "Sex")
    path = write_dataset(tmp_path, lean, other)
    for key in ("SDImage_path", *(key for key in lean if key.startswith("UnharmPair_"))):
        del lean[key]
    other["UnharmPair_zoo"] = other.pop("UnharmPair_text1")
    data = read_records(write_json(path, [lean, other]))
    retain = build_requests(data, Selection(("forget", "retain")))
    assert len(retain) == 2 * 12 + 4 and retain[-1].place == ("UnharmPair_zoo", "Prediction")
    filled = predictions(data, retain, {request.key: "R" for request in retain})
    assert filled[1]["UnharmPair_zoo"]["Prediction"] == "R"
    for views in (("decoupled",), ("retain_benign",)):
        partner = record(1)
        partner["SDImage_path"] = other["SDImage_path"]
        asked = read_records(write_json(path, [partner, lean | {"UnharmPair_zoo": other["UnharmPair_zoo"]}]))
        with pytest.raises(BadInput) as error:
            build_requests(asked, Selection(views))
        assert str(error.value) == f"{path}: record 1, SDImage_path: missing, and a view that is asked shows it"
    alone = read_records(write_json(path, [lean]))
    with pytest.raises(
        BadInput, match=r"record 0, UnharmPair_\*: missing, as in all records asked, and 'retain' reads it"
    ):
        build_requests(alone, Selection(("forget", "retain")))
    assert len(build_requests(alone, Selection(("forget",)))) == 12


def test_within_one_category_another_benign_picture_is_swapped_in(tmp_path):
    values = [record(n, "Sex") for n in range(3)]
    values[1]["SDImage_path"] = values[0]["SDImage_path"]
    data = read_records(write_dataset(tmp_path, *values))
    assert [swap_partner(data, index) for index in range(3)] == [2, 2, 0]
    for value in values:
        value["SDImage_path"] = values[0]["SDImage_path"]
    with pytest.raises(BadInput, match="all records have the same benign picture"):
        swap_partner(read_records(write_dataset(tmp_path, *values)), 0)


def test_predictions_keep_every_other_field(data):
    before = json.dumps(data.raw)
    requests = build_requests(data)
    filled = predictions(data, requests, {request.key: f"R {request.key}" for request in requests})
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


def test_what_was_not_asked_or_not_answered_is_null(data):
    """The vanilla model's answers and the reference stand there in the data file, and must not pass for responses."""
    requests = build_requests(data, Selection(views=("decoupled",)))
    first, second = predictions(data, requests, {request.key: "D" for request in requests if request.record == 0})
    assert [pair["sd_response"] for pair in first["unsafe_pairs"]] == ["D"] * 4
    assert [pair["sd_response"] for pair in second["unsafe_pairs"]] == [None] * 4
    for value in (first, second):
        assert {pair[f"model_response{n}"] for pair in value["unsafe_pairs"] for n in (1, 2, 3)} == {None}
        assert {value[f"UnharmPair_{name}"]["Prediction"] for name in ("text1", "text2", "image1", "image2")} == {None}
        assert value["UnharmPair_text1"]["Answer"] == "text1"


SETTINGS = {"model_path": "m", "top_p": 0.9}


def keep(folder, *pairs, process=0):
    """Add responses to a run's partial file, as a process does that ends then."""
    partial = Partial(folder / "out.json", SETTINGS, process)
    partial.add(pairs)
    partial.close()
    return partial


def test_a_partial_file_goes_on_where_it_was_stopped(tmp_path):
    keep(tmp_path, ("a", "one\nline"), ("b", "two\u2028ü\x85🙂"))
    again = keep(tmp_path, ("c", ""))
    assert again.done == {"a": "one\nline", "b": "two\u2028ü\x85🙂", "c": ""}
    assert Partial(tmp_path / "out.json", SETTINGS).done == again.done
    assert again.path.name == "out.json.partial.jsonl"
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_each_process_has_a_file_and_reads_all(tmp_path):
    keep(tmp_path, ("a", "one"))
    keep(tmp_path, ("b", "two"), process=1)
    (tmp_path / "out.json.partial.2.jsonl").write_text("")
    (tmp_path / "other.json.partial.jsonl").write_text("not ours")
    fewer = keep(tmp_path, ("c", "three"))
    assert fewer.done == {"a": "one", "b": "two", "c": "three"}
    fewer.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["other.json.partial.jsonl"]


def test_nothing_added_makes_no_file(tmp_path):
    keep(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_with_overwrite_other_settings_start_anew(tmp_path):
    path = keep(tmp_path, ("a", "one")).path
    other = SETTINGS | {"top_p": 0.5}
    partial = Partial(tmp_path / "out.json", other, replace=True)
    assert partial.done == {}
    partial.add([("b", "two")])
    partial.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"settings": other}, {"key": "b", "response": "two"}]
    assert Partial(tmp_path / "out.json", other, replace=True).done == {"b": "two"}, "the same settings go on"


def test_a_run_that_was_overtaken_while_it_loaded_is_refused(tmp_path):
    slow = Partial(tmp_path / "out.json", SETTINGS)
    kept = keep(tmp_path, ("a", "one")).path.read_bytes()
    with pytest.raises(BadInput, match="another run has been at work there since this one began"):
        slow.add([("b", "two")])
    assert slow.path.read_bytes() == kept


def test_two_runs_at_a_time_are_refused(tmp_path):
    at_work = Partial(tmp_path / "out.json", SETTINGS)
    at_work.add([("a", "one")])
    with pytest.raises(BadInput, match=r"out\.json\.partial\.jsonl: another run is at work there"):
        Partial(tmp_path / "out.json", SETTINGS)
    at_work.close()
    assert Partial(tmp_path / "out.json", SETTINGS).done == {"a": "one"}


def test_a_torn_last_line_is_dropped_wherever_it_was_torn(tmp_path):
    sound = keep(tmp_path, ("a", "one")).path.read_bytes()
    path = keep(tmp_path, ("b", "ü🙂")).path
    torn = path.read_bytes()
    for end in range(len(sound), len(torn)):
        path.write_bytes(torn[:end])
        assert Partial(tmp_path / "out.json", SETTINGS).done == {"a": "one"}, end
        keep(tmp_path, ("b", "anew"))
        assert Partial(tmp_path / "out.json", SETTINGS).done == {"a": "one", "b": "anew"}


def test_a_first_line_torn_starts_anew(tmp_path):
    path = keep(tmp_path, ("a", "gone")).path
    path.write_bytes(path.read_bytes()[:9])
    assert Partial(tmp_path / "out.json", SETTINGS).done == {}
    keep(tmp_path, ("a", "one"))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"settings": SETTINGS},
        {"key": "a", "response": "one"},
    ]


def test_nothing_is_written_before_the_first_response(tmp_path):
    """Else a run that could not start would have to be removed by hand before one with other settings can."""
    Partial(tmp_path / "out.json", SETTINGS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 30, 120])
def test_a_disk_that_is_full(tmp_path, room):
    """The system refuses what goes beyond; what was kept before stays readable, and the run goes on from there."""
    path = keep(tmp_path, ("a", "one")).path
    kept = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + room, limits[1]))
    try:
        with pytest.raises(BadInput, match=r"out\.json\.partial\.jsonl: cannot be written \(File too large\); what is"):
            keep(tmp_path, ("b", "two " * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(path.read_bytes()) == len(kept) + room and path.read_bytes().startswith(kept)
    assert Partial(tmp_path / "out.json", SETTINGS).done == {"a": "one"}
    assert keep(tmp_path, ("b", "two")).done == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"model_path": "m", "top_p": 0.8}, "begun with top_p=0.9, now top_p=0.8; give the same settings to go on"),
        ({"model_path": "m", "top_p": 0.9, "seed": 1}, "begun with seed=None, now seed=1"),
        ({"model_path": "m"}, "begun with top_p=0.9, now top_p=None"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, now, says):
    path = keep(tmp_path, ("a", "one")).path
    before = path.read_bytes()
    with pytest.raises(BadInput) as error:
        Partial(tmp_path / "out.json", now)
    assert says in str(error.value) and path.read_bytes() == before


@pytest.mark.parametrize("content", [b"notes\n", b"[1]\n", b"3\n", b'{"settings": 3}\n', b"\xff\n", b"{}\n"])
def test_a_file_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "out.json.partial.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="not a partial file of this program"):
        Partial(tmp_path / "out.json", SETTINGS)
    assert path.read_bytes() == content
