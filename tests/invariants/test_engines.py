"""Two real processes, plain and under real DeepSpeed, follow the release too, and so does accelerate with one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from .test_release import CONFORMANCE, assert_reproduces


def launch(folder, engine, method, *overrides):
    """scripts/forget_lora.bash as a user calls it."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ACCELERATE_CONFIG": f"config/accelerate/{engine}.yaml",
        "DS_ACCELERATOR": "cpu",
    }
    given = [
        "recipe=official",
        f"forget_loss={method}",
        f"plan={CONFORMANCE / 'training' / f'{method}.json'}",
        f"init_adapter={CONFORMANCE / 'initial_adapter.safetensors'}",
        "LoRA.dropout=0",
        "num_epochs=1",
        "dtype=float32",
        f"model_path={CONFORMANCE / 'llava-tiny'}",
        f"data_path={CONFORMANCE / 'dataset' / 'all_train.json'}",
        f"save_dir={folder}",
        "workers=0",
    ]
    command = ["bash", str(ROOT / "scripts" / "forget_lora.bash"), *given, *overrides]
    # The recorded pictures' paths start at the recorded folder, the script's working directory is the repository.
    return subprocess.run(command, cwd=CONFORMANCE, env=env, text=True, capture_output=True, timeout=300)


@pytest.mark.parametrize(
    ("engine", "processes", "accumulation", "told"),
    [
        ("one_gpu", 1, 4, "single"),
        ("cpu_ddp", 2, 2, "ddp"),
        ("cpu_zero2", 2, 2, "zero2"),
        ("cpu_zero3", 2, 2, "zero3"),
    ],
)
@pytest.mark.parametrize("method", ["gdpd", "klpd"])
def test_an_engine_follows_the_release(tmp_path, method, engine, processes, accumulation, told):
    """48 items, four an optimizer step, however many processes share them; micro-losses in the plan's order."""
    done = launch(tmp_path / "run", engine, method, f"gradient_accumulation_steps={accumulation}")
    assert done.returncode == 0, done.stderr[-4000:]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    # The engine asked for, not one that was silently put in its place.
    assert (run["engine"]["processes"], run["engine"]["name"], run["optimizer_steps"]) == (processes, told, 12)
    assert_reproduces(tmp_path / "run", method)


def test_a_mistake_is_one_line_before_any_process_is_launched(tmp_path):
    done = launch(tmp_path / "run", "cpu_zero2", "gdpd", "forget_loss=gdp")
    assert done.returncode == 2
    assert done.stderr.startswith("error: forget_loss: no 'gdp'; did you mean 'gdpd'?") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
