"""Specificity by lmms-eval, for which a stand-in stands: what is run, what is kept, what is said, what is written."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from helpers import MODEL, RECORDED, ROOT

from safeeraser.model import convert
from safeeraser.specificity.options import parse_only

pytestmark = pytest.mark.slow

SEVEN = ["gqa", "vizwiz_vqa_val", "scienceqa_img", "vqav2_val", "pope", "mmvet", "mmbench_en_dev"]


def test_the_mean_of_the_seven_and_what_entered_it(bench):
    bench.script["tasks"]["mmvet"]["figures"]["gpt_eval_score"] = 22.0
    code, said, _ = bench.run()
    result = bench.result
    assert code == 0 and bench.ran == SEVEN == list(result["tasks"])
    assert result["value"] == pytest.approx((6 * 0.5 + 0.22) / 7) and result["n"] == 70 and not result["withheld"]
    pope = result["tasks"]["pope"]
    assert (pope["metric"], pope["split"], pope["value"]) == ("pope_accuracy", "test", 0.5)
    assert pope["other_figures"] == {"pope_f1_score": 0.25} and pope["standard_error"] is None
    assert result["tasks"]["vqav2_val"]["split"] == "validation" and result["tasks"]["gqa"]["standard_error"] == 0.1
    assert [name for name, task in result["tasks"].items() if "judge" in task] == ["mmvet", "mmbench_en_dev"]
    assert result["tasks"]["mmvet"]["judge"] == "gpt-4o-2024-11-20"
    assert "pope (5 of 7): 50.0% of 10 (pope_accuracy, split test)" in said and "Specificity: 46.0%" in said


def test_popes_other_figure_is_taken_from_what_is_kept(bench):
    bench.run()
    code, _, _ = bench.run("--pope", "f1")
    assert code == 0 and bench.ran == [] and bench.result["tasks"]["pope"]["value"] == 0.25
    assert bench.result["tasks"]["pope"]["metric"] == "pope_f1_score"


def test_a_task_that_fails_is_named_and_run_again_while_the_others_are_kept(bench):
    good, bench.script["tasks"]["scienceqa_img"] = bench.script["tasks"]["scienceqa_img"], "the hub is down"
    code, said, _ = bench.run()
    assert code == 3 and bench.ran == SEVEN
    assert "scienceqa_img (3 of 7): failed: the hub is down;" in said and "Specificity: withheld: 6 of 7 tasks" in said
    assert bench.result["value"] is None and bench.result["missing"] == {"scienceqa_img": "the hub is down"}
    assert len(bench.result["tasks"]) == 6
    bench.script["tasks"]["scienceqa_img"] = "RetryError[<Future at 0x1 raised ConnectionError>]"
    bench.run()
    assert bench.result["missing"] == {"scienceqa_img": "ConnectionError: Couldn't reach it"}
    bench.script["tasks"]["scienceqa_img"] = good
    code, said, _ = bench.run()
    assert code == 0 and bench.ran == ["scienceqa_img"] and bench.result["value"] == 0.5
    assert "gqa (1 of 7): 50.0% of 10 (exact_match, split testdev), kept from before" in said


def test_what_is_kept_is_of_this_adapter_and_these_settings(bench):
    bench.run("--tasks", "mine")
    assert bench.ran == ["mine"]
    bench.run("--tasks", "mine")
    assert bench.ran == []
    bench.run("--tasks", "mine", "--limit", "4")
    assert bench.ran == ["mine"] and "--limit" in bench.calls[0]["argv"] and bench.result["limit"] == 4
    bench.train("other weights")
    bench.run("--tasks", "mine", "--limit", "4")
    assert bench.ran == ["mine"]
    bench.script["known"]["tasks"]["mine"]["file_sha256"] = "edited"
    bench.run("--tasks", "mine", "--limit", "4")
    assert bench.ran == ["mine"]


def test_without_a_judges_key_the_static_form_stands_in_and_mmvet_is_left_out(bench, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    code, said, _ = bench.run("--dry_run")
    assert code == 3 and bench.ran == [] and not (bench.adapter / "specificity").exists()
    assert "note: no judge key: mmbench_en_dev_static stands for mmbench_en_dev" in said
    assert "mmvet is left out, and so the mean will be withheld: needs a judge, and OPENAI_API_KEY is not set" in said
    code, _, _ = bench.run()
    assert code == 3 and bench.ran == [*SEVEN[:5], "mmbench_en_dev_static"]
    assert bench.result["value"] is None and bench.result["withheld"] == "6 of 7 tasks; missing: mmvet"
    assert bench.result["replaced"] == {"mmbench_en_dev": "mmbench_en_dev_static"}
    code, _, said = bench.run("--tasks", "mmvet")
    assert code == 2 and "nothing to run: mmvet: needs a judge" in said


def test_lite_takes_the_smaller_forms_that_there_are(bench, monkeypatch):
    bench.run("--lite")
    lite = [
        "gqa_lite",
        "vizwiz_vqa_val_lite",
        "scienceqa_img",
        "vqav2_val_lite",
        "pope",
        "mmvet",
        "mmbench_en_dev_lite",
    ]
    assert bench.ran == lite and bench.result["value"] == 0.5
    monkeypatch.delenv("OPENAI_API_KEY")
    bench.run("--lite")
    assert bench.result["replaced"] == {"mmbench_en_dev_lite": "mmbench_en_dev_static"}


def test_without_a_hub_token_nothing_is_begun_unless_no_task_wants_one(bench, monkeypatch):
    bench.script["known"]["token"] = False
    code, said, error = bench.run()
    assert code == 2 and bench.ran == [] and said == "" and error.count("\n") == 1
    assert "no hub token: lmms-eval loads gqa, scienceqa_img" in error and "vizwiz" not in error
    assert bench.run("--tasks", "vizwiz_vqa_val")[0] == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert bench.run("--tasks", "gqa")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tasks", "gqq"], "--tasks gqq: lmms-eval 0.7.3 has no such task; did you mean 'gqa'?"),
        (["--tasks", "mmbench"], "--tasks mmbench: is a group of tasks"),
        (["--num_processes", "2"], "--num_processes 2: 0 GPUs are visible"),
        (["--include_path", "nowhere"], "--include_path nowhere: no such folder"),
        (["--output_folder", "a,b"], "takes no path with a comma"),
        (["--pope", "f2"], "unknown figure of POPE 'f2'; did you mean 'f1'?"),
        (["--checkpoint_path", "nowhere"], "nowhere: no adapter there"),
    ],
)
def test_what_makes_no_sense_is_one_line_and_nothing_is_run(bench, arguments, says):
    code, _, error = bench.run(*arguments)
    assert code == 2 and says in error and error.count("\n") == 1 and bench.ran == []
    assert not (bench.adapter / "specificity").exists()


def test_a_python_without_the_harness_is_named(bench, monkeypatch):
    for python, reason in ((sys.executable, "no usable lmms-eval there"), ("/nowhere/python", "cannot be run")):
        monkeypatch.setenv("LMMS_PYTHON", python)
        code, _, error = bench.run()
        assert code == 2 and f"LMMS_PYTHON={python}: {reason}" in error


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
    code, _, _ = bench.run("--tasks", task)
    assert code == 3 and bench.result["missing"] == {task: reason}
    script["log"] = script["log"][: 2 * times // 3]  # one in a hundred is borne
    code, _, _ = bench.run("--tasks", task)
    assert code == 0 and bench.result["tasks"][task]["failed"] == 2 and bench.result["failed"] == 2


def test_a_figure_that_is_no_share_is_refused(bench):
    bench.script["tasks"]["mine"]["figures"]["exact_match"] = 62.0
    code, _, _ = bench.run("--tasks", "mine")
    assert code == 3 and "exact_match is 62, which is no share" in bench.result["missing"]["mine"]


def test_how_the_harness_is_called(bench):
    bench.run("--tasks", "gqa")
    argv = " ".join(bench.calls[0]["argv"])
    merged = bench.adapter / "merged"
    assert argv.startswith(f"-m lmms_eval --model llava_hf --model_args pretrained={merged},dtype=float32,device=cpu,")
    bench.script["known"]["gpus"] = 1
    bench.run("--tasks", "gqa")
    assert f"pretrained={merged},dtype=auto,device=cuda,device_map=cuda " in " ".join(bench.calls[0]["argv"])
    bench.script["known"]["gpus"] = 4
    bench.run("--tasks", "gqa", "--num_processes", "3", "--dtype", "bfloat16", "--log_samples")
    argv = " ".join(bench.calls[0]["argv"])
    assert argv.startswith("-m accelerate.commands.launch --multi_gpu --num_processes 3 ")
    assert f" -m lmms_eval --model llava_hf --model_args pretrained={merged},dtype=bfloat16 --tasks gqa" in argv
    assert argv.endswith(f"--include_path {ROOT / 'config' / 'lmms_tasks'} --log_samples")


def test_other_families_are_asked_as_the_harness_takes_them(bench, tmp_path):
    """Qwen3-VL's class there ends with an error where it is told a dtype; it has bfloat16 in any case."""
    (bench.base / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (bench.base / "chat_template.jinja").write_text("its own")
    arguments = ["--model_path", bench.base, "--output_folder", tmp_path / "vanilla", "--tasks", "mine"]
    assert bench.run(*arguments, adapter=False)[0] == 0
    argv = " ".join(bench.calls[0]["argv"])
    assert f"--model qwen3_vl --model_args pretrained={bench.base},device=cpu,device_map=cpu --tasks" in argv
    assert json.loads((tmp_path / "vanilla" / "specificity.json").read_text())["settings"]["dtype"] == "bfloat16"
    code, _, error = bench.run(*arguments, "--dtype", "float32", adapter=False)
    assert code == 2 and "--dtype float32: lmms-eval's qwen3_vl loads every model in bfloat16" in error


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("smolvlm", "lmms-eval has no model for the family smolvlm (it has for gemma-3, internvl3, llava-1.5, "),
        ("mpt", "a 'mpt' model, for which config/model_family has no page"),
        (None, "no model in this folder, and none of that name from the hub"),
    ],
)
def test_a_model_that_the_harness_cannot_load_is_refused_before_anything_is_set_up(bench, monkeypatch, kind, says):
    """Also for an adapter that names such a base; scripts/specificity.bash asks this before it fetches 7 GB."""
    (bench.base / "config.json").unlink()
    if kind:
        (bench.base / "config.json").write_text(json.dumps({"model_type": kind}))
    code, _, error = bench.run("--model_path", bench.base)
    assert code == 2 and says in error and error.count("\n") == 1 and bench.ran == []
    (bench.adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(bench.base)}))
    assert bench.run()[2] == error
    monkeypatch.setattr(sys, "argv", ["safeeraser.specificity", "--checkpoint_path", str(bench.adapter)])
    with pytest.raises(SystemExit, match="2"):
        parse_only()


