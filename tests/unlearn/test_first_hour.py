"""docs/first-hour.md: its commands, as they stand there, on CPUs and the tiny model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import MODEL, ROOT, TRAIN, VAL, alone

PAGE = (ROOT / "docs" / "first-hour.md").read_text()
COMMANDS = re.findall(r"^ {4}(\S.*)$", PAGE, re.MULTILINE)
TRAINING = f"model_path={MODEL} data_path={TRAIN} workers=0 gradient_accumulation_steps=1"
ON_CPUS = {  # what each script is given besides
    "benchmarks/engines.py": "--device cpu --steps 1 --engines ddp",
    "scripts/forget_lora.bash": f"{TRAINING} dtype=bfloat16",
    "forget.py": f"{TRAINING} save_steps=1",
    "ckpt_infer.py": f"--model_path {MODEL} --eval_file {VAL} --max_new_tokens 4",
    "safeeraser.model": f"--model_path {MODEL}",
}


@pytest.fixture(scope="module")
def hour(tmp_path_factory):
    """The folder that the commands have written into, by their order, and what each said."""
    folder, said = tmp_path_factory.mktemp("hour"), []
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
        killed = command.startswith("timeout") and done.returncode == 137
        assert done.returncode == 0 or killed, (command, done.stdout[-2000:], done.stderr[-2000:])
        said.append(done.stdout + done.stderr)
    return folder, said


def test_every_engine_has_trained(hour):
    runs = {
        name: json.loads((hour[0] / name / "run.json").read_text())
        for name in ("one_gpu", "ddp", "zero2", "zero3", "fsdp2")
    }
    assert {name: run["engine"]["name"] for name, run in runs.items()} == {
        "one_gpu": "single",
        "ddp": "ddp",
        "zero2": "zero2",
        "zero3": "zero3",
        "fsdp2": "fsdp",
    }
    assert all(run["optimizer_steps"] == 3 and run["finished"] for run in runs.values())


def test_the_rest_has_left_what_the_page_speaks_of(hour):
    folder, said = hour
    assert len(COMMANDS) == 10 and "bfloat16" in said[0]
    assert json.loads((folder / "killed" / "run.json").read_text())["finished"]
    assert json.loads((folder / "predictions_val.json").read_text())
    assert (folder / "merged" / "config.json").is_file()
