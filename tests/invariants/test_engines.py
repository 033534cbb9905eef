"""Two real processes under real DeepSpeed ZeRO-2 follow the release too, and so does accelerate with one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT

from .test_release import CONFORMANCE, assert_reproduces


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(folder, engine, *overrides):
    """scripts/forget_lora.bash as a user calls it, on a port of its own: tests may run beside each other."""
    config = folder.with_suffix(".yaml")
    shipped = (ROOT / "config" / "accelerate" / f"{engine}.yaml").read_text()
    config.write_text(f"{shipped}main_process_port: {free_port()}\n")
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "ACCELERATE_CONFIG": str(config),
        "DS_ACCELERATOR": "cpu",
    }
    given = [
        "recipe=official",
        "forget_loss=gdpd",
        f"plan={CONFORMANCE / 'training' / 'gdpd.json'}",
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
    [("cpu_zero2", 2, 2, "DEEPSPEED"), ("one_gpu", 1, 4, "NO")],
)
def test_an_engine_follows_the_release(tmp_path, engine, processes, accumulation, told):
    """48 items, four an optimizer step, however many processes share them; micro-losses in the plan's order."""
    done = launch(tmp_path / "run", engine, f"gradient_accumulation_steps={accumulation}")
    assert done.returncode == 0, done.stderr[-4000:]
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    # The engine asked for, not one that was silently put in its place.
    assert (run["processes"], run["engine"], run["optimizer_steps"]) == (processes, told, 12)
    assert_reproduces(tmp_path / "run", "gdpd")


def test_a_mistake_is_one_line_before_any_process_is_launched(tmp_path):
    done = launch(tmp_path / "run", "cpu_zero2", "forget_loss=gdp")
    assert done.returncode == 2
    assert done.stderr.startswith("error: forget_loss: no 'gdp'; did you mean 'gdpd'?") and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
