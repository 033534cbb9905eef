"""Specificity with a stand-in for lmms-eval: how it is called, what its output means, resuming, and refusals."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import CHECKPOINT, MODEL, ROOT, read_beside, until, write_json

from safeeraser.model.stored import convert
from safeeraser.specificity.harness import WORKER
from safeeraser.specificity.options import parse_only

SEVEN = ["gqa", "vizwiz_vqa_val", "scienceqa_img", "vqav2_val", "pope", "mmvet", "mmbench_en_dev"]
REFUSED = read_beside(__file__, "refused.yaml")


def test_the_mean_of_the_seven_and_what_entered_it(bench):
    bench.script["tasks"]["mmvet"]["figures"]["gpt_eval_score"] = 22.0
    done = bench.run()
    result = done.result
    settings = result["settings"]
    assert result.pop("checkpoint") == settings.pop("adapter_sha256") and settings.pop("versions")
    assert done.code == 0 and done.ran == SEVEN == list(result["tasks"])
    assert result.pop("value") == pytest.approx((6 * 0.5 + 0.22) / 7)
    assert result == read_beside(__file__, "mean.yaml")
    assert "pope (5 of 7): 50.0% of 10 (pope_accuracy, split test)" in done.out and "Specificity: 46.0%" in done.out
    again = bench.run("--pope", "f1")  # taken from the stored scores
    assert (again.ran, again.result["tasks"]["pope"]["value"]) == ([], 0.25)
    assert again.result["tasks"]["pope"]["metric"] == "pope_f1_score"


def test_a_task_that_fails_withholds_the_mean_and_is_run_again_alone(bench):
    good, bench.script["tasks"]["pope"] = bench.script["tasks"]["pope"], "the hub is down"
    done = bench.run("--tasks", "gqa,pope,mini_vqa")
    assert done.code == 3 and done.ran == ["gqa", "pope", "mini_vqa"] and len(done.result["tasks"]) == 2
    assert "withheld: 2 of 3 tasks; missing: pope" in done.out and done.result["value"] is None
    assert done.result["missing"] == {"pope": "OSError: the hub is down"}
    bench.script["tasks"]["pope"] = "retried"
    assert bench.run("--tasks", "gqa,pope,mini_vqa").result["missing"] == {"pope": "ConnectionError: Couldn't reach it"}
    bench.script["tasks"]["pope"] = good
    done = bench.run("--tasks", "gqa,pope,mini_vqa")
    assert done.code == 0 and done.ran == ["pope"] and done.result["value"] == 0.5


def test_a_task_that_is_not_known_here_enters_as_is_said(bench):
    """Its first figure may be an attack's success rate, which the mean must not count as right answers."""
    for word, value in (("holisafe:attack_success_rate:lower", 0.1), ("holisafe:accuracy:higher", 0.3)):
        assert bench.run("--tasks", word).result["value"] == pytest.approx(value)


def test_what_is_kept_is_of_this_adapter_and_these_settings(bench):
    assert [bench.run("--tasks", "mini_vqa").ran for _ in range(2)] == [["mini_vqa"], []]
    done = bench.run("--tasks", "mini_vqa", "--limit", "4")
    assert done.ran == ["mini_vqa"] and " --limit 4" in done.argv[0] and done.result["limit"] == 4
    assert done.result["value"] is None and done.result["withheld"] == "the first 4 items of each task alone"
    bench.train("other weights")
    assert bench.run("--tasks", "mini_vqa", "--limit", "4").ran == ["mini_vqa"]
    bench.script["known"]["tasks"]["mini_vqa"]["file_sha256"] = "edited"
    assert bench.run("--tasks", "mini_vqa", "--limit", "4").ran == ["mini_vqa"]
    assert bench.run("--tasks", "mini_vqa", "--limit", "4", "--log_samples").ran == ["mini_vqa"]


def test_what_is_run_without_a_judges_key_or_a_hub_token(bench, monkeypatch):
    bench.script["known"]["token"] = False  # nothing starts without a token, unless no task requires one
    done = bench.run()
    assert done.code == 2 and done.ran == [] and done.out == "" and done.err.count("\n") == 1
    assert "no hub token: lmms-eval loads gqa, scienceqa_img" in done.err and "vizwiz" not in done.err
    assert bench.run("--tasks", "vizwiz_vqa_val").code == 0
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert bench.run("--tasks", "gqa").code == 0
    lite = {"gqa", "vizwiz_vqa_val", "vqav2_val", "mmbench_en_dev"}
    assert bench.run("--lite").ran == [name + "_lite" * (name in lite) for name in SEVEN]
    shutil.rmtree(bench.adapter / "specificity")
    monkeypatch.delenv("OPENAI_API_KEY")
    done = bench.run("--dry_run")
    assert done.code == 3 and done.ran == [] and not (bench.adapter / "specificity").exists()
    assert "mmvet is left out, and so the mean will be withheld: needs a judge" in done.out
    done = bench.run()
    assert done.code == 3 and done.ran == [*SEVEN[:5], "mmbench_en_dev_static"] and done.result["value"] is None
    assert done.result["replaced"] == {"mmbench_en_dev": "mmbench_en_dev_static"}
    assert "judge" not in done.result["tasks"]["mmbench_en_dev_static"]
    for name, value in (("API_TYPE", "azure"), ("AZURE_API_KEY", "key"), ("MODEL_VERSION", "mine-4o")):
        monkeypatch.setenv(name, value)
    assert bench.run("--tasks", "mmvet").result["tasks"]["mmvet"]["judge"] == "mine-4o"