def test_a_token_goes_by_the_name_that_is_not_logged_and_the_judges_address_as_each_task_reads_it(bench, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_URL", "http://judge/v1")
    bench.run()
    assert {call["environment"]["HF_TOKEN"] for call in bench.calls} == {None}
    assert {call["environment"]["HUGGING_FACE_HUB_TOKEN"] for call in bench.calls} == {"secret"}
    addresses = dict(zip(bench.ran, (call["environment"]["OPENAI_API_URL"] for call in bench.calls), strict=True))
    assert addresses["mmvet"] == "http://judge/v1"
    assert addresses["mmbench_en_dev"] == "http://judge/v1/chat/completions"


def test_a_folder_of_another_kind_is_not_taken_for_the_merged_model_nor_thrown_away(bench):
    (bench.adapter / "merged" / "run.json").write_text("{}")
    code, _, error = bench.run("--tasks", "mine")
    assert code == 2 and "merged: exists and is no merged model" in error and bench.ran == []
    assert (bench.adapter / "merged" / "run.json").exists()


def test_the_untouched_model_is_asked_as_it_lies_if_it_has_the_template(bench, tmp_path):
    arguments = ["--model_path", bench.base, "--output_folder", tmp_path / "vanilla", "--tasks", "mine"]
    assert bench.run(*arguments, adapter=False)[0] == 0
    assert f"pretrained={bench.base}," in " ".join(bench.calls[0]["argv"])
    assert (tmp_path / "vanilla" / "specificity.json").exists() and not (tmp_path / "vanilla" / "merged").exists()
    code, _, error = bench.run(*arguments[:2], adapter=False)
    assert code == 2 and "--output_folder: say where the results go" in error
    assert bench.run(adapter=False)[0] == 2


def test_an_adapter_is_merged_once_and_again_when_it_has_changed(bench):
    arguments = ["--checkpoint_path", RECORDED / "inference" / "checkpoint.pt", "--model_path", MODEL]
    arguments += ["--output_folder", bench.adapter, "--tasks", "mine"]
    assert bench.run(*arguments, adapter=False)[0] == 0  # over one of another adapter
    weights = bench.adapter / "merged" / "model.safetensors"
    made = weights.stat().st_mtime_ns
    (bench.adapter / "specificity" / "mine" / "score.json").unlink()
    assert bench.run(*arguments, adapter=False)[0] == 0 and weights.stat().st_mtime_ns == made
    assert bench.run(*arguments, "--remove_merged", adapter=False)[0] == 0 and not weights.exists()
    disk = bench.folder / "disk"
    disk.mkdir()
    (disk / "run.json").write_text('{"merged": {"adapter_sha256": "of another"}}')
    (bench.adapter / "merged").symlink_to(disk)  # on a larger disk, say
    (bench.adapter / "specificity" / "mine" / "score.json").unlink()
    assert bench.run(*arguments, adapter=False)[0] == 0
    assert (bench.adapter / "merged").is_symlink() and (disk / "model.safetensors").exists()
    assert bench.run(*arguments, "--remove_merged", adapter=False)[0] == 0 and not disk.exists()
    (bench.adapter / "merged").unlink()
    arguments[1] = MODEL / "config.json"
    code, _, error = bench.run(*arguments, adapter=False)
    assert code == 2 and "not a readable adapter" in error and not (bench.adapter / "merged").exists()


def test_an_adapter_of_another_base_is_merged_where_that_is_meant_alone(bench, tmp_path):
    shutil.rmtree(bench.adapter)
    convert(RECORDED / "inference" / "checkpoint.pt", bench.adapter)
    (bench.adapter / "run.json").write_text(json.dumps({"base": {"model_path": "elsewhere", "weights": "0" * 64}}))
    code, _, error = bench.run("--model_path", MODEL, "--tasks", "mine")
    assert code == 2 and f"{bench.adapter}: was trained on elsewhere (weights 000000000000), not on {MODEL}" in error
    assert "--allow_other_base takes it" in error and not (bench.adapter / "merged").exists()
    assert bench.run("--model_path", MODEL, "--tasks", "mine", "--allow_other_base")[0] == 0
    assert (bench.adapter / "merged" / "model.safetensors").exists()


def test_what_is_no_merged_model_of_ours_is_not_removed(bench):
    bench.run("--tasks", "mine")
    (bench.adapter / "merged" / "run.json").write_text("{}")  # another folder has come into its place
    assert bench.run("--tasks", "mine", "--remove_merged")[0] == 0 and (bench.adapter / "merged").is_dir()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_is_gone_on_with(bench, how):
    slow, bench.script["tasks"]["pope"] = bench.script["tasks"]["pope"], "hangs"
    (bench.folder / "script.json").write_text(json.dumps(bench.script))
    call = [sys.executable, "-m", "safeeraser.specificity", "--checkpoint_path", str(bench.adapter)]
    process = subprocess.Popen([*call, "--tasks", "gqa,pope"], cwd=ROOT, stdout=subprocess.DEVNULL)
    noted = bench.folder / "pid"
    deadline = time.monotonic() + 60
    while not (noted.exists() and noted.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(noted.read_text())
    process.send_signal(how)
    process.wait(30)
    if how == signal.SIGTERM:  # it takes the harness along
        assert process.returncode == 143
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    else:  # the harness lives on, and a second one does not join it
        code, _, error = bench.run("--tasks", "gqa,pope")
        assert code == 2 and "another run is at work there" in error and bench.ran == []
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    bench.script["tasks"]["pope"] = slow
    assert bench.run("--tasks", "gqa,pope")[0] == 0 and bench.ran == ["pope"] and bench.result["value"] == 0.5


@pytest.fixture
def checkout(bench, monkeypatch):
    """Calls the script in a checkout where nothing is set up, by a Python that installs nothing and notes its calls."""
    folder = bench.folder / "checkout"
    folder.mkdir()
    for name in ("safeeraser", "scripts", "config", "requirements.txt", "setup.py"):
        (folder / name).symlink_to(ROOT / name)
    stand_in = bench.folder / "bin" / "python"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/bash\necho "$*" >> {bench.folder}/words\n'
        f'case "$*" in "-m venv"* | "-m pip"*) exit 9 ;; esac\nexec {sys.executable} "$@"\n'
    )
    stand_in.chmod(0o755)
    for version in ("3", "3.10", "3.11", "3.12", "3.13"):
        stand_in.with_name(f"python{version}").symlink_to(stand_in)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/bin:/bin")
    for name in ("LMMS_PYTHON", "PYTHON", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)

    def run(*words):
        call = ["bash", folder / "scripts" / "specificity.bash", *words]
        done = subprocess.run(call, capture_output=True, text=True)
        calls = (bench.folder / "words").read_text()
        return done, [word for word in ("venv", "pip") if f"-m {word} " in calls]

    return run


def test_a_dry_run_installs_nothing_and_says_what_is_not_there(checkout, bench):
    done, installed = checkout("--checkpoint_path", bench.adapter, "--dry_run", "--tasks", "gqa,pope")
    assert (done.returncode, installed, done.stderr) == (0, [], "")
    assert "lmms-eval is not there yet: bash scripts/specificity.bash would first make .venv-lmms" in done.stdout
    assert done.stdout.endswith("it would then be asked for: gqa, pope\n")
    assert not list((bench.folder / "checkout").glob(".venv*"))
    done, installed = checkout("--dry_run", "--checkpoint_path", bench.folder / "nowhere")
    assert (done.returncode, installed) == (2, []) and "no adapter there" in done.stderr
    done, installed = checkout("--help")
    assert (done.returncode, installed) == (0, []) and "--dry_run" in done.stdout
    done, installed = checkout("--checkpoint_path", bench.adapter)
    assert (done.returncode, installed) == (9, ["venv"])


def test_a_dry_run_asks_the_harness_that_is_there(checkout, bench, monkeypatch):
    (bench.folder / "script.json").write_text(json.dumps(bench.script))
    monkeypatch.setenv("LMMS_PYTHON", str(bench.folder / "python"))
    done, installed = checkout("--checkpoint_path", bench.adapter, "--dry_run")
    assert (done.returncode, installed) == (0, []) and done.stdout.startswith("lmms-eval 0.7.3 on the CPU: gqa")
