"""docs/first-hour.md: its commands, as they stand there, on CPUs and the tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MODEL, ROOT, TRAIN, VAL, alone

pytestmark = [pytest.mark.nightly, pytest.mark.xdist_group("engines")]

PAGE = (ROOT / "docs" / "first-hour.md").read_text()
# The self-test has tests of its own.
COMMANDS = [line for line in re.findall(r"^ {4}(\S.*)$", PAGE, re.MULTILINE) if "safeeraser.selftest" not in line]
ON_CPUS = {  # what each script is given besides
    "scripts/forget_lora.bash": f"model_path={MODEL} data_path={TRAIN} workers=0 gradient_accumulation_steps=1"
    " dtype=bfloat16",
    "ckpt_infer.py": f"--model_path {MODEL} --eval_file {VAL} --max_new_tokens 4",
    "safeeraser.model": f"--model_path {MODEL}",
}


def test_the_page_is_true_of_what_its_commands_leave(tmp_path):
    stand_in = ROOT / "benchmarks" / "gpu_engines_on_cpus"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYTHONPATH": f"{stand_in}{os.pathsep}{ROOT}", "DS_ACCELERATOR": "cpu"}
    for command in COMMANDS:
        (script,) = (script for script in ON_CPUS if f" {script} " in command)
        words = f"{command.replace('results/hour', str(tmp_path))} {ON_CPUS[script]}"
        with alone():
            done = subprocess.run(words, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    for name, engine in (("one_gpu", "single"), ("ddp", "ddp")):
        run = json.loads((tmp_path / name / "run.json").read_text())
        assert run["engine"]["name"] == engine and run["optimizer_steps"] == 3 and run["finished"]
        assert run["sittings"][0]["items_per_second"] > 0
    assert len(COMMANDS) == 4 and json.loads((tmp_path / "predictions_val.json").read_text())
    assert (tmp_path / "merged" / "config.json").is_file()