NO_RESULT = [
    ("mini_vqa", {"figures": {"exact_match": 62.0}}, "exact_match is 62, which is no share"),
    ("gqa", {"figures": {"other": 1}}, "gave no exact_match"),
    ("gqa", {"log": ["Error CUDA out of memory in generating"] * 3}, "of 200 3 answers could not be generated"),
    ("mmvet", {"log": ["v1_3 failed to get a score."] * 3}, "of 200 3 items were not judged"),
    ("mmbench_en_dev", {"log": ["GPT API failed to answer. "] * 9}, "of 200 3 items were not judged, but scored at"),
]


@pytest.mark.parametrize(("task", "gives", "reason"), NO_RESULT)
def test_what_the_harness_passes_over_in_silence_is_counted(bench, task, gives, reason):
    log = gives.get("log", [])
    bench.script["tasks"][task] |= gives | {"n": 200, "log": log}
    done = bench.run("--tasks", task)
    assert done.code == 3 and done.result["missing"].keys() == {task} and reason in done.result["missing"][task]
    if log:  # one failure in a hundred items is tolerated
        bench.script["tasks"][task]["log"] = log[: 2 * len(log) // 3]
        done = bench.run("--tasks", task)
        assert done.code == 0 and done.result["tasks"][task]["failed"] == done.result["failed"] == 2


def test_how_the_harness_is_called(bench, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("OPENAI_API_URL", "http://judge/v1/")
    tail = f"--include_path {ROOT / 'config' / 'lmms_tasks'}"
    at, merged = f"--batch_size 1 --output_path {bench.adapter}/specificity", bench.adapter / "merged"
    model = f"{WORKER} ask --model llava_hf --model_args pretrained={merged},dtype"
    done = bench.run("--tasks", "gqa")
    assert done.argv == [f"{model}=float32,device=cpu,device_map=cpu --tasks gqa {at}/gqa {tail}"]
    bench.script["known"]["gpus"] = 1
    assert f"{model}=auto,device=cuda,device_map=cuda --tasks" in bench.run("--tasks", "gqa").argv[0]
    bench.script["known"]["gpus"] = 4
    words = ("--num_processes", "3", "--dtype", "bfloat16", "--log_samples")
    done = bench.run("--tasks", "gqa,mmvet,mmbench_en_dev", *words)
    assert (
        done.argv[0].startswith("-m accelerate.commands.launch --multi_gpu ") and " --num_processes=3 " in done.argv[0]
    )
    assert f" {model}=bfloat16 --tasks gqa " in done.argv[0]
    assert done.argv[0].endswith(f"{tail} --log_samples") and done.out.startswith("lmms-eval 0.7.3 on 3 GPUs: gqa")
    # The token is in the variable that is not logged, and the judge's address is in the form that the task reads.
    told = [call["environment"] for call in done.calls]
    assert {(each["HF_TOKEN"], each["HUGGING_FACE_HUB_TOKEN"]) for each in told} == {(None, "secret")}
    assert [each["OPENAI_API_URL"] for each in told[1:]] == ["http://judge/v1", "http://judge/v1/chat/completions"]


def test_the_untouched_model_and_other_families_are_asked_as_they_lie(bench, tmp_path):
    words = ["--model_path", bench.base, "--output_folder", tmp_path / "vanilla", "--tasks", "mini_vqa"]
    done = bench.run(*words, adapter=False)
    assert done.code == 0 and f"--model llava_hf --model_args pretrained={bench.base},dtype=float32," in done.argv[0]
    # lmms-eval's class for Qwen3-VL fails if it is given a dtype. It always uses bfloat16.
    write_json(bench.base / "config.json", {"model_type": "qwen3_vl"})
    (bench.base / "chat_template.jinja").write_text("its own")
    done = bench.run(*words, adapter=False)
    assert f"--model qwen3_vl --model_args pretrained={bench.base},device=cpu,device_map=cpu --tasks" in done.argv[0]
    assert json.loads((tmp_path / "vanilla" / "specificity.json").read_text())["settings"]["dtype"] == "bfloat16"
    done = bench.run(*words, "--dtype", "float32", adapter=False)
    assert done.code == 2 and "--dtype float32: lmms-eval's qwen3_vl loads every model in bfloat16" in done.err


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row["says"])
def test_what_makes_no_sense_is_one_line_and_nothing_is_run(bench, monkeypatch, row):
    arguments, says = row.get("arguments", []), row["says"]
    for name, value in row.get("variables", {}).items():
        monkeypatch.setenv(name, value)
    for kind in ("smolvlm", "mpt"):
        write_json(bench.folder / kind / "config.json", {"model_type": kind})
    words = [word.format(here=bench.folder, checkpoint=CHECKPOINT) for word in arguments]
    done = bench.run(*words)
    assert done.code == 2 and says in done.err and done.err.count("\n") == 1 and done.ran == []
    assert not (bench.adapter / "specificity").exists()
    if "--model_path" in arguments:  # an adapter with such a base is refused too, before 7 GB are downloaded
        write_json(bench.adapter / "adapter_config.json", {"base_model_name_or_path": str(words[1])})
        assert bench.run().err == done.err
        monkeypatch.setattr(sys, "argv", ["safeeraser.specificity", "--checkpoint_path", str(bench.adapter)])
        with pytest.raises(SystemExit, match="2"):
            parse_only()


def test_a_folder_of_another_kind_is_neither_asked_nor_thrown_away(bench):
    assert bench.run("--tasks", "mini_vqa", "--remove_merged").code == 0 and not (bench.adapter / "merged").exists()
    bench.train("weights")
    (bench.adapter / "merged" / "run.json").write_text("{}")
    assert bench.run("--tasks", "mini_vqa", "--remove_merged").code == 0 and (bench.adapter / "merged").is_dir()
    done = bench.run("--tasks", "gqa")
    assert done.code == 2 and "merged: exists and is not a merged model" in done.err and done.ran == []
    assert (bench.adapter / "merged" / "run.json").exists() and bench.run(adapter=False).code == 2


@pytest.mark.slow
def test_an_adapter_is_merged_once_over_another_ones_and_with_another_base_where_that_is_meant_alone(
    bench, monkeypatch, forks
):
    monkeypatch.setattr("sys.executable", forks.python)
    shutil.rmtree(bench.adapter)
    convert(CHECKPOINT, bench.adapter)
    write_json(bench.adapter / "run.json", {"base": {"model_path": "elsewhere", "weights": "0" * 64}})
    merged, disk = bench.adapter / "merged", bench.folder / "disk"
    words = ["--model_path", MODEL, "--tasks", "mini_vqa"]
    done = bench.run(*words)
    assert done.code == 2 and "--allow_other_base allows it" in done.err and not merged.exists()
    write_json(disk / "run.json", {"merged": {"adapter_sha256": "of another"}})
    merged.symlink_to(disk)  # for example on a larger disk
    words.append("--allow_other_base")
    assert bench.run(*words).code == 0 and merged.is_symlink()
    made = (disk / "model.safetensors").stat().st_mtime_ns
    (bench.adapter / "specificity" / "mini_vqa" / "score.json").unlink()
    assert bench.run(*words).ran == ["mini_vqa"] and (disk / "model.safetensors").stat().st_mtime_ns == made
    assert bench.run(*words, "--remove_merged").code == 0 and not disk.exists() and merged.is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_killed_resumes(bench, how):
    slow, bench.script["tasks"]["pope"] = bench.script["tasks"]["pope"], "hangs"
    bench.write()
    call = [sys.executable, "-m", "safeeraser.specificity", "--checkpoint_path", str(bench.adapter)]
    process = subprocess.Popen([*call, "--tasks", "gqa,pope"], cwd=ROOT, stdout=subprocess.DEVNULL)
    noted = bench.folder / "pid"
    until(lambda: noted.exists() and noted.read_text())
    pid = int(noted.read_text())
    process.send_signal(how)
    process.wait(60)
    if how == signal.SIGTERM:  # it ends the harness too
        assert process.returncode == 143
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    else:  # the harness lives on, and a second run is refused
        done = bench.run("--tasks", "gqa,pope")
        assert done.code == 2 and "another run is at work there" in done.err and done.ran == []
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    bench.script["tasks"]["pope"] = slow
    done = bench.run("--tasks", "gqa,pope")
    assert done.code == 0 and done.ran == ["pope"] and done.result["value"] == 0.5


@pytest.mark.slow
def test_a_dry_run_of_the_script_installs_nothing_and_says_what_is_not_there(bench, monkeypatch):
    for name in ("safeeraser", "scripts", "config"):
        (bench.folder / name).symlink_to(ROOT / name)
    monkeypatch.delenv("LMMS_PYTHON")
    monkeypatch.setenv("PYTHONPATH", str(bench.folder))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    call = ["bash", bench.folder / "scripts" / "specificity.bash", "--checkpoint_path", bench.adapter, "--dry_run"]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0 and "would first make .venv-lmms" in done.stdout + done.stderr
    assert not list(bench.folder.glob(".venv*"))
