"""Several processes under accelerate's launcher, as on several GPUs: shared requests, one output."""

import json
import subprocess
import sys
import time

import psutil
import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, run

pytestmark = pytest.mark.slow

GIVEN = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 12)
GIVEN = (*GIVEN, "--checkpoint_path", RECORDED / "inference" / "checkpoint.pt")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The output of one process."""
    out = tmp_path_factory.mktemp("alone") / "p.json"
    assert run("ckpt_infer", *GIVEN, "--output_file", out).returncode == 0
    return out


def launch(*arguments):
    """Start ckpt_infer.py as two processes."""
    file = ROOT / "config" / "accelerate" / "cpu_ddp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, ROOT / "ckpt_infer.py"]
    return subprocess.Popen(
        list(map(str, [*command, *GIVEN, *arguments])), cwd=RECORDED, text=True, stderr=subprocess.PIPE
    )


def test_two_processes_give_the_output_of_one(alone, tmp_path):
    out = tmp_path / "p.json"
    process = launch("--output_file", out)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.read_bytes() == alone.read_bytes()
    assert json.loads(out.with_suffix(".run.json").read_text())["processes"] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.run.json"}
    process = launch("--output_file", out)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0 and "done before" in err


def test_each_process_learns_an_attack_alike(tmp_path):
    given = ("--eval_file", TRAIN, "--attack", "refusal_direction", "--skip", 1, "--only", "forget")
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert run("ckpt_infer", *GIVEN, *given, "--output_file", one).returncode == 0
    process = launch(*given, "--output_file", two)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert two.read_bytes() == one.read_bytes()


def test_killed_together_and_gone_on_with_by_one(alone, tmp_path):
    """Each process has kept its own part; another number of processes takes both over."""
    out = tmp_path / "p.json"
    parts = [tmp_path / "p.json.partial.jsonl", tmp_path / "p.json.partial.1.jsonl"]
    process = launch("--output_file", out, "--batch_size", 1)
    deadline = time.monotonic() + 120
    while not all(part.exists() and part.read_bytes().count(b"\n") > 3 for part in parts):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    # The launcher's workers have sessions of their own.
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.communicate()
    kept = sum(part.read_bytes().count(b"\n") - 1 for part in parts)
    assert 6 <= kept < 120 and not out.exists()
    keys = [json.loads(line).get("key") for part in parts for line in part.read_bytes().split(b"\n")[:-1]]
    assert len(set(keys)) == len(keys) - 1 == kept + 1, "the first line of each tells the settings; no key comes twice"
    assert run("ckpt_infer", *GIVEN, "--output_file", out).returncode == 0
    assert out.read_bytes() == alone.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.run.json"}
