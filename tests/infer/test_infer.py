"""ckpt_infer.py on the tiny model: the recorded responses, sameness whatever is asked beside, records, refusals."""

import json
import os
import re
import shlex
import shutil
import subprocess

import pytest
from helpers import MODEL, RECORDED, ROOT, VAL, record, refused, run, write_dataset, write_json
from safetensors.torch import load_file, save_file

from safeeraser import infer
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.options import Options
from safeeraser.model import convert

CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"
TINY = {"model_path": MODEL, "eval_file": VAL, "dtype": "float32", "max_new_tokens": 6}
FAMILIES = ROOT / "tests" / "data" / "families"
TEXTS = ("UnharmPair_text1", "UnharmPair_text2", "UnharmPair_image1", "UnharmPair_image2")


@pytest.fixture(autouse=True)
def beside_the_pictures(monkeypatch):
    monkeypatch.chdir(RECORDED)


def read(path):
    return json.loads(path.read_text("utf-8"))


def answers(out, **more):
    """What a run writes."""
    done = infer(**TINY | {"output_file": out} | more)
    assert done.missing == {} and done.output_file == out
    return read(out)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    """Sampled with the checkpoint, in batches of the size that fits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(RECORDED)
        return answers(tmp_path_factory.mktemp("sampled") / "p.json", checkpoint_path=CHECKPOINT)


def test_recorded_greedy_responses_come_out_letter_by_letter_with_what_made_them(tmp_path):
    """The other views are asked beside them; of every batch size: tests/invariants."""
    out = tmp_path / "p.json"
    words = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--greedy", "--max_new_tokens", 16)
    words += ("--checkpoint_path", CHECKPOINT, "--loss_type", "popd", "--image_free", "--swap_pictures")
    done = run("ckpt_infer", *words, "--output_file", out)
    assert done.returncode == 0, done.stderr
    expected, given = read(RECORDED / "inference" / "greedy_popd_checkpoint.json"), read(VAL)
    for ours, theirs, before in zip(read(out), expected, given, strict=True):
        assert ours.pop("SwappedImage_path") != ours["SDImage_path"]
        for pair, recorded, old in zip(
            ours["unsafe_pairs"], theirs["unsafe_pairs"], before["unsafe_pairs"], strict=True
        ):
            assert all(pair.pop(field) for field in ("image_free_response", "swapped_response"))
            assert pair == old | {field: recorded[field] for field in pair if field.endswith(tuple("123"))} | {
                "sd_response": recorded["sd_response"]
            }
        answered = {key: theirs[key] for key in TEXTS}
        assert ours == before | answered | {"unsafe_pairs": ours["unsafe_pairs"]}
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.run.json"}
    told = read(tmp_path / "p.run.json")
    assert told["versions"].keys() == {"safeeraser", "torch", "transformers", "peft"}
    del told["versions"], told["settings"]["base"]
    settings = {"eval_file": sha256(VAL), "backend": "local", "model_path": str(MODEL), "merged": None}
    settings |= {"checkpoint": sha256(CHECKPOINT), "lora_alpha": 256, "adapter_scale": 1.0, "quantization": "none"}
    settings |= {"dtype": "float32", "greedy": True, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 16}
    settings |= {"seed": 233, "attack": None, "attack_code": None, "categories": [], "skip": 0, "limit": None}
    settings |= {"only": ["forget", "decoupled", "retain", "image_free", "swapped"]}
    expected = {"settings": settings, "eval_file": str(VAL), "checkpoint_path": str(CHECKPOINT), "base_url": None}
    assert told == expected | {"loss_type": "popd", "training": None, "missing": {}, "processes": 1}


def test_a_response_depends_on_its_seed_and_request_alone(sampled, tmp_path):
    """Not on the batch, nor on what else is asked, nor on the record's company."""
    pairs = [pair for value in sampled for pair in value["unsafe_pairs"]]
    assert sum(len({pair[f"model_response{n}"] for n in (1, 2, 3)}) for pair in pairs) > 2.5 * len(pairs)
    chosen = {"only": ["retain", "forget"], "categories": ["Sex", "Weapon"], "batch_size": 3}
    part = answers(tmp_path / "part.json", checkpoint_path=CHECKPOINT, **chosen)
    for value, full in zip(part, sampled, strict=True):
        asked = full["category"] in ("Sex", "Weapon")
        for one, two in zip(value["unsafe_pairs"], full["unsafe_pairs"], strict=True):
            assert one["model_response2"] == (two["model_response2"] if asked else None) and one["sd_response"] is None
        assert value[TEXTS[2]]["Prediction"] == (full[TEXTS[2]]["Prediction"] if asked else None)
    first = {key: str(RECORDED / read(VAL)[0][key]) for key in ("image_path", "SDImage_path")}
    data = write_json(tmp_path / "one.json", [read(VAL)[0] | first])
    (alone,) = answers(tmp_path / "alone.json", checkpoint_path=CHECKPOINT, eval_file=data)
    assert alone["unsafe_pairs"] == sampled[0]["unsafe_pairs"] and alone[TEXTS[0]] == sampled[0][TEXTS[0]]
    other = answers(tmp_path / "seed.json", checkpoint_path=CHECKPOINT, seed=1, only=["decoupled"])
    own = [pair["sd_response"] for value in other for pair in value["unsafe_pairs"]]
    assert sum(one == two["sd_response"] for one, two in zip(own, pairs, strict=True)) < 3


