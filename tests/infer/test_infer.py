"""ckpt_infer.py on the tiny model: batches, interruption, what is recorded, and what is refused."""

import json
import re
import shutil
import signal
import time

import pytest
from helpers import MODEL, RECORDED, VAL, record, refused, run, start, write_dataset
from safetensors.torch import load_file, save_file

from safeeraser.benchmark.files import sha256
from safeeraser.model import convert

pytestmark = pytest.mark.slow

CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"
GIVEN = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 12)


def infer(out, *more, eval_file=VAL):
    done = run("ckpt_infer", *GIVEN, "--eval_file", eval_file, "--output_file", out, *more)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Sampled with the checkpoint, sixteen at a time, undisturbed."""
    out = tmp_path_factory.mktemp("sampled") / "predictions.json"
    infer(out, "--checkpoint_path", CHECKPOINT, "--loss_type", "popd")
    return out


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_responses_do_not_depend_on_the_batch(sampled, tmp_path, batch_size):
    again = infer(tmp_path / "p.json", "--checkpoint_path", CHECKPOINT, "--batch_size", batch_size)
    assert again == json.loads(sampled.read_text(encoding="utf-8"))


def test_a_folder_as_the_release_leaves_it(sampled, tmp_path):
    (tmp_path / "release").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "release")
    again = infer(tmp_path / "p.json", "--checkpoint_path", tmp_path / "release", "--loss_type", "popd")
    assert again == json.loads(sampled.read_text(encoding="utf-8"))


def test_a_model_is_no_checkpoint(tmp_path):
    given = (*GIVEN, "--eval_file", VAL, "--output_file", tmp_path / "p.json", "--checkpoint_path", MODEL)
    refused(tmp_path, "ckpt_infer", *given, says=f"{MODEL}: holds a model, not an adapter; it is --model_path")


def test_samples_of_one_question_differ_and_so_do_seeds(sampled, tmp_path):
    pairs = [pair for value in json.loads(sampled.read_text(encoding="utf-8")) for pair in value["unsafe_pairs"]]
    distinct = [len({pair[f"model_response{n}"] for n in (1, 2, 3)}) for pair in pairs]
    assert sum(distinct) > 2.5 * len(pairs)
    other = infer(tmp_path / "p.json", "--checkpoint_path", CHECKPOINT, "--seed", 1)
    same = [a["sd_response"] == b["sd_response"] for v in other for a, b in zip(v["unsafe_pairs"], pairs, strict=False)]
    assert sum(same) < 3


def test_a_record_alone_is_answered_as_in_company(sampled, tmp_path):
    """The first record's requests have the same keys in a file of its own."""
    records = json.loads(VAL.read_text())[:1]
    for key in ("image_path", "SDImage_path"):
        records[0][key] = str(RECORDED / records[0][key])
    (tmp_path / "one.json").write_text(json.dumps(records))
    (alone,) = infer(tmp_path / "p.json", "--checkpoint_path", CHECKPOINT, eval_file=tmp_path / "one.json")
    first = json.loads(sampled.read_text(encoding="utf-8"))[0]
    assert alone["unsafe_pairs"] == first["unsafe_pairs"] and alone["UnharmPair_text2"] == first["UnharmPair_text2"]


