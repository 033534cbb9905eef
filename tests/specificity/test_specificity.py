"""Specificity by lmms-eval, for which a stand-in stands: what it is asked, what its output means, resume, refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import MODEL, RECORDED, ROOT, write_json

from safeeraser.model import convert
from safeeraser.specificity.options import parse_only

SEVEN = ["gqa", "vizwiz_vqa_val", "scienceqa_img", "vqav2_val", "pope", "mmvet", "mmbench_en_dev"]
CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"


def test_the_mean_of_the_seven_and_what_entered_it(bench):
    bench.script["tasks"]["mmvet"]["figures"]["gpt_eval_score"] = 22.0
    done = bench.run()
    result, half = done.result, {"value": 0.5, "n": 10, "failed": 0}
    exact = half | {"metric": "exact_match", "standard_error": 0.1}
    judged = half | {"metric": "gpt_eval_score", "standard_error": 0.04, "judge": "gpt-4o-2024-11-20"}
    pope = half | {"metric": "pope_accuracy", "standard_error": None, "other_figures": {"pope_f1_score": 0.25}}
    assert done.code == 0 and done.ran == SEVEN == list(result["tasks"])
    assert result.pop("tasks") == {
        "gqa": exact | {"split": "testdev"},
        "vizwiz_vqa_val": exact | {"split": "val"},
        "scienceqa_img": exact | {"split": "test"},
        "vqav2_val": exact | {"split": "validation"},
        "pope": pope | {"split": "test"},
        "mmvet": judged | {"split": "test", "value": 0.22},
        "mmbench_en_dev": judged | {"split": "dev"},
    }
    settings = result.pop("settings")
    assert result.pop("checkpoint") == settings.pop("adapter_sha256") and settings.pop("versions")
    assert settings == {"model_path": None, "dtype": "float32", "limit": None, "gpus": 0, "pope": "accuracy"}
    assert result.pop("value") == pytest.approx((6 * 0.5 + 0.22) / 7)
    empty = {"limit": None, "missing": {}, "replaced": {}, "withheld": "", "failed": 0}
    assert result == empty | {"n": 70, "task": "mean of 7 tasks by lmms-eval 0.7.3"}
    assert "pope (5 of 7): 50.0% of 10 (pope_accuracy, split test)" in done.out and "Specificity: 46.0%" in done.out
    again = bench.run("--pope", "f1")  # taken from what is kept
    assert (again.ran, again.result["tasks"]["pope"]["value"]) == ([], 0.25)
    assert again.result["tasks"]["pope"]["metric"] == "pope_f1_score"


def test_a_task_that_fails_withholds_the_mean_and_is_run_again_alone(bench):
    good, bench.script["tasks"]["pope"] = bench.script["tasks"]["pope"], "the hub is down"
    done = bench.run("--tasks", "gqa,pope,mine")
    assert done.code == 3 and done.ran == ["gqa", "pope", "mine"] and len(done.result["tasks"]) == 2
    assert "pope (2 of 3): failed: the hub is down;" in done.out and "withheld: 2 of 3 tasks; missing: pope" in done.out
    assert done.result["value"] is None and done.result["missing"] == {"pope": "the hub is down"}
    bench.script["tasks"]["pope"] = "RetryError[<Future at 0x1 raised ConnectionError>]"
    assert bench.run("--tasks", "gqa,pope,mine").result["missing"] == {"pope": "ConnectionError: Couldn't reach it"}
    bench.script["tasks"]["pope"] = good
    done = bench.run("--tasks", "gqa,pope,mine")
    assert done.code == 0 and done.ran == ["pope"] and done.result["value"] == 0.5
    assert "gqa (1 of 3): 50.0% of 10 (exact_match, split testdev), kept from before" in done.out


def test_what_is_kept_is_of_this_adapter_and_these_settings(bench):
    assert [bench.run("--tasks", "mine").ran for _ in range(2)] == [["mine"], []]
    done = bench.run("--tasks", "mine", "--limit", "4")
    assert done.ran == ["mine"] and " --limit 4" in done.argv[0] and done.result["limit"] == 4
    assert done.result["value"] is None and done.result["withheld"] == "the first 4 items of each task alone"
    bench.train("other weights")
    assert bench.run("--tasks", "mine", "--limit", "4").ran == ["mine"]
    bench.script["known"]["tasks"]["mine"]["file_sha256"] = "edited"
    assert bench.run("--tasks", "mine", "--limit", "4").ran == ["mine"]
    assert bench.run("--tasks", "mine", "--limit", "4", "--log_samples").ran == ["mine"]


def test_without_a_judges_key_the_static_form_stands_in_and_mmvet_is_left_out(bench, monkeypatch):
    assert bench.run("--lite").ran == [
        *("gqa_lite", "vizwiz_vqa_val_lite", "scienceqa_img", "vqav2_val_lite", "pope", "mmvet", "mmbench_en_dev_lite")
    ]
    shutil.rmtree(bench.adapter / "specificity")
    monkeypatch.delenv("OPENAI_API_KEY")
    done = bench.run("--dry_run")
    assert done.code == 3 and done.ran == [] and not (bench.adapter / "specificity").exists()
    assert "note: no judge key: mmbench_en_dev_static stands for mmbench_en_dev" in done.out
    assert (
        "mmvet is left out, and so the mean will be withheld: needs a judge, and OPENAI_API_KEY is not set" in done.out
    )
    done = bench.run()
    assert done.code == 3 and done.ran == [*SEVEN[:5], "mmbench_en_dev_static"] and done.result["value"] is None
    assert done.result["replaced"] == {"mmbench_en_dev": "mmbench_en_dev_static"}
    assert "judge" not in done.result["tasks"]["mmbench_en_dev_static"]
    monkeypatch.setenv("API_TYPE", "azure")
    monkeypatch.setenv("AZURE_API_KEY", "key")
    monkeypatch.setenv("MODEL_VERSION", "mine-4o")
    assert bench.run("--tasks", "mmvet").result["tasks"]["mmvet"]["judge"] == "mine-4o"


def test_without_a_hub_token_nothing_is_begun_unless_no_task_wants_one(bench, monkeypatch):
    bench.script["known"]["token"] = False
    done = bench.run()
    assert done.code == 2 and done.ran == [] and done.out == "" and done.err.count("\n") == 1
    assert "no hub token: lmms-eval loads gqa, scienceqa_img" in done.err and "vizwiz" not in done.err
    assert bench.run("--tasks", "vizwiz_vqa_val").code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert bench.run("--tasks", "gqa").code == 0


@pytest.mark.parametrize(
    ("task", "line", "times", "reason"),
    [
        ("gqa", "Error CUDA out of memory in generating", 3, "of 200 3 answers could not be generated"),
        ("mmvet", "v1_3 failed to get a score.", 3, "of 200 3 items were not judged"),
        ("mmbench_en_dev", "GPT API failed to answer. ", 9, "of 200 3 items were not judged, lots were drawn"),
    ],
)
def test_what_the_harness_passes_over_in_silence_is_counted(bench, task, line, times, reason):
    script = bench.script["tasks"][task]
    script |= {"n": 200, "log": [f"2026-01-01 | INFO | x - {line}"] * times}
    done = bench.run("--tasks", task)
    assert done.code == 3 and done.result["missing"] == {task: reason}
    script["log"] = script["log"][: 2 * times // 3]  # one in a hundred is borne
    done = bench.run("--tasks", task)
    assert done.code == 0 and done.result["tasks"][task]["failed"] == done.result["failed"] == 2


def test_a_figure_that_is_no_share_and_one_that_is_not_there_are_no_result(bench):
    bench.script["tasks"] |= {
        "mine": {"figures": {"exact_match": 62.0}, "n": 4},
        "gqa": {"figures": {"other": 1}, "n": 4},
    }
    missing = bench.run("--tasks", "mine,gqa").result["missing"]
    assert "exact_match is 62, which is no share" in missing["mine"] and missing["gqa"].endswith("gave no exact_match")


def test_how_the_harness_is_called(bench, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_URL", "http://judge/v1/")
    tail = f"--include_path {ROOT / 'config' / 'lmms_tasks'}"
    at, merged = f"--batch_size 1 --output_path {bench.adapter}/specificity", bench.adapter / "merged"
    model = f"-m lmms_eval --model llava_hf --model_args pretrained={merged},dtype"
    done = bench.run("--tasks", "gqa")
    assert done.argv == [f"{model}=float32,device=cpu,device_map=cpu --tasks gqa {at}/gqa {tail}"]
    bench.script["known"]["gpus"] = 1
    assert f"{model}=auto,device=cuda,device_map=cuda --tasks" in bench.run("--tasks", "gqa").argv[0]
    bench.script["known"]["gpus"] = 4
    done = bench.run(
        "--tasks", "gqa,mmvet,mmbench_en_dev", "--num_processes", "3", "--dtype", "bfloat16", "--log_samples"
    )
    start = "-m accelerate.commands.launch --multi_gpu --num_processes 3 --num_machines 1 "
    assert done.argv[0].startswith(start) and f" {model}=bfloat16 --tasks gqa " in done.argv[0]
    assert done.argv[0].endswith(f"{tail} --log_samples") and done.out.startswith(
        "lmms-eval 0.7.3 on 3 GPUs: gqa, mmvet"
    )
    # The token goes by the name that is not logged, the judge's address as each task reads it.
    told = [call["environment"] for call in done.calls]
    assert {(each["HF_TOKEN"], each["HUGGING_FACE_HUB_TOKEN"]) for each in told} == {(None, "secret")}
    assert [each["OPENAI_API_URL"] for each in told[1:]] == ["http://judge/v1", "http://judge/v1/chat/completions"]


def test_the_untouched_model_and_other_families_are_asked_as_they_lie(bench, tmp_path):
    """Qwen3-VL's class there ends with an error where it is told a dtype; it has bfloat16 in any case."""
    words = ["--model_path", bench.base, "--output_folder", tmp_path / "vanilla", "--tasks", "mine"]
    done = bench.run(*words, adapter=False)
    assert done.code == 0 and f"--model llava_hf --model_args pretrained={bench.base},dtype=float32," in done.argv[0]
    assert not (tmp_path / "vanilla" / "merged").exists()
    write_json(bench.base / "config.json", {"model_type": "qwen3_vl"})
    (bench.base / "chat_template.jinja").write_text("its own")
    done = bench.run(*words, adapter=False)
    assert f"--model qwen3_vl --model_args pretrained={bench.base},device=cpu,device_map=cpu --tasks" in done.argv[0]
    assert json.loads((tmp_path / "vanilla" / "specificity.json").read_text())["settings"]["dtype"] == "bfloat16"
    done = bench.run(*words, "--dtype", "float32", adapter=False)
    assert done.code == 2 and "--dtype float32: lmms-eval's qwen3_vl loads every model in bfloat16" in done.err


