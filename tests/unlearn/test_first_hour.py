"""The first hour of docs/tutorials/llava-7b.md: its commands, as they stand there, on CPUs and the tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MODEL, ROOT, TRAIN, VAL

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("engines")]

PAGE = (ROOT / "docs" / "tutorials" / "llava-7b.md").read_text().partition("The first hour\n")[2].partition("\n## ")[0]
ON_CPUS = {  # what each script is given besides; the self-test has tests of its own
    "scripts/forget_lora.bash": f"model_path={MODEL} data_path={TRAIN} workers=0 gradient_accumulation_steps=1"
    " dtype=bfloat16",
    "ckpt_infer.py": f"--model_path {MODEL} --eval_file {VAL} --max_new_tokens 4",
    "safeeraser.model": f"--model_path {MODEL}",
}


def test_the_page_is_true_of_what_its_commands_leave(tmp_path):
    lines = re.findall(r"^ {4}(\S.*)$", PAGE, re.MULTILINE)
    commands = [line for line in lines if any(f" {script} " in line for script in ON_CPUS)]
    env = os.environ | {"PYTHONPATH": f"{ROOT / 'tests' / 'gpu_engines_on_cpus'}{os.pathsep}{ROOT}"}
    env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DS_ACCELERATOR": "cpu"}
    for command in commands:
        (script,) = (script for script in ON_CPUS if f" {script} " in command)
        words = f"{command.replace('results/hour', str(tmp_path))} {ON_CPUS[script]}"
        subprocess.run(words, shell=True, cwd=ROOT, env=env, check=True)
    for name, engine in (("one_gpu", "single"), ("ddp", "ddp")):
        run = json.loads((tmp_path / name / "run.json").read_text())
        assert run["engine"]["name"] == engine and run["optimizer_steps"] == 3 and run["finished"]
    assert (len(lines), len(commands)) == (10, 5) and (tmp_path / "merged" / "config.json").is_file()
    assert json.loads((tmp_path / "predictions_val.json").read_text())