def test_the_adapter_names_the_model(sampled, tmp_path):
    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    done = run(
        "ckpt_infer", *GIVEN[2:], "--checkpoint_path", tmp_path / "adapter", "--output_file", tmp_path / "p.json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "p.json").read_text("utf-8")) == json.loads(sampled.read_text("utf-8"))


def test_every_other_field_of_the_input_is_kept(sampled):
    for before, after in zip(json.loads(VAL.read_text()), json.loads(sampled.read_text("utf-8")), strict=True):
        for pair in after["unsafe_pairs"]:
            assert all(pair.pop(f"model_response{n}") for n in (1, 2, 3))
        for old, new in zip(before["unsafe_pairs"], after["unsafe_pairs"], strict=True):
            new["sd_response"] = old.get("sd_response")
        for key in ("UnharmPair_text1", "UnharmPair_text2", "UnharmPair_image1", "UnharmPair_image2"):
            assert after[key]["Prediction"] != before[key]["Prediction"]
            after[key]["Prediction"] = before[key]["Prediction"]
        if "sd_response" not in before["unsafe_pairs"][0]:
            for pair in after["unsafe_pairs"]:
                del pair["sd_response"]
        assert after == before


def test_what_produced_the_predictions_is_recorded_beside_them(sampled):
    assert {path.name for path in sampled.parent.iterdir()} == {"predictions.json", "predictions.run.json"}
    told = json.loads(sampled.with_suffix(".run.json").read_text())
    settings = told["settings"]
    assert (settings["temperature"], settings["top_p"], settings["seed"]) == (1.0, 0.9, 233)
    assert (settings["max_new_tokens"], settings["greedy"], settings["dtype"]) == (12, False, "float32")
    assert len(settings["eval_file"]) == len(settings["checkpoint"]) == 64
    assert told["loss_type"] == "popd" and told["checkpoint_path"] == str(CHECKPOINT)
    assert {"torch", "transformers", "peft", "safeeraser"} <= told["versions"].keys()


def test_a_killed_run_goes_on_to_the_same_output(sampled, tmp_path):
    out = tmp_path / "predictions.json"
    partial = out.with_name("predictions.json.partial.jsonl")
    given = (*GIVEN, "--output_file", out, "--checkpoint_path", CHECKPOINT)
    process = start("ckpt_infer", *given, "--batch_size", 1)
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < 8:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    kept = partial.read_bytes().count(b"\n") - 1
    assert 7 <= kept < 120
    with open(partial, "ab") as handle:
        handle.write(b'{"key": "0/unsafe_pairs/0/sd_resp')
    process = start("ckpt_infer", *given, "--batch_size", 5)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and f"going on: {kept} of 120 responses are there" in err
    assert out.read_bytes() == sampled.read_bytes()
    assert not partial.exists()


def test_finished_responses_are_not_asked_for_again(tmp_path):
    """What the partial file holds goes into the output as it is."""
    out = tmp_path / "p.json"
    infer(out, "--greedy")
    settings = json.loads(out.with_suffix(".run.json").read_text())["settings"]
    (tmp_path / "q.json.partial.jsonl").write_text(
        json.dumps({"settings": settings})
        + "\n"
        + json.dumps({"key": "2/UnharmPair_image1/Prediction", "response": "as it was"})
        + "\n"
    )
    again = infer(tmp_path / "q.json", "--greedy")
    expected = json.loads(out.read_text(encoding="utf-8"))
    expected[2]["UnharmPair_image1"]["Prediction"] = "as it was"
    assert again == expected


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--top_p", 0.5], "begun with top_p=0.9, now top_p=0.5"),
        (["--seed", 1], "begun with seed=233, now seed=1"),
        (["--greedy"], "begun with greedy=False, now greedy=True"),
        (["--max_new_tokens", 5], "begun with max_new_tokens=12, now max_new_tokens=5"),
        (["--checkpoint_path", CHECKPOINT], "begun with checkpoint=None, now checkpoint="),
        (["--eval_file", RECORDED / "dataset" / "all_train.json"], "begun with eval_file="),
        (["--limit", 1], "begun with limit=None, now limit=1"),
        (["--attack", "blur"], "begun with attack=None, now attack=blur"),
        (["--quantization", "int4"], "begun with quantization=none, now quantization=int4"),
        (["--only", "retain"], "begun with only=['forget', 'decoupled', 'retain'], now only=['retain']"),
    ],
)
def test_going_on_with_other_settings_is_refused(tmp_path, more, says):
    settings = {"eval_file": sha256(VAL), "backend": "local", "model_path": str(MODEL), "merged": None}
    settings |= {"checkpoint": None}
    settings |= {"lora_alpha": 256, "dtype": "float32", "greedy": False, "temperature": 1.0, "top_p": 0.9}
    settings |= {"max_new_tokens": 12, "seed": 233}
    settings |= {"adapter_scale": 1.0, "quantization": "none", "attack": None}
    settings |= {"only": ["forget", "decoupled", "retain"], "categories": [], "skip": 0, "limit": None}
    (tmp_path / "p.json.partial.jsonl").write_text(json.dumps({"settings": settings}) + "\n")
    refused(tmp_path, "ckpt_infer", *GIVEN, "--output_file", tmp_path / "p.json", *more, says=says)


def refuses(tmp_path, *arguments, says, **more):
    return refused(tmp_path, "ckpt_infer", *GIVEN, "--output_file", tmp_path / "p.json", *arguments, says=says, **more)