def test_the_adapter_in_its_forms_whole_in_part_and_rounded(sampled, tmp_path):
    few = {"only": ["retain"], "batch_size": 24}
    whole = [value[key]["Prediction"] for value in sampled for key in TEXTS]

    def said(name, **more):
        return [value[key]["Prediction"] for value in answers(tmp_path / name, **few | more) for key in TEXTS]

    (tmp_path / "release").mkdir()
    shutil.copy(CHECKPOINT, tmp_path / "release")
    assert said("release.json", checkpoint_path=tmp_path / "release") == whole
    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    assert said("named.json", checkpoint_path=tmp_path / "adapter", model_path=None) == whole
    untouched = said("untouched.json")
    scaled = [said(f"{x}.json", checkpoint_path=CHECKPOINT, adapter_scale=x) for x in (0, 0.5)]
    assert untouched == scaled[0] and len({tuple(each) for each in (untouched, whole, scaled[1])}) == 3
    assert untouched not in [said(f"{name}.json", quantization=name) for name in ("int4", "nf4")]


def test_a_model_that_was_merged_says_by_what(tmp_path):
    model, out = tmp_path / "model", tmp_path / "p.json"
    shutil.copytree(MODEL, model)
    told = {"merged": {"adapter_sha256": "1"}, "settings": {"forget_loss": {"name": "popd"}, "recipe": {}}}
    write_json(model / "run.json", told)
    given = {"model_path": model, "only": ["retain"], "categories": ["Sex"]}
    answers(out, **given, loss_type="idkpd")
    made = read(tmp_path / "p.run.json")
    assert made["training"] == {"method": "popd", "recipe": {}} and made["settings"]["merged"] == "1"
    for more, says in (
        ({"checkpoint_path": CHECKPOINT}, f"{model} has an adapter merged into it already; --allow_other_base"),
        ({"loss_type": "vanilla"}, "the untouched model has no checkpoint"),
        ({"loss_type": "ga"}, f"{model} was trained with popd"),
    ):
        with pytest.raises(BadInput, match=re.escape(says)):
            infer(**TINY | given | more, output_file=out)
    write_json(model / "run.json", told | {"merged": {"adapter_sha256": "2"}})
    with pytest.raises(BadInput, match="exists, made with merged=1, now merged=2"):
        infer(**TINY | given, output_file=out)


def test_a_prompt_longer_than_the_context_is_named_and_the_rest_answered(tmp_path, caplog):
    """20,000 words for 1,024 tokens. What was not answered, or not asked, is reported as null."""
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
    assert last.startswith(f"error: 4 of 32 responses are missing in {out}")
    said = [
        [pair[field] is not None for field in ("model_response2", "sd_response")]
        for pair in read(out)[1]["unsafe_pairs"]
    ]
    assert said == [[number != 2] * 2 for number in range(4)]
    assert sum("note: 12 fields are null in" in message for message in caplog.messages) == 1