REFUSED = [
    (["--tasks", "gqq"], {}, "--tasks gqq: lmms-eval 0.7.3 has no such task; did you mean 'gqa'?"),
    (["--tasks", "mmbench"], {}, "--tasks mmbench: is a group of tasks"),
    (["--tasks", "mmvet"], {"OPENAI_API_KEY": ""}, "nothing to run: mmvet: needs a judge"),
    (["--num_processes", "2"], {}, "--num_processes 2: 0 GPUs are visible"),
    (["--include_path", "nowhere"], {}, "--include_path nowhere: no such folder"),
    (["--output_folder", "a,b"], {}, "takes no path with a comma"),
    (["--pope", "f2"], {}, "unknown figure of POPE 'f2'; did you mean 'f1'?"),
    (["--checkpoint_path", "nowhere"], {}, "nowhere: no adapter there"),
    (["--checkpoint_path", CHECKPOINT], {}, "--output_folder: say where the results go"),
    (
        ["--model_path", "{smolvlm}"],
        {},
        "lmms-eval has no model for the family smolvlm (it has for gemma-3, internvl3, ",
    ),
    (["--model_path", "{mpt}"], {}, "a 'mpt' model, for which config/model_family has no page"),
    (["--model_path", "nowhere"], {}, "no model in this folder, and none of that name from the hub"),
    ([], {"LMMS_PYTHON": "/bin/true"}, "no usable lmms-eval there (it said nothing)"),
    ([], {"LMMS_PYTHON": "/nowhere/python"}, "LMMS_PYTHON=/nowhere/python: cannot be run"),
]


