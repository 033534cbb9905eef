"""docs/inference.md: a command of it, on the recorded data; and what the scripts that run a model tell torch."""

import json
import os
import re
import shlex
import subprocess

import pytest
from helpers import MODEL, ROOT, VAL, run

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "inference.md").read_text()


def test_its_command_runs(tmp_path):
    every = re.findall(r"^ {4}python ckpt_infer\.py (.*?[^\\])$", PAGE, re.MULTILINE | re.DOTALL)
    (words,) = (words for words in every if "results/auto.json" in words)
    places = {"dataset/mini/all_val.json": VAL, "dataset/mini/base_model": MODEL, "results": tmp_path}
    for there, here in places.items():
        assert there in words
        words = words.replace(there, str(here))
    done = run("ckpt_infer", *shlex.split(words.replace("\\\n", " ")))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "auto.json").read_text())


@pytest.mark.parametrize(
    ("own", "told"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "max_split_size_mb:64"),
        ({"PYTORCH_ALLOC_CONF": ""}, ""),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, "none"),
    ],
)
def test_a_setting_of_ones_own_stays(own, told):
    command = "set -euo pipefail; source scripts/gpu.bash; echo ${PYTORCH_ALLOC_CONF-none}"
    given = {"PATH": os.environ["PATH"], **own}
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, env=given, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == told and not done.stderr


@pytest.mark.parametrize("script", ["forget_lora", "infer", "audit", "specificity"])
def test_every_script_that_runs_a_model(script):
    assert "\nsource scripts/gpu.bash\n" in (ROOT / "scripts" / f"{script}.bash").read_text()
