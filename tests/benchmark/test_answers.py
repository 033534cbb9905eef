"""A model's own answers in a data file: asked by the engine, resumable, the first ones kept, told apart in training."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, other_base, record, refused, run, settings, write_dataset
from helpers import write_json as write
from scoring import run_eval

from safeeraser.benchmark.answered import mark_of, seen_from, with_answers, without_answers
from safeeraser.benchmark.check import check_folder
from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import read_records
from safeeraser.model import fingerprint
from safeeraser.unlearn.job import note_other_answers

pytestmark = pytest.mark.slow

COMMAND = "safeeraser.benchmark.answers"
DRAWN = ("--dtype", "float32", "--max_new_tokens", 12, "--seed", 3)  # by which no answer is blank
GIVEN = ("--model", MODEL, "--data", TRAIN, *DRAWN, "--prediction")
FIELDS = ("model_response", "sd_response", "Prediction")
QWEN = ROOT / "tests" / "data" / "families" / "qwen3_vl" / "model"
TRAINED = ("dtype=float32", "workers=0", "gradient_accumulation_steps=1", "max_train_steps=1", "LoRA.r=4")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def pairs(records):
    """The pairs of records, each with the names of its answers."""
    for value in records:
        yield from ((pair, FIELDS[:2]) for pair in value["unsafe_pairs"])
        yield from ((value[key], FIELDS[2:]) for key in value if key.startswith("UnharmPair_"))


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The recorded data with the tiny model's answers, in a folder of its own."""
    out = tmp_path_factory.mktemp("own") / "all_train.json"
    done = run(COMMAND, *GIVEN, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model of the same shapes."""
    return other_base(tmp_path_factory.mktemp("other") / "model")


# The file


def test_the_first_answers_are_kept_beside_and_the_rest_is_as_it_was(own):
    before, after = read(TRAIN), read(own)
    changed = 0
    for (old, fields), (new, _) in zip(pairs(before), pairs(after), strict=True):
        for field in fields:
            changed += new[field] != old[field]
            assert new[field].strip() and new.pop(f"original_{field}") == old[field]
            new[field] = old[field]
    assert changed == 12 * (4 + 4 + 4)
    for value in after:
        del value["answered_by"], value["image_path"], value["SDImage_path"]
    for value in before:
        del value["image_path"], value["SDImage_path"]
    assert after == before


def test_each_record_tells_who_answered(own):
    (mark,) = {json.dumps(value["answered_by"]): value["answered_by"] for value in read(own)}.values()
    generation = mark.pop("generation")
    assert mark == {
        "model": str(MODEL),
        "weights": fingerprint(str(MODEL))["weights"],
        "fields": list(FIELDS),
        "safeeraser": "0.1.0",
    }
    assert generation == {
        "greedy": False,
        "temperature": 1.0,
        "top_p": 0.9,
        "max_new_tokens": 12,
        "seed": 3,
        "dtype": "float32",
        "quantization": "none",
    }
    assert read(own.with_suffix(".run.json"))["missing"] == {}


def test_they_are_what_inference_answers(own, tmp_path):
    """Request by request: a response depends on the seed and its place alone."""
    out = tmp_path / "p.json"
    given = ("--model_path", MODEL, "--eval_file", TRAIN, *DRAWN, "--only", "decoupled,retain", "--batch_size", 5)
    assert run("ckpt_infer", *given, "--output_file", out).returncode == 0
    for (mine, fields), (theirs, _) in zip(pairs(read(own)), pairs(read(out)), strict=True):
        assert all(mine[field] == theirs[field] for field in fields if field != "model_response")


def test_killed_and_gone_on_with_it_is_the_same_file(own, tmp_path):
    out = tmp_path / "all_train.json"
    partial = out.with_name("all_train.json.partial.jsonl")
    command = [sys.executable, "-m", COMMAND, *GIVEN, "--out", out]
    process = subprocess.Popen(
        list(map(str, [*command, "--batch_size", 1])), cwd=RECORDED, text=True, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not partial.exists() or partial.read_bytes().count(b"\n") < 9:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [partial.name]
    kept = partial.read_bytes().count(b"\n") - 1
    assert 8 <= kept < 144
    done = subprocess.run(list(map(str, command)), cwd=RECORDED, text=True, capture_output=True, check=False)
    assert done.returncode == 0 and f"going on: {kept} of 144 responses are there" in done.stderr
    assert with_names_of(own, out) == own.read_bytes() and not partial.exists()
    done = subprocess.run(list(map(str, command)), cwd=RECORDED, text=True, capture_output=True, check=False)
    assert done.returncode == 0 and "done before" in done.stderr


def with_names_of(own, out):
    """The bytes of a file, with its pictures named as from the folder of another."""
    text = out.read_text(encoding="utf-8")
    for mine, theirs in zip(read(out), read(own), strict=True):
        for key in ("image_path", "SDImage_path"):
            text = text.replace(json.dumps(mine[key]), json.dumps(theirs[key]))
    return text.encode()


def test_two_processes_give_the_file_of_one(own, tmp_path):
    out = tmp_path / "all_train.json"
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file")
    words = [*launch, ROOT / "config" / "accelerate" / "cpu_ddp.yaml", "-m", COMMAND, *GIVEN, "--out", out]
    done = subprocess.run(list(map(str, words)), cwd=RECORDED, text=True, capture_output=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert with_names_of(own, out) == own.read_bytes()
    assert read(out.with_suffix(".run.json"))["processes"] == 2


def test_answered_anew_by_another_model_it_is_what_the_first_file_would_have_given(own, other, tmp_path):
    """The answers of the model between are gone, those of the first file are not; `Prediction` is the first again."""
    again, straight = own.with_name("again.json"), own.with_name("straight.json")
    given = ("--model", other, *DRAWN, "--out")
    assert run(COMMAND, *given, again, "--data", own).returncode == 0
    assert run(COMMAND, *given, straight, "--data", TRAIN).returncode == 0
    assert again.read_bytes() == straight.read_bytes() != own.read_bytes()
    first = read(again)
    assert first[0]["answered_by"]["fields"] == list(FIELDS[:2]) and first[0]["answered_by"]["model"] == str(other)
    for (old, fields), (new, _) in zip(pairs(read(TRAIN)), pairs(first), strict=True):
        for field in fields:
            assert new.get(f"original_{field}", new[field]) == old[field]
        assert "original_Prediction" not in new


def test_pictures_and_refusals_are_found_from_another_folder(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, before = read_records(own), read_records(TRAIN)
    for mine, theirs in zip(data.records, before.records, strict=True):
        for key in ("image_path", "SDImage_path"):
            found = find_picture(getattr(mine, key), own)
            assert found and found.samefile(find_picture(getattr(theirs, key), TRAIN))
    assert own.with_name("prompt.json").read_bytes() == TRAIN.with_name("prompt.json").read_bytes()


def test_names_that_lead_to_the_same_file_stay(tmp_path):
    data = write_dataset(tmp_path / "data", record(0, SDImage_path=str(tmp_path / "benign.jpg")))
    (value,) = read(data)
    for out in (data.with_name("own.json"), tmp_path / "data" / "deeper" / "own.json"):
        assert seen_from(value, data, out) == value
    moved = seen_from(value | {"more": 1}, data, tmp_path / "answers" / "own.json")
    assert moved == value | {"more": 1, "image_path": "../data/img/Weapon/0.jpg"}
    (data.parent / "img/Weapon/0.jpg").unlink()  # what is not there cannot be led to
    assert seen_from(value, data, tmp_path / "answers" / "own.json") == value


def test_refusals_that_are_there_stay(tmp_path):
    data = write_dataset(tmp_path / "data", record(0))
    mine = write(tmp_path / "mine" / "prompt.json", {"idk": ["Mine."]})
    given = ("--model", MODEL, *DRAWN, "--data", data)
    assert run(COMMAND, *given, "--out", tmp_path / "mine" / "own.json").returncode == 0
    assert read(mine) == {"idk": ["Mine."]}


def test_an_answer_that_cannot_be_had_is_null_until_it_can(tmp_path):
    data = write_dataset(tmp_path / "data", record(0), record(1, "Sex"))
    torn, out = data.parent / "pdset/Sex/1.jpg", data.with_name("own_train.json")
    sound = torn.read_bytes()
    torn.write_bytes(sound[:200])
    given = ("--model", MODEL, *DRAWN, "--data", data, "--out", out)
    done = run(COMMAND, *given)
    assert done.returncode == 3 and f"error: 4 of 16 responses are missing in {out}" in done.stderr
    assert [pair["sd_response"] for pair in read(out)[1]["unsafe_pairs"]] == [None] * 4
    assert read(out)[1]["unsafe_pairs"][3]["original_sd_response"] == "Fine 3."
    torn.write_bytes(sound)
    assert run(COMMAND, *given).returncode == 0
    assert all(pair[field] is not None for value in read(out) for pair in value["unsafe_pairs"] for field in FIELDS[:2])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--out", TRAIN), "is the data file itself, which stays as it is"),
        (("--out", "OUT", "--seed", 4), "exists, made with seed=3, now seed=4; name another, or replace it with"),
        (("--out", "OUT", "--data", VAL), "exists, made with eval_file="),
        (("--out", "x.json", "--temperature", 0), "--temperature must be above 0"),
        (("--out", "x.json", "--predictions"), "unknown option '--predictions'; did you mean '--prediction'?"),
        (("--out", "x.json", "--checkpoint_path", "a"), "unknown option '--checkpoint_path'"),
        ((), "the following arguments are required: --output_file/--out"),
    ],
)
def test_what_is_refused(own, more, says):
    refused(own.parent, COMMAND, *GIVEN, *(own if word == "OUT" else word for word in more), says=says)


def test_predictions_that_stand_there_are_not_taken_for_it(tmp_path):
    out = tmp_path / "p.json"
    given = ("--model_path", MODEL, "--eval_file", VAL, *DRAWN, "--only", "decoupled", "--output_file", out)
    assert run("ckpt_infer", *given).returncode == 0
    words = ("--model", MODEL, "--data", VAL, *DRAWN, "--out", out)
    refused(tmp_path, COMMAND, *words, says="exists, made with only=['decoupled'], now only=['own', 'decoupled']")


def test_the_hallway_leads_nowhere_until_the_command_is_run():
    code = "import sys, safeeraser.benchmark.answers; assert not {'torch', 'safeeraser.infer.run'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# A record


MARK = {"model": "m", "weights": None, "fields": ["model_response", "sd_response"]}


def test_a_record_is_what_it_was_without_its_answers():
    """Also where it had none, or where a key of the same name says something else."""
    value = record(0, answered_by="somebody")
    del value["unsafe_pairs"][1]["sd_response"]
    answers = {("unsafe_pairs", n, field): f"New {n}." for n in range(4) for field in MARK["fields"]}
    filled = with_answers(value, answers, MARK)
    assert mark_of(value) is None and mark_of(filled).model == "m"
    assert filled["unsafe_pairs"][1] == {
        "question": "Secret 1?",
        "model_response": "New 1.",
        "sd_response": "New 1.",
        "original_model_response": "Harm 1.",
    }
    del value["answered_by"]
    assert without_answers(filled) == value and without_answers(value) == value


def test_what_was_first_is_not_lost_with_the_mark():
    filled = with_answers(record(0), {("unsafe_pairs", 0, "model_response"): "A."}, MARK)
    del filled["answered_by"]
    (first, *_) = with_answers(filled, {("unsafe_pairs", 0, "model_response"): "B."}, MARK)["unsafe_pairs"]
    assert (first["model_response"], first["original_model_response"]) == ("B.", "Harm 0.")


# Whoever reads it


def test_the_check_of_a_folder_and_scoring_read_it(own, tmp_path):
    shutil.copy(own, tmp_path / "all_val.json")
    for name in ("all_train.json", "prompt.json"):
        shutil.copy(own.with_name(name), tmp_path)
    for name in ("all_train.json", "all_val.json"):
        write(tmp_path / name, [seen_from(value, own, tmp_path / name) for value in read(own)])
    records, faults = check_folder(tmp_path)
    assert faults == [] and {name: len(found) for name, found in records.items()} == {
        "all_train.json": 12,
        "all_val.json": 12,
    }
    out, summary = tmp_path / "predictions_val.json", tmp_path / "summary.json"
    given = ("--model_path", MODEL, "--eval_file", tmp_path / "all_val.json", *DRAWN, "--limit", 1)
    assert run("ckpt_infer", *given, "--output_file", out).returncode == 0
    words = ("--judge", "rules", "--input_file", out, "--file_refer", tmp_path / "all_val.json", "--summary", summary)
    done = run_eval(*words)
    assert done.returncode == 0, done.stderr
    assert read(summary)["rr"]["n"] > 0


def forget(folder, *words):
    """What a step of training says that tells whose the answers are, run from a folder where no picture lies."""
    folder.mkdir(exist_ok=True)
    done = run("forget", *TRAINED, f"save_dir={folder / 'run'}", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "adapter_model.safetensors").is_file()
    return [line for line in done.stderr.splitlines() if "safeeraser.benchmark.answers" in line]


@pytest.mark.parametrize("method", ["popd", "gd"])
def test_the_model_that_answered_is_trained_and_nothing_is_said(own, tmp_path, method):
    copied = shutil.copytree(MODEL, tmp_path / "under_another_name")
    assert forget(tmp_path / "work", f"model_path={copied}", f"data_path={own}", f"forget_loss={method}") == []


def test_another_is_told_of_once(own, other, tmp_path):
    line, *more = forget(tmp_path / "work", f"model_path={other}", f"data_path={own}", "forget_loss=gdpd")
    weights = fingerprint(str(MODEL))["weights"][:12]
    assert not more and line == (
        f"note: {own}: record 0, model_response is of {MODEL} (weights {weights}), not of {other}; "
        "'python -m safeeraser.benchmark.answers' makes a file of answers of its own"
    )


def test_a_model_of_another_family_answers_and_is_trained_on_what_it_said(tmp_path):
    out = tmp_path / "answers" / "all_train.json"
    done = run(COMMAND, "--model", QWEN, "--data", TRAIN, "--out", out, *DRAWN[:4], "--greedy", "--batch_size", 8)
    assert done.returncode == 0, done.stderr
    assert read(out)[0]["answered_by"]["weights"] == fingerprint(str(QWEN))["weights"]
    words = (f"model_path={QWEN}", "forget_loss=gdpd", "recipe=corrected", "bad_items=skip", "max_bad_items=0.5")
    assert forget(tmp_path / "own", f"data_path={out}", *words) == []
    (line,) = forget(tmp_path / "release", f"data_path={TRAIN}", *words)
    assert f"model_response is of LLaVA-1.5, not of {QWEN}" in line


def told(caplog, *words):
    """What is said of a data file and a model of which only the configuration is there."""
    read_settings = settings(*words)
    note_other_answers(read_settings, {"model_path": read_settings.model_path, "revision": None, "weights": None})
    messages = caplog.messages
    caplog.clear()
    return messages


def test_what_is_not_marked_is_llava_s(caplog, monkeypatch):
    assert told(caplog, "forget_loss=gdpd") == []  # LLaVA
    (line,) = told(caplog, "forget_loss=gdpd", f"model_path={QWEN}")
    assert line.startswith(f"note: {TRAIN}: record 0, model_response is of LLaVA-1.5, not of {QWEN}; ")
    (line,) = told(caplog, "forget_loss=popd", f"model_path={QWEN}")
    assert "record 0, sd_response is of LLaVA-1.5" in line
    assert told(caplog, "forget_loss=po", f"model_path={QWEN}") == []  # reads neither
    monkeypatch.setenv("RANK", "1")
    assert told(caplog, "forget_loss=gdpd", f"model_path={QWEN}") == []  # the first process has said it


def test_a_server_s_answers_are_told_apart_by_name(tmp_path, caplog):
    answers = {("unsafe_pairs", n, field): f"New {n}." for n in range(4) for field in MARK["fields"]}
    marks = [MARK | {"model": str(MODEL)}] * 2 + [MARK | {"model": "served"}]
    values = [with_answers(record(n), answers, mark) for n, mark in enumerate(marks)]
    words = ("forget_loss=ga", f"data_path={write_dataset(tmp_path, *values)}")
    (line,) = told(caplog, *words)
    assert "record 2, model_response is of served, not of" in line
    write_dataset(tmp_path, *values[:2])
    assert told(caplog, *words) == []


# The page


def test_the_commands_of_the_page_run(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text().partition("\n## Answers of the model itself\n")[2]
    answering, training = re.findall(r"^ {4}(?:python -m|bash) (.*)$", page, re.MULTILINE)
    data = write_dataset(tmp_path / "dataset", *(record(n, "Sex") for n in range(3)))
    model = "llava-hf/llava-v1.6-mistral-7b-hf"
    assert model in answering and f"model_path: {model}" in (
        ROOT / "config" / "model_family" / "llava-next-mistral-7b.yaml"
    ).read_text(encoding="utf-8")
    command, *words = shlex.split(answering.replace(model, str(MODEL)))
    done = run(command, *words, *DRAWN, "--greedy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert data.with_name("all_train.mistral.json").is_file()
    script, family, *words = shlex.split(training)
    assert script == "scripts/forget_lora.bash" and family == "model_family=llava-next-mistral-7b"
    done = run("forget", *words, f"model_path={MODEL}", "bad_items=skip", "max_bad_items=0.9", *TRAINED, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/mistral/popd/adapter_model.safetensors").is_file()