# What is refused: in a line, before anything is loaded.


def test_the_command_refuses_in_one_line_and_touches_nothing(tmp_path):
    given = ("--model_path", MODEL, "--eval_file", VAL, "--output_file", tmp_path / "p.json")
    refused(tmp_path, "ckpt_infer", *given, "--attack", "blr", says="unknown attack 'blr'; did you mean 'blur'?")
    refused(tmp_path, "ckpt_infer", *given, "--batchsize", 1, says="did you mean '--batch_size'?")


AT = {"base_url": "http://h/v1"}
OPENAI = {"backend": "openai", **AT}
REFUSED = [
    ({"checkpoint": CHECKPOINT}, "did you mean '--checkpoint_path'"),
    ({"loss_type": "vanilla", "checkpoint_path": CHECKPOINT}, "--loss_type vanilla: .* no checkpoint"),
    ({"loss_type": "popd"}, "--loss_type popd: no adapter"),
    ({"loss_type": "gdpd", "checkpoint_path": "{trained}"}, "--loss_type gdpd: .*trained with popd"),
    ({"loss_type": "idkpd", "checkpoint_path": "{trained}"}, "trained: no adapter there"),
    ({"checkpoint_path": "{merged}"}, "merged: no adapter there"),
    ({"checkpoint_path": MODEL}, "holds a model, not an adapter; it is --model_path"),
    ({"checkpoint_path": "{unfit.safetensors}"}, "this adapter does not fit the model"),
    ({"model_path": "nowhere"}, "model_path nowhere: no model in this folder"),
    ({"model_path": "{adapter}"}, "holds an adapter, not a model; --checkpoint_path"),
    ({"eval_file": "nowhere.json"}, "nowhere.json: no such file"),
    ({"eval_file": "{data}", "output_file": "{data}", "overwrite": True}, "--output_file .*is the data file itself"),
    ({"batch_size": 0}, "--batch_size"),
    ({"batch_size": "many"}, "--batch_size"),
    ({"max_new_tokens": -3}, "--max_new_tokens"),
    ({"limit": 0}, "--limit"),
    ({"skip": -1}, "--skip must be at least 0"),
    ({"skip": 1}, "no record is left"),
    ({"only": ["forget", "retian"]}, "unknown view 'retian'; did you mean 'retain'"),
    ({"only": ""}, "--only: must name each view"),
    ({"categories": ["Wepon"]}, "'Wepon'; did you mean 'Weapon'"),
    *(({"temperature": value}, "--temperature must be above 0") for value in (0, float("nan"), float("inf"))),
    *(({"top_p": value}, "--top_p above 0 and at most 1") for value in (0, 1.5)),
    ({"adapter_scale": 0.5}, "--adapter_scale: of what"),
    ({"adapter_scale": float("inf"), "checkpoint_path": CHECKPOINT}, "--adapter_scale must be a finite"),
    ({"quantization": "int5"}, "'int5'; did you mean 'int8'"),
    ({"dtype": "float8"}, "dtype float8: must be one of auto, float32"),
    *(
        ({"attack": name}, f"{name}: reads records that are not asked.* --skip")
        for name in ATTACKS
        if ATTACKS[name].learns
    ),
    *(({"attack": name}, f"{name}: changes an adapter, and none") for name in ("clipped", "pruned")),
    *(
        ({"attack": name, "only": ["image_free"]}, f"{name}: changes the picture")
        for name in ("blur", "figstep", "pgd")
    ),
    ({"attack": "told", "model_path": "{mute}"}, "told: the chat template of model family qwen3-vl writes no system"),
    *(
        ({"attack": "pgd", "model_path": FAMILIES / family / "model"}, "cuts pictures into tiles or patches; pgd knows")
        for family in ("llava_next", "qwen2_5_vl", "smolvlm")
    ),
    *(({"attack": name, "skip": 1, **OPENAI}, f"{name}: works on the model itself") for name in ("pruned", "pgd")),
    ({"backend": "vllm"}, "unknown backend 'vllm'; known: local, openai"),
    ({"backend": "openai"}, "give the server's --base_url"),
    (AT, "--base_url and --extra_body are for a server"),
    ({"extra_body": {"a": 1}}, "--base_url and --extra_body are for a server"),
    ({"backend": "openai", "base_url": "nowhere"}, "--base_url is no address"),
    ({"extra_body": [1], **OPENAI}, "--extra_body: must be a JSON obj"),
    ({"extra_body": "[" * 100_000, **OPENAI}, "--extra_body: must be a JSON obj"),
    ({"checkpoint_path": CHECKPOINT, **OPENAI}, "--checkpoint_path: a server holds its model whole"),
    ({"adapter_scale": 0.5, **OPENAI}, "--adapter_scale and --quantization are for the built-in"),
    ({"quantization": "int4", **OPENAI}, "--adapter_scale and --quantization are for the built-in"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Folders and files that are not what they are taken for."""
    folder = tmp_path_factory.mktemp("places")
    write_json(folder / "trained/run.json", {"settings": {"forget_loss": {"name": "popd"}, "recipe": {}}})
    write_json(folder / "merged/run.json", {"merged": {}})
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_model.safetensors").touch()
    shutil.copy(VAL, folder / "data")
    tensors = load_file(RECORDED / "initial_adapter.safetensors")
    save_file(
        {key: tensor for key, tensor in tensors.items() if not key.endswith("linear_1.bias")},
        folder / "unfit.safetensors",
    )
    shutil.copytree(FAMILIES / "qwen3_vl" / "model", folder / "mute", ignore=shutil.ignore_patterns("*.safetensors"))
    for file in (folder / "mute").glob("chat_template*"):
        file.write_text("{% for message in messages if message['role'] != 'system' %}{{ message['role'] }}{% endfor %}")
    return folder


@pytest.mark.parametrize(("more", "says"), REFUSED, ids=str)
def test_what_cannot_be_meant_is_refused_by_name(tmp_path, places, more, says):
    given = TINY | {"output_file": tmp_path / "p.json"} | more
    for key, value in given.items():
        if str(value)[:1] == "{" and key != "extra_body":
            given[key] = places / value[1:-1]
    with pytest.raises(BadInput, match=says):
        infer(**given)
    assert not list(tmp_path.iterdir())


def test_what_an_audit_draws_is_a_setting_and_a_run_without_it_is_told_as_ever(tmp_path):
    from safeeraser.infer.requests import Selection

    plain, drawn = (
        Options(VAL, tmp_path / "p.json", str(MODEL), selection=selection).settings
        for selection in (Selection(), Selection(by_keyword=0, samples=2))
    )
    assert drawn == plain | {"by_keyword": 0, "samples": 2} and len(drawn) == len(plain) + 2


# The documents' command, and what the scripts tell torch.


@pytest.mark.slow
def test_the_page_s_command_runs(tmp_path):
    page = (ROOT / "docs" / "inference.md").read_text()
    every = re.findall(r"^ {4}python ckpt_infer\.py (.*?[^\\])$", page, re.MULTILINE | re.DOTALL)
    (words,) = (words for words in every if "results/auto.json" in words)
    for there, here in {
        "dataset/mini/all_val.json": VAL,
        "dataset/mini/base_model": MODEL,
        "results": tmp_path,
    }.items():
        assert there in words
        words = words.replace(there, str(here))
    done = run("ckpt_infer", *shlex.split(words.replace("\\\n", " ")))
    assert done.returncode == 0 and read(tmp_path / "auto.json"), done.stderr


def test_scripts_set_the_allocator_unless_the_user_has():
    line = "source scripts/gpu.bash"
    for own, told in (
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_ALLOC_CONF": ""}, ""),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "none"),
    ):
        given = {"cwd": ROOT, "env": {"PATH": os.environ["PATH"], **own}, "text": True, "capture_output": True}
        done = subprocess.run(["bash", "-euc", f"{line}; echo ${{PYTORCH_ALLOC_CONF-none}}"], **given)
        assert (done.stdout.strip(), done.stderr, done.returncode) == (told, "", 0)
    for script in ("forget_lora", "infer", "audit", "specificity"):
        assert f"\n{line}\n" in (ROOT / "scripts" / f"{script}.bash").read_text()
