"""A model's own answers in a data file: the engine writes them, and the original ones are kept under other names."""

import pytest
from helpers import MODEL, TRAIN, VAL, other_base, ran, record, refused, write_dataset

from safeeraser.benchmark.files import read_json as read
from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import read_records
from safeeraser.model.lineage import fingerprint

pytestmark = pytest.mark.slow
COMMAND = "safeeraser.benchmark.answers"
DRAWN = ("--dtype", "float32", "--max_new_tokens", 12, "--seed", 3)  # chosen so that no answer is blank
FIELDS = ("model_response", "sd_response", "Prediction")


def pairs(records):
    """The pairs of some records, each with the names of its answer fields."""
    for value in records:
        yield from ((pair, FIELDS[:2]) for pair in value["unsafe_pairs"])
        yield from ((value[key], FIELDS[2:]) for key in value if key.startswith("UnharmPair_"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), record(0), record(1, "Sex"))


@pytest.fixture(scope="module")
def own(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "all_train.json"
    ran(COMMAND, "--model", MODEL, "--data", data, *DRAWN, "--prediction", "--out", out)
    return out


def test_the_first_answers_are_kept_beside_and_the_mark_tells_who_answered(own, data, monkeypatch, tmp_path):
    before, after = read(data), read(own)
    monkeypatch.chdir(tmp_path)
    for mine, theirs in zip(read_records(own).records, read_records(data).records, strict=True):
        assert find_picture(mine.SDImage_path, own).samefile(find_picture(theirs.SDImage_path, data))
    marks = [value.pop("answered_by") for value in after]
    for (old, fields), (new, _) in zip(pairs(before), pairs(after), strict=True):
        for field in fields:
            assert new[field].strip() and new[field] != old[field] == new.pop(f"original_{field}")
            new[field] = old[field]
    for value in (*before, *after):
        del value["image_path"], value["SDImage_path"]
    assert after == before, "the rest is as it was"
    wanted = {"model": str(MODEL), "weights": fingerprint(str(MODEL))["weights"], "fields": list(FIELDS)}
    assert marks[0] == marks[1] and wanted.items() <= marks[0].items() and marks[0]["generation"]["seed"] == 3


def test_they_are_what_inference_answers_and_another_models_take_their_place(own, data, tmp_path):
    out, other = tmp_path / "p.json", other_base(tmp_path / "model")
    given = ("--model_path", MODEL, "--eval_file", data, *DRAWN, "--only", "decoupled,retain", "--batch_size", 5)
    ran("ckpt_infer", *given, "--output_file", out)
    for (mine, fields), (theirs, _) in zip(pairs(read(own)), pairs(read(out)), strict=True):
        assert all(mine[field] == theirs[field] for field in fields if field != "model_response")
    again, straight = own.with_name("again.json"), own.with_name("straight.json")
    for path, source in ((again, own), (straight, data)):
        ran(COMMAND, "--model", other, *DRAWN, "--out", path, "--data", source)
    assert again.read_bytes() == straight.read_bytes() != own.read_bytes()


def test_what_is_refused(own, data):
    given = ("--model", MODEL, *DRAWN, "--prediction")
    refused(own.parent, COMMAND, *given, "--data", TRAIN, "--out", TRAIN, says="is the data file itself")
    refused(own.parent, COMMAND, *given, "--data", data, "--out", own, "--seed", 4, says="seed=3, now seed=4")
    refused(own.parent, COMMAND, *given, "--data", VAL, "--out", own, says="eval_file=")
    refused(own.parent, COMMAND, *given, "--data", data, "--out", "x.json", "--temperature", 0, says="--temperature")
