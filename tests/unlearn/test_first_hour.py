"""docs/first-hour.md: its commands, as they stand there, on CPUs and the tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MODEL, ROOT, TRAIN, VAL, alone

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "first-hour.md").read_text()
# The self-test has tests of its own.
COMMANDS = [line for line in re.findall(r"^ {4}(\S.*)$", PAGE, re.MULTILINE) if "safeeraser.selftest" not in line]
TRAINING = f"model_path={MODEL} data_path={TRAIN} workers=0 gradient_accumulation_steps=1"
ON_CPUS = {  # what each script is given besides
    "scripts/forget_lora.bash": f"{TRAINING} dtype=bfloat16",
    "ckpt_infer.py": f"--model_path {MODEL} --eval_file {VAL} --max_new_tokens 4",
    "safeeraser.model": f"--model_path {MODEL}",
}


@pytest.fixture(scope="module")
def hour(tmp_path_factory):
    """The folder that the commands have written into, in their order."""
    folder = tmp_path_factory.mktemp("hour")
    stand_in = ROOT / "benchmarks" / "gpu_engines_on_cpus"
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{stand_in}{os.pathsep}{ROOT}",
        "DS_ACCELERATOR": "cpu",
    }
    for command in COMMANDS:
        (script,) = (script for script in ON_CPUS if f" {script} " in command)
        words = f"{command.replace('results/hour', str(folder))} {ON_CPUS[script]}"
        with alone():
            done = subprocess.run(words, shell=True, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
    return folder


def test_the_page_is_true_of_what_they_leave(hour):
    for name, engine in (("one_gpu", "single"), ("ddp", "ddp")):
        run = json.loads((hour / name / "run.json").read_text())
        assert run["engine"]["name"] == engine and run["optimizer_steps"] == 3 and run["finished"]
        assert run["sittings"][0]["items_per_second"] > 0
    assert len(COMMANDS) == 4 and json.loads((hour / "predictions_val.json").read_text())
    assert (hour / "merged" / "config.json").is_file()
