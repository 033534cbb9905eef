"""A model's own answers in a data file: asked by the engine, resumed after SIGKILL, the first ones kept, told apart."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, other_base, record, refused, run, write_dataset
from helpers import write_json as write

from safeeraser.benchmark.check import check_folder
from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import read_records
from safeeraser.model import fingerprint

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]
COMMAND = "safeeraser.benchmark.answers"
DRAWN = ("--dtype", "float32", "--max_new_tokens", 12, "--seed", 3)  # by which no answer is blank
FIELDS = ("model_response", "sd_response", "Prediction")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def pairs(records):
    """The pairs of records, each with the names of its answers."""
    for value in records:
        yield from ((pair, FIELDS[:2]) for pair in value["unsafe_pairs"])
        yield from ((value[key], FIELDS[2:]) for key in value if key.startswith("UnharmPair_"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data file of two records."""
    return write_dataset(tmp_path_factory.mktemp("data"), record(0), record(1, "Sex"))


@pytest.fixture(scope="module")
def own(data, tmp_path_factory):
    """The same with the tiny model's answers, in a folder of its own."""
    out = tmp_path_factory.mktemp("own") / "all_train.json"
    done = run(COMMAND, "--model", MODEL, "--data", data, *DRAWN, "--prediction", "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_the_first_answers_are_kept_beside_and_the_mark_tells_who_answered(own, data, monkeypatch, tmp_path):
    before, after = read(data), read(own)
    monkeypatch.chdir(tmp_path)
    for mine, theirs in zip(read_records(own).records, read_records(data).records, strict=True):
        for key in ("image_path", "SDImage_path"):
            found = find_picture(getattr(mine, key), own)
            assert found and found.samefile(find_picture(getattr(theirs, key), data))
    assert own.with_name("prompt.json").read_bytes() == data.with_name("prompt.json").read_bytes()
    marks = [value.pop("answered_by") for value in after]
    for (old, fields), (new, _) in zip(pairs(before), pairs(after), strict=True):
        for field in fields:
            assert new[field].strip() and new[field] != old[field] == new.pop(f"original_{field}")
            new[field] = old[field]
    for value in (*before, *after):
        del value["image_path"], value["SDImage_path"]
    assert after == before, "the rest is as it was"
    drawn = {"greedy": False, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 12, "seed": 3, "dtype": "float32"}
    wanted = {"model": str(MODEL), "weights": fingerprint(str(MODEL))["weights"], "fields": list(FIELDS)}
    wanted |= {"safeeraser": "0.1.0", "generation": drawn | {"quantization": "none"}}
    assert marks == [wanted, wanted] and read(own.with_suffix(".run.json"))["missing"] == {}


def test_they_are_what_inference_answers_and_another_models_take_their_place(own, data, tmp_path):
    """A response depends on the seed and its place alone; of the model between nothing is left."""
    out, other = tmp_path / "p.json", other_base(tmp_path / "model")
    given = ("--model_path", MODEL, "--eval_file", data, *DRAWN, "--only", "decoupled,retain", "--batch_size", 5)
    assert run("ckpt_infer", *given, "--output_file", out).returncode == 0
    for (mine, fields), (theirs, _) in zip(pairs(read(own)), pairs(read(out)), strict=True):
        assert all(mine[field] == theirs[field] for field in fields if field != "model_response")
    again, straight = own.with_name("again.json"), own.with_name("straight.json")
    for path, source in ((again, own), (straight, data)):
        assert run(COMMAND, "--model", other, *DRAWN, "--out", path, "--data", source).returncode == 0
    assert again.read_bytes() == straight.read_bytes() != own.read_bytes()
    assert read(again)[0]["answered_by"]["fields"] == list(FIELDS[:2])
    (words, *more) = told_in_training(other, own, tmp_path / "run")
    weights = fingerprint(str(MODEL))["weights"][:12]
    assert not more and f"record 0, model_response is of {MODEL} (weights {weights}), not of {other}; " in words


def told_in_training(model, data, folder):
    words = (f"model_path={model}", f"data_path={data}", "forget_loss=gdpd", "dtype=float32", "workers=0", "LoRA.r=4")
    done = run("forget", *words, "gradient_accumulation_steps=1", "max_train_steps=1", f"save_dir={folder}")
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if COMMAND in line]