def test_an_output_that_exists_is_refused_unless_overwritten(tmp_path):
    out = tmp_path / "p.json"
    out.write_text("years of work")
    refuses(tmp_path, says=f"--output_file {out}: exists; name another, or replace it with --overwrite")
    assert len(infer(out, "--overwrite", "--greedy", "--max_new_tokens", 1)) == 6


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--loss_type", "vanilla", "--checkpoint_path", CHECKPOINT],
            "--loss_type vanilla: the untouched model has no",
        ),
        (["--checkpoint_path", "nowhere"], "nowhere: no adapter there"),
        (["--model_path", "nowhere"], "model_path nowhere: no model in this folder"),
        (
            ["--model_path", "{adapter}"],
            "adapter: holds an adapter, not a model; --checkpoint_path (or init_adapter=) ",
        ),
        (["--eval_file", "nowhere.json"], "nowhere.json: no such file; put the benchmark there"),
        (["--batch_size", 0], "argument --batch_size: must be a whole number of at least 1"),
        (["--batch_size", "many"], "argument --batch_size: must be a whole number of at least 1"),
        (["--max_new_tokens", "-3"], "argument --max_new_tokens: "),
        (["--limit", "0"], "argument --limit: must be a whole number of at least 1"),
        (["--only", "forget,retian"], "unknown view 'retian'; did you mean 'retain'?"),
        (["--only", ""], "argument --only: must name each view, with commas between"),
        (["--categories", "Sex,Wepon"], "no records of a category 'Wepon'; did you mean 'Weapon'?"),
        (["--loss_type", "popd"], "--loss_type popd: no adapter was given; --checkpoint_path names one"),
        (["--temperature", "nan"], "--temperature must be above 0"),
        (["--temperature", 0], "--temperature must be above 0 (--greedy for none)"),
        (["--top_p", 1.5], "--top_p above 0 and at most 1"),
        (["--adapter_scale", 0.5], "--adapter_scale: of what? --checkpoint_path names an adapter"),
        (["--adapter_scale", "inf", "--checkpoint_path", CHECKPOINT], "--adapter_scale must be a finite number"),
        (["--quantization", "int5"], "unknown quantization 'int5'; did you mean 'int8'?"),
        (["--skip", -1], "--skip must be at least 0"),
        (["--skip", 1], "no record is left once the first 1 of each category are skipped"),
        (["--dtype", "float8"], "dtype float8: must be one of auto, float32"),
        (["--batchsize", 1], "unknown option '--batchsize'; did you mean '--batch_size'?"),
    ],
)
def test_bad_input(tmp_path, arguments, says):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    arguments = [str(word).replace("{adapter}", str(tmp_path / "adapter")) for word in arguments]
    refuses(tmp_path, *arguments, says=says)


@pytest.mark.parametrize(("loss_type", "fits"), [("gdpd", False), ("ga", False), ("popd", True), ("idkpd", True)])
def test_a_loss_type_that_contradicts_the_adapter_is_refused(tmp_path, loss_type, fits):
    folder = tmp_path / "adapter"
    folder.mkdir()
    shutil.copy(CHECKPOINT, folder / "unused.pt")
    (folder / "run.json").write_text(json.dumps({"settings": {"forget_loss": {"name": "popd"}, "recipe": {}}}))
    says = f"--loss_type {loss_type}: {folder} was trained with popd" if not fits else f"{folder}: no adapter there"
    refuses(tmp_path, "--loss_type", loss_type, "--checkpoint_path", folder, says=says)