@pytest.mark.parametrize(("arguments", "variables", "says"), REFUSED, ids=str)
def test_what_makes_no_sense_is_one_line_and_nothing_is_run(bench, monkeypatch, arguments, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for kind in ("smolvlm", "mpt"):
        write_json(bench.folder / kind / "config.json", {"model_type": kind})
    words = [bench.folder / word[1:-1] if str(word)[:1] == "{" else word for word in arguments]
    done = bench.run(*words)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1 and done.ran == []
    assert not (bench.adapter / "specificity").exists()
    if "--model_path" in arguments:  # also for an adapter that names such a base, before 7 GB are fetched
        write_json(bench.adapter / "adapter_config.json", {"base_model_name_or_path": str(words[1])})
        assert bench.run().err == done.err
        monkeypatch.setattr(sys, "argv", ["safeeraser.specificity", "--checkpoint_path", str(bench.adapter)])
        with pytest.raises(SystemExit, match="2"):
            parse_only()


def test_a_folder_of_another_kind_is_neither_asked_nor_thrown_away(bench):
    assert bench.run("--tasks", "mine", "--remove_merged").code == 0 and not (bench.adapter / "merged").exists()
    bench.train("weights")
    (bench.adapter / "merged" / "run.json").write_text("{}")
    assert bench.run("--tasks", "mine", "--remove_merged").code == 0 and (bench.adapter / "merged").is_dir()
    done = bench.run("--tasks", "gqa")
    assert done.code == 2 and "merged: exists and is no merged model" in done.err and done.ran == []
    assert (bench.adapter / "merged" / "run.json").exists() and bench.run(adapter=False).code == 2


@pytest.mark.slow
def test_an_adapter_is_merged_once_and_again_when_it_has_changed(bench):
    words = [
        "--checkpoint_path",
        CHECKPOINT,
        "--model_path",
        MODEL,
        "--output_folder",
        bench.adapter,
        "--tasks",
        "mine",
    ]
    assert bench.run(*words, adapter=False).code == 0  # over one of another adapter
    weights = bench.adapter / "merged" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    (bench.adapter / "specificity" / "mine" / "score.json").unlink()
    assert bench.run(*words, adapter=False).code == 0 and weights.stat().st_mtime_ns == made
    assert bench.run(*words, "--remove_merged", adapter=False).code == 0 and not weights.exists()
    disk = bench.folder / "disk"
    write_json(disk / "run.json", {"merged": {"adapter_sha256": "of another"}})
    (bench.adapter / "merged").symlink_to(disk)  # on a larger disk, say
    (bench.adapter / "specificity" / "mine" / "score.json").unlink()
    assert bench.run(*words, adapter=False).code == 0
    assert (bench.adapter / "merged").is_symlink() and (disk / "model.safetensors").exists()
    assert bench.run(*words, "--remove_merged", adapter=False).code == 0 and not disk.exists()
    (bench.adapter / "merged").unlink()
    words[1] = MODEL / "config.json"
    done = bench.run(*words, adapter=False)
    assert done.code == 2 and "not a readable adapter" in done.err and not (bench.adapter / "merged").exists()


@pytest.mark.slow
def test_an_adapter_of_another_base_is_merged_where_that_is_meant_alone(bench):
    shutil.rmtree(bench.adapter)
    convert(CHECKPOINT, bench.adapter)
    write_json(bench.adapter / "run.json", {"base": {"model_path": "elsewhere", "weights": "0" * 64}})
    done = bench.run("--model_path", MODEL, "--tasks", "mine")
    assert done.code == 2 and f"was trained on elsewhere (weights 000000000000), not on {MODEL}" in done.err
    assert "--allow_other_base takes it" in done.err and not (bench.adapter / "merged").exists()
    assert bench.run("--model_path", MODEL, "--tasks", "mine", "--allow_other_base").code == 0
    assert (bench.adapter / "merged" / "model.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_killed_resumes(bench, how):
    slow, bench.script["tasks"]["pope"] = bench.script["tasks"]["pope"], "hangs"
    bench.write()
    call = [sys.executable, "-m", "safeeraser.specificity", "--checkpoint_path", str(bench.adapter)]
    process = subprocess.Popen([*call, "--tasks", "gqa,pope"], cwd=ROOT, stdout=subprocess.DEVNULL)
    noted, deadline = bench.folder / "pid", time.monotonic() + 300
    while not (noted.exists() and noted.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(noted.read_text())
    process.send_signal(how)
    process.wait(60)
    if how == signal.SIGTERM:  # it takes the harness along
        assert process.returncode == 143
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    else:  # the harness lives on, and a second one does not join it
        done = bench.run("--tasks", "gqa,pope")
        assert done.code == 2 and "another run is at work there" in done.err and done.ran == []
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    bench.script["tasks"]["pope"] = slow
    done = bench.run("--tasks", "gqa,pope")
    assert done.code == 0 and done.ran == ["pope"] and done.result["value"] == 0.5


@pytest.mark.slow
def test_a_dry_run_of_the_script_installs_nothing_and_says_what_is_not_there(bench, monkeypatch):
    """In a checkout where nothing is set up, by a Python that installs nothing and notes its calls."""
    folder, stand_in = bench.folder / "checkout", bench.folder / "bin" / "python"
    for made in (folder, stand_in.parent):
        made.mkdir()
    for name in ("safeeraser", "scripts", "config", "requirements.txt", "setup.py"):
        (folder / name).symlink_to(ROOT / name)
    refuses = 'case "$*" in "-m venv"* | "-m pip"*) exit 9 ;; esac'
    stand_in.write_text(f'#!/bin/bash\necho "$*" >> {bench.folder}/words\n{refuses}\nexec {sys.executable} "$@"\n')
    stand_in.chmod(0o755)
    for version in ("3", "3.10", "3.11", "3.12", "3.13"):
        stand_in.with_name(f"python{version}").symlink_to(stand_in)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
    for name in ("LMMS_PYTHON", "PYTHON", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)

    def script(*words):
        call = ["bash", folder / "scripts" / "specificity.bash", *words]
        done = subprocess.run(call, capture_output=True, text=True)
        calls = (bench.folder / "words").read_text()
        return done.returncode, done.stdout + done.stderr, [word for word in ("venv", "pip") if f"-m {word} " in calls]

    code, said, installed = script("--checkpoint_path", bench.adapter, "--dry_run", "--tasks", "gqa,pope")
    assert (code, installed) == (0, []) and not list(folder.glob(".venv*"))
    assert "lmms-eval is not there yet: bash scripts/specificity.bash would first make .venv-lmms" in said
    assert said.endswith("it would then be asked for: gqa, pope\n")
    code, said, installed = script("--dry_run", "--checkpoint_path", bench.folder / "nowhere")
    assert (code, installed) == (2, []) and "no adapter there" in said
    bench.write()
    monkeypatch.setenv("LMMS_PYTHON", str(bench.python))
    code, said, installed = script("--checkpoint_path", bench.adapter, "--dry_run")
    assert (code, installed) == (0, []) and said.startswith("lmms-eval 0.7.3 on the CPU: gqa")
    monkeypatch.delenv("LMMS_PYTHON")
    code, _, installed = script("--checkpoint_path", bench.adapter)
    assert (code, installed) == (9, ["venv"])