def test_an_answer_that_cannot_be_had_is_null_until_it_can(tmp_path):
    """Refusals that are there stay; the check of a folder reads the file."""
    data = write_dataset(tmp_path / "data", record(0, "Sex"))
    torn, out = data.parent / "pdset/Sex/0.jpg", tmp_path / "mine" / "all_train.json"
    mine = write(out.with_name("prompt.json"), {"idk": ["Mine."]})
    sound = torn.read_bytes()
    torn.write_bytes(sound[:200])
    done = run(COMMAND, *(given := ("--model", MODEL, *DRAWN, "--data", data, "--out", out)))
    assert done.returncode == 3 and f"error: 4 of 8 responses are missing in {out}" in done.stderr
    assert [pair["sd_response"] for pair in read(out)[0]["unsafe_pairs"]] == [None] * 4
    assert read(out)[0]["unsafe_pairs"][3]["original_sd_response"] == "Fine 3."
    torn.write_bytes(sound)
    assert run(COMMAND, *given).returncode == 0 and read(mine) == {"idk": ["Mine."]}
    assert all(pair[field] is not None for pair in read(out)[0]["unsafe_pairs"] for field in FIELDS[:2])
    (tmp_path / "mine" / "all_val.json").write_bytes(out.read_bytes())
    assert check_folder(tmp_path / "mine")[1] == []


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--out", TRAIN), "is the data file itself"),
        (("--out", "OUT", "--seed", 4), "seed=3, now seed=4"),
        (("--out", "OUT", "--data", VAL), "eval_file="),
        (("--out", "x.json", "--temperature", 0), "--temperature"),
        (("--out", "x.json", "--predictions"), "unknown option '--predictions'; did you mean '--prediction'?"),
        (("--out", "x.json", "--checkpoint_path", "a"), "unknown option '--checkpoint_path'"),
        ((), "--out"),
    ],
)
def test_what_is_refused(own, data, more, says):
    given = ("--model", MODEL, "--data", TRAIN if TRAIN in more else data, *DRAWN, "--prediction")
    refused(own.parent, COMMAND, *given, *(own if word == "OUT" else word for word in more), says=says)


def test_predictions_that_stand_there_are_not_taken_for_it(tmp_path, data):
    out = tmp_path / "p.json"
    given = ("--model_path", MODEL, "--eval_file", data, *DRAWN, "--only", "decoupled", "--output_file", out)
    assert run("ckpt_infer", *given).returncode == 0
    refused(tmp_path, COMMAND, "--model", MODEL, "--data", data, *DRAWN, "--out", out, says="only=['decoupled']")


def called(launch, out, *more):
    """The command in processes of its own, from the folder of the recorded data."""
    words = (*launch, "-m", COMMAND, "--model", MODEL, "--data", TRAIN, *DRAWN[:2], "--max_new_tokens", 4, "--out", out)
    return subprocess.Popen(
        list(map(str, (*words, *more))), cwd=RECORDED, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_killed_and_gone_on_with_by_two_processes_it_is_the_same_file(tmp_path):
    straight, out = tmp_path / "straight" / "a.json", tmp_path / "out" / "a.json"
    given = ("--model", MODEL, "--data", TRAIN, *DRAWN[:2], "--max_new_tokens", 4)
    assert run(COMMAND, *given, "--out", straight).returncode == 0
    partial = out.with_name("a.json.partial.jsonl")
    process, deadline = called((sys.executable,), out, "--batch_size", 1), time.monotonic() + 300
    while not partial.exists() or partial.read_bytes().count(b"\n") < 9:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in out.parent.iterdir()] == [partial.name]
    kept = partial.read_bytes().count(b"\n") - 1
    assert 8 <= kept < 96
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--config_file")
    process = called((*launch, ROOT / "config" / "accelerate" / "cpu_ddp.yaml"), out)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 0 and f"going on: {kept} of 96 responses are there" in said, said
    assert out.read_bytes() == straight.read_bytes() and not partial.exists()
    assert read(out.with_suffix(".run.json"))["processes"] == 2
    assert "done before" in run(COMMAND, *given, "--out", out).stderr


def test_the_hallway_leads_nowhere_until_the_command_is_run():
    code = f"import sys, {COMMAND}; assert not {{'torch', 'safeeraser.infer.run'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_commands_of_the_page_run(tmp_path):
    page = (ROOT / "docs" / "data.md").read_text().partition("\n## Answers of the model itself\n")[2]
    answering, training = re.findall(r"^ {4}(?:python -m|bash) (.*)$", page, re.MULTILINE)
    data = write_dataset(tmp_path / "dataset", *(record(n, "Sex") for n in range(3)))
    model = "llava-hf/llava-v1.6-mistral-7b-hf"
    page = ROOT / "config" / "model_family" / "llava-next-mistral-7b.yaml"
    assert model in answering and f"model_path: {model}" in page.read_text(encoding="utf-8")
    command, *words = shlex.split(answering.replace(model, str(MODEL)))
    done = run(command, *words, *DRAWN, "--greedy", cwd=tmp_path)
    assert done.returncode == 0 and data.with_name("all_train.mistral.json").is_file(), done.stderr
    script, family, *words = shlex.split(training)
    assert script == "scripts/forget_lora.bash" and family == "model_family=llava-next-mistral-7b"
    words += ["bad_items=skip", "max_bad_items=0.9", "dtype=float32", "workers=0", "max_train_steps=1", "LoRA.r=4"]
    done = run("forget", *words, f"model_path={MODEL}", "gradient_accumulation_steps=1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/mistral/popd/adapter_model.safetensors").is_file()