def test_a_merged_model_takes_no_further_adapter(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    told = {"merged": {"adapter_sha256": "1"}, "settings": {"forget_loss": {"name": "popd"}, "recipe": {}}}
    (model / "run.json").write_text(json.dumps(told))
    says = f"{CHECKPOINT}: {model} has an adapter merged into it already; --allow_other_base takes it all the same"
    refuses(tmp_path, "--model_path", model, "--checkpoint_path", CHECKPOINT, says=says)
    refuses(tmp_path, "--model_path", model, "--loss_type", "vanilla", says="the untouched model has no checkpoint")
    refuses(tmp_path, "--model_path", model, "--loss_type", "ga", says=f"{model} was trained with popd")
    out = tmp_path / "p.json"
    infer(out, "--model_path", model, "--loss_type", "popd", "--limit", 1, "--only", "retain")
    assert json.loads(out.with_suffix(".run.json").read_text())["training"]["method"] == "popd"
    (model / "run.json").write_text(json.dumps(told | {"merged": {"adapter_sha256": "2"}}))
    says = "exists, made with merged=1, now merged=2"
    refuses(tmp_path, "--model_path", model, "--limit", 1, "--only", "retain", says=says)


def test_a_merged_model_is_no_adapter(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "run.json").write_text(json.dumps({"merged": {}}))
    refuses(tmp_path, "--loss_type", "popd", "--checkpoint_path", tmp_path / "model", says="model: no adapter there")


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data", record(0), record(1, "Sex"))


def test_where_no_picture_is_there_the_run_does_not_begin(tmp_path, data):
    """As when the command is given in another folder than the one the paths are relative to."""
    for path in data.parent.rglob("*.jpg"):
        path.unlink()
    refuses(
        tmp_path, "--eval_file", data, says="no picture can be read: img/Weapon/0.jpg: picture not found (and so on)"
    )


def test_a_missing_picture_leaves_its_responses_out(tmp_path, data):
    (data.parent / "pdset/Sex/1.jpg").unlink()
    done = run("ckpt_infer", *GIVEN, "--eval_file", data, "--output_file", tmp_path / "p.json")
    assert done.returncode == 3
    assert "record 1: 4 responses missing: pdset/Sex/1.jpg: picture not found" in done.stderr


def test_a_question_longer_than_the_context_is_named_and_the_rest_answered(tmp_path):
    """20,000 words for 1,024 tokens, of which no memory would hold what lies between."""
    long = record(1, "Sex")
    long["unsafe_pairs"][2]["question"] = " ".join(["Zulu"] * 20_000)
    data, out = write_dataset(tmp_path / "data", record(0), long), tmp_path / "p.json"
    done = run("ckpt_infer", *GIVEN, "--eval_file", data, "--output_file", out)
    assert done.returncode == 3
    named, last = done.stderr.strip().splitlines()[-2:]
    reason = r"its prompt takes \d{5} tokens, and the model's context holds 1024"
    assert (
        re.fullmatch(rf"record 1, unsafe_pairs\.2: 4 responses missing: {reason}", named) and "Zulu" not in done.stderr
    )
    assert last.startswith(f"error: 4 of 40 responses are missing in {out}")
    _, second = json.loads(out.read_text("utf-8"))
    fields = ("model_response1", "model_response2", "model_response3", "sd_response")
    assert [[bool(pair[field]) for field in fields] for pair in second["unsafe_pairs"]] == [
        [number != 2] * 4 for number in range(4)
    ]


def test_null_fields_are_told_where_they_are_written(tmp_path, data):
    """The released eval_all.py fails on them. A file without any needs no note, and its views beyond have no nulls."""
    given = (*GIVEN, "--eval_file", data, "--greedy", "--output_file")
    process = start("ckpt_infer", *given, tmp_path / "p.json", "--only", "forget,image_free", "--limit", 1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err.count("note: 16 fields are null in") == 1
    assert "released one fails on null: for that one ask all three of its views, without --limit" in err
    process = start("ckpt_infer", *given, tmp_path / "q.json")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "are null" not in err


def test_a_picture_that_cannot_be_decoded_leaves_its_responses_out(tmp_path, data, caplog):
    """The rest is answered; once the picture is mended, the same command answers what was missing, and that alone."""
    path, out = data.parent / "pdset/Sex/1.jpg", tmp_path / "p.json"
    sound = path.read_bytes()
    path.write_bytes(sound[:200])
    given = (*GIVEN, "--eval_file", data, "--output_file", out)
    for _ in range(2):
        done = run("ckpt_infer", *given)
        assert done.returncode == 3
        named, last = done.stderr.strip().splitlines()[-2:]
        assert named == f"record 1: 4 responses missing: {path}: picture cannot be decoded (OSError)"
        assert last.startswith(f"error: 4 of 40 responses are missing in {out}, where they are left null")
        first, second = json.loads(out.read_text("utf-8"))
        assert all(pair["sd_response"] for pair in first["unsafe_pairs"])
        assert [pair["sd_response"] for pair in second["unsafe_pairs"]] == [None] * 4
        assert all(pair["model_response3"] for pair in second["unsafe_pairs"])
        told = json.loads(out.with_suffix(".run.json").read_text())
        assert sorted(told["missing"]) == [f"1/unsafe_pairs/{n}/sd_response" for n in range(4)]
    path.write_bytes(sound)
    caplog.set_level("INFO")
    assert run("ckpt_infer", *given).returncode == 0
    assert "going on: 36 of 40 responses are there" in caplog.messages
    assert any(message.startswith("4 responses, ") for message in caplog.messages)
    whole = infer(tmp_path / "q.json", eval_file=data)
    assert json.loads(out.read_text("utf-8")) == whole
    assert json.loads(out.with_suffix(".run.json").read_text())["missing"] == {}
    assert not out.with_name("p.json.partial.jsonl").exists()


def test_a_part_is_answered_as_the_whole_is(sampled, tmp_path):
    whole = json.loads(sampled.read_text("utf-8"))
    given = ("--checkpoint_path", CHECKPOINT)
    part = infer(tmp_path / "p.json", *given, "--only", "retain,forget", "--categories", "Sex,Weapon", "--limit", 1)
    chosen = [value["category"] in ("Sex", "Weapon") for value in whole]
    assert sum(chosen) == 2
    for value, asked, full in zip(part, chosen, whole, strict=True):
        for one, two in zip(value["unsafe_pairs"], full["unsafe_pairs"], strict=True):
            assert one["sd_response"] is None
            assert one["model_response2"] == (two["model_response2"] if asked else None)
        key = "UnharmPair_image2"
        assert value[key]["Prediction"] == (full[key]["Prediction"] if asked else None)


def test_crossed_evaluation_adds_fields_and_changes_no_other(sampled, tmp_path):
    given = ("--checkpoint_path", CHECKPOINT)
    crossed = infer(tmp_path / "p.json", *given, "--image_free", "--swap_pictures", "--batch_size", 7)
    other = infer(tmp_path / "q.json", *given, "--only", "decoupled", "--image_free", "--batch_size", 1)
    for value, less in zip(crossed, other, strict=True):
        assert value.pop("SwappedImage_path") != value["SDImage_path"]
        for pair, fewer in zip(value["unsafe_pairs"], less["unsafe_pairs"], strict=True):
            free, swapped = pair.pop("image_free_response"), pair.pop("swapped_response")
            assert len({free, swapped, pair["sd_response"], ""}) == 4
            assert fewer["image_free_response"] == free and fewer["sd_response"] == pair["sd_response"]
    assert crossed == json.loads(sampled.read_text("utf-8"))


def test_none_of_an_adapter_answers_as_the_untouched_model_and_all_of_it_as_ever(sampled, tmp_path):
    given = ("--checkpoint_path", CHECKPOINT, "--adapter_scale")
    assert infer(tmp_path / "one.json", *given, 1) == json.loads(sampled.read_text("utf-8"))
    none, untouched = infer(tmp_path / "none.json", *given, 0), infer(tmp_path / "untouched.json")
    assert none == untouched != infer(tmp_path / "half.json", *given, 0.5)


def test_rounded_weights_answer_otherwise(tmp_path):
    plain = infer(tmp_path / "p.json", "--limit", 1, "--greedy")
    rounded = {
        name: infer(tmp_path / f"{name}.json", "--limit", 1, "--greedy", "--quantization", name)
        for name in ("int4", "nf4")
    }
    assert all(value != plain for value in rounded.values())


def test_an_adapter_that_does_not_fit(tmp_path, data):
    (tmp_path / "adapter").mkdir()
    tensors = load_file(RECORDED / "initial_adapter.safetensors")
    tensors.pop("base_model.model.multi_modal_projector.linear_1.bias")
    save_file(tensors, tmp_path / "adapter" / "a.safetensors")
    path = tmp_path / "adapter" / "a.safetensors"
    says = f"{path}: this adapter does not fit the model: "
    refuses(tmp_path, "--eval_file", data, "--checkpoint_path", path, says=says, before="the model is loaded first")


def test_a_finished_run_is_not_done_again(tmp_path):
    """The same command, as infer.bash gives it for both splits, passes over what is there; another one is refused."""
    out = tmp_path / "p.json"
    assert run("ckpt_infer", *GIVEN, "--output_file", out).returncode == 0
    before = out.stat().st_mtime_ns
    again = run("ckpt_infer", *GIVEN, "--output_file", out)
    assert again.returncode == 0 and out.stat().st_mtime_ns == before
    refuses(tmp_path, "--seed", "7", says="exists, made with seed=233, now seed=7; name another, or replace it with")


def test_the_data_file_is_never_the_output(tmp_path):
    data = tmp_path / "all_val.json"
    data.write_bytes(VAL.read_bytes())
    given = ["--eval_file", data, "--output_file", data, "--overwrite"]
    refused(tmp_path, "ckpt_infer", *GIVEN, *given, says="is the data file itself, which stays as it is")
