"""The commands of docs/tutorials/llava-7b.md, as printed, work without GPU and hub: the first hour on the tiny model,
and the four scripts of the laptop path on a tiny SmolVLM."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from families.recorded import Recorded
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL

from safeeraser.benchmark.files import read_json

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("engines")]

PAGE = (ROOT / "docs" / "tutorials" / "llava-7b.md").read_text(encoding="utf-8")
ON_CPUS = {  # further words for each script; the self-test has tests of its own
    "scripts/forget_lora.bash": f"model_path={MODEL} data_path={TRAIN} workers=0 gradient_accumulation_steps=1"
    " dtype=bfloat16",
    "ckpt_infer.py": f"--model_path {MODEL} --eval_file {VAL} --max_new_tokens 4",
    "safeeraser.model": f"--model_path {MODEL}",
}
FEW = (  # further words for each command: they keep it short, the first with a tiny model
    f"model_path={Recorded('smolvlm').path} max_train_steps=1 gradient_accumulation_steps=2 limit=1 workers=0",
    "--limit 1 --max_new_tokens 24 --categories HateSpeech,Privacy",
    "--max_blank 1",
    # The audit relearns on the first record of each category. Only the training split has others to ask about.
    "all --relearn few.yaml --limit 1 --max_new_tokens 8 --max_blank 1 --val_file dataset/all_train.json",
)


def commands(behind, start=r"\S"):
    """The commands of the section whose heading ends in `behind`."""
    return re.findall(rf"^ {{4}}({start}.*)$", PAGE.partition(f"{behind}\n")[2].partition("\n## ")[0], re.MULTILINE)


def test_the_first_hour_is_true_of_what_its_commands_leave(tmp_path):
    lines = commands("The first hour")
    called = [line for line in lines if any(f" {script} " in line for script in ON_CPUS)]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'tests' / 'gpu_engines_on_cpus'}{os.pathsep}{ROOT}"}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    for command in called:
        (script,) = (script for script in ON_CPUS if f" {script} " in command)
        words = f"{command.replace('results/hour', str(tmp_path))} {ON_CPUS[script]}"
        subprocess.run(words, shell=True, cwd=ROOT, env=env, check=True)
    for name, engine in (("one_gpu", "single"), ("ddp", "ddp")):
        run = read_json(tmp_path / name / "run.json")
        assert run["engine"]["name"] == engine and run["optimizer_steps"] == 3 and run["finished"]
    assert (len(lines), len(called)) == (10, 5) and (tmp_path / "merged" / "config.json").is_file()
    assert read_json(tmp_path / "predictions_val.json")


def test_the_four_commands_for_a_laptop_train_answer_score_and_audit(forks, tmp_path):
    for name in ("forget.py", "ckpt_infer.py", "eval_all.py", "audit.py", "config", "safeeraser", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "dataset").symlink_to(RECORDED / "dataset")
    (tmp_path / "few.yaml").write_text("steps: [1]\nseeds: [1]\n", encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
    env |= {"PATH": f"{forks.folder}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    for command, few in zip(commands(": a small model", "bash "), FEW, strict=True):
        done = subprocess.run(f"{command} {few}", shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    run = tmp_path / "results" / "smolvlm-256m" / "popd"
    told, card = read_json(run / "run.json"), read_json(run / "audit.json")
    assert told["settings"]["model_family"]["name"] == "smolvlm-256m" and told["engine"]["name"] == "single"
    trained = told["trained_parameters"]
    assert trained["LoRA"] and trained["projector"] and not trained["vision_tower"] and told["finished"]
    for split in ("train", "val"):
        records, summary = (read_json(run / f"{name}_{split}.json") for name in ("predictions", "summary"))
        answered = {each["category"] for each in records if each["unsafe_pairs"][0]["model_response1"]}
        assert answered == {"HateSpeech", "Privacy"} and summary["rr"]["judge"] == "rules" and summary["rr"]["n"] > 0
    groups = {f"relearn_{view}" for view in ("retain", "decoupled", "forget")}
    groups |= {"clean", "attack", "inside", "quantization", "scaling", "sampling"}
    assert {point["group"] for point in card["points"]} >= groups and (run / "report.html").is_file()
