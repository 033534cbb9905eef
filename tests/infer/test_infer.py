"""ckpt_infer.py on the tiny model: the recorded responses, forms of the adapter, records of runs, refused options."""

import json
import re
import shutil
from dataclasses import asdict

import pytest
from helpers import CHECKPOINT, MODEL, RECORDED, ROOT, VAL, ran, read_beside, record, run, write_dataset, write_json

from safeeraser import infer
from safeeraser.benchmark.files import read_json as read
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput
from safeeraser.infer.options import arguments, options_of
from safeeraser.model.stored import convert

TINY = {"model_path": MODEL, "eval_file": VAL, "dtype": "float32", "max_new_tokens": 6}
REFUSED = read_beside(__file__, "refused.yaml")
TEXTS = ("UnharmPair_text1", "UnharmPair_text2", "UnharmPair_image1", "UnharmPair_image2")


@pytest.fixture(autouse=True, scope="module")
def beside_the_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(RECORDED)
        yield


def answers(out, **more):
    done = infer(**TINY | {"output_file": out} | more)
    assert done.missing == {} and done.output_file == out
    return read(out)


def test_recorded_greedy_responses_come_out_letter_by_letter_with_what_made_them(tmp_path):
    """Other views are asked at the same time. tests/invariants tests the same with several batch sizes."""
    out = tmp_path / "p.json"
    words = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--greedy", "--max_new_tokens", 16)
    words += ("--checkpoint_path", CHECKPOINT, "--loss_type", "popd", "--image_free", "--swap_pictures")
    ran("ckpt_infer", *words, "--output_file", out)
    expected, given = read(RECORDED / "inference" / "greedy_popd_checkpoint.json"), read(VAL)
    for ours, theirs, before in zip(read(out), expected, given, strict=True):
        assert ours.pop("SwappedImage_path") != ours["SDImage_path"]
        triples = zip(ours["unsafe_pairs"], theirs["unsafe_pairs"], before["unsafe_pairs"], strict=True)
        for pair, recorded, old in triples:
            assert all(pair.pop(field) for field in ("image_free_response", "swapped_response"))
            released = ("model_response1", "model_response2", "model_response3", "sd_response")
            assert pair == old | {field: recorded[field] for field in released}
        answered = {key: theirs[key] for key in TEXTS}
        assert ours == before | answered | {"unsafe_pairs": ours["unsafe_pairs"]}
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.run.json"}
    told = read(tmp_path / "p.run.json")
    assert told["versions"].keys() == {"safeeraser", "torch", "transformers", "peft"}
    del told["versions"], told["settings"]["base"]
    golden = read_beside(__file__, "told.yaml")
    golden["settings"] |= {"eval_file": sha256(VAL), "checkpoint": sha256(CHECKPOINT), "model_path": str(MODEL)}
    assert told == golden | {"eval_file": str(VAL), "checkpoint_path": str(CHECKPOINT)}


@pytest.mark.slow
def test_the_adapter_in_its_forms_whole_in_part_and_rounded(tmp_path):
    few = {"only": ["retain"], "batch_size": 24}

    def said(name, **more):
        return [value[key]["Prediction"] for value in answers(tmp_path / name, **few | more) for key in TEXTS]

    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    whole = said("whole.json", checkpoint_path=CHECKPOINT)
    assert said("named.json", checkpoint_path=tmp_path / "adapter", model_path=None) == whole
    untouched = said("untouched.json")
    scaled = [said(f"{x}.json", checkpoint_path=CHECKPOINT, adapter_scale=x) for x in (0, 0.5)]
    assert untouched == scaled[0] and len({tuple(each) for each in (untouched, whole, scaled[1])}) == 3
    assert untouched not in [said(f"{name}.json", quantization=name) for name in ("int4", "nf4")]


def test_what_stands_where_nothing_is_said():
    read = asdict(options_of(arguments().parse_args(["--output_file", "p.json"])))
    assert json.loads(json.dumps(read, default=str)) == read_beside(__file__, "defaults.yaml")


def test_a_model_that_was_merged_says_by_what(tmp_path):
    model, out = tmp_path / "model", tmp_path / "p.json"
    shutil.copytree(MODEL, model)
    told = {"merged": {"adapter_sha256": "1"}, "settings": {"forget_loss": {"name": "popd"}, "recipe": {}}}
    write_json(model / "run.json", told)
    given = {"model_path": model, "only": ["retain"], "categories": ["Sex"]}
    answers(out, **given, loss_type="idkpd")
    made = read(tmp_path / "p.run.json")
    assert made["training"] == {"method": "popd", "recipe": {}} and made["settings"]["merged"] == "1"
    write_json(model / "run.json", told | {"merged": {"adapter_sha256": "2"}})
    with pytest.raises(BadInput, match="exists, made with merged=1, now merged=2"):
        infer(**TINY | given, output_file=out)


def test_a_prompt_longer_than_the_context_is_named_and_the_rest_answered(tmp_path, caplog):
    """The prompt has 20,000 words, the context 1,024 tokens. Fields that were not answered, or not asked, are null."""
    long = record(1, "Sex")
    long["unsafe_pairs"][2]["question"] = " ".join(["Zulu"] * 20_000)
    data, out = write_dataset(tmp_path / "data", record(0), long), tmp_path / "p.json"
    words = ("--model_path", MODEL, "--eval_file", data, "--dtype", "float32", "--max_new_tokens", 2)
    caplog.set_level("INFO")
    done = run("ckpt_infer", *words, "--only", "forget,decoupled", "--output_file", out)
    assert done.returncode == 3 and "Zulu" not in done.stderr
    named, last = done.stderr.strip().splitlines()[-2:]
    reason = r"its prompt takes \d{5} tokens, and the model's context holds 1024"
    assert re.fullmatch(rf"record 1, unsafe_pairs\.2: 4 responses missing: {reason}", named)
    assert last.startswith(f"error: 4 of 32 responses are missing, and null in {out}")
    said = [[pair["model_response2"], pair["sd_response"]] for pair in read(out)[1]["unsafe_pairs"]]
    assert said[2] == [None, None] and None not in [*said[0], *said[1], *said[3]]
    assert sum("note: 12 fields are null in" in message for message in caplog.messages) == 1


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    write_json(folder / "trained/run.json", {"settings": {"forget_loss": {"name": "popd"}, "recipe": {}}})
    write_json(folder / "merged/run.json", {"merged": {}})
    for name in ("adapter", "stopped/checkpoint-4"):
        (folder / name).mkdir(parents=True)
    (folder / "adapter/adapter_model.safetensors").touch()
    shutil.copy(VAL, folder / "data")
    (folder / "blocked.run.json").symlink_to("blocked.run.json")  # a link to itself
    return folder


@pytest.mark.parametrize(("more", "says"), REFUSED, ids=str)
def test_what_cannot_be_meant_is_refused_by_name_before_anything_is_loaded(tmp_path, places, more, says):
    given = TINY | {"output_file": tmp_path / "p.json"} | more
    for key, value in given.items():
        if str(value).startswith("<"):
            kind, _, name = value.strip("<>").partition("/")
            family = ROOT / "tests/data/families" / name / "model"
            given[key] = {"checkpoint": CHECKPOINT, "model": MODEL, "family": family, "at": places / name}[kind]
    with pytest.raises(BadInput, match=says):
        infer(**given)
    assert not list(tmp_path.iterdir())
